"""What a function behind the API logs: one line for each request, and none for a quick poll."""

from collections.abc import Iterator

import pytest

import status
from horde.edge import http
from horde.log import logger
from tests.support.cloud import Cloud


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    level = logger.log_level
    logger.setLevel("INFO")
    yield caplog
    logger.setLevel(level)


def routes(lines: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    found = [vars(line) for line in lines.records if line.message == "answered"]
    lines.clear()
    return [(line["route"].rpartition("/generate/")[2], line["status"]) for line in found]


def test_a_quick_poll_that_succeeds_logs_nothing(
    cloud: Cloud, lines: pytest.LogCaptureFixture
) -> None:
    request = cloud.generate().body["id"]
    assert routes(lines) == [("async", 202)]
    assert cloud.check(request).status == cloud.status(request).status == 200
    assert routes(lines) == []


def test_a_poll_that_is_refused_or_slow_logs_its_line(
    cloud: Cloud, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = cloud.generate().body["id"]
    routes(lines)
    cloud.check("0" * 36)
    assert routes(lines) == [("check/{id}", 404)]
    monkeypatch.setattr(http, "SLOW_S", 0)
    cloud.check(request)
    assert routes(lines) == [("check/{id}", 200)]


def test_the_quiet_routes_are_the_polls() -> None:
    assert {route.partition("/generate/")[2] for route in http.QUIET} == {
        "check/{id}",
        "status/{id}",
    }
    assert status.ROUTES.keys() > http.QUIET

"""RunPod's endpoints are looked after: cut workers are re-armed, and unhealthy ones reported."""

import json
import logging
from typing import Any

import pytest

from horde.endpoints import LOOK_S, NEEDS_ATTENTION
from tests.support.cloud import Cloud, new_processes

ENDPOINTS = {"ep1", "ep2"}


@pytest.fixture
def armed(cloud: Cloud) -> Cloud:
    """A cloud at the time of a look, whose first endpoint is to have nine workers."""
    models = json.loads(cloud.environment("sweep")["MODELS"])
    models["stable_diffusion"]["max_workers"] = 9
    cloud.overrides["MODELS"] = json.dumps(models)
    cloud.clock.freeze()
    cloud.clock.pass_seconds(LOOK_S - cloud.clock.now_ms() // 1000 % LOOK_S)
    cloud.runpod.most = {"ep1": 9}
    return cloud


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    """What the log says that an endpoint needs, since it was last asked."""
    caplog.set_level(logging.INFO)

    def read() -> list[tuple[str, str]]:
        found = [
            (record.endpoint, record.reason)  # type: ignore[attr-defined]
            for record in caplog.records
            if record.message == NEEDS_ATTENTION
        ]
        caplog.clear()
        return found

    return read


def patched(cloud: Cloud) -> list[str]:
    return [endpoint for method, endpoint in cloud.runpod.managed if method == "PATCH"]


def test_an_endpoint_that_is_as_it_shall_be_is_left_alone(armed: Cloud, said: Any) -> None:
    assert armed.sweep()["endpoints"] == 0
    assert {endpoint for _, endpoint in armed.runpod.managed} == ENDPOINTS
    assert patched(armed) == []
    assert said() == []


@pytest.mark.parametrize("most", [0, 2, 8])
def test_an_endpoint_whose_workers_were_cut_is_re_armed_before_anybody_waits(
    armed: Cloud, said: Any, most: int
) -> None:
    armed.runpod.most["ep1"] = most
    assert armed.sweep()["endpoints"] == 1
    assert armed.runpod.most["ep1"] == 9
    assert said() == []
    armed.clock.pass_seconds(LOOK_S)
    assert armed.sweep()["endpoints"] == 0


def test_more_workers_than_wanted_are_the_operators_own_business(armed: Cloud) -> None:
    armed.runpod.most["ep1"] = 40
    assert armed.sweep()["endpoints"] == 0
    assert armed.runpod.most["ep1"] == 40


def test_an_endpoint_is_looked_at_once_in_ten_minutes(armed: Cloud) -> None:
    for _ in range(20):
        armed.sweep()
        armed.clock.pass_seconds(60)
    assert len(armed.runpod.managed) == 2 * len(ENDPOINTS)


def test_workers_that_runpod_does_not_give_are_asked_for_once_a_look_and_reported(
    armed: Cloud, said: Any
) -> None:
    armed.runpod.most["ep1"], armed.runpod.quota = 0, 5
    for _ in range(10):
        assert armed.sweep()["endpoints"] == 0
        armed.clock.pass_seconds(60)
    assert patched(armed) == ["ep1"]
    assert said() == [("ep1", "RunPod keeps it at 5 workers, and 9 are wanted")]


def test_without_a_setting_a_cut_endpoint_is_reported_alone(armed: Cloud, said: Any) -> None:
    armed.runpod.most["ep2"] = 0
    assert armed.sweep()["endpoints"] == 0
    assert patched(armed) == []
    ((endpoint, reason),) = said()
    assert endpoint == "ep2"
    assert "max_workers" in reason


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"workers": None},
        {"workers": 3},
        {"workers": {}},
        {"workers": {"max": None}},
        {"workers": {"max": "0"}},
        {"workers": {"max": -1}},
        {"workers": {"max": 10**12}},
        {"workers": {"max": 0.5}},
        {"workers": {"max": False}},
        ["what?"],
        "x" * 2_000_000,
    ],
)
def test_a_number_of_workers_that_cannot_be_read_changes_nothing(
    armed: Cloud, said: Any, answer: Any
) -> None:
    armed.runpod.management = lambda _: (200, answer)
    assert armed.sweep()["endpoints"] == 0
    assert patched(armed) == []
    assert {endpoint for endpoint, _ in said()} == ENDPOINTS


@pytest.mark.parametrize("refused", ["GET", "PATCH"])
@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 429, 500, 503])
def test_what_the_management_api_refuses_is_reported_and_tried_at_the_next_look(
    armed: Cloud, said: Any, status: int, refused: str
) -> None:
    armed.runpod.most["ep1"] = 0

    def answer(method: str) -> tuple[int, Any]:
        return (status, {}) if method == refused else (200, {"workers": {"max": 0}})

    armed.runpod.management = answer
    for _ in range(10):
        assert armed.sweep()["endpoints"] == 0  # and no step fails
        armed.clock.pass_seconds(60)
    assert len(armed.runpod.managed) == len(ENDPOINTS) + (refused == "PATCH")
    assert ("ep1", f"RunPod answered {status} to {refused} /serverless/ep1") in said()
    armed.runpod.management = None
    assert armed.sweep()["endpoints"] == 1


def test_a_management_api_that_does_not_answer_holds_nothing_up(armed: Cloud, said: Any) -> None:
    armed.runpod.mode = "nothing"
    assert armed.sweep()["endpoints"] == 0
    assert {endpoint for endpoint, _ in said()} == ENDPOINTS


def test_a_key_that_was_changed_is_read_anew_at_the_next_look(armed: Cloud, said: Any) -> None:
    armed.runpod.key, armed.runpod.most["ep1"] = "another", 0
    armed.sweep()
    assert said()
    armed.ssm.put_parameter(
        Name="/horde-commons/runpod-api-key", Value="another", Type="SecureString", Overwrite=True
    )
    armed.clock.pass_seconds(LOOK_S)
    assert armed.sweep()["endpoints"] == 1


def test_workers_that_are_unhealthy_are_reported(armed: Cloud, said: Any) -> None:
    armed.runpod.workers = {"idle": 1, "running": 2, "unhealthy": 3}
    armed.sweep()
    assert set(said()) == {(endpoint, "3 workers are unhealthy") for endpoint in ENDPOINTS}


def test_throttled_workers_are_reported_where_tickets_wait_for_them(
    armed: Cloud, said: Any
) -> None:
    armed.runpod.workers = {"throttled": 2}
    armed.sweep()
    assert said() == []
    armed.generate()
    armed.settle_async()
    armed.clock.pass_seconds(LOOK_S)
    armed.sweep()
    ((endpoint, reason),) = said()
    assert endpoint == "ep1"
    assert reason.startswith("2 workers are throttled")


@pytest.mark.parametrize("state", [-1, "3", None, 10**12, True])
def test_health_that_cannot_be_read_is_reported_itself(armed: Cloud, said: Any, state: Any) -> None:
    armed.runpod.workers = {"unhealthy": state}
    armed.sweep()
    assert {endpoint for endpoint, _ in said()} == ENDPOINTS


def test_without_a_management_api_health_alone_is_looked_at(armed: Cloud, said: Any) -> None:
    armed.overrides["RUNPOD_MANAGEMENT_URL"] = ""
    new_processes()
    armed.runpod.most, armed.runpod.workers = {"ep1": 0}, {"unhealthy": 1}
    armed.sweep()
    assert armed.runpod.managed == []
    assert len(said()) == len(ENDPOINTS)


def test_a_look_without_time_for_all_goes_on_with_others(
    armed: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = list[str]()

    def slow(endpoint: str) -> tuple[int, Any]:
        looked.append(endpoint)
        armed.clock.pass_seconds(11)
        return 500, {}

    monkeypatch.setattr(armed.runpod, "health", slow)
    armed.sweep()
    assert len(looked) == 1
    armed.clock.pass_seconds(LOOK_S - 11)
    armed.sweep()
    assert set(looked) == ENDPOINTS


def test_a_horde_without_endpoints_asks_runpod_nothing(armed: Cloud) -> None:
    models = json.loads(armed.environment("sweep")["MODELS"])
    for model in models.values():
        model["endpoint"] = None
    armed.overrides["MODELS"] = json.dumps(models)
    new_processes()
    armed.sweep()
    assert armed.runpod.managed == []

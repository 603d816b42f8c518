"""Webhooks: one call for each finished image."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from horde import outbound
from tests.support import tls
from tests.support.api_calls import key_of
from tests.support.cloud import Cloud
from tests.support.numbers import COST_SHARED, TAX


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tls.Server]:
    monkeypatch.setattr(outbound, "resolve", lambda *_: "127.0.0.1")
    with tls.serving(tmp_path) as made:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        yield made


def drawn(cloud: Cloud, hook: tls.Server, **fields: object) -> str:
    _, key = cloud.register(kudos=1000)
    answer = cloud.generate(key, webhook=hook.url(), **fields)
    assert answer.status == 202, answer
    cloud.draw(cloud.new_worker())
    cloud.stream()
    return str(answer.body["id"])


def test_a_webhook_hears_of_every_finished_image(cloud: Cloud, hook: tls.Server) -> None:
    request = drawn(cloud, hook, params={"n": 2}, shared=True)
    cloud.deliver("webhook")
    calls = [json.loads(body) for _, _, body in hook.got]
    shown = cloud.status(request).body["generations"]
    assert {one["id"] for one in calls} == {one["id"] for one in shown}
    for one in calls:
        assert one["request"] == request
        assert one["kudos"] == COST_SHARED
        assert one["censored"] is False
        generation = cloud.store.requests.generation(one["id"])
        assert generation is not None
        assert one["img"].startswith(("https://", "http://127.0.0.1:"))
        assert key_of(one["img"]) == generation.delivered_key
        assert isinstance(one["seed"], str)


def test_a_webhook_is_not_called_before_its_image_is_settled(
    cloud: Cloud, hook: tls.Server
) -> None:
    _, key = cloud.register(kudos=1000)
    cloud.generate(key, webhook=hook.url())
    cloud.stream()
    assert cloud.deliver("webhook") == 0
    assert hook.got == []


def test_a_webhook_that_fails_is_tried_three_times_and_then_left(
    cloud: Cloud, hook: tls.Server
) -> None:
    hook.status = 500
    drawn(cloud, hook)
    for _ in range(4):
        cloud.deliver("webhook")
    assert len(hook.got) == 3
    assert len(cloud.dead["webhook"]) == 1


def test_a_webhook_that_fails_once_is_heard_the_second_time(cloud: Cloud, hook: tls.Server) -> None:
    hook.status = 503
    drawn(cloud, hook)
    cloud.deliver("webhook")
    hook.status = 204
    cloud.deliver("webhook")
    assert len(hook.got) == 2
    assert cloud.deliver("webhook") == 0


def test_a_censored_image_costs_its_tax_and_says_so(cloud: Cloud, hook: tls.Server) -> None:
    _, key = cloud.register(kudos=1000)
    cloud.generate(key, webhook=hook.url())
    worker = cloud.new_worker()
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    cloud.submit(worker, job["id"], state="censored")
    cloud.stream()
    cloud.deliver("webhook")
    ((_, _, body),) = hook.got
    assert json.loads(body)["censored"] is True
    assert json.loads(body)["kudos"] == TAX


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/",
        "https://localhost:8443/x",
        "https://a",
        7,
    ],
)
def test_a_webhook_that_is_not_public_https_is_refused(cloud: Cloud, url: object) -> None:
    _, key = cloud.register(kudos=1000)
    answer = cloud.generate(key, webhook=url)
    assert answer.status == 400
    assert list(answer.body["errors"]) == ["webhook"]
    assert "rc" not in answer.body


def test_a_host_that_becomes_private_later_is_not_called(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    _, key = cloud.register(kudos=1000)
    cloud.generate(key, webhook="https://rebind.example.org/")
    cloud.draw(cloud.new_worker())
    cloud.stream()
    private = [(2, 1, 6, "", ("10.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: private)
    cloud.deliver("webhook")
    assert len(cloud.pending["webhook"]) == 1


def test_an_image_that_was_not_delivered_calls_nobody(cloud: Cloud, hook: tls.Server) -> None:
    _, key = cloud.register(kudos=1000)
    request = cloud.generate(key, webhook=hook.url()).body["id"]
    (image,) = cloud.rows("GENERATION")
    for end in (lambda: None, lambda: cloud.cancel(request)):
        end()
        cloud.invoke("webhook", {"generation_id": image["id"]["S"]})
    assert hook.got == []

"""Webhooks: one call for each finished image."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from horde import outbound
from tests.flows.test_rules import PRICE
from tests.support import tls
from tests.support.cloud import Cloud


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tls.Server]:
    monkeypatch.setattr(outbound, "resolve", lambda *_: "127.0.0.1")
    with tls.serving(tmp_path) as made:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        yield made


def drawn(horde: Cloud, hook: tls.Server, **fields: object) -> str:
    _, key = horde.register(kudos=1000)
    answer = horde.generate(key, webhook=hook.url(), **fields)
    assert answer.status == 202, answer
    horde.draw(horde.worker_key(horde.register("owner")[0]))
    horde.stream()
    return str(answer.body["id"])


def test_a_webhook_hears_of_every_finished_image(horde: Cloud, hook: tls.Server) -> None:
    request = drawn(horde, hook, params={"n": 2}, shared=True)
    horde.deliver("webhook")
    told = [json.loads(body) for _, _, body in hook.got]
    shown = horde.status(request).body["generations"]
    assert {one["id"] for one in told} == {one["id"] for one in shown}
    for one in told:
        assert one["request"] == request
        assert one["kudos"] == PRICE + 1
        assert one["censored"] is False
        assert one["img"].startswith("https://")
        assert isinstance(one["seed"], str)


def test_a_webhook_is_not_called_before_its_image_is_settled(
    horde: Cloud, hook: tls.Server
) -> None:
    _, key = horde.register(kudos=1000)
    horde.generate(key, webhook=hook.url())
    horde.stream()
    assert horde.deliver("webhook") == 0
    assert hook.got == []


def test_a_webhook_that_fails_is_tried_three_times_and_then_left(
    horde: Cloud, hook: tls.Server
) -> None:
    hook.status = 500
    drawn(horde, hook)
    for _ in range(4):
        horde.deliver("webhook")
    assert len(hook.got) == 3
    assert len(horde.dead["webhook"]) == 1


def test_a_webhook_that_fails_once_is_heard_the_second_time(horde: Cloud, hook: tls.Server) -> None:
    hook.status = 503
    drawn(horde, hook)
    horde.deliver("webhook")
    hook.status = 204
    horde.deliver("webhook")
    assert len(hook.got) == 2
    assert horde.deliver("webhook") == 0


def test_a_censored_image_costs_its_tax_and_says_so(horde: Cloud, hook: tls.Server) -> None:
    _, key = horde.register(kudos=1000)
    horde.generate(key, webhook=hook.url())
    worker = horde.worker_key(horde.register("owner")[0])
    job = horde.pop(worker).body
    horde.upload(job["r2_upload"])
    horde.submit(worker, job["id"], state="censored")
    horde.stream()
    horde.deliver("webhook")
    ((_, _, body),) = hook.got
    assert json.loads(body)["censored"] is True
    assert json.loads(body)["kudos"] == 3


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
def test_a_webhook_that_is_not_public_https_is_refused(horde: Cloud, url: object) -> None:
    _, key = horde.register(kudos=1000)
    answer = horde.generate(key, webhook=url)
    assert answer.status == 400
    assert list(answer.body["errors"]) == ["webhook"]
    assert "rc" not in answer.body


def test_a_name_that_turns_private_later_is_not_called(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    _, key = horde.register(kudos=1000)
    horde.generate(key, webhook="https://rebind.example.org/")
    horde.draw(horde.worker_key(horde.register("owner")[0]))
    horde.stream()
    private = [(2, 1, 6, "", ("10.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: private)
    horde.deliver("webhook")
    assert len(horde.pending["webhook"]) == 1


def test_an_image_that_was_not_delivered_calls_nobody(horde: Cloud, hook: tls.Server) -> None:
    _, key = horde.register(kudos=1000)
    request = horde.generate(key, webhook=hook.url()).body["id"]
    (image,) = horde.rows("GENERATION")
    message = {"messageId": "1", "body": json.dumps({"generation_id": image["id"]["S"]})}
    for end in (lambda: None, lambda: horde.cancel(request)):
        end()
        assert horde.invoke("webhook", {"Records": [message]}) == {"batchItemFailures": []}
    assert hook.got == []

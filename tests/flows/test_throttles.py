"""What AWS refuses for the rate of calls alone: a route answers 503, and nothing is half done.

``test_crashes`` throttles every flow at each of its calls and lets the system recover. Here is
every route, also those that only read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from horde.edge import openapi
from horde.edge.auth import key_hash
from horde.rules.raters import DATASET_ID
from horde.rules.refusals import Throttled
from horde.store import attempts
from tests.support import rating
from tests.support.api_calls import ANONYMOUS, Reply, refused
from tests.support.cloud import Cloud, new_processes
from tests.support.images import png_base64

pytestmark = pytest.mark.slow
"""Slow: each route at each of its calls."""

ROUTES = sorted(openapi.routes())
CODES = {"dynamodb": "ThrottlingException", "sqs": "RequestThrottled", "s3": "SlowDown"}
DRAWN = "stable_diffusion"
BODIES: dict[str, Any] = {
    "POST /api/v2/styles/image": {"name": "oil", "models": [DRAWN]},
    "PATCH /api/v2/styles/image/{id}": {"info": "mine"},
    "POST /api/v2/styles/image/{id}/example": {"url": "https://a.example/2.webp"},
    "PATCH /api/v2/styles/image/{id}/example/{example_id}": {"primary": True},
    "POST /api/v2/generate/async": {"prompt": "a fox", "source_image": png_base64()},
    "POST /api/v2/generate/pop": {"name": "w1", "models": ["stable_diffusion"]},
    "POST /api/v2/generate/submit": {"generation": "R2", "seed": 1, "state": "faulted"},
    "POST /api/v2/generate/rate/{id}": {"best": ""},
    "POST /api/v1/rating/{id}": {"rating": 7},
    "POST /api/v2/keys": {"name": "mine"},
    "POST /api/v2/kudos/award": {"username": "bob#2", "amount": 10},
    "POST /api/v2/kudos/transfer": {"username": "bob#2", "amount": 10},
    "POST /api/register": {"username": "eve"},
    "PUT /api/v2/sharedkeys": {"name": "friends"},
    "PATCH /api/v2/sharedkeys/{id}": {"kudos": 5000},
    "PUT /api/v2/status/modes": {"maintenance_mode": False},
    "PUT /api/v2/users/{id}": {"contact": "me"},
    "PUT /api/v2/workers/{id}": {"info": "mine"},
}
"""What is sent along a route that takes a body; a new one needs its line."""


UNFINISHED = {
    "DELETE /api/v2/generate/status/{id}": "the next call, or the sweep, cancels the rest",
    "DELETE /api/v2/shared/requests/{id}": "the record is there: the next release takes the rest",
    "POST /api/register": "an account's number is left out",
    "POST /register": "the same",
    "POST /api/v2/generate/async": "the bucket deletes a source image without a request",
    "GET /api/v2/generate/check/{id}": "a sample of the queue, which another check uses",
    "GET /api/v2/generate/status/{id}": "the same",
    "POST /api/v2/generate/pop": "leases that nobody knows of end",
}
"""What may have been written when a route answers 503, and what becomes of it."""


@contextmanager
def throttled_from(number: int, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Refuse all calls to AWS from one on, which counts from 0; notes those that were refused."""
    left, said = [number], list[str]()
    real = vars(BaseClient)["_make_api_call"]

    def call(client: Any, operation: str, params: dict[str, Any]) -> Any:
        if left[0] > 0:
            left[0] -= 1
            return real(client, operation, params)
        said.append(operation)
        service = client.meta.service_model.service_name
        error: Any = {"Error": {"Code": CODES.get(service, "ThrottlingException")}}
        if operation == "TransactWriteItems":
            error = {
                "Error": {"Code": "TransactionCanceledException"},
                "CancellationReasons": [{"Code": "ThrottlingError"}],
            }
        raise ClientError(error, operation)

    with patch.context() as inside:
        inside.setattr(attempts, "pause", lambda _attempt: None)
        inside.setattr(BaseClient, "_make_api_call", call)
        yield said


def caller_of(cloud: Cloud, name: str) -> Callable[[], Reply]:
    """Return what calls a route as a client does that may."""
    cloud.overrides["ADMINS"] = "1"
    (ada, key), _ = cloud.register("ada", kudos=1000), cloud.register("bob")
    made = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    worker = cloud.worker_key(ada)
    done = cloud.generate(key, shared=True).body["id"]
    (image,) = cloud.draw(worker)
    cloud.settle_async()
    waiting = cloud.generate(key, params={"n": 2}).body["id"]
    held = cloud.pop(worker).body["id"] if name.endswith("submit") else ""
    second = cloud.call("POST /api/v2/keys", {"name": "b"}, key=key).body["api_key"]
    new = {"name": "ink", "models": ["stable_diffusion"]}
    style = cloud.call("POST /api/v2/styles/image", new, key=key).body["id"]
    link = {"url": "https://a.example/1.webp"}
    example = cloud.call("POST /api/v2/styles/image/{id}/example", link, key=key, id=style)
    (pooled,) = rating.pooled(cloud, 1)
    cloud.store.raters.give(ada, pooled)
    ids = {
        "users": str(ada),
        "sharedkeys": made,
        "workers": cloud.worker_named()["id"],
        "keys": key_hash(second)[:12],
        "generate": done if "/rate/" in name else waiting,
        "images": image,
        "requests": done,
        "rating": pooled,
        "styles": style,
    }
    values: dict[str, Callable[[], str]] = {
        "{id}": lambda: ids[name.split("/")[-2 if "/shared/" in name else 3]],
        "{name}": lambda: "w1" if "workers" in name else "ink" if "styles" in name else DRAWN,
        "{example_id}": lambda: example.body["id"],
        "{image_id}": lambda: pooled,
        "{user_id}": lambda: str(ada),
        "{dataset_id}": lambda: DATASET_ID,
        "{model_name}": lambda: "stable_diffusion",
    }
    path: dict[str, Any] = {
        one.strip("{}"): value() for one, value in values.items() if one in name
    }
    body = dict(BODIES[name]) if name in BODIES else None
    if held:
        body = {**BODIES[name], "id": held}
    if "/rate/" in name:
        body = {"best": image}
    form = {"content-type": "application/x-www-form-urlencoded"}

    def call() -> Reply:
        if name == "POST /register":
            return cloud.call(name, raw="username=eve", headers=form)
        key_sent = worker if name.endswith(("pop", "submit")) else key
        return cloud.call(name, body, key=key_sent, **path)

    return call


@pytest.mark.parametrize("name", ROUTES)
def test_a_route_that_is_throttled_answers_503_and_can_be_asked_again(
    cloud: Cloud, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, reached, changed = caller_of(cloud, name), 0, False
    for number in range(50):
        new_processes()
        before = repr(cloud.everything())
        with throttled_from(number, monkeypatch) as throttled:
            answer = call()
        assert answer.status < 500 or throttled
        changed |= answer.status >= 500 and repr(cloud.everything()) != before
        if answer.status >= 500:
            if name == "POST /register":  # a page
                assert (answer.status, 'role="alert"' in answer.body) == (503, True)
            else:
                refused(answer, "Throttled", 503)
            assert int(answer.headers["Retry-After"]) > 0
            reached += 1
        cloud.audit()
        if not throttled:
            break
    else:
        pytest.fail("it calls without end")
    assert reached or number == 0
    assert changed == (name in UNFINISHED)


@pytest.mark.parametrize("anonymous", [False, True])
def test_a_request_is_charged_once_whichever_of_its_calls_was_throttled(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, *, anonymous: bool
) -> None:
    cloud.overrides["RATE_LIMITS"] = "true"
    user, key = cloud.register(kudos=1000)
    before, number, statuses = cloud.kudos(user), 0, list[int]()
    while 202 not in statuses:
        new_processes()
        cloud.clock.pass_seconds(1)
        with throttled_from(number, monkeypatch):
            sent = {"params": {"n": 2}, "shared": True}
            answer = cloud.generate(ANONYMOUS if anonymous else key, **sent)
        statuses.append(answer.status)
        number += 1
    assert set(statuses) == {503, 202}
    assert len(cloud.rows("REQUEST")) == 1
    assert len(cloud.rows("GENERATION")) == 2
    assert before - cloud.kudos(user) == (0 if anonymous else answer.body["kudos"])


def test_a_write_that_is_throttled_for_a_moment_is_made_all_the_same(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = vars(BaseClient)["_make_api_call"], [3]

    def call(client: Any, operation: str, params: dict[str, Any]) -> Any:
        if operation == "TransactWriteItems" and left[0]:
            left[0] -= 1
            reasons = [{"Code": "None"}, {"Code": "ThrottlingError"}]
            code = {"Code": "TransactionCanceledException"}
            error: Any = {"Error": code, "CancellationReasons": reasons}
            raise ClientError(error, operation)
        return real(client, operation, params)

    _, key = cloud.register(kudos=100)
    monkeypatch.setattr(attempts, "pause", lambda _attempt: None)
    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    assert cloud.generate(key).status == 202
    assert left == [0]


def test_every_route_says_that_it_may_be_throttled() -> None:
    for path, methods in openapi.document()["paths"].items():
        for method, operation in methods.items():
            assert (Throttled.__doc__ or "") in operation["responses"]["503"]["description"], (
                method,
                path,
            )

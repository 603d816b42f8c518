"""Every refusal is JSON that a client can understand, through the real gateway."""

import uuid
from typing import Any

import pytest

from infra.local.api_client import Response
from tests.e2e.conftest import OperatedCloud, small

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
GENERATE = "/api/v2/generate/async"


def refusal(answer: Response) -> tuple[int, Any]:
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.json["message"]
    return answer.status, answer.json.get("rc")


def test_an_unknown_key(cloud: OperatedCloud) -> None:
    client = cloud.local.client("x" * 22)
    assert refusal(client.call("POST", GENERATE, small())) == (401, "InvalidAPIKey")


def test_a_request_without_a_key_is_refused(cloud: OperatedCloud) -> None:
    answer = cloud.local.client(None).call("POST", GENERATE, small())
    assert refusal(answer) == (400, None)
    assert "apikey" in answer.json["errors"]


def test_a_body_that_is_not_json_is_refused(cloud: OperatedCloud) -> None:
    assert refusal(cloud.anonymous.call("POST", GENERATE, raw=b'{"prompt": ')) == (400, None)


def test_all_mistakes_are_named_at_once(cloud: OperatedCloud) -> None:
    body = {"prompt": 7, "params": {"width": 100, "steps": "many"}}
    answer = cloud.anonymous.call("POST", GENERATE, body)
    assert refusal(answer) == (400, None)
    assert {"prompt", "params.width", "params.steps"} <= set(answer.json["errors"])


@pytest.mark.parametrize("name", [str(uuid.uuid4()), "no-uuid", "%2e%2e"])
def test_an_unknown_request(cloud: OperatedCloud, name: str) -> None:
    for method, path in (("GET", "check"), ("GET", "status"), ("DELETE", "status")):
        answer = cloud.anonymous.call(method, f"/api/v2/generate/{path}/{name}")
        assert refusal(answer)[0] == 404


def test_an_unknown_route(cloud: OperatedCloud) -> None:
    assert refusal(cloud.anonymous.call("GET", "/api/v2/nothing")) == (404, "NotFound")


def test_a_body_of_7_mb_is_refused_as_too_large(cloud: OperatedCloud) -> None:
    answer = cloud.anonymous.call("POST", GENERATE, small(source_image="A" * 7_000_000))
    assert refusal(answer)[0] == 413


def test_an_ordinary_key_cannot_pop(cloud: OperatedCloud) -> None:
    body = {"name": "x", "models": ["stable_diffusion"]}
    for client, rc in ((cloud.user(), "NotPrivileged"), (cloud.anonymous, "AnonForbiddenWorker")):
        assert refusal(client.call("POST", "/api/v2/generate/pop", body)) == (403, rc)

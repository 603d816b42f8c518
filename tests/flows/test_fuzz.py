"""Whatever is sent, the answer is the Horde's: never a 5xx, always JSON with a message."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from horde.edge.bodies import GenerateRequest, Params, PopRequest, SubmitRequest
from tests.support import hostile
from tests.support.api_calls import ANONYMOUS, UNKNOWN
from tests.support.cloud import Cloud
from tests.support.images import png_base64
from tests.support.lambda_limits import json_bytes

text = st.text(max_size=20) | st.sampled_from(
    ["", " ", "###", "\x00", "\ud800", "9" * 5000, "x" * 3000, UNKNOWN, "img2img", "k_heun", "R2"]
)
scalar = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 3200).map(lambda number: number * 64)
    | st.floats()
    | st.sampled_from([10**40, -(10**40), 2**63, 1e308])
    | text
)
anything = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
good_params = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(1, 20),
        "width": st.integers(1, 16).map(lambda side: side * 64),
        "steps": st.integers(1, 40),
        "cfg_scale": st.integers(0, 400).map(lambda quarter: quarter / 4),
        "seed": text,
        "denoising_strength": st.floats(0.01, 1),
        "clip_skip": st.integers(1, 12),
        "hires_fix": st.booleans(),
    },
)


def bodies(fields: list[str], **usual: Any) -> st.SearchStrategy[Any]:
    """Bodies that are right but for a field or two, and bodies that are nothing at all."""
    odd = st.dictionaries(st.sampled_from(fields), anything, max_size=2)
    return st.builds(lambda more: {**usual, **more}, odd) | anything


params = good_params | st.dictionaries(st.sampled_from(list(Params.model_fields)), anything)
requests = st.builds(
    lambda body, more: {**body, "params": more} if isinstance(body, dict) else body,
    bodies(list(GenerateRequest.model_fields), prompt="a fox"),
    params,
)
pops = bodies(list(PopRequest.model_fields), name="w", models=["stable_diffusion"])
submits = bodies(list(SubmitRequest.model_fields), generation="R2", seed=1)
quick = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


WORKERS: dict[int, str] = {}


def worker_of(cloud: Cloud) -> str:
    """Return one worker key for all examples of a test: moto copies its table at every write."""
    if id(cloud) not in WORKERS:
        WORKERS.clear()
        WORKERS[id(cloud)] = cloud.new_worker()
    return WORKERS[id(cloud)]


def send(cloud: Cloud, route: str, body: Any, key: str | None) -> dict[str, Any]:
    """Send a body and check what every answer must be."""
    answer = cloud.call(route, raw=json.dumps(body), key=key)
    assert answer.status < 500, answer
    if answer.status >= 400:
        assert isinstance(answer.body["message"], str)
        assert answer.body["message"]
        assert isinstance(answer.body.get("rc", ""), str)
    found: dict[str, Any] = answer.body
    return found


@pytest.mark.lengthy
@quick
@given(body=requests)
@example(body={"prompt": "x", "params": {"seed": "9" * 5000}})
@example(body={"prompt": "x", "params": {"seed": "\ud800"}})
@example(body={"prompt": "x", "models": ["\u00fc" * 127]})
@example(body={"prompt": "x", "workers": [UNKNOWN.upper()] * 10_000})
def test_no_request_breaks_the_server(cloud: Cloud, body: Any) -> None:
    answer = send(cloud, "POST /api/v2/generate/async", body, ANONYMOUS)
    if "id" in answer:
        assert cloud.cancel(answer["id"]).body["waiting"] >= 1


@pytest.mark.slow
@quick
@given(body=pops)
def test_no_pop_breaks_the_server(cloud: Cloud, body: Any) -> None:
    worker = worker_of(cloud)
    request = cloud.generate().body["id"]
    send(cloud, "POST /api/v2/generate/pop", body, worker)
    cloud.cancel(request)


@pytest.mark.slow
@quick
@given(body=submits)
@example(body={"generation": "R2", "seed": 10**40})
@example(body={"generation": "R2", "seed": "9" * 5000})
@example(
    body={"generation": "R2", "seed": 1, "gen_metadata": [{"type": "a", "value": "b" * 10**5}] * 50}
)
def test_no_submit_breaks_the_server(cloud: Cloud, body: Any) -> None:
    # A new owner each time: a worker whose uploads are refused must rest.
    worker = cloud.new_worker()
    cloud.generate()
    job = cloud.pop(worker, name=worker).body
    if isinstance(body, dict):
        body.setdefault("id", job["id"])
    cloud.upload(job["r2_upload"])
    send(cloud, "POST /api/v2/generate/submit", body, worker)


def hostile_bodies(model: Any, **usual: Any) -> st.SearchStrategy[str]:
    """Bodies with one field that is huge: long, deep, many, or all at once."""
    size = st.integers(0, 22).map(lambda power: 2**power)
    values = (
        st.builds(hostile.repeated, st.sampled_from(hostile.ITEMS), size)
        | size.map(lambda depth: "[" * depth + "]" * depth)
        | size.map(lambda length: json.dumps('\\"\N{FIRE}'[length % 3] * min(length, 10**6)))
        | st.integers(1, 4300).map(lambda digits: "9" * digits)
    )
    field = st.sampled_from([*hostile.fields_of(model), "unknown"])
    return st.builds(hostile.body_with, field, values, **{k: st.just(v) for k, v in usual.items()})


@pytest.mark.lengthy
@quick
@given(
    raw=hostile_bodies(GenerateRequest, prompt="x"),
    key=st.sampled_from([ANONYMOUS, UNKNOWN, "nobody's"]),
)
def test_no_huge_request_breaks_the_server(cloud: Cloud, raw: str, key: str) -> None:
    answer = cloud.call("POST /api/v2/generate/async", raw=raw, key=key)
    assert answer.status < 500
    assert json_bytes(answer.body) < 50_000
    if answer.status == 202:
        cloud.cancel(answer.body["id"])


@pytest.mark.slow
@quick
@given(raw=hostile_bodies(PopRequest, name="w") | hostile_bodies(SubmitRequest, id=UNKNOWN))
def test_no_huge_body_of_a_worker_breaks_the_server(cloud: Cloud, raw: str) -> None:
    for route in ("POST /api/v2/generate/pop", "POST /api/v2/generate/submit"):
        answer = cloud.call(route, raw=raw, key=worker_of(cloud))
        assert answer.status < 500
        assert json_bytes(answer.body) < 50_000


@quick
@given(body=bodies(["username"]), key=st.none() | st.text(max_size=30))
def test_no_registration_or_key_breaks_the_server(cloud: Cloud, body: Any, key: str | None) -> None:
    send(cloud, "POST /api/register", body, key)
    assert cloud.call("GET /api/v2/find_user", key=key).status in {200, 401, 404}


@quick
@given(source=st.binary(max_size=200) | st.just(b"RIFF\x00\x00\x00\x00WEBPVP8 "))
def test_no_source_image_breaks_the_server(cloud: Cloud, source: bytes) -> None:
    import base64

    whole = base64.b64decode(png_base64())
    for raw in (source, whole[: len(source)] + source, whole[:40] + source + whole[40:]):
        body = {"prompt": "x", "source_image": base64.b64encode(raw).decode()}
        send(cloud, "POST /api/v2/generate/async", body, ANONYMOUS)


@pytest.mark.parametrize("path", ["check", "status"])
def test_no_id_breaks_the_server(cloud: Cloud, path: str) -> None:
    for request_id in ("\x00", "\ud800", "x" * 10_000, "../../x", UNKNOWN.upper(), "{id}"):
        answer = cloud.call(f"GET /api/v2/generate/{path}/{{id}}", id=request_id)
        assert answer.status == 404

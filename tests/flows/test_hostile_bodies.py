"""Bodies made to cost much: what they cost is bounded by their bytes, and by who sends them."""

import os
import subprocess
import sys
import tracemalloc

import pytest

from horde import images
from horde.edge import openapi
from horde.edge.http import MAX_UNKNOWN_BODY, Key
from horde.records import Worker
from horde.rules.admission import MAX_PROMPT_BYTES
from horde.rules.refusals import ImageValidationFailed
from tests.support import hostile
from tests.support.api_calls import ANONYMOUS, UNKNOWN, refused
from tests.support.cloud import Cloud
from tests.support.lambda_limits import json_bytes
from tests.support.template import ROOT

GENERATE = "POST /api/v2/generate/async"
SUBMIT = "POST /api/v2/generate/submit"
WRONG = hostile.body_with("params.post_processing", hostile.repeated("7", 34_000), prompt="x")
"""35 KB with 17,000 errors, each of which names all post-processors."""
LISTS = ["7", '""', "[]", '{"a":1}']


def test_a_small_body_with_many_errors_gets_a_small_answer(cloud: Cloud) -> None:
    answer = cloud.call(GENERATE, raw=WRONG, key=ANONYMOUS)
    assert answer.status == 400
    assert json_bytes(answer.body) < 10_000


def test_an_answer_lists_a_bounded_number_of_errors_and_says_how_many_more() -> None:
    from horde.edge.errors import MAX_ERROR, MAX_ERRORS, MAX_PATH, PayloadError

    found = PayloadError({f"{number}{'x' * 5000}": "y" * 5000 for number in range(1000)}).errors
    *listed, more = found.items()
    assert len(listed) == MAX_ERRORS
    assert {(len(path), len(text)) for path, text in listed} == {(MAX_PATH, MAX_ERROR)}
    assert more == ("...", "950 more errors are not listed")


@pytest.mark.parametrize("item", LISTS)
@pytest.mark.parametrize("field", ["params.post_processing", "models", "unknown"])
def test_a_list_of_megabytes_takes_no_more_memory_than_its_text(
    cloud: Cloud, item: str, field: str
) -> None:
    raw = hostile.body_with(field, hostile.repeated(item, 2_000_000), prompt="x")
    cloud.generate(dry_run=True)
    tracemalloc.start()
    try:
        answer = cloud.call(GENERATE, raw=raw, key=ANONYMOUS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.status, list(answer.body["errors"])) == (400, [""])
    assert peak < 10 * len(raw)  # three copies of it are the double's


@pytest.mark.parametrize(
    ("depth", "status"), [(100, 202), (250, 400), (2_900_000, 400)], ids=["100", "250", "millions"]
)
def test_a_body_has_a_bounded_depth(cloud: Cloud, depth: int, status: int) -> None:
    raw = hostile.body_with("unknown", "[" * depth + "]" * depth, prompt='"x"')
    assert cloud.call(GENERATE, raw=raw, key=ANONYMOUS).status == status


def large(text: str) -> str:
    return text + " " * MAX_UNKNOWN_BODY


ROUTES_WITH_KEYS = sorted(
    name
    for name, route in openapi.routes().items()
    if route.key is Key.REQUIRED and route.body is not None
)


@pytest.mark.parametrize("route", ROUTES_WITH_KEYS)
@pytest.mark.parametrize("key", ["nobody's", UNKNOWN])
def test_a_large_body_of_an_unknown_key_is_refused_unread(
    cloud: Cloud, route: str, key: str
) -> None:
    answer = cloud.call(route, raw=large("not even JSON"), key=key, id=UNKNOWN, example_id=UNKNOWN)
    refused(answer, "InvalidAPIKey", 401)


@pytest.mark.parametrize("route", ROUTES_WITH_KEYS)
def test_a_large_body_without_a_key_is_refused_unread(cloud: Cloud, route: str) -> None:
    answer = cloud.call(route, raw=large("not even JSON"), id=UNKNOWN, example_id=UNKNOWN)
    assert (answer.status, list(answer.body["errors"])) == (400, ["apikey"])


def test_a_large_body_of_a_known_key_is_read(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=100)
    shared = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    for known in (ANONYMOUS, key, shared):
        assert cloud.call(GENERATE, raw=large('{"prompt": "x"}'), key=known).status == 202
        assert cloud.call(GENERATE, raw=large("not even JSON"), key=known).status == 400


def test_the_schema_of_a_small_body_comes_before_its_key(cloud: Cloud) -> None:
    answer = cloud.generate("nobody's", params={"width": 7})
    assert (answer.status, list(answer.body["errors"])) == (400, ["params.width"])


def test_a_route_without_images_takes_no_megabytes(cloud: Cloud) -> None:
    worker = cloud.new_worker()
    for name, route in openapi.routes().items():
        if route.body is None or name in (GENERATE, SUBMIT):
            continue
        answer = cloud.call(
            name, raw="{" + " " * 600_000, key=worker, id=UNKNOWN, example_id=UNKNOWN
        )
        assert answer.status == 413, name


@pytest.mark.lengthy
def test_a_source_image_in_thousands_of_scans_is_not_decoded() -> None:
    with pytest.raises(ImageValidationFailed) as refusal:
        images.source_of(hostile.scans(1000), None, painting=False)
    assert refusal.value.body()["rc"] == "SourceImageUnreadable"
    assert images.source_of(hostile.scans(0), None, painting=False).image


def test_a_source_image_of_more_than_its_bytes_is_not_decoded() -> None:
    with pytest.raises(ImageValidationFailed) as refusal:
        images.source_of("A" * 7_000_000, None, painting=False)
    assert refusal.value.body()["rc"] == "SourceImageSizeExceeded"


@pytest.mark.parametrize("letter", ["\x01", '"', "\\", "\N{FIRE}", "x"])
@pytest.mark.slow
def test_a_pop_of_the_longest_prompts_is_an_answer_that_lambda_takes(
    cloud: Cloud, letter: str
) -> None:
    worker = cloud.new_worker()
    lengths = [MAX_PROMPT_BYTES // bytes_each for bytes_each in (6, 4, 2, 1)]
    accepted = [
        length
        for length in lengths
        if cloud.generate(prompt=letter * length, params={"n": 20}).status == 202
    ]
    assert accepted
    answer = cloud.pop(worker, amount=20, mixed_batch=True)
    while answer.body["ids"]:
        answer = cloud.pop(worker, amount=20, mixed_batch=True)


@pytest.mark.slow
def test_the_list_of_workers_is_an_answer_that_lambda_takes(cloud: Cloud) -> None:
    now = cloud.clock.now_ms() // 1000
    owner = cloud.store.accounts.get(cloud.register("owner")[0])
    for number in range(70):
        assert owner is not None
        worker = Worker(
            id=f"{UNKNOWN[:-2]}{number:02}",
            name=f"w{number}",
            user_id=owner.id,
            created_at=now,
            seen_at=now,
            gone_at=now + 100,
            models=[f"{number}-{place}-".ljust(100, "\x01") for place in range(300)],
        )
        assert cloud.store.workers.register(worker, owner)
        owner = cloud.store.accounts.get(owner.id)
    answer = cloud.call("GET /api/v2/workers")
    assert answer.status == 200
    assert 10 < len(answer.body) < 70


def test_a_pops_model_names_are_bounded_together(cloud: Cloud) -> None:
    answer = cloud.pop(cloud.new_worker(), models=["x" * 100] * 300)
    assert (answer.status, list(answer.body["errors"])) == (400, ["models"])


def test_a_mask_of_a_thousand_levels_is_refused(cloud: Cloud) -> None:
    headers = {"X-Fields": "a{" * 1000}
    answer = cloud.call("GET /api/v2/status/heartbeat", headers=headers)
    assert answer.status == 400


@pytest.mark.slow
@pytest.mark.parametrize(
    "route", [GENERATE, SUBMIT, "PUT /api/v2/users/{id}", "POST /api/register"]
)
def test_no_body_takes_more_time_or_memory_than_lambda_gives(route: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile", route],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"functions{os.pathsep}."},
    )
    assert done.returncode == 0, (done.stdout[-500:], done.stderr[-2000:])

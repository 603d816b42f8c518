"""The table's own JSON: what is written is what is read."""

from dataclasses import replace

import pytest

from horde.records import Generation, Request
from horde.store.items import encode, from_item, to_item
from tests.support.records import IMAGE, PAYLOAD, REQUEST


@pytest.mark.parametrize(
    "record",
    [
        REQUEST,
        replace(REQUEST, payload={"prompt": "é ### \u2603", "cfg_scale": 7.0}, shared=True),
        replace(REQUEST, cancelled=True, waived=7, source_key="x", r2=True),
    ],
)
def test_a_request_survives_the_table(record: Request) -> None:
    assert from_item(Request, to_item(record)) == record


@pytest.mark.parametrize(
    "record",
    [
        IMAGE,
        replace(IMAGE, worker_user=3, lease_until=7, gen_metadata=[{"type": "a", "value": "b"}]),
        replace(IMAGE, workers=["a", "b"], worker_blacklist=True, nsfw=True, attempt=2),
    ],
)
def test_a_generation_survives_the_table(record: Generation) -> None:
    assert from_item(Generation, to_item(record)) == record


def test_what_is_empty_takes_no_room() -> None:
    assert {"nsfw", "img2img", "workers", "worker_id", "settled_at"}.isdisjoint(to_item(IMAGE))


def test_a_usual_request_is_under_a_kilobyte() -> None:
    import json

    payload = {
        **PAYLOAD,
        "prompt": "a red apple on a wooden table, studio light, highly detailed " * 3,
    }
    uuid = "11111111-2222-4333-8444-555555555555"
    record = replace(REQUEST, id=uuid, generations=[uuid], payload=payload)
    assert len(json.dumps(to_item(record))) < 1024


def test_what_the_table_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="float"):
        encode(1.5)

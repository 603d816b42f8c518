"""What reaches the data set: the decision, every case of it, and the row of a shared image."""

import datetime as dt
import json
import re
from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest

from horde.records import Generation, Request, State
from horde.rules.sharing import DrawnBy, ImageFile, Reason, Weights, backend, decide, row
from tests.support.records import IMAGE, PAYLOAD, REQUEST

CASES = list(product([False, True], repeat=3))


@pytest.mark.parametrize(("flag", "anonymous", "uses_images"), CASES)
def test_the_sharing_rules(flag: bool, anonymous: bool, uses_images: bool) -> None:
    decision = decide(flag=flag, anonymous=anonymous, uses_images=uses_images)
    assert decision.shared is (not uses_images and (anonymous or flag))
    assert (decision.message is not None) is (decision.shared is not flag)


def test_the_reason_names_the_rule() -> None:
    assert decide(flag=True, anonymous=True, uses_images=True).reason is Reason.SOURCE_IMAGE
    assert decide(flag=True, anonymous=True, uses_images=False).reason is Reason.ANONYMOUS
    assert decide(flag=True, anonymous=False, uses_images=False).reason is Reason.REQUESTED
    assert decide(flag=False, anonymous=False, uses_images=False).reason is Reason.NOT_REQUESTED


# --- the row of a shared image ------------------------------------------------------------------

COLUMNS: dict[str, type] = {
    "id": str,
    "set": str,
    "batch_index": int,
    "created_on": str,
    "prompt": str,
    "negative_prompt": str,
    "seed": int,
    "steps": int,
    "cfg_scale": float,
    "sampler": str,
    "karras": bool,
    "clip_skip": int,
    "hires_fix": bool,
    "tiling": bool,
    "width": int,
    "height": int,
    "model": str,
    "model_sha256": str,
    "model_license": str,
    "backend": str,
    "backend_version": str,
    "post_processing": str,
    "loras": str,
    "tis": str,
    "drawn_by": str,
    "user_hash": str,
    "user_type": str,
    "consent": str,
    "terms_version": str,
    "license": str,
    "nsfw_requested": bool,
    "censored": bool,
    "sha256": str,
    "md5": str,
    "phash": str,
    "bytes": int,
    "format": str,
    "file_name": str,
}
"""The schema that users of the data set rely on: a change of it is a new version of the terms."""
DRAWN_FROM = {**PAYLOAD, "prompt": "a fox ### blurry", "cfg_scale": 5}
SHARED = replace(REQUEST, payload=DRAWN_FROM, shared=True, share_reason=Reason.REQUESTED)
DRAWN = replace(IMAGE, state=State.OK, drawn_seed=7, settled_at=1_795_000_000_000)
FILE: dict[str, Any] = {
    "drawn": DrawnBy.ENDPOINT,
    "agent": "AI Horde Worker reGen:9.0.1:https://example.org/somebody",
    "weights": Weights("a" * 64, "CreativeML OpenRAIL-M"),
    "file": ImageFile("0" * 64, "1" * 32, "2" * 16, 4711),
    "secret": b"of the tests",
}
PERSONAL = {
    Request: {"webhook", "source_key", "mask_key", "sharedkey_id"},
    Generation: {"user_id", "worker_id", "worker_name", "worker_user", "workers"},
}
"""What leads to a person: clients by their account, key, address and files, workers by theirs."""
MARK = 987_654_321
"""Stands for a person's number or name, in all of these."""


def test_a_shared_images_row_has_these_columns_and_types() -> None:
    found = row(SHARED, DRAWN, **FILE)
    assert {name: type(value) for name, value in found.items()} == COLUMNS
    assert list(found) == list(COLUMNS)


@pytest.mark.parametrize(
    ("request_changes", "image_changes"),
    [
        ({"user_id": 0, "share_reason": Reason.ANONYMOUS}, {}),
        ({"nsfw": True, "payload": {**PAYLOAD, "prompt": "", "cfg_scale": 7.5}}, {}),
        ({}, {"drawn_seed": None}),
        ({}, {"settled_at": None}),
    ],
)
def test_every_row_has_the_same_columns_and_none_is_null(
    request_changes: dict[str, Any], image_changes: dict[str, Any]
) -> None:
    found = row(replace(SHARED, **request_changes), replace(DRAWN, **image_changes), **FILE)
    assert {name: type(value) for name, value in found.items()} == COLUMNS


def marked(record: Any) -> Any:
    """Return a record with the mark in all that leads to a person."""
    names = PERSONAL[type(record)]
    assert names <= {field.name for field in fields(record)}
    numbers, lists = {"user_id", "worker_user"}, {"workers"}
    changes: dict[str, Any] = {
        name: MARK if name in numbers else [str(MARK)] if name in lists else str(MARK)
        for name in names
    }
    return replace(record, **changes)


def test_a_row_says_what_the_image_was_drawn_and_finished_with() -> None:
    lora = {"name": "ink", "model": 0.8, "clip": 1.0, "is_version": False}
    asked: dict[str, Any] = {
        **DRAWN_FROM,
        "loras": [lora, {**lora, "name": "247778"}],
        "tis": [{"name": "7808", "strength": 0.5}],
        "post_processing": ["GFPGAN", "RealESRGAN_x2plus"],
    }
    found = row(replace(SHARED, payload=asked), DRAWN, **FILE)
    assert found["loras"] == "ink:0.8:1, 247778:0.8:1"
    assert found["tis"] == "7808:0.5"
    assert found["post_processing"] == "GFPGAN, RealESRGAN_x2plus"
    sides = [2 * asked[side] for side in ("width", "height")]
    assert [found["width"], found["height"]] == sides


def test_nothing_in_a_row_leads_to_a_person() -> None:
    found = row(marked(SHARED), marked(DRAWN), **FILE)
    assert str(MARK) not in json.dumps(found)
    assert found == row(SHARED, DRAWN, **FILE)


def test_an_account_is_a_keyed_hash_of_its_own_each_year_and_nobody_has_none() -> None:
    def hashed(year: int, **changes: Any) -> str:
        settled_at = int(dt.datetime(year, 6, 1, tzinfo=dt.UTC).timestamp() * 1000)
        image = replace(DRAWN, settled_at=settled_at)
        return str(row(replace(SHARED, **changes), image, **FILE)["user_hash"])

    assert re.fullmatch("[0-9a-f]{32}", hashed(2026, user_id=7))
    assert hashed(2026, user_id=7) == hashed(2026, user_id=7, id="another")
    assert len({hashed(2026, user_id=7), hashed(2027, user_id=7), hashed(2026, user_id=8)}) == 3
    assert hashed(2026, user_id=0) == ""


@pytest.mark.parametrize(
    ("agent", "told"),
    [
        (
            "AI Horde Worker reGen:9.0.1:https://example.org/jane",
            ("AI Horde Worker reGen", "9.0.1"),
        ),
        ("AI Horde Worker:jane:x", ("AI Horde Worker", "")),
        ("Jane Q. Example's worker:1:x", ("other", "")),
        ("", ("other", "")),
        ("AI Horde Worker", ("AI Horde Worker", "")),
    ],
)
def test_of_a_workers_software_only_what_names_nobody_is_told(
    agent: str, told: tuple[str, str]
) -> None:
    assert backend(agent) == told


@pytest.mark.parametrize(
    ("drawn", "told"),
    [(7, 7), (2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (2**64 - 1, -1), (-(2**63), -(2**63))],
)
def test_a_rows_seed_is_a_signed_number_of_64_bits(drawn: int, told: int) -> None:
    assert row(SHARED, replace(DRAWN, drawn_seed=drawn), **FILE)["seed"] == told


# What a row says comes from these attributes alone. One that is new must be thought about: it goes
# into the row and COLUMNS, or into PERSONAL, or it is of no use to the data set and is listed here.
FROM_REQUEST = {"id", "user_id", "created_at", "payload", "share_reason", "nsfw"}
FROM_IMAGE = {"id", "index", "seed", "drawn_seed", "model", "settled_at"}


@pytest.mark.parametrize(
    ("record", "used"), [(SHARED, FROM_REQUEST), (DRAWN, FROM_IMAGE)], ids=["request", "image"]
)
def test_a_row_is_made_of_these_attributes_and_no_others(record: Any, used: set[str]) -> None:
    """Each attribute is replaced by something else: those that the row is not made of change it."""

    def row_with(name: str, value: Any) -> dict[str, Any]:
        changed = replace(record, **{name: value})
        request, image = (changed, DRAWN) if record is SHARED else (SHARED, changed)
        return row(request, image, **FILE)

    def something_else(name: str) -> Any:
        before = getattr(record, name)
        if isinstance(before, bool):
            return not before
        others = {"payload": {**PAYLOAD, "prompt": "a dog"}, "share_reason": Reason.ANONYMOUS}
        return others.get(name, str(MARK) if isinstance(before, str) else MARK)

    plain = row(SHARED, DRAWN, **FILE)
    names = {field.name for field in fields(record)}
    changing = {name for name in names if row_with(name, something_else(name)) != plain}
    fallbacks = {"seed", "created_at"}  # of what was drawn, and when
    assert changing | (fallbacks & used) == used


def test_a_row_names_its_file_and_says_that_it_is_uncensored_webp() -> None:
    found = row(SHARED, DRAWN, **FILE)
    assert (found["file_name"], found["format"]) == (f"{DRAWN.id}.webp", "webp")
    assert (found["censored"], found["sha256"], found["bytes"]) == (False, "0" * 64, 4711)

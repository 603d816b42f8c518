"""Who is served first, and which images a worker may take: each rule at its boundary."""

import secrets
from dataclasses import replace
from typing import Any

import pytest

from horde.edge.bodies import PopRequest
from horde.records import ANONYMOUS_ID, NO_STATS, Generation, Offer, User, WorkerStats
from horde.rules import matching
from horde.rules.ruleset import IN_FORCE
from tests.support.records import CONTEXT, IMAGE


def user(**fields: Any) -> User:
    return User(**{"id": 7, "alias": "u", "kudos": 0, "floor": 0, "created_at": 0, **fields})


def offer(**fields: Any) -> Offer:
    return replace(PopRequest.model_validate({"name": "n"}).offer, **fields)


@pytest.mark.parametrize(
    ("kudos", "flagged", "counts"),
    [
        (11, False, 11),
        (10, True, -100),
        (11, True, 0),
        (2600, True, 3),
        (2_000_000, True, 2000),
        (-3, False, -3),
    ],
)
def test_a_flagged_account_counts_with_a_thousandth_of_its_kudos_or_less_than_nothing(
    kudos: int, flagged: bool, counts: int
) -> None:
    assert matching.effective_kudos(user(kudos=kudos, flagged=flagged)) == counts


def test_the_sort_key_is_in_thousandths_of_kudos() -> None:
    assert matching.priority(7, 3) == 6985


@pytest.mark.parametrize(
    ("text", "index", "variation", "seed"),
    [
        ("4294967295", 1, None, 0),
        ("10", 1, 0, 11),
        ("10", 2, 3, 16),
        ("1" * 1000, 0, None, int("1" * 1000) >> 3296),
        ("1" * 1001, 0, None, ord("1")),
        ("٣", 0, None, int.from_bytes("٣".encode(), "little")),
        ("-1", 0, None, int.from_bytes(b"-1", "little")),
    ],
)
def test_a_seed_wraps_and_what_is_no_short_number_is_read_as_bytes(
    text: str, index: int, variation: int | None, seed: int
) -> None:
    assert seed < 2**32
    assert matching.seed_of(text, index, variation) == seed


def test_without_a_seed_each_image_has_one_of_all_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbits", lambda bits: 2**bits - 1)
    assert matching.seed_of("", 1, 7) == 2**32 - 1


def test_the_key_of_a_batch_has_the_model_the_kind_all_that_must_agree_and_the_request() -> None:
    payload = dict(zip(matching.BATCHED, range(11), strict=True))
    key = matching.batch_key("m", payload, kind="img2img", alone="r")
    assert key == "m|img2img|0|1|2|3|4|5|6|7|8|9|10|r"
    assert matching.batch_key("m", {}) == "m||" + "|" * 11
    assert matching.BATCHED == (
        "width",
        "height",
        "ddim_steps",
        "sampler_name",
        "cfg_scale",
        "karras",
        "clip_skip",
        "tiling",
        "hires_fix",
        "denoising_strength",
        "hires_fix_denoising_strength",
    )


STEPS = IN_FORCE.max_steps


@pytest.mark.parametrize(
    ("image", "offered", "owner", "reason"),
    [
        ({"pixels": 4096}, {"max_pixels": 4096}, {}, None),
        ({"pixels": 4097}, {"max_pixels": 4096}, {}, "max_pixels"),
        ({"nsfw": True}, {"nsfw": False}, {}, "nsfw"),
        ({"nsfw": False}, {"nsfw": False}, {}, None),
        ({"painting": False}, {"painting": False}, {}, None),
        ({"img2img": False}, {"img2img": False}, {}, None),
        ({"trusted_only": False}, {}, {"trusted": False}, None),
        ({"painting": True, "img2img": True}, {"painting": False}, {}, "painting"),
        ({"painting": True, "img2img": True}, {"painting": True, "img2img": False}, {}, None),
        ({"img2img": True}, {"img2img": False}, {}, "img2img"),
        ({"workers": ["w"], "worker_blacklist": True}, {}, {}, "worker_id"),
        ({"trusted_only": True}, {}, {"trusted": False}, "untrusted"),
        ({"trusted_only": True}, {}, {"trusted": True}, None),
        ({"trusted_only": True}, {}, {}, "untrusted"),
        ({"steps": STEPS}, {"limit_max_steps": True}, {}, None),
        ({"steps": STEPS + 1}, {"limit_max_steps": True}, {}, "step_count"),
        ({"steps": STEPS + 1}, {"limit_max_steps": False}, {}, None),
        ({"steps": 8, "max_steps": 8}, {"limit_max_steps": True}, {}, None),
        ({"steps": 9, "max_steps": 8}, {"limit_max_steps": True}, {}, "step_count"),
        ({"steps": 9, "max_steps": 8}, {}, {}, None),
        ({"steps": STEPS + 1, "max_steps": STEPS + 1}, {"limit_max_steps": True}, {}, None),
        ({}, {"require_upfront_kudos": True}, {}, None),
        ({"unpaid": True}, {"require_upfront_kudos": True}, {}, "kudos"),
        ({"user_id": ANONYMOUS_ID}, {"require_upfront_kudos": True}, {}, "kudos"),
        ({"unpaid": True}, {}, {}, None),
        ({}, {"extra_slow": True}, {}, "performance"),
        ({"extra_slow_workers": True}, {"extra_slow": True}, {}, None),
        ({"slow_workers": False}, {}, {"speed": 499_999}, "performance"),
        ({"slow_workers": False}, {}, {"speed": 500_000}, None),
        ({"slow_workers": False}, {}, {"speed": None}, None),
        ({"slow_workers": False}, {}, {}, None),
        ({"slow_workers": True}, {}, {"speed": 1}, None),
    ],
)
def test_a_worker_takes_what_it_can_and_no_more(
    image: dict[str, Any], offered: dict[str, Any], owner: dict[str, Any], reason: str | None
) -> None:
    speed = owner.get("speed")
    stats = NO_STATS if speed is None else WorkerStats(recent_ps=speed, recent_ms=1000)
    account = replace(CONTEXT.owner, trusted=owner.get("trusted", False))
    worker = replace(CONTEXT, stats=stats, owner=account)
    assert matching.skip_reason(replace(IMAGE, **image), worker, offer(**offered)) == reason


@pytest.mark.parametrize(
    ("prompt", "blacklist", "found"),
    [
        ("a Fox in snow", ["fOX"], True),
        ("a foxglove", ["fox"], True),
        ("a hen ### fox", ["fox"], False),
        ("a hen", ["", " "], False),
        ("a hen", ["cow", "hen"], True),
        ("a hen", [], False),
    ],
)
def test_a_blacklisted_word_counts_anywhere_in_the_positive_prompt(
    prompt: str, blacklist: list[str], found: bool
) -> None:
    assert matching.has_blacklisted_word(prompt, blacklist) is found


def test_a_batch_has_images_of_one_request_unless_the_worker_mixes_them() -> None:
    other_request = replace(IMAGE, request_id="s")
    other_key: Generation = replace(IMAGE, batch_key="l")
    assert matching.same_batch(IMAGE, IMAGE, offer())
    assert not matching.same_batch(IMAGE, other_request, offer())
    assert matching.same_batch(IMAGE, other_request, offer(mixed_batch=True))
    assert not matching.same_batch(IMAGE, other_key, offer(mixed_batch=True))

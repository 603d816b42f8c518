"""What is admitted, what needs its kudos upfront, and what a downgrade makes of it."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import ANONYMOUS_ID, ANONYMOUS_PARTS, Census, ImageSpec, Load, User
from horde.rules import admission, refusals
from horde.rules.ruleset import IN_FORCE

USER = User(id=7, alias="u", kudos=0, floor=0, created_at=0)
SPEC = ImageSpec(width=512, height=512, steps=30, sampler_name="k_euler")


@pytest.mark.parametrize(
    "prompt",
    [
        "a",
        "a ### b",
        "a " * admission.MAX_PROMPT_WORDS,
        "a" * (admission.MAX_PROMPT_BYTES - len('""')),
    ],
)
def test_a_prompt_up_to_the_limits_is_admitted(prompt: str) -> None:
    admission.check_prompt(prompt)


@pytest.mark.parametrize(("letter", "size"), [("a", 1), ("\x01", 6), ("ä", 2), ("😀", 4)])
def test_a_prompt_has_up_to_64_kb_as_it_is_stored(letter: str, size: int) -> None:
    most = "b" * (admission.MAX_PROMPT_BYTES % size) + letter * (admission.MAX_PROMPT_BYTES // size)
    admission.check_prompt(most)
    with pytest.raises(refusals.InvalidPromptSize):
        admission.check_prompt(most + "b")


@pytest.mark.parametrize("prompt", ["", "  ", "### b", " ###", "### a ### b"])
def test_a_prompt_without_a_positive_part_is_missing(prompt: str) -> None:
    with pytest.raises(refusals.MissingPrompt):
        admission.check_prompt(prompt)


@pytest.mark.parametrize(
    "prompt",
    ["a " * (admission.MAX_PROMPT_WORDS + 1), "ä" * (admission.MAX_PROMPT_BYTES // 2 + 1)],
)
def test_a_prompt_over_a_limit_is_refused_with_both_limits(prompt: str) -> None:
    with pytest.raises(refusals.InvalidPromptSize, match="at most 7500 words and 64 KB"):
        admission.check_prompt(prompt)


@pytest.mark.parametrize(
    ("user", "limit"),
    [
        (USER, IN_FORCE.concurrency),
        (replace(USER, concurrency=2), 2),
        (replace(USER, concurrency=0), 0),
        (replace(USER, id=ANONYMOUS_ID), IN_FORCE.concurrency_anonymous),
        (replace(USER, id=ANONYMOUS_ID, part=3), IN_FORCE.concurrency_anonymous // ANONYMOUS_PARTS),
    ],
)
def test_an_account_may_have_its_limit_waiting_and_not_one_more(user: User, limit: int) -> None:
    assert admission.concurrency(user) == limit
    admission.check_concurrency(user, waiting=0, n=limit)
    with pytest.raises(
        refusals.TooManyPrompts, match=f"ha(s|ve) 1 images waiting, and {limit} more"
    ):
        admission.check_concurrency(user, waiting=1, n=limit)


def census(threads: int, *queued: int) -> Census:
    models = {str(number): Load(images=images) for number, images in enumerate(queued)}
    return Census(at=0, workers=0, threads=threads, models=models)


@pytest.mark.parametrize(
    ("threads", "queued", "baseline", "side"),
    [
        (0, (), "", 1024),
        (9, (), "", 1024),
        (0, (100,), "", 934),
        (1, (100, 100), "", 854),
        (0, (498,), "", 576),
        (0, (10**6,), "", 576),
        (0, (10**6,), "stable_diffusion_2", 768),
        (0, (100,), "stable_diffusion_2", 934),
        (0, (10**6,), "stable_diffusion_xl", 1024),
        (0, (10**6,), "unknown", 576),
    ],
)
def test_the_largest_free_square_shrinks_with_the_queue_and_grows_with_the_fleet(
    threads: int, queued: tuple[int, ...], baseline: str, side: int
) -> None:
    assert admission.max_side(census(threads, *queued), baseline) == side


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"slow_workers": False}, "it refuses slow workers"),
        ({"steps": IN_FORCE.max_steps}, None),
        ({"steps": IN_FORCE.max_steps + 1}, f"it asks for more than {IN_FORCE.max_steps} steps"),
        ({"sampler_name": "lcm", "steps": IN_FORCE.max_steps_lcm}, None),
        (
            {"sampler_name": "lcm", "steps": IN_FORCE.max_steps_lcm + 1},
            f"it asks for more than {IN_FORCE.max_steps_lcm} LCM steps",
        ),
        ({"width": 576, "height": 576}, None),
        ({"width": 576, "height": 640}, "it asks for more than 576x576 pixels"),
    ],
)
def test_what_is_over_a_limit_needs_its_kudos_upfront(
    fields: dict[str, Any], reason: str | None
) -> None:
    spec = replace(SPEC, **fields)
    assert admission.upfront_reason(spec, 576) == reason
    assert not admission.lacks_upfront(reason, total=9, available=9)
    assert admission.lacks_upfront(reason, total=9, available=8) is (reason is not None)


def test_who_lacks_them_is_told_the_reason_the_price_and_what_he_has() -> None:
    fast = admission.upfront_reason(replace(SPEC, slow_workers=False), 576)
    admission.check_upfront(None, total=9, available=0)
    admission.check_upfront(fast, total=9, available=9)
    said = "because it refuses slow workers. It costs 9 kudos, but this account can spend {}."
    with pytest.raises(refusals.KudosUpfront, match=said.format(8)):
        admission.check_upfront(fast, total=9, available=8)
    with pytest.raises(refusals.KudosUpfront, match=said.format(0)):
        admission.check_upfront(fast, total=9, available=-3)


@pytest.mark.parametrize(
    ("fields", "becomes"),
    [
        ({}, {}),
        ({"slow_workers": False}, {"slow_workers": True}),
        ({"width": 1024, "height": 1024}, {"width": 576, "height": 576}),
        ({"width": 1024, "height": 512}, {"width": 768, "height": 384}),
        ({"width": 3072, "height": 64}, {}),
        ({"width": 128, "height": 3072}, {"width": 64, "height": 2816}),
        ({"width": 3072, "height": 128}, {"width": 2816, "height": 64}),
        ({"width": 128, "height": 2624}, {"width": 64, "height": 2560}),
        ({"img2img": True, "denoising_strength": 0.3, "steps": 200}, {"steps": 100}),
        ({"sampler_name": "lcm", "steps": 11}, {"steps": 10}),
        ({"sampler_name": "lcm", "steps": 9}, {"steps": 9}),
        ({"steps": 40}, {}),
        ({"steps": 41}, {"steps": 30}),
        ({"steps": 21, "sampler_name": "k_heun"}, {"steps": 15}),
        ({"sampler_name": "k_dpm_adaptive", "steps": 50}, {}),
    ],
)
def test_a_downgrade_reduces_what_is_over_a_limit_and_nothing_else(
    fields: dict[str, Any], becomes: dict[str, Any]
) -> None:
    spec = replace(SPEC, **fields)
    reduced = admission.downgraded(spec, 576)
    assert reduced == replace(spec, **becomes)
    assert admission.upfront_reason(reduced, 576) is None
    assert f"{reduced.width}x{reduced.height} pixels" in admission.downgrade_message(reduced)


@pytest.mark.parametrize(("steps", "becomes"), [(40, 40), (41, 30)])
def test_a_downgrade_counts_the_first_pass_of_hires_fix_only_where_the_family_has_one(
    steps: int, becomes: int
) -> None:
    native = replace(SPEC, width=768, height=768, hires_fix=True, steps=steps)
    reduced = admission.downgraded(native, 1024, "stable_diffusion_xl")
    assert reduced == replace(native, steps=becomes)
    assert admission.downgraded(native, 1024).steps < becomes

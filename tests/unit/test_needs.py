"""What an image needs of a worker: the queue it waits in, and who reads that queue."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from horde.edge.bodies import PopRequest
from horde.records import Generation, Offer, WorkerContext
from horde.rules.matching import skip_reason
from horde.rules.needs import SIZES, SLOW_SPEED, needs, unmet
from horde.rules.ruleset import IN_FORCE
from tests.support.records import CONTEXT, IMAGE, OWNER

OFFER = replace(
    PopRequest.model_validate({"name": "n"}).offer, max_pixels=SIZES[0], nsfw=True, painting=True
)


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, "0x"),
        ({"pixels": SIZES[0]}, "0x"),
        ({"pixels": SIZES[0] + 1}, "1x"),
        ({"pixels": SIZES[-1] + 1}, f"{len(SIZES)}x"),
        ({"nsfw": True, "img2img": True}, "0nix"),
        ({"img2img": True, "painting": True}, "0px"),
        ({"trusted_only": True, "steps": IN_FORCE.max_steps}, "0tx"),
        ({"steps": IN_FORCE.max_steps + 1}, "0sx"),
        ({"extra_slow_workers": True}, "0"),
        ({"slow_workers": False}, "0xf"),
        ({"features": ["lora"]}, "0xl"),
        ({"features": ["GFPGAN", "strip_background"]}, "0xo"),
        ({"features": ["canny"]}, "0xc"),
        ({"features": ["canny", "sdxl_controlnet", "lora"]}, "0xlcd"),
    ],
)
def test_the_needs_of_an_image_are_the_class_of_its_size_and_letters(
    fields: dict[str, Any], needed: str
) -> None:
    assert needs(replace(IMAGE, **fields)) == needed


def images() -> list[Generation]:
    flags = ("nsfw", "img2img", "painting", "trusted_only", "slow_workers", "extra_slow_workers")
    return [
        replace(
            IMAGE,
            pixels=pixels,
            steps=steps,
            **dict(zip(flags, values, strict=True)),  # type: ignore[arg-type]
        )
        for values in itertools.product((False, True), repeat=len(flags))
        for pixels in (SIZES[0], SIZES[0] + 1, SIZES[1], SIZES[1] + 1)
        for steps in (1, IN_FORCE.max_steps + 1)
    ]


def workers() -> list[tuple[WorkerContext, Offer]]:
    flags = ("nsfw", "img2img", "painting", "limit_max_steps", "extra_slow")
    return [
        (
            replace(
                CONTEXT,
                owner=replace(OWNER, trusted=trusted),
                stats=replace(CONTEXT.stats, recent_ps=speed, recent_ms=1000 if speed else 0),
            ),
            replace(
                OFFER,
                max_pixels=pixels,
                **dict(zip(flags, values, strict=True)),  # type: ignore[arg-type]
            ),
        )
        for values in itertools.product((False, True), repeat=len(flags))
        for trusted in (False, True)
        for speed in (0, SLOW_SPEED - 1, SLOW_SPEED)
        for pixels in (SIZES[0], SIZES[1])
    ]


@pytest.mark.lengthy
def test_a_worker_reads_exactly_the_queues_of_images_that_it_can_draw() -> None:
    waiting = images()
    needed = {needs(image) for image in waiting}
    assert len(needed) == 3 * 2 * 3 * 2**4
    for context, offer in workers():
        read = {one for one in needed if unmet(one, context, offer) is None}
        fits = {needs(i) for i in waiting if skip_reason(i, context, offer) is None}
        assert read == fits


def test_a_class_of_sizes_is_read_if_its_smallest_image_can_be_drawn() -> None:
    larger = replace(IMAGE, pixels=SIZES[1])
    for pixels, reason in ((SIZES[0], "max_pixels"), (SIZES[0] + 1, None)):
        offer = replace(OFFER, max_pixels=pixels)
        assert unmet(needs(larger), CONTEXT, offer) == reason
        assert skip_reason(larger, CONTEXT, offer) == "max_pixels"

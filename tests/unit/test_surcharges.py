"""Each surcharge is in the price, on an image large enough that no rounding hides it."""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from horde.records import ImageSpec
from horde.rules.pricing import quote
from horde.rules.ruleset import IN_FORCE

LARGE = ImageSpec(width=1024, height=1024, steps=30, sampler_name="k_euler")
R = Decimal
BASE = R("36.04")
"""Its base price: a sample that the Horde measured."""


@pytest.mark.parametrize(
    ("fields", "reward", "price"),
    [
        ({"loras": 2, "tis": True}, BASE + 7, BASE + 7),  # as the Horde measured it
        ({"tis": True}, BASE + 1, BASE + 1),
        ({"post_processing": ("GFPGAN",)}, BASE * R("1.2"), BASE * R("1.2")),
        ({"post_processing": ("RealESRGAN_x4plus",)}, BASE * R("1.2"), BASE * R("1.26")),
        ({"post_processing": ("GFPGAN", "strip_background")}, BASE * R("1.44"), BASE * R("1.44")),
        ({"control_type": "canny"}, BASE * 3, BASE * 3),
        ({"control_type": "canny", "return_control_map": True}, BASE, BASE),
    ],
)
def test_what_an_image_asks_for_beside_its_size_is_in_price_and_reward(
    fields: dict[str, Any], reward: Decimal, price: Decimal
) -> None:
    found = quote(replace(LARGE, **fields), shared=False)
    rounded = [int(one.quantize(Decimal(1), ROUND_HALF_UP)) for one in (reward, price)]
    assert [found.reward, found.price] == rounded


def test_a_family_multiplies_what_its_loras_cost_too() -> None:
    spec = replace(LARGE, loras=1)
    assert quote(spec, shared=False, baseline="stable_diffusion_xl").reward == 78


@pytest.mark.parametrize(
    ("fields", "multiplier"),
    [
        ({}, Decimal(1)),
        ({"slow_workers": False}, IN_FORCE.fast_workers_only),
        ({"worker_blacklist": True}, IN_FORCE.worker_blacklist),
        ({"img2img": True, "denoising_strength": 1.0}, IN_FORCE.source_image),
        (
            {"slow_workers": False, "worker_blacklist": True},
            IN_FORCE.fast_workers_only * IN_FORCE.worker_blacklist,
        ),
    ],
)
def test_a_surcharge_is_in_the_price_and_not_in_the_reward(
    fields: dict[str, Any], multiplier: Decimal
) -> None:
    found = quote(replace(LARGE, **fields), shared=False)
    assert found.price == int((BASE * multiplier).quantize(Decimal(1), ROUND_HALF_UP))
    assert found.reward == 36

"""Each surcharge is in the price, on an image large enough that no rounding hides it."""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from horde.records import ImageSpec
from horde.rules.pricing import quote
from horde.rules.ruleset import IN_FORCE

LARGE = ImageSpec(width=1024, height=1024, steps=30, sampler_name="k_euler")
BASE = Decimal("36.04")
"""Its base price: a sample that the Horde measured."""


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

"""A lease is in whole seconds, rounded up."""

from horde.records import ImageSpec
from horde.rules.pricing import lease_seconds


def test_a_part_of_a_second_counts_as_a_whole_one() -> None:
    image = ImageSpec(width=640, height=576, steps=100, sampler_name="k_euler")
    assert lease_seconds(image) == 312  # 30 + 100 * 2 * 1.40625 = 311.25

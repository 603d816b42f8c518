"""The price of an image, by the closed form and the measured samples of the Horde."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.edge.bodies import GenerateRequest
from horde.records import ImageSpec
from horde.rules.pricing import accurate_steps, base_kudos, lease_seconds, quote, tax
from horde.rules.ruleset import IN_FORCE


def spec(**fields: Any) -> ImageSpec:
    return GenerateRequest.model_validate({"prompt": "x", **fields}).spec


@pytest.mark.parametrize(
    ("side", "steps", "kudos"),
    [
        (512, 30, "6.50"),
        (512, 50, "10.83"),
        (512, 8, "1.73"),
        (768, 30, "15.45"),
        (1024, 30, "36.04"),
        (1024, 8, "9.61"),
        (2048, 30, "371.47"),
    ],
)
def test_the_closed_form_gives_the_hordes_measured_samples(
    side: int, steps: int, kudos: str
) -> None:
    assert str(base_kudos(side * side, steps)) == kudos


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        ("k_euler", 30),
        ("k_heun", 60),
        ("k_dpm_2", 60),
        ("k_dpm_2_a", 60),
        ("k_dpmpp_2s_a", 60),
        ("k_dpm_adaptive", 50),
        ("DDIM", 30),
    ],
)
def test_two_pass_samplers_count_twice_and_the_adaptive_one_as_fifty(
    sampler: str, steps: int
) -> None:
    assert accurate_steps(spec(params={"sampler_name": sampler})) == steps


def test_image_to_image_counts_the_steps_it_computes() -> None:
    half = {"steps": 10, "denoising_strength": 0.5}
    assert accurate_steps(spec(params=half, source_image="x")) == 5
    assert accurate_steps(spec(params=half)) == 10
    assert accurate_steps(spec(params={"steps": 10}, source_image="x")) == 8


USUAL = Decimal("6.50")
"""The base price of an image of 512 x 512 at 30 steps."""


def whole(kudos: Decimal) -> int:
    return int(kudos.quantize(Decimal(1), ROUND_HALF_UP))


@pytest.mark.parametrize(
    ("fields", "kudos"),
    [
        ({}, USUAL),
        ({"slow_workers": False}, USUAL * IN_FORCE.fast_workers_only),
        ({"workers": ["w"], "worker_blacklist": True}, USUAL * IN_FORCE.worker_blacklist),
        ({"worker_blacklist": True}, USUAL),
        ({"source_image": "x", "params": {"denoising_strength": 1}}, USUAL * IN_FORCE.source_image),
        ({"params": {"width": 64, "height": 64, "steps": 1}}, Decimal(1)),
    ],
)
def test_multipliers_come_before_the_rounding(fields: dict[str, Any], kudos: Decimal) -> None:
    assert quote(spec(**fields), shared=False).price == whole(kudos)


def test_a_familys_multiplier_applies_to_the_base() -> None:
    big = spec(params={"width": 1024, "height": 1024})
    assert quote(big, shared=True, baseline="stable_diffusion_xl").price == 72
    assert quote(big, shared=True, baseline="flux_1").reward == 288


def test_a_worker_earns_the_base_price_without_surcharges() -> None:
    price = quote(spec(slow_workers=False, source_image="x"), shared=False)
    computed = Decimal("5.20")  # 24 of 30 steps
    assert price.reward == whole(computed)
    assert price.price == whole(computed * IN_FORCE.source_image * IN_FORCE.fast_workers_only)


@given(
    n=st.integers(1, 20),
    width=st.integers(1, 48),
    height=st.integers(1, 48),
    steps=st.integers(1, 500),
    shared=st.booleans(),
)
def test_a_total_is_n_times_a_whole_price_plus_the_flat_tax(
    n: int, width: int, height: int, steps: int, shared: bool
) -> None:
    params = {"n": n, "width": width * 64, "height": height * 64, "steps": steps}
    price = quote(spec(params=params), shared=shared)
    assert price.total == n * (price.price + tax(shared=shared))
    assert price.price >= 1
    assert price.price - 0.51 <= float(base_kudos(params["width"] * params["height"], steps)) or (
        price.price == 1
    )


@pytest.mark.parametrize(
    ("params", "seconds"),
    [
        ({}, 150),
        ({"width": 1024, "height": 1024}, 270),
        ({"width": 1024, "height": 1024, "sampler_name": "k_heun"}, 510),
    ],
)
def test_a_lease_is_thirty_seconds_and_two_a_step_and_megapixel_quarter(
    params: dict[str, Any], seconds: int
) -> None:
    assert lease_seconds(spec(params=params)) == seconds


def test_slow_families_and_extra_slow_workers_get_three_times_the_lease() -> None:
    params = {"width": 1024, "height": 1024}
    assert lease_seconds(spec(params=params), baseline="flux_1") == 810
    assert lease_seconds(spec(params=params, extra_slow_workers=True)) == 810

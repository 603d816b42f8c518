"""The price of an image, by the closed form and the measured samples of the Horde."""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.edge.bodies import GenerateRequest
from horde.records import FIRST_RULESET, ImageSpec
from horde.rules import admission, ruleset
from horde.rules.pricing import accurate_steps, base_kudos, lease_seconds, quote, tax
from horde.rules.ruleset import IN_FORCE, RULESETS, Ruleset
from infra.models import BASELINES
from tests.support import rulebook


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
        ("k_dpmpp_sde", 60),
        ("k_dpm_adaptive", 40),
        ("DDIM", 30),
    ],
)
def test_two_pass_samplers_count_twice_and_the_adaptive_one_as_forty(
    sampler: str, steps: int
) -> None:
    assert accurate_steps(spec(params={"sampler_name": sampler})) == steps


@pytest.mark.parametrize(("sampler", "steps"), [("k_dpmpp_sde", 30), ("k_dpm_adaptive", 50)])
def test_an_earlier_request_is_judged_by_the_samplers_of_its_rules(
    sampler: str, steps: int
) -> None:
    first = ruleset.of(FIRST_RULESET)
    assert accurate_steps(spec(params={"sampler_name": sampler}), rules=first) == steps


def test_the_tax_is_that_of_the_rules_of_the_request() -> None:
    rules = replace(IN_FORCE, tax_shared=7, tax_private=9)
    assert quote(spec(), shared=True, rules=rules).tax == 7
    assert quote(spec(), shared=False, rules=rules).tax == 9


def test_the_adaptive_sampler_ignores_the_steps_that_were_asked_for() -> None:
    for steps in (1, 500):
        params = {"sampler_name": "k_dpm_adaptive", "steps": steps}
        assert accurate_steps(spec(params=params)) == IN_FORCE.adaptive_steps


FIX: dict[str, Any] = {"hires_fix": True, "steps": 32}


@pytest.mark.parametrize(
    ("width", "height", "baseline", "small"),
    [
        (1024, 1024, "", 512 * 512),
        (768, 1024, "stable_diffusion_1", 512 * 704),
        (576, 576, "", 512 * 512),
        (512, 1024, "", 0),
        (1024, 512, "", 0),
        (512, 512, "", 0),
        (1024, 1024, "stable_diffusion_2_768", 768 * 768),
        (1024, 1024, "stable_diffusion_xl", 0),
        (1536, 1152, "stable_diffusion_xl", 1344 * 1024),
        (2048, 2048, "flux_1", 1024 * 1024),
    ],
)
def test_hires_fix_adds_its_first_pass_where_a_worker_draws_one(
    width: int, height: int, baseline: str, small: int
) -> None:
    size: dict[str, Any] = {"width": width, "height": height}
    fixed = accurate_steps(spec(params={**FIX, **size}), baseline=baseline)
    assert fixed * width * height == pytest.approx(32 * (width * height + small))
    plain = spec(params={**FIX, **size, "hires_fix": False})
    assert accurate_steps(plain, baseline=baseline) == 32


def test_hires_fix_has_no_effect_on_image_to_image() -> None:
    params = {**FIX, "width": 1024, "height": 1024, "denoising_strength": 0.5}
    assert accurate_steps(spec(params=params, source_image="x")) == 16


def test_hires_fix_is_in_the_price_the_reward_and_the_lease() -> None:
    large = {"width": 1024, "height": 1024, "steps": 32}
    plain, fixed = spec(params=large), spec(params={**FIX, **large})
    before, after = quote(plain, shared=True), quote(fixed, shared=True)
    assert (before.price, after.price) == (38, 48)
    assert (before.reward, after.reward) == (38, 48)
    assert (lease_seconds(plain), lease_seconds(fixed)) == (286, 350)
    first = ruleset.of(FIRST_RULESET)
    assert quote(fixed, shared=True, rules=first) == quote(plain, shared=True, rules=first)


def test_what_was_measured_of_hires_fix_lies_within_its_price() -> None:
    """512x512: 12.31 kudos with it, 7.61 without."""
    factors = [
        accurate_steps(spec(params={**FIX, "width": side, "height": side})) / 32
        for side in (576, 1024)
    ]
    assert factors[0] > 12.31 / 7.61 > factors[1] > 1


def test_a_cascade_costs_seven_times_with_hires_fix_and_four_times_without() -> None:
    for side, cascade, plain in ((2048, 7, 1), (2048, 4, 0), (1024, 4, 1)):
        one = spec(params={"width": side, "height": side, "hires_fix": bool(plain)})
        steps = accurate_steps(one, baseline="stable_cascade")
        kudos = base_kudos(side * side, steps) * cascade
        assert quote(one, shared=True, baseline="stable_cascade").price == whole(kudos)


@given(
    size=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    steps=st.integers(1, 500),
    sampler=st.sampled_from(
        ["k_euler_a", "k_heun", "k_dpmpp_sde", "k_dpmpp_2s_a", "k_dpm_adaptive", "lcm"]
    ),
    strength=st.none() | st.floats(0.01, 1),
    hires_fix=st.booleans(),
    family=st.sampled_from(["", "unheard of", *BASELINES]),
    fast_only=st.booleans(),
    blacklist=st.booleans(),
    rules=st.sampled_from(RULESETS),
)
def test_price_reward_lease_and_steps_are_those_of_the_rule_book(
    size: tuple[int, int], family: str, rules: Ruleset, **fields: Any
) -> None:
    work = rulebook.Work(width=size[0] * 64, height=size[1] * 64, family=family, **fields)
    one = ImageSpec(
        width=work.width,
        height=work.height,
        steps=work.steps,
        sampler_name=work.sampler,
        img2img=work.strength is not None,
        denoising_strength=work.strength,
        hires_fix=work.hires_fix,
        slow_workers=not work.fast_only,
        worker_blacklist=work.blacklist,
    )
    price = quote(one, shared=True, baseline=family, rules=rules)
    assert abs(price.price - work.price(rules)) <= work.price(rules) // 10_000
    assert abs(price.reward - work.reward(rules)) <= work.reward(rules) // 10_000
    counted = work.counted_steps(rules)
    assert accurate_steps(one, baseline=family, rules=rules) == pytest.approx(counted)
    assert abs(lease_seconds(one, baseline=family) - work.lease_s) <= 1
    side = IN_FORCE.max_side
    if work.sampler != "lcm" and one.slow_workers and one.pixels <= side**2:
        assert (admission.upfront_reason(one, side, family) is not None) is work.heavy


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

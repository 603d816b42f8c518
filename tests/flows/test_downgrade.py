"""``allow_downgrade``: a heavy request that cannot be paid is reduced, and says so."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde import clock, overview
from horde.edge.bodies import GenerateRequest
from horde.records import Census, Load
from horde.rules import admission
from horde.rules.pricing import accurate_steps
from horde.rules.ruleset import IN_FORCE
from tests.support.api_calls import ANONYMOUS, refused
from tests.support.cloud import Cloud
from tests.support.images import png_base64
from tests.support.numbers import FLOOR

SIDE = IN_FORCE.max_side


def whole_64(side: float) -> int:
    return int(side) // 64 * 64


def free_side(images: int, threads: int) -> int:
    """Return the side that needs no kudos upfront, by the rules' own words."""
    shrunk = round(IN_FORCE.side_per_queued * images)
    side = SIDE + IN_FORCE.side_per_thread * threads - shrunk
    return whole_64(min(SIDE, max(IN_FORCE.min_side, side)))


HEAVY: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"params": {"steps": 100}}, {"ddim_steps": IN_FORCE.downgraded_steps}),
    (
        {"params": {"steps": 50, "sampler_name": "k_heun"}},
        {"ddim_steps": IN_FORCE.downgraded_steps // 2},
    ),
    (
        {"params": {"steps": 20, "sampler_name": "lcm"}},
        {"ddim_steps": IN_FORCE.max_steps_lcm},
    ),
    (
        {"params": {"steps": 36, "hires_fix": True, "width": 768, "height": 768}},
        {"ddim_steps": int(IN_FORCE.downgraded_steps / (1 + (512 / 768) ** 2))},
    ),
    (
        {
            "params": {
                "sampler_name": "k_dpm_adaptive",
                "hires_fix": True,
                "width": 1024,
                "height": 1024,
            }
        },
        {"sampler_name": "k_euler_a", "ddim_steps": int(IN_FORCE.downgraded_steps / 1.25)},
    ),
    (
        {"params": {"width": 2 * SIDE, "height": SIDE}},
        {"width": whole_64(SIDE * 2**0.5), "height": whole_64(SIDE / 2**0.5)},
    ),
    ({"slow_workers": False}, {"ddim_steps": 30}),
]


@pytest.mark.parametrize(
    ("params", "source", "told"),
    [
        ({"width": 512, "height": 768, "hires_fix": True}, False, True),
        ({"width": 768, "height": 768, "hires_fix": True}, False, False),
        ({"width": 768, "height": 768, "hires_fix": True}, True, True),
        ({"width": 512, "height": 512}, False, False),
    ],
)
def test_who_asks_for_hires_fix_where_it_has_no_effect_is_told(
    cloud: Cloud, params: dict[str, Any], *, source: bool, told: bool
) -> None:
    _, key = cloud.register(kudos=1000)
    more = {"source_image": png_base64()} if source else {}
    answer = cloud.generate(key, params=params, **more)
    assert answer.status == 202, answer
    assert ("hires_fix has no effect" in answer.body.get("message", "")) is told


@pytest.mark.parametrize(("fields", "drawn"), HEAVY)
def test_a_heavy_request_that_cannot_be_paid_is_reduced(
    cloud: Cloud, fields: dict[str, Any], drawn: dict[str, Any]
) -> None:
    assert cloud.generate(ANONYMOUS, **fields).body["rc"] == "KudosUpfront"
    answer = cloud.generate(ANONYMOUS, **fields, allow_downgrade=True)
    assert answer.status == 202, answer
    assert "reduced" in answer.body["message"]
    job = cloud.pop(cloud.new_worker()).body
    assert {name: job["payload"][name] for name in drawn} == drawn


@pytest.mark.parametrize(("fields", "drawn"), HEAVY)
def test_a_dry_run_says_what_the_reduced_request_costs(
    cloud: Cloud, fields: dict[str, Any], drawn: dict[str, Any]
) -> None:
    user, key = cloud.register(kudos=3)
    cost = cloud.generate(key, **fields, allow_downgrade=True, dry_run=True).body["kudos"]
    assert cloud.generate(key, **fields, allow_downgrade=True).body["kudos"] == cost
    assert cloud.kudos(user) == FLOOR
    params = {("steps" if name == "ddim_steps" else name): drawn[name] for name in drawn}
    reduced = {"params": {**fields.get("params", {}), **params}}
    assert cloud.generate(key, **reduced, dry_run=True).body["kudos"] == cost


def busy(cloud: Cloud, images: int, threads: int) -> None:
    load = Load(images=images, requests=images, pixelsteps=images * 512 * 512 * 30)
    models = {"stable_diffusion": load}
    cloud.store.census.put(Census(at=clock.now(), workers=threads, threads=threads, models=models))
    overview.clear_cache()


@pytest.mark.parametrize(("images", "threads"), [(0, 0), (300, 10), (300, 30), (5000, 1)])
def test_a_long_queue_shrinks_what_is_drawn_without_kudos_upfront(
    cloud: Cloud, images: int, threads: int
) -> None:
    busy(cloud, images, threads)
    free = free_side(images, threads)
    large: dict[str, Any] = {"params": {"width": free + 64, "height": free + 64}}
    refused(cloud.generate(ANONYMOUS, **large), "KudosUpfront", 403)
    assert cloud.generate(params={"width": free, "height": free}).status == 202
    assert "reduced" in cloud.generate(**large, allow_downgrade=True).body["message"]
    _, rich = cloud.register("rich", kudos=10_000)
    assert cloud.generate(rich, **large).status == 202


def test_a_model_of_a_large_family_may_always_be_asked_for_its_own_size(cloud: Cloud) -> None:
    busy(cloud, images=5000, threads=0)
    own_size: dict[str, Any] = {"models": ["SDXL 1.0"], "params": {"width": 1024, "height": 1024}}
    assert cloud.generate(**own_size).status == 202


def test_an_account_that_can_pay_gets_what_it_asked_for(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=10_000)
    answer = cloud.generate(key, params={"steps": 100}, allow_downgrade=True)
    assert "message" not in answer.body
    job = cloud.pop(cloud.new_worker()).body
    assert job["payload"]["ddim_steps"] == 100


def test_a_source_image_is_kept_when_its_request_is_reduced(cloud: Cloud) -> None:
    answer = cloud.generate(source_image=png_base64(), params={"steps": 400}, allow_downgrade=True)
    assert answer.status == 202
    job = cloud.pop(cloud.new_worker()).body
    assert job["payload"]["ddim_steps"] == int(IN_FORCE.downgraded_steps / 0.8)
    assert "source_image" in job


asked_for = st.builds(
    lambda slow, source, params: GenerateRequest.model_validate(
        {"prompt": "x", "slow_workers": slow, "source_image": source, "params": params}
    ),
    st.booleans(),
    st.sampled_from([None, "x"]),
    st.fixed_dictionaries(
        {
            "width": st.integers(1, 48).map(lambda blocks: blocks * 64),
            "height": st.integers(1, 48).map(lambda blocks: blocks * 64),
            "steps": st.integers(1, 500),
            "sampler_name": st.sampled_from(["k_euler_a", "k_heun", "lcm", "k_dpm_adaptive"]),
            "denoising_strength": st.none() | st.floats(0.01, 1),
            "hires_fix": st.booleans(),
        }
    ),
)


@given(
    asked_for,
    st.integers(IN_FORCE.min_side, IN_FORCE.max_side),
    st.sampled_from(["", "stable_diffusion_xl", "stable_diffusion_2_768"]),
)
def test_a_reduced_request_never_needs_kudos_upfront_and_never_grows(
    body: GenerateRequest, side: int, baseline: str
) -> None:
    spec = body.spec
    less = admission.downgraded(spec, side, baseline)
    assert admission.upfront_reason(less, side, baseline) is None
    assert body.reduced_to(less).spec == less
    assert less.width <= spec.width
    assert less.height <= spec.height
    assert 1 <= less.steps <= spec.steps
    assert less.width % 64 == less.height % 64 == 0
    before, after = (accurate_steps(replace(one, hires_fix=False)) for one in (spec, less))
    assert after <= max(before, IN_FORCE.downgraded_steps)

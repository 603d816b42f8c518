"""``allow_downgrade``: a heavy request that cannot be paid is reduced, and says so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde import clock, fleet, limits
from horde.fleet import Census, Load
from horde.pricing import accurate_steps
from horde.schema import GenerateRequest
from tests.support.cloud import ANONYMOUS, Cloud, png_base64

HEAVY: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"params": {"steps": 100}}, {"ddim_steps": 30}),
    ({"params": {"steps": 50, "sampler_name": "k_heun"}}, {"ddim_steps": 15}),
    ({"params": {"steps": 20, "sampler_name": "lcm"}}, {"ddim_steps": 10}),
    ({"params": {"sampler_name": "k_dpm_adaptive"}}, {"sampler_name": "k_euler_a"}),
    ({"params": {"width": 2048, "height": 1024}}, {"width": 1408, "height": 704}),
    ({"slow_workers": False}, {"ddim_steps": 30}),
]


@pytest.mark.parametrize(("fields", "drawn"), HEAVY)
def test_a_heavy_request_that_cannot_be_paid_is_reduced(
    horde: Cloud, fields: dict[str, Any], drawn: dict[str, Any]
) -> None:
    assert horde.generate(ANONYMOUS, **fields).body["rc"] == "KudosUpfront"
    answer = horde.generate(ANONYMOUS, **fields, allow_downgrade=True)
    assert answer.status == 202, answer
    assert "reduced" in answer.body["message"]
    job = horde.pop(horde.worker_key(horde.register("owner")[0])).body
    assert {name: job["payload"][name] for name in drawn} == drawn


@pytest.mark.parametrize(("fields", "drawn"), HEAVY)
def test_a_dry_run_says_what_the_reduced_request_costs(
    horde: Cloud, fields: dict[str, Any], drawn: dict[str, Any]
) -> None:
    user, key = horde.register(kudos=3)
    told = horde.generate(key, **fields, allow_downgrade=True, dry_run=True).body["kudos"]
    assert horde.generate(key, **fields, allow_downgrade=True).body["kudos"] == told
    assert horde.kudos(user) == 14
    params = {("steps" if name == "ddim_steps" else name): drawn[name] for name in drawn}
    reduced = {"params": {**fields.get("params", {}), **params}}
    assert horde.generate(key, **reduced, dry_run=True).body["kudos"] == told


def busy(horde: Cloud, images: int, threads: int) -> None:
    load = Load(images=images, requests=images, pixelsteps=images * 512 * 512 * 30)
    counted = {"at": clock.now(), "workers": threads, "threads": threads}
    horde.store.put_census(Census(**counted, models={"stable_diffusion": load}))
    fleet.forget()


@pytest.mark.parametrize(
    ("images", "threads", "free", "too_large"),
    [(0, 0, 1024, 1088), (300, 10, 832, 896), (300, 30, 1024, 1088), (5000, 1, 576, 640)],
)
def test_a_long_queue_shrinks_what_is_drawn_without_kudos_upfront(
    horde: Cloud, images: int, threads: int, free: int, too_large: int
) -> None:
    busy(horde, images, threads)
    large: dict[str, Any] = {"params": {"width": too_large, "height": too_large}}
    refused = horde.generate(ANONYMOUS, **large)
    assert (refused.status, refused.body["rc"]) == (403, "KudosUpfront")
    assert horde.generate(params={"width": free, "height": free}).status == 202
    assert "reduced" in horde.generate(**large, allow_downgrade=True).body["message"]
    _, rich = horde.register("rich", kudos=10_000)
    assert horde.generate(rich, **large).status == 202


def test_a_model_of_a_large_family_may_always_be_asked_for_its_own_size(horde: Cloud) -> None:
    busy(horde, images=5000, threads=0)
    own_size: dict[str, Any] = {"models": ["SDXL 1.0"], "params": {"width": 1024, "height": 1024}}
    assert horde.generate(**own_size).status == 202


def test_who_can_pay_gets_what_was_asked_for(horde: Cloud) -> None:
    _, key = horde.register(kudos=10_000)
    answer = horde.generate(key, params={"steps": 100}, allow_downgrade=True)
    assert "message" not in answer.body
    job = horde.pop(horde.worker_key(horde.register("owner")[0])).body
    assert job["payload"]["ddim_steps"] == 100


def test_a_source_image_is_kept_when_its_request_is_reduced(horde: Cloud) -> None:
    answer = horde.generate(source_image=png_base64(), params={"steps": 400}, allow_downgrade=True)
    assert answer.status == 202
    job = horde.pop(horde.worker_key(horde.register("owner")[0])).body
    assert job["payload"]["ddim_steps"] == 37  # 30 of them are computed
    assert "source_image" in job


@given(
    st.integers(1, 48), st.integers(1, 48), st.integers(1, 500), st.booleans(),
    st.sampled_from(["k_euler_a", "k_heun", "lcm", "k_dpm_adaptive", "DDIM"]), st.booleans(),
    st.one_of(st.none(), st.floats(0.01, 1)), st.integers(limits.MIN_SIDE, limits.MAX_SIDE),
)  # fmt: skip
def test_a_reduced_request_never_needs_kudos_upfront_and_never_grows(
    wide: int, high: int, steps: int, slow: bool, sampler: str, img2img: bool,
    strength: float | None, side: int,
) -> None:  # fmt: skip
    wish = GenerateRequest.model_validate(
        {
            "prompt": "x",
            "slow_workers": slow,
            "source_image": "x" if img2img else None,
            "params": {
                "width": wide * 64, "height": high * 64, "steps": steps, "sampler_name": sampler,
                "denoising_strength": strength,
            },
        }
    )  # fmt: skip
    less = limits.downgraded(wish, side)
    assert limits.upfront_reason(less, side) is None
    assert less.params.width <= wish.params.width
    assert less.params.height <= wish.params.height
    assert 1 <= less.params.steps <= wish.params.steps
    assert less.params.width % 64 == less.params.height % 64 == 0
    assert accurate_steps(less.params, img2img=img2img) <= max(
        accurate_steps(wish.params, img2img=img2img), limits.DOWNGRADED_STEPS
    )

"""Who can draw an image: sleeping endpoints, and the workers of a census."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import Census, Generation, Load, User, Worker, WorkerStats
from horde.rules import drawing
from horde.rules.needs import SLOW_SPEED
from horde.rules.ruleset import IN_FORCE
from tests.support.records import IMAGE, OWNER, WORKER

MODELS = ("a", "m", "z")
ABLE = replace(
    WORKER,
    id="w",
    models=["m"],
    max_pixels=IMAGE.pixels,
    nsfw=True,
    img2img=True,
    painting=True,
    lora=True,
    post_processing=True,
    controlnet=True,
    sdxl_controlnet=True,
)
"""A worker that draws any image of its model, up to the size of ``IMAGE``."""
ASKED = replace(IMAGE, model="m", slow_workers=True, extra_slow_workers=True)
TRUSTED = replace(OWNER, trusted=True)
ENDPOINTS = {"m": drawing.Ability(IMAGE.pixels, frozenset({"lora", "canny"}))}


def census(
    worker: Worker, owner: User | None = TRUSTED, stats: WorkerStats | None = None
) -> Census:
    row = drawing.drawer(worker, stats or WorkerStats(), owner, MODELS)
    return Census(models=dict.fromkeys(MODELS, Load()), drawers=(row,))


def draws(image: Generation, *who: Any) -> bool:
    return bool(drawing.drawers(image, census(*who)))


LACKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "model": ({"model": "a"}, {}),
    "models": ({"models": ["a", "z"]}, {}),
    "size": ({"pixels": IMAGE.pixels + 1}, {}),
    "nsfw": ({"nsfw": True}, {"nsfw": False}),
    "img2img": ({"img2img": True}, {"img2img": False}),
    "painting": ({"img2img": True, "painting": True}, {"painting": False}),
    "steps": ({"steps": IN_FORCE.max_steps + 1}, {"limit_max_steps": True}),
    "payment": ({"unpaid": True}, {"require_upfront_kudos": True}),
    "speed": ({"extra_slow_workers": False}, {"extra_slow": True}),
    "named worker": ({"workers": ["x"]}, {}),
    "refused worker": ({"workers": ["w"], "worker_blacklist": True}, {}),
    "LoRA": ({"features": ["lora"]}, {"lora": False}),
    "post-processing": ({"features": ["GFPGAN"]}, {"post_processing": False}),
    "post-processor": ({"features": ["GFPGAN"]}, {"unable": ["GFPGAN"]}),
    "ControlNet": ({"features": ["canny"]}, {"controlnet": False}),
    "control type": ({"features": ["canny"]}, {"unable": ["canny"]}),
    "ControlNet of SDXL": ({"features": ["canny", "sdxl_controlnet"]}, {"sdxl_controlnet": False}),
}


@pytest.mark.parametrize("name", LACKS)
def test_a_worker_draws_no_image_that_its_offer_rules_out(name: str) -> None:
    asked, offered = LACKS[name]
    assert draws(ASKED, ABLE)
    assert draws(ASKED, replace(ABLE, **offered))
    assert not draws(replace(ASKED, **asked), replace(ABLE, **offered))


def test_only_a_trusted_owners_worker_draws_for_who_asks_for_trusted_workers() -> None:
    asked = replace(ASKED, trusted_only=True)
    assert draws(asked, ABLE)
    assert not draws(asked, ABLE, replace(OWNER, trusted=False))
    assert not draws(asked, ABLE, None)


def test_a_measured_slow_worker_draws_only_for_who_allows_it() -> None:
    slow = WorkerStats(recent_ps=SLOW_SPEED - 1, recent_ms=1000)
    assert draws(ASKED, ABLE, TRUSTED, slow)
    assert not draws(replace(ASKED, slow_workers=False), ABLE, TRUSTED, slow)


def test_any_of_several_models_will_do_and_a_named_worker_among_others() -> None:
    assert draws(replace(ASKED, model="a", models=["a", "m"]), ABLE)
    assert draws(replace(ASKED, model="a", any_model=True), ABLE)
    assert draws(replace(ASKED, workers=["x", "w"]), ABLE)
    assert draws(replace(ASKED, workers=["x"], worker_blacklist=True), ABLE)


def test_a_census_from_before_workers_were_recorded_does_not_say() -> None:
    assert drawing.drawers(ASKED, Census()) is None


def test_a_sleeping_endpoint_draws_all_that_is_asked_of_it_up_to_its_size() -> None:
    hard = replace(ASKED, trusted_only=True, nsfw=True, img2img=True, slow_workers=False)
    assert drawing.endpoint_draws(hard, "m", ENDPOINTS)
    assert drawing.endpoint_draws(replace(hard, any_model=True, model="x"), "m", ENDPOINTS)
    assert not drawing.endpoint_draws(replace(hard, pixels=IMAGE.pixels + 1), "m", ENDPOINTS)
    assert not drawing.endpoint_draws(hard, "a", ENDPOINTS)
    assert drawing.endpoint_draws(replace(hard, features=["lora", "canny"]), "m", ENDPOINTS)
    controlled = replace(hard, features=["canny", "sdxl_controlnet"])
    assert drawing.endpoint_draws(controlled, "m", ENDPOINTS)
    assert not drawing.endpoint_draws(replace(hard, features=["lora", "hed"]), "m", ENDPOINTS)
    assert not drawing.endpoint_draws(replace(hard, model="a"), "m", ENDPOINTS)


def test_a_gpu_is_started_for_named_workers_only_if_one_is_the_operators_and_awake() -> None:
    named = replace(ASKED, workers=["w"])
    volunteer, own = census(ABLE), census(ABLE, replace(TRUSTED, fleet=True))
    assert not drawing.is_for_endpoints(named, ())
    assert not drawing.is_for_endpoints(named, volunteer.drawers or ())
    assert drawing.is_for_endpoints(named, own.drawers or ())
    assert drawing.is_for_endpoints(replace(named, worker_blacklist=True), ())
    assert drawing.is_for_endpoints(ASKED, ())

"""LoRAs, textual inversions, ControlNet and post-processors: from the request to the worker."""

import json
from typing import Any

import pytest

from tests.support.api_calls import Reply
from tests.support.cloud import Cloud
from tests.support.images import png_base64, webp
from tests.support.numbers import FLOOR, PRICE

LORA = {"name": "247778", "model": 0.8, "clip": 1.0, "is_version": True}
ASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": ({"params": {"loras": [LORA]}}, {"allow_lora": True}),
    "ti": ({"params": {"tis": [{"name": "x", "inject_ti": "negprompt"}]}}, {"allow_lora": True}),
    "post-processing": ({"params": {"post_processing": ["GFPGAN"]}}, {}),
    "controlnet": (
        {"source_image": png_base64(), "params": {"control_type": "canny"}},
        {"allow_controlnet": True},
    ),
    "controlnet of SDXL": (
        {
            "source_image": png_base64(),
            "params": {"control_type": "hed"},
            "models": ["SDXL 1.0"],
        },
        {"allow_controlnet": True, "allow_sdxl_controlnet": True, "models": ["SDXL 1.0"]},
    ),
}
"""What is asked for, and what the offer of a worker says that draws it."""
NEITHER = {
    "allow_lora": False,
    "allow_controlnet": False,
    "allow_sdxl_controlnet": False,
    "allow_post_processing": False,
}
SKIPPED = {"ti": "lora", "controlnet of SDXL": "controlnet"}


def asked(cloud: Cloud, key: str, **fields: Any) -> Reply:
    answer = cloud.generate(key, **fields)
    assert answer.status == 202, answer
    return answer


def able(cloud: Cloud, *names: str, model: str = "stable_diffusion") -> None:
    """Say in the settings what the endpoint of a model does."""
    models = json.loads(cloud.environment("generate")["MODELS"])
    models[model]["features"] = names
    cloud.overrides["MODELS"] = json.dumps(models)


def warned(answer: Reply) -> bool:
    return "warnings" in answer.body


@pytest.mark.parametrize("name", ASKS)
def test_only_a_worker_that_offers_it_gets_an_image_that_asks_for_it(
    cloud: Cloud, worker: str, name: str
) -> None:
    fields, offer = ASKS[name]
    asked(cloud, cloud.register(kudos=1000)[1], **fields)
    refused = cloud.pop(worker, **{**offer, **NEITHER}).body
    assert (refused["id"], refused["skipped"]) == (None, {SKIPPED.get(name, name): 1})
    assert cloud.pop(worker, **offer).body["id"]


def test_a_worker_is_told_what_to_draw_with(cloud: Cloud, worker: str) -> None:
    params = {
        "loras": [LORA, {"name": "ink", "inject_trigger": "any"}],
        "tis": [{"name": "7808"}],
        "control_type": "canny",
        "image_is_control": True,
        "post_processing": ["GFPGAN", "RealESRGAN_x2plus"],
        "facefixer_strength": 0.5,
    }
    asked(cloud, cloud.register(kudos=1000)[1], source_image=png_base64(), params=params)
    payload = cloud.pop(worker, allow_lora=True, allow_controlnet=True).body["payload"]
    ink = {"name": "ink", "inject_trigger": "any", "model": 1.0, "clip": 1.0, "is_version": False}
    assert payload["loras"] == [LORA, ink]
    assert payload["tis"] == [{"name": "7808", "strength": 1.0}]
    for name in ("control_type", "image_is_control", "post_processing", "facefixer_strength"):
        assert payload[name] == params[name]
    assert payload["return_control_map"] is False


def test_a_worker_that_lists_what_it_has_gets_nothing_else(cloud: Cloud, worker: str) -> None:
    key = cloud.register(kudos=1000)[1]
    asked(cloud, key, params={"post_processing": ["GFPGAN"]})
    asked(cloud, key, source_image=png_base64(), params={"control_type": "hed"})
    listed = {"allow_controlnet": True, "post_processors": ["CodeFormers"], "controls": ["canny"]}
    none = cloud.pop(worker, **listed).body
    assert (none["id"], none["skipped"]) == (None, {"post-processing": 1, "controlnet": 1})
    listed |= {"post_processors": ["GFPGAN", "unheard of"], "controls": ["hed"]}
    assert all(cloud.pop(worker, **listed).body["id"] for _ in range(2))


def test_images_with_other_loras_are_drawn_in_another_batch(cloud: Cloud, worker: str) -> None:
    key = cloud.register(kudos=1000)[1]
    for name in ("a", "b", "a"):
        asked(cloud, key, params={"loras": [{"name": name}]})
    jobs = cloud.pop(worker, allow_lora=True, amount=4, mixed_batch=True).body["jobs"]
    names = {job["payload"]["loras"][0]["name"] for job in jobs}
    assert len(names) == 1


# --- who can draw it ------------------------------------------------------------------------------


def test_an_endpoint_that_does_not_do_it_is_not_started_and_the_client_is_told(
    cloud: Cloud,
) -> None:
    user, key = cloud.register(kudos=1000)
    answer = asked(cloud, key, params={"loras": [LORA]})
    assert warned(answer)
    assert not cloud.check(answer.body["id"]).body["is_possible"]
    cloud.stream()
    cloud.deliver("dispatch")
    assert cloud.runpod.jobs == []
    cloud.clock.pass_seconds(20 * 60)
    cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 1000


@pytest.mark.parametrize("name", ["lora", "GFPGAN", "canny"])
def test_an_endpoint_whose_settings_name_it_is_started(cloud: Cloud, name: str) -> None:
    key = cloud.register(kudos=1000)[1]
    by_name: dict[str, dict[str, Any]] = {
        "lora": {"params": {"loras": [LORA]}},
        "GFPGAN": {"params": {"post_processing": ["GFPGAN"]}},
        "canny": {"source_image": png_base64(), "params": {"control_type": "canny"}},
    }
    able(cloud, name)
    answer = asked(cloud, key, **by_name[name])
    assert not warned(answer)
    assert cloud.check(answer.body["id"]).body["is_possible"]
    cloud.stream()
    cloud.deliver("dispatch")
    assert len(cloud.runpod.jobs) == 1


def test_what_a_live_worker_lists_is_possible(cloud: Cloud, worker: str) -> None:
    key = cloud.register(kudos=1000)[1]
    cloud.pop(worker, post_processors=["GFPGAN"])
    cloud.sweep()
    cloud.clock.pass_seconds(10)
    answers = [
        asked(cloud, key, params={"post_processing": [name]}) for name in ("GFPGAN", "CodeFormers")
    ]
    assert [warned(answer) for answer in answers] == [False, True]


# --- what is delivered and paid -------------------------------------------------------------------


def test_an_upscaled_image_has_its_new_size_or_is_refused(cloud: Cloud, worker: str) -> None:
    key = cloud.register(kudos=1000)[1]
    params = {"post_processing": ["RealESRGAN_x4plus"], "width": 64, "height": 128, "n": 2}
    request = asked(cloud, key, params=params).body["id"]
    first = cloud.pop(worker).body
    cloud.upload(first["r2_upload"], webp("red", 64, 128))
    lazy = cloud.submit(worker, first["id"])
    assert (lazy.status, lazy.body["rc"]) == (400, "ImageRefused")
    assert "not 256x512" in lazy.body["message"]
    second = cloud.pop(worker).body
    cloud.upload(second["r2_upload"], webp("red", 256, 512))
    assert cloud.submit(worker, second["id"]).status == 200
    assert cloud.check(request).body["finished"] == 1


@pytest.mark.slow
def test_the_largest_upscaled_image_is_accepted(cloud: Cloud, worker: str) -> None:
    key = cloud.register(kudos=1000)[1]
    asked(cloud, key, params={"post_processing": ["4x_AnimeSharp"], "width": 1024, "height": 1024})
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"], webp("red", 4096, 4096))
    assert cloud.submit(worker, job["id"]).status == 200


def test_what_it_costs_is_told_before_and_charged_after(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    fields = {"params": {"loras": [LORA, {"name": "ink"}], "tis": [{"name": "x"}]}, "shared": True}
    told = cloud.generate(key, dry_run=True, **fields).body["kudos"]
    assert asked(cloud, key, **fields).body["kudos"] == told == PRICE + 7 + 1
    assert cloud.kudos(user) == FLOOR + 1000 - told


def test_a_controlnet_of_many_steps_needs_its_kudos_upfront(cloud: Cloud) -> None:
    poor = cloud.register()[1]
    fields = {"source_image": png_base64(), "params": {"control_type": "canny"}}
    assert cloud.generate(poor, **fields).status == 202
    more = {**fields, "params": {"control_type": "canny", "steps": 30}}
    refused = cloud.generate(poor, **more)
    assert (refused.status, refused.body["rc"]) == (403, "KudosUpfront")
    assert "with a ControlNet" in refused.body["message"]
    reduced = cloud.generate(poor, **more, allow_downgrade=True)
    assert reduced.status == 202, reduced


# --- what changes nothing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"sampler_name": "k_dpm_adaptive", "steps": 20}, "steps"),
        ({"sampler_name": "k_dpm_adaptive", "steps": 40}, None),
        ({"sampler_name": "k_dpm_adaptive"}, None),
        ({"sampler_name": "lcm", "steps": 8, "karras": True}, "karras"),
        ({"sampler_name": "lcm", "steps": 8, "karras": False}, None),
        ({"sampler_name": "lcm", "steps": 8}, None),
        ({"sampler_name": "DDIM", "steps": 20, "karras": True}, None),
    ],
)
def test_what_a_sampler_does_not_heed_is_told(
    cloud: Cloud, params: dict[str, Any], named: str | None
) -> None:
    key = cloud.register(kudos=1000)[1]
    told = asked(cloud, key, params=params).body.get("message")
    assert told is None if named is None else told.startswith(f"{named} without effect: ")


@pytest.mark.parametrize("family", ["flux_1", "z_image_turbo"])
@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, ""),
        ({"sampler_name": "k_euler", "karras": False}, ""),
        ({"sampler_name": "k_dpmpp_2m"}, "sampler_name"),
        ({"karras": True, "clip_skip": 2, "tiling": True}, "karras and clip_skip and tiling"),
    ],
)
def test_what_means_nothing_for_flow_matching_is_told_there_alone(
    cloud: Cloud, params: dict[str, Any], named: str, family: str
) -> None:
    models = json.loads(cloud.environment("generate")["MODELS"])
    models["Flow"] = {"endpoint": "ep3", "baseline": family}
    cloud.overrides["MODELS"] = json.dumps(models)
    key = cloud.register(kudos=1000)[1]
    told = asked(cloud, key, models=["Flow"], params=params).body.get("message", "")
    assert told == (f"{named} without effect: {family} takes Euler steps." if named else "")
    assert "message" not in asked(cloud, key, params=params).body


def test_a_textual_inversion_for_flow_matching_is_refused_before_it_costs_anything(
    cloud: Cloud,
) -> None:
    models = json.loads(cloud.environment("generate")["MODELS"])
    models["Flow"] = {"endpoint": "ep3", "baseline": "flux_1"}
    cloud.overrides["MODELS"] = json.dumps(models)
    user, key = cloud.register(kudos=1000)
    before, inversion = cloud.kudos(user), {"tis": [{"name": "4487"}]}
    refused = cloud.generate(key, models=["Flow"], params=inversion)
    assert (refused.status, refused.body["rc"]) == (400, "TextualInversionUnsupported")
    assert cloud.kudos(user) == before
    assert cloud.generate(key, params=inversion).status == 202


@pytest.mark.parametrize("fleet", [True, False])
def test_a_lora_that_cannot_be_had_ends_its_request_if_the_operators_own_worker_says_so(
    cloud: Cloud, fleet: bool
) -> None:
    user, key = cloud.register(kudos=1000)
    request = asked(cloud, key, params={"loras": [LORA], "n": 2}).body["id"]
    worker = cloud.new_worker(fleet=fleet)
    job = cloud.pop(worker, allow_lora=True).body["id"]
    said = [{"type": "lora", "value": "download_failed", "ref": LORA["name"]}]
    answer = cloud.submit(worker, job, state="faulted", gen_metadata=said)
    assert answer.status == 200
    found = cloud.check(request).body
    assert (found["faulted"], found["waiting"]) == ((True, 0) if fleet else (False, 2))
    assert (cloud.kudos(user) == FLOOR + 1000) is fleet

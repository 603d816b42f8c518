"""What nobody can draw: clients are told, nothing is lost, and no GPU is started for it.

An endpoint draws images up to the ``max_pixels`` of its model, asleep or not. What a volunteer
draws, the census says.
"""

import json
from typing import Any

import pytest

from horde import clock
from horde.records import Census, Load
from horde.runpod import MAX_PIXELS
from tests.support.api_calls import Reply
from tests.support.cloud import Cloud, new_processes
from tests.support.images import png_base64
from tests.support.numbers import FLOOR, OVER_S, SMALL

HUGE = {"width": 3072, "height": 3072}
LARGEST = {"width": 1024, "height": 1024}
VOLUNTEERS = {"volunteered": {"endpoint": None, "baseline": "stable_diffusion_1"}}


def rich(cloud: Cloud) -> str:
    return cloud.register("rich", kudos=100_000)[1]


def asked(cloud: Cloud, key: str, **fields: Any) -> Reply:
    answer = cloud.generate(key, **{"params": SMALL, **fields})
    assert answer.status == 202, answer
    return answer


def possible(cloud: Cloud, request: Reply) -> bool:
    """Return ``is_possible``, which the answer of acceptance, check and status agree about."""
    found = cloud.check(request.body["id"]).body["is_possible"]
    assert cloud.status(request.body["id"]).body["is_possible"] is found
    return bool(found)


def warned(answer: Reply) -> bool:
    codes = [one["code"] for one in answer.body.get("warnings", [])]
    assert codes in ([], ["NoAvailableWorker"])
    assert ("No available workers" in answer.body.get("message", "")) is bool(codes)
    return bool(codes)


def dispatched(cloud: Cloud) -> None:
    """Send the first tickets of new requests."""
    cloud.stream()
    cloud.deliver("dispatch")


def censused(cloud: Cloud) -> None:
    cloud.sweep()
    cloud.clock.pass_seconds(10)


# --- endpoints ------------------------------------------------------------------------------------


def test_a_sleeping_endpoint_can_draw_what_fits_it(cloud: Cloud) -> None:
    key = rich(cloud)
    asks: tuple[dict[str, Any], ...] = (
        {"params": LARGEST},
        {"trusted_workers": True, "nsfw": True},
        {"source_image": png_base64()},
        {"models": []},
        {"models": ["nobody's", "stable_diffusion"]},
        {"slow_workers": False},
    )
    for fields in asks:
        answer = asked(cloud, key, **fields)
        assert not warned(answer)
        assert possible(cloud, answer)


@pytest.mark.parametrize("models", [["stable_diffusion"], [], ["stable_diffusion", "SDXL 1.0"]])
def test_an_image_larger_than_any_endpoint_draws_starts_no_gpu_and_is_refunded(
    cloud: Cloud, models: list[str]
) -> None:
    user, key = cloud.register(kudos=100_000)
    answer = asked(cloud, key, params=HUGE, models=models)
    assert warned(answer)
    assert not possible(cloud, answer)
    assert cloud.kudos(user) < FLOOR + 100_000
    dispatched(cloud)
    for _ in range(3):
        cloud.clock.pass_seconds(OVER_S)
        cloud.sweep()
    assert cloud.runpod.jobs == []
    cloud.clock.pass_seconds(20 * 60)
    cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100_000


def test_beside_what_nobody_can_draw_others_get_their_tickets(cloud: Cloud) -> None:
    key = rich(cloud)
    asked(cloud, key, params={**HUGE, "n": 4})
    asked(cloud, key, params=LARGEST)
    asked(cloud, key)
    dispatched(cloud)
    assert [job["input"]["images"] for job in cloud.runpod.jobs] == [2]
    cloud.runpod.jobs.clear()
    cloud.clock.pass_seconds(OVER_S)
    assert cloud.sweep()["tickets"] == 1  # two images, four to a ticket


def test_a_model_draws_as_large_images_as_its_settings_say(cloud: Cloud) -> None:
    models = json.loads(cloud.environment("generate")["MODELS"])
    models["SDXL 1.0"]["max_pixels"] = 3072 * 3072
    cloud.overrides["MODELS"] = json.dumps(models)
    key = rich(cloud)
    small = asked(cloud, key, params=HUGE)
    large = asked(cloud, key, params=HUGE, models=["SDXL 1.0"])
    assert (warned(small), warned(large)) == (True, False)
    assert (possible(cloud, small), possible(cloud, large)) == (False, True)
    dispatched(cloud)
    (job,) = cloud.runpod.jobs
    assert job["input"]["model"] == "SDXL 1.0"


@pytest.mark.parametrize("named", [["stable_diffusion", "SDXL 1.0"], []])
def test_of_several_models_the_tickets_go_to_one_that_can_draw_it(
    cloud: Cloud, named: list[str]
) -> None:
    models = json.loads(cloud.environment("generate")["MODELS"])
    models = {name: models[name] for name in ("stable_diffusion", "SDXL 1.0")}
    models["SDXL 1.0"]["max_pixels"] = 3072 * 3072
    cloud.overrides["MODELS"] = json.dumps(models)
    key, priced = rich(cloud), named or ["stable_diffusion"]
    price = cloud.generate(key, params=HUGE, models=priced, dry_run=True).body["kudos"]
    answer = asked(cloud, key, params=HUGE, models=named)
    assert answer.body["kudos"] == price
    assert possible(cloud, answer)
    dispatched(cloud)
    (job,) = cloud.runpod.jobs
    assert job["input"]["model"] == "SDXL 1.0"


# --- live workers ---------------------------------------------------------------------------------

OFFERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "size": ({"params": LARGEST}, {"max_pixels": 512 * 512}),
    "nsfw": ({"nsfw": True}, {"nsfw": False}),
    "img2img": ({"source_image": png_base64()}, {"allow_img2img": False}),
    "inpainting": (
        {
            "source_image": png_base64(),
            "source_processing": "inpainting",
            "source_mask": png_base64(),
        },
        {"allow_painting": False},
    ),
    "steps": ({"params": {**SMALL, "steps": 60}}, {"limit_max_steps": True}),
    "speed": ({"extra_slow_workers": False}, {"extra_slow_worker": True}),
}


@pytest.mark.parametrize("name", OFFERS)
def test_a_model_of_volunteers_is_possible_if_one_of_them_can_draw_the_request(
    cloud: Cloud, worker: str, name: str
) -> None:
    fields, offer = OFFERS[name]
    cloud.overrides["MODELS"] = json.dumps(VOLUNTEERS)
    key, seen = rich(cloud), []
    asks = {"models": ["volunteered"], "nsfw": False, **fields}
    for name_of_worker, more in (("unable", offer), ("able", {})):
        cloud.pop(worker, name=name_of_worker, models=["volunteered"], **more)
        censused(cloud)
        answer = asked(cloud, key, **asks)
        seen.append((warned(answer), possible(cloud, answer)))
        cloud.cancel(answer.body["id"])
    assert seen == [(True, False), (False, True)]


def test_a_request_for_trusted_workers_is_possible_if_a_workers_owner_is_trusted(
    cloud: Cloud,
) -> None:
    cloud.overrides["MODELS"] = json.dumps(VOLUNTEERS)
    key, owner = rich(cloud), cloud.register("owner")[0]
    worker = cloud.worker_key(owner)
    cloud.pop(worker, models=["volunteered"])
    censused(cloud)
    fields = {"models": ["volunteered"], "extra_slow_workers": True}
    assert possible(cloud, asked(cloud, key, **fields))
    answer = asked(cloud, key, **fields, trusted_workers=True)
    assert warned(answer)
    assert not possible(cloud, answer)
    cloud.set_flags(owner, trusted=True)
    censused(cloud)
    assert possible(cloud, answer)


def test_a_live_worker_may_draw_what_is_too_large_for_the_endpoint_of_its_model(
    cloud: Cloud, worker: str
) -> None:
    key = rich(cloud)
    answer = asked(cloud, key, params=HUGE)
    assert not possible(cloud, answer)
    cloud.pop(worker, max_pixels=3072 * 3072, models=["stable_diffusion", "other"], amount=1)
    assert cloud.check(answer.body["id"]).body["processing"] == 1
    later = asked(cloud, key, params=HUGE)
    censused(cloud)
    assert possible(cloud, later)
    assert not warned(asked(cloud, key, params=HUGE))
    dispatched(cloud)
    assert cloud.runpod.jobs == []


@pytest.mark.parametrize("fleet", [False, True])
def test_a_request_for_named_workers_starts_a_gpu_only_for_the_operators_own_that_is_awake(
    cloud: Cloud,
    fleet: bool,
) -> None:
    key, worker = rich(cloud), cloud.new_worker(fleet=fleet)
    cloud.pop(worker)
    named = [cloud.worker_named()["id"]]
    censused(cloud)
    awake = asked(cloud, key, workers=named)
    assert (warned(awake), possible(cloud, awake)) == (False, True)
    dispatched(cloud)
    assert len(cloud.runpod.jobs) == fleet
    cloud.runpod.jobs.clear()
    cloud.clock.pass_seconds(301)
    censused(cloud)
    asleep = asked(cloud, key, workers=named)
    assert (warned(asleep), possible(cloud, asleep)) == (True, False)
    assert possible(cloud, asked(cloud, key, workers=named, worker_blacklist=True))
    dispatched(cloud)
    assert len(cloud.runpod.jobs) == 1  # for the last one
    cloud.runpod.jobs.clear()
    cloud.clock.pass_seconds(OVER_S)
    assert cloud.sweep()["tickets"] == 1


def test_a_new_volunteer_of_a_model_that_nobody_drew_counts_before_the_census(
    cloud: Cloud, worker: str
) -> None:
    key = rich(cloud)
    cloud.pop(worker, models=["rare"], max_pixels=1)
    answer = asked(cloud, key, models=["rare"])
    assert possible(cloud, answer)
    censused(cloud)  # by then it is known what the worker offers
    assert not possible(cloud, answer)


def test_a_new_worker_of_an_endpoints_model_draws_no_more_than_the_endpoint_until_the_census(
    cloud: Cloud, worker: str
) -> None:
    key = rich(cloud)
    cloud.pop(worker, max_pixels=1024 * 1024)  # a GPU that has just been started
    assert not possible(cloud, asked(cloud, key, params=HUGE))


def test_workers_of_a_census_that_does_not_say_what_they_draw_are_believed_to_draw_it(
    cloud: Cloud,
) -> None:
    cloud.overrides["MODELS"] = json.dumps(VOLUNTEERS)
    key, load = rich(cloud), Load(workers=1, threads=1)
    counted = Census(at=clock.now(), workers=1, threads=1, models={"volunteered": load})
    cloud.store.census.put(counted)  # as an earlier version wrote it
    for models in (["volunteered"], []):
        assert possible(cloud, asked(cloud, key, models=models, params=HUGE))
    assert not possible(cloud, asked(cloud, key, models=["nobody's"]))


def test_only_what_an_endpoint_cannot_draw_is_marked_so(cloud: Cloud) -> None:
    key, marked = rich(cloud), []
    for fields in ({"models": ["nobody's"]}, {"params": SMALL}, {"params": HUGE}):
        request = cloud.store.requests.get(asked(cloud, key, **fields).body["id"])
        assert request is not None
        marked.append(request.no_tickets)
    assert marked == [False, False, True]


def test_the_settings_and_gpu_worker_agree_on_the_largest_image() -> None:
    from gpu_worker.settings import Settings
    from infra.models import ModelSettings

    own = ModelSettings(endpoint=None, baseline="stable_diffusion_1").max_pixels
    assert own == MAX_PIXELS == Settings.max_pixels


def with_model(cloud: Cloud, **fields: Any) -> None:
    models = json.loads(cloud.environment("generate")["MODELS"])
    models["SDXL 1.0"] |= fields
    cloud.overrides["MODELS"] = json.dumps(models)
    new_processes()


def quoted(cloud: Cloud, models: list[str], **params: Any) -> int:
    key = cloud.register("asks")[1]
    found = cloud.generate(key, models=models, params=params, dry_run=True).body["kudos"]
    assert isinstance(found, int)
    return found


def test_a_models_defaults_stand_where_a_request_says_nothing(cloud: Cloud) -> None:
    explicit = {"steps": 4, "sampler_name": "lcm", "width": 1024, "height": 1024}
    wanted = quoted(cloud, ["SDXL 1.0"], **explicit)
    with_model(cloud, defaults={**explicit, "cfg_scale": 1.5})
    assert quoted(cloud, ["SDXL 1.0"]) == wanted
    assert quoted(cloud, ["SDXL 1.0"], steps=30, width=512) != wanted
    assert quoted(cloud, []) == quoted(cloud, ["stable_diffusion"]) != wanted
    asked(cloud, rich(cloud), models=["SDXL 1.0"], params={"cfg_scale": 7})
    job = cloud.pop(cloud.new_worker(), models=["SDXL 1.0"]).body["payload"]
    drawn = {name: job[name] for name in ("ddim_steps", "sampler_name", "width", "cfg_scale")}
    assert drawn == {"ddim_steps": 4, "sampler_name": "lcm", "width": 1024, "cfg_scale": 7}


def test_a_model_may_be_priced_as_another_family_is(cloud: Cloud) -> None:
    before = quoted(cloud, ["SDXL 1.0"])
    with_model(cloud, price_family="stable_diffusion_1")
    assert quoted(cloud, ["SDXL 1.0"]) == quoted(cloud, ["stable_diffusion"]) < before


def test_two_models_of_one_endpoint_share_its_tickets(cloud: Cloud) -> None:
    """A worker that one of them wakes draws what waits for the other, too."""
    own = json.loads(cloud.environment("generate")["MODELS"])["stable_diffusion"]["endpoint"]
    with_model(cloud, endpoint=own)
    key = rich(cloud)
    for names in (["stable_diffusion"], ["SDXL 1.0"], ["SDXL 1.0", "stable_diffusion"]):
        asked(cloud, key, models=names)
        dispatched(cloud)
    told = [(job["endpoint"], job["input"]["model"]) for job in cloud.runpod.jobs]
    assert told == [(own, "stable_diffusion")]
    cloud.clock.pass_seconds(OVER_S)
    assert cloud.sweep()["tickets"] == 0

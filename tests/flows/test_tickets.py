"""Tickets follow work: few for many small requests, and at once for a lone one."""

import json
import math
from typing import Any

import pytest

from horde.records import Census, Load
from horde.rules.estimates import DEFAULT_SPEED
from horde.rules.tickets import SLOTS, USUAL_WORK, Costs, ms_per_ticket, work
from horde.runpod import RunPodError
from infra.settings import StackSettings
from tests.support.cloud import Cloud, new_processes
from tests.support.images import png_base64

MODEL = "stable_diffusion"
FIELDS = StackSettings.model_fields
COSTS = Costs(
    batch=FIELDS["images_per_ticket"].default,
    cold_start_s=FIELDS["cold_start_seconds"].default,
    max_wait_s=FIELDS["max_wait_seconds"].default,
)


@pytest.fixture
def keys(cloud: Cloud) -> list[str]:
    """Accounts without rate limits, since each may have few requests open."""
    cloud.overrides["RATE_LIMITS"] = "false"
    return [cloud.register(f"ada{number}", kudos=10_000)[1] for number in range(10)]


def ask(cloud: Cloud, key: str, **fields: Any) -> dict[str, Any]:
    """Ask for images; returns the event of the request, as ``enqueue`` hands it over alone."""
    answer = cloud.generate(key, **fields)
    assert answer.status == 202, answer
    request = cloud.store.requests.get(answer.body["id"])
    assert request is not None
    payload = request.payload
    steps = payload["width"] * payload["height"] * payload["ddim_steps"]
    return {
        "request_id": request.id,
        "model": request.model,
        "images": request.n,
        "pixelsteps": request.n * steps,
        "created_at": request.created_at,
    }


def sent(cloud: Cloud) -> int:
    return len(cloud.runpod.jobs)


def workers_for(images: int) -> int:
    """Return the workers whose tickets draw so many usual images, whatever hands them over."""
    asked = work(images, images * USUAL_WORK, DEFAULT_SPEED)
    return math.ceil(math.ceil(asked.ms / ms_per_ticket(COSTS, asked)) / SLOTS)


@pytest.mark.slow
def test_a_hundred_single_images_in_a_second_call_no_more_workers_than_their_passes_need(
    cloud: Cloud, keys: list[str]
) -> None:
    events = [ask(cloud, key) for key in keys for _ in range(10)]
    for event in events:
        cloud.invoke("dispatch", event)  # each alone, as the stream may hand them over
    assert workers_for(100) == 10 < 100 / COSTS.batch
    assert math.ceil(sent(cloud) / SLOTS) == workers_for(100)


@pytest.mark.slow
def test_those_that_do_not_see_each_others_tickets_call_no_more_workers(
    cloud: Cloud, keys: list[str]
) -> None:
    events = [ask(cloud, key) for key in keys for _ in range(10)]
    cloud.runpod.said = {"jobs": {"inQueue": 0, "inProgress": 0}, "workers": {}}
    for event in reversed(events):
        cloud.invoke("dispatch", event)
    assert math.ceil(sent(cloud) / SLOTS) == workers_for(100)


@pytest.mark.lengthy
def test_a_hundred_single_images_that_come_together_are_one_call_with_their_tickets(
    cloud: Cloud, keys: list[str]
) -> None:
    for key in keys:
        for _ in range(10):
            ask(cloud, key)
    cloud.settle_async()
    assert math.ceil(sent(cloud) / SLOTS) == workers_for(100)


def test_a_lone_request_gets_its_ticket_at_once(cloud: Cloud, worker: str) -> None:
    for _ in range(3):
        cloud.invoke("dispatch", ask(cloud, cloud.register(kudos=1000)[1]))
        assert sent(cloud) == 1
        cloud.runpod.jobs.clear()  # a worker took it, drew the image, and has gone
        assert len(cloud.draw(worker)) == 1
        cloud.clock.pass_seconds(2)
        new_processes()


def test_a_shift_in_progress_is_not_trusted_to_pop_again(cloud: Cloud, keys: list[str]) -> None:
    cloud.runpod.in_progress = 4
    cloud.invoke("dispatch", ask(cloud, keys[0]))
    assert sent(cloud) == 1


def test_a_ticket_that_waits_at_runpod_will_draw_what_came_later(
    cloud: Cloud, keys: list[str]
) -> None:
    first, second = ask(cloud, keys[0]), ask(cloud, keys[1])
    cloud.invoke("dispatch", first)
    cloud.invoke("dispatch", second)
    assert sent(cloud) == 1


def test_a_dispatch_that_comes_twice_sends_nothing_more(cloud: Cloud, keys: list[str]) -> None:
    event = ask(cloud, keys[0], params={"n": 20})
    cloud.invoke("dispatch", event)
    once = sent(cloud)
    assert once == 4
    cloud.invoke("dispatch", event)
    assert sent(cloud) == once


def test_a_dispatch_that_died_between_two_tickets_sends_the_others(
    cloud: Cloud, keys: list[str]
) -> None:
    event = ask(cloud, keys[0], params={"n": 20})
    cloud.invoke("dispatch", event)
    del cloud.runpod.jobs[1:]
    cloud.invoke("dispatch", event)
    assert sent(cloud) == 4


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"jobs": [], "workers": {}},
        {"jobs": {"inQueue": 0}, "workers": {}},
        {"jobs": {"inQueue": "1", "inProgress": 0}, "workers": {}},
        {"jobs": {"inQueue": -1, "inProgress": 0}, "workers": {}},
        {"jobs": {"inQueue": 1e9, "inProgress": 0}, "workers": {}},
        {"jobs": {"inQueue": 10**9, "inProgress": 0}, "workers": {}},
        {"jobs": {"inQueue": True, "inProgress": 0}, "workers": {}},
        {"jobs": {"inQueue": 9, "inProgress": 0}, "workers": {"idle": "x"}},
        ["what?"],
        "x" * 2_000_000,
    ],
)
def test_tickets_are_sent_where_runpod_does_not_say_what_it_has(
    cloud: Cloud, keys: list[str], said: Any
) -> None:
    cloud.runpod.said = said
    cloud.invoke("dispatch", ask(cloud, keys[0], params={"n": 10}))
    assert sent(cloud) == 2


def test_what_runpod_refuses_is_tried_again(cloud: Cloud, keys: list[str]) -> None:
    event = ask(cloud, keys[0])
    cloud.runpod.mode = "error"
    with pytest.raises(RunPodError, match="/run"):
        cloud.invoke("dispatch", event)


@pytest.mark.lengthy
def test_larger_images_and_slower_workers_get_more_tickets(cloud: Cloud, keys: list[str]) -> None:
    event = ask(cloud, keys[0], params={"n": 20})
    tickets = []
    for speed in (DEFAULT_SPEED * 4, DEFAULT_SPEED, DEFAULT_SPEED // 4):
        load = Load(workers=1, threads=1, measured=1, speed=speed)
        at = cloud.clock.now_ms() // 1000
        cloud.store.census.put(Census(at=at, workers=1, threads=1, models={MODEL: load}))
        cloud.runpod.jobs.clear()
        new_processes()
        cloud.invoke("dispatch", event)
        tickets.append(sent(cloud))
    assert tickets == [1, 4, 10]  # a slow pass takes 96 s, so that a worker starts for each


@pytest.mark.parametrize("why", ["named", "large", "lora", "control", "upscaler"])
def test_images_that_no_ticket_draws_do_not_count(
    cloud: Cloud, keys: list[str], worker: str, why: str
) -> None:
    cloud.pop(worker)
    models = json.loads(cloud.environment("dispatch")["MODELS"])
    models[MODEL] |= {"max_pixels": 512 * 512, "features": ["canny", "RealESRGAN_x4plus"]}
    cloud.overrides["MODELS"] = json.dumps(models)
    control = {"control_type": "depth", "denoising_strength": 1.0}
    fields: dict[str, dict[str, Any]] = {
        "named": {"workers": [cloud.worker_named()["id"]]},
        "large": {"params": {"width": 576, "height": 576}},
        "lora": {"params": {"loras": [{"name": "1"}]}},
        "control": {"params": control, "source_image": png_base64()},
        "upscaler": {"params": {"post_processing": ["NMKD_Siax"]}},
    }
    for _ in range(3):
        ask(cloud, keys[0], **fields[why])
    cloud.clock.pass_seconds(61)
    assert cloud.sweep()["tickets"] == 0
    cloud.invoke("dispatch", ask(cloud, keys[1]))
    assert sent(cloud) == 1


def test_images_with_the_features_of_their_endpoint_count(cloud: Cloud, keys: list[str]) -> None:
    models = json.loads(cloud.environment("dispatch")["MODELS"])
    models[MODEL] |= {"features": ["RealESRGAN_x4plus"]}
    cloud.overrides["MODELS"] = json.dumps(models)
    first = ask(cloud, keys[0], params={"post_processing": ["RealESRGAN_x4plus"]})
    second = ask(cloud, keys[1])
    cloud.runpod.said = {"jobs": {"inQueue": 0, "inProgress": 0}, "workers": {}}
    for event in (second, first):
        cloud.invoke("dispatch", event)
    assert sent(cloud) == 1
    cloud.clock.pass_seconds(61)
    assert cloud.sweep()["tickets"] == 1


def test_an_event_of_the_version_before_counts_as_usual_work(cloud: Cloud, keys: list[str]) -> None:
    event = ask(cloud, keys[0], params={"n": 20})
    cloud.invoke("dispatch", {name: event[name] for name in ("request_id", "model", "images")})
    assert sent(cloud) == 4


def test_models_of_one_endpoint_share_its_tickets(cloud: Cloud, keys: list[str]) -> None:
    shown = {"endpoint": "both", "baseline": "stable_diffusion_1"}
    cloud.overrides["MODELS"] = json.dumps({"one": shown, "other": shown})
    events = [ask(cloud, key, models=[model]) for key in keys[:2] for model in ("one", "other")]
    cloud.runpod.said = {"jobs": {"inQueue": 0, "inProgress": 0}, "workers": {}}
    for event in events:
        cloud.invoke("dispatch", event)
    assert sent(cloud) == 1
    cloud.runpod.jobs.clear()
    cloud.runpod.said = None
    cloud.clock.pass_seconds(61)
    assert cloud.sweep()["tickets"] == 1
    assert cloud.sweep()["tickets"] == 0


def test_an_image_of_two_models_of_an_endpoint_asks_for_one_drawing(
    cloud: Cloud, keys: list[str]
) -> None:
    shown = {"endpoint": "both", "baseline": "stable_diffusion_1"}
    cloud.overrides["MODELS"] = json.dumps({"one": shown, "other": shown})
    for key in keys[:2]:
        ask(cloud, key, models=["one", "other"], params={"n": 8})
    ask(cloud, keys[2], models=["other"], params={"n": 4})
    cloud.clock.pass_seconds(61)
    asked = work(20, 20 * USUAL_WORK, DEFAULT_SPEED)
    assert cloud.sweep()["tickets"] == math.ceil(asked.ms / ms_per_ticket(COSTS, asked))


def test_an_endpoint_that_runpod_refuses_does_not_keep_tickets_from_another(
    cloud: Cloud, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (MODEL, "SDXL 1.0"):
        ask(cloud, keys[0], models=[model])
    cloud.clock.pass_seconds(61)
    health = cloud.runpod.health
    monkeypatch.setattr(
        cloud.runpod,
        "health",
        lambda endpoint: (404, {}) if endpoint == "ep1" else health(endpoint),
    )
    for _ in range(2):  # whichever is first in its turn
        cloud.runpod.jobs.clear()
        with pytest.raises(ExceptionGroup):
            cloud.sweep()
        assert [job["endpoint"] for job in cloud.runpod.jobs] == ["ep2"]
        cloud.clock.pass_seconds(60)


def test_the_sweep_makes_tickets_by_the_measured_speed(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    cloud.draw(worker)
    cloud.stream()
    cloud.runpod.jobs.clear()
    cloud.generate(params={"n": 8})
    cloud.clock.pass_seconds(61)
    swept = cloud.sweep()["tickets"]
    load = cloud.store.census.read()[0].load(MODEL)
    assert load.measured
    asked = work(8, load.pixelsteps, load.speed // load.measured)
    assert swept == math.ceil(asked.ms / ms_per_ticket(COSTS, asked))

"""The worker API: best first, one lease, exactly one submit."""

import base64
from typing import Any

import pytest
import requests

from horde.records import Worker
from tests.support.api_calls import ANONYMOUS, refused
from tests.support.cloud import Cloud
from tests.support.images import png_base64, webp
from tests.support.numbers import COST_SHARED, FLOOR, HANG_S, LIFE_S, REWARD


def test_a_pop_with_nothing_waiting_is_empty(cloud: Cloud, worker: str) -> None:
    answer = cloud.pop(worker)
    assert answer.status == 200
    assert answer.body == {"id": None, "ids": [], "payload": {}, "skipped": {}, "messages": []}


def test_a_popped_job_has_all_that_a_horde_worker_reads(cloud: Cloud, worker: str) -> None:
    cloud.generate(
        prompt="a red apple###blurry", params={"seed": "42", "steps": 20, "cfg_scale": 7}
    )
    job = cloud.pop(worker).body
    assert job["payload"] == {
        "prompt": "a red apple###blurry",
        "seed": "42",
        "ddim_steps": 20,
        "n_iter": 1,
        "sampler_name": "k_euler_a",
        "cfg_scale": 7.0,
        "width": 512,
        "height": 512,
        "karras": True,
        "tiling": False,
        "hires_fix": False,
        "clip_skip": 1,
        "post_processing": [],
    }
    assert job["ids"] == [job["id"]]
    assert job["r2_uploads"] == [job["r2_upload"]]
    assert (job["model"], job["ttl"], job["shared"]) == ("stable_diffusion", 150, True)
    assert "source_image" not in job
    assert None not in job.values()
    assert None not in job["payload"].values()


def test_an_upload_url_signs_the_host_only(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    assert "SignedHeaders=host&" in cloud.pop(worker).body["r2_upload"]


def test_a_lease_is_the_hordes_ttl(cloud: Cloud, worker: str) -> None:
    _, rich = cloud.register(kudos=100_000)
    cloud.generate(rich, params={"width": 1024, "height": 1024, "steps": 30})
    assert cloud.pop(worker).body["ttl"] == 270
    cloud.generate(rich, params={"width": 1024, "height": 1024}, extra_slow_workers=True)
    assert cloud.pop(worker).body["ttl"] == 810


WORKER = Worker(id="w", name="w", user_id=1, created_at=0, seen_at=0, gone_at=0)


def test_an_image_is_claimed_once_however_many_saw_it_waiting(cloud: Cloud) -> None:
    cloud.generate()
    (seen,) = cloud.store.queue.waiting("stable_diffusion", 10)
    claims = [cloud.store.queue.claim(seen, WORKER, lease_until=10**10) for _ in range(3)]
    assert [claim is not None for claim in claims] == [True, False, False]


def test_a_plain_worker_gets_images_of_one_request_only(cloud: Cloud, worker: str) -> None:
    _, key = cloud.register(kudos=1000)
    first = cloud.generate(key, params={"n": 3, "seed": "5"}).body["id"]
    other = cloud.generate(ANONYMOUS).body["id"]
    job = cloud.pop(worker, amount=20).body
    generations = [cloud.store.requests.generation(found) for found in job["ids"]]
    assert {g.request_id for g in generations if g} == {first}
    assert job["payload"]["n_iter"] == len(job["ids"]) == len(job["r2_uploads"]) == 3
    assert "jobs" not in job
    assert cloud.check(other).body["waiting"] == 1


def test_a_mixed_batch_takes_images_of_several_requests_that_draw_alike(
    cloud: Cloud, worker: str
) -> None:
    cloud.generate(prompt="a", params={"steps": 8})
    cloud.generate(prompt="b", params={"steps": 9})
    cloud.generate(prompt="c", params={"steps": 8})
    jobs = cloud.pop(worker, amount=4, mixed_batch=True).body["jobs"]
    assert [job["payload"]["prompt"] for job in jobs] == ["a", "c"]
    assert [job["payload"]["n_iter"] for job in jobs] == [1, 1]


def test_disable_batching_keeps_an_image_alone(cloud: Cloud, worker: str) -> None:
    cloud.generate(disable_batching=True)
    cloud.generate()
    assert len(cloud.pop(worker, amount=4, mixed_batch=True).body["jobs"]) == 1


def test_seeds_follow_the_hordes_rule(cloud: Cloud, worker: str) -> None:
    cloud.generate(params={"seed": "10", "n": 3, "seed_variation": 100})
    cloud.generate(params={"seed": "hello"})
    jobs = cloud.pop(worker, amount=4, mixed_batch=True).body["jobs"]
    seeds = [int(job["payload"]["seed"]) for job in jobs]
    assert sorted(seeds[:3]) == [10, 110, 210]
    assert seeds[3] == int.from_bytes(b"hello", "little") >> 32


@pytest.mark.parametrize(
    ("request_fields", "worker_fields", "reason"),
    [
        ({"params": {"width": 1024, "height": 1024}}, {"max_pixels": 262144}, "max_pixels"),
        ({"nsfw": True}, {"nsfw": False}, "nsfw"),
        ({"source_image": png_base64()}, {"allow_img2img": False}, "img2img"),
    ],
)
def test_a_worker_gets_only_what_it_can_draw(
    cloud: Cloud,
    worker: str,
    request_fields: dict[str, Any],
    worker_fields: dict[str, Any],
    reason: str,
) -> None:
    cloud.generate(**request_fields)
    answer = cloud.pop(worker, **worker_fields).body
    assert (answer["id"], answer["skipped"]) == (None, {reason: 1})
    assert cloud.pop(worker).body["id"]


def test_a_worker_gets_only_its_models(cloud: Cloud, worker: str) -> None:
    cloud.generate(models=["SDXL 1.0"])
    assert cloud.pop(worker).body["id"] is None
    assert cloud.pop(worker, models=["other", "SDXL 1.0"]).body["model"] == "SDXL 1.0"


def test_a_model_nobody_configured_waits_for_a_volunteer_and_says_so(
    cloud: Cloud, worker: str
) -> None:
    _, key = cloud.register(kudos=100)
    answer = cloud.generate(key, models=["rare model"]).body
    assert answer["warnings"] == [
        {"code": "NoAvailableWorker", "message": answer["warnings"][0]["message"]}
    ]
    assert cloud.check(answer["id"]).body["is_possible"] is False
    assert cloud.pop(worker, models=["rare model"]).body["id"]
    answer = cloud.generate(models=["rare model"]).body
    assert "warnings" not in answer
    assert cloud.check(answer["id"]).body["is_possible"] is True


def test_a_model_without_an_endpoint_is_possible_only_while_a_worker_offers_it(
    cloud: Cloud, worker: str
) -> None:
    models = '{"stable_diffusion": {"endpoint": null}}'
    cloud.overrides = {"MODELS": models}
    _, key = cloud.register(kudos=100)
    request = cloud.generate(key).body["id"]
    assert cloud.check(request).body["is_possible"] is False
    cloud.pop(worker, max_pixels=1)
    assert cloud.check(request).body["is_possible"] is True
    cloud.clock.pass_seconds(301)
    assert cloud.check(request).body["is_possible"] is False


def test_a_request_for_one_worker_goes_to_it_alone(cloud: Cloud, worker: str) -> None:
    cloud.pop(worker, name="w1")
    cloud.pop(worker, name="w2")
    done = cloud.generate().body["id"]
    cloud.draw(worker, name="w1")
    w1 = cloud.status(done).body["generations"][0]["worker_id"]
    cloud.generate(workers=[w1])
    assert cloud.pop(worker, name="w2").body["skipped"] == {"worker_id": 1}
    assert cloud.pop(worker, name="w1").body["id"]
    cloud.generate(workers=[w1], worker_blacklist=True)
    assert cloud.pop(worker, name="w1").body["skipped"] == {"worker_id": 1}
    assert cloud.pop(worker, name="w2").body["id"]


def test_a_delivered_image_pays_its_worker_once(cloud: Cloud, owner: int, worker: str) -> None:
    cloud.generate()
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).body == {"reward": REWARD}
    again = cloud.submit(worker, job["id"])
    assert (again.status, again.body["rc"]) == (400, "DuplicateGen")
    assert cloud.kudos(owner) == FLOOR + REWARD


def test_an_image_that_was_not_uploaded_is_not_settled(cloud: Cloud, worker: str) -> None:
    request = cloud.generate().body["id"]
    job = cloud.pop(worker).body
    refused(cloud.submit(worker, job["id"]), "BadRequest")
    assert cloud.check(request).body["processing"] == 1
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).status == 200


def test_a_worker_may_submit_its_image_in_base64(cloud: Cloud, worker: str) -> None:
    request = cloud.generate(r2=False).body["id"]
    job = cloud.pop(worker).body
    image = webp("green")
    sent = base64.b64encode(image).decode()
    assert cloud.submit(worker, job["id"], generation=sent).status == 200
    shown = cloud.status(request).body["generations"][0]["img"]
    assert base64.b64decode(shown) == image


def test_another_users_worker_cannot_submit_it(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    job = cloud.pop(worker).body
    stranger = cloud.new_worker("stranger")
    answer = cloud.submit(stranger, job["id"])
    assert (answer.status, answer.body["rc"]) == (403, "WrongCredentials")


def test_a_finished_image_is_shown_as_the_horde_shows_it(cloud: Cloud, worker: str) -> None:
    request = cloud.generate(params={"n": 2}).body["id"]
    job = cloud.pop(worker).body
    image = webp("purple")
    cloud.upload(job["r2_upload"], image)
    remarks = [{"type": "information", "value": "hello"}]
    cloud.submit(worker, job["id"], seed=99, gen_metadata=remarks)
    shown = cloud.status(request).body
    assert (shown["finished"], shown["waiting"], shown["done"]) == (1, 1, False)
    (generation,) = shown["generations"]
    answer = requests.get(generation.pop("img"), timeout=HANG_S)
    assert (answer.content, answer.headers["Content-Type"]) == (image, "image/webp")
    assert generation == {
        "seed": "99",
        "id": job["id"],
        "censored": False,
        "gen_metadata": remarks,
        "worker_id": generation["worker_id"],
        "worker_name": "w1",
        "model": "stable_diffusion",
        "state": "ok",
        "shared": True,
    }


def test_check_counts_without_images(cloud: Cloud, worker: str) -> None:
    cloud.generate(params={"n": 3, "steps": 9})
    request = cloud.generate(params={"n": 3}).body["id"]
    before = cloud.check(request).body
    assert before == {
        "finished": 0,
        "processing": 0,
        "restarted": 0,
        "waiting": 3,
        "done": False,
        "faulted": False,
        "wait_time": before["wait_time"],
        "queue_position": 4,
        "kudos": 0,
        "is_possible": True,
    }
    assert before["wait_time"] >= 2
    assert isinstance(before["wait_time"], int)
    cloud.draw(worker)
    after = cloud.check(request).body
    assert (after["finished"], after["done"], after["kudos"]) == (3, True, 3 * COST_SHARED)
    assert (after["wait_time"], after["queue_position"]) == (0, 0)


def test_image_to_image_carries_its_source_to_the_worker(cloud: Cloud, worker: str) -> None:
    cloud.generate(source_image=png_base64(colour="yellow"), params={"denoising_strength": 0.4})
    job = cloud.pop(worker).body
    assert job["source_processing"] == "img2img"
    assert job["payload"]["denoising_strength"] == 0.4
    source = requests.get(job["source_image"], timeout=HANG_S)
    assert source.status_code == 200
    assert source.content[:4] == b"RIFF"


def test_a_source_image_is_deleted_with_its_request(cloud: Cloud, worker: str) -> None:
    request = cloud.generate(source_image=png_base64()).body["id"]
    cloud.draw(worker)
    bucket = cloud.bucket("Sources")
    cloud.clock.pass_seconds(LIFE_S - 60)
    cloud.sweep()
    assert cloud.s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert cloud.status(request).status == 200
    cloud.clock.pass_seconds(62)
    cloud.sweep()
    assert cloud.s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert cloud.status(request).status == 404


def test_nsfw_off_with_censoring_asks_the_worker_to_censor(cloud: Cloud, worker: str) -> None:
    cloud.generate(nsfw=False)
    assert cloud.pop(worker).body["payload"]["use_nsfw_censor"] is True
    cloud.generate(nsfw=False, censor_nsfw=False)
    assert "use_nsfw_censor" not in cloud.pop(worker).body["payload"]

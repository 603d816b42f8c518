"""From a client's request over the GPU worker to the image, and to the LAION bucket or not."""

import base64
import hashlib
import io
import time
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from PIL import Image

from infra.local.api_client import Client, until
from tests.e2e.conftest import PATIENCE_S, OperatedCloud, small
from tests.support.images import png_base64, webp
from tests.support.numbers import SMALL_COST, SMALL_COST_SHARED, SMALL_PIXELSTEPS

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@dataclass
class Story:
    client: Client
    before: int
    accepted: dict[str, Any]
    status: dict[str, Any]

    @property
    def paid(self) -> int:
        return self.before - self.client.kudos()

    @property
    def ids(self) -> list[str]:
        return [generation["id"] for generation in self.status["generations"]]


@pytest.fixture(scope="module")
def stories(cloud: OperatedCloud) -> dict[str, Story]:
    """Four requests at once, drawn by the gpu_worker."""
    bodies = {
        "shared": (cloud.user(), small("a lighthouse", n=2, shared=True)),
        "private": (cloud.user(), small("my secret")),
        "anonymous": (cloud.anonymous, small("a newspaper", shared=False)),
        "img2img": (
            cloud.anonymous,
            small("a house", shared=True, source_image=png_base64(), source_processing="img2img"),
        ),
    }
    # No part of the mask is black: all of it is painted anew.
    painted = small("a door", shared=True, source_image=png_base64(), source_mask=png_base64())
    bodies["inpainting"] = (cloud.user(), {**painted, "source_processing": "inpainting"})
    # Nobody answers there: it is tried, and nothing else hangs on it.
    hook = "https://horde-commons.example.org/hook"
    bodies["webhook"] = (cloud.user(), small("a bell", webhook=hook))
    sent = {
        name: (client, client.kudos(), client.generate(body))
        for name, (client, body) in bodies.items()
    }
    return {
        name: Story(client, before, accepted, cloud.done(client, accepted["id"]))
        for name, (client, before, accepted) in sent.items()
    }


def test_a_registered_shared_request_pays_the_lower_tax_and_is_shared(
    cloud: OperatedCloud, stories: dict[str, Story]
) -> None:
    story = stories["shared"]
    assert story.accepted["kudos"] == story.paid == 2 * SMALL_COST_SHARED
    assert "message" not in story.accepted
    assert story.status["shared"] is True
    for generation_id in story.ids:
        row = cloud.shared_soon(generation_id)
        assert row["prompt"] == "a lighthouse"
        assert row["consent"] == "request-flag"


def test_a_request_without_the_flag_pays_the_full_tax_and_is_not_shared(
    cloud: OperatedCloud, stories: dict[str, Story]
) -> None:
    story = stories["private"]
    assert story.accepted["kudos"] == story.paid == SMALL_COST
    assert story.status["shared"] is False
    cloud.all_judged()
    assert [cloud.shared(generation_id) for generation_id in story.ids] == [None]


def test_anonymous_text_to_image_is_shared_whatever_the_flag_and_says_so(
    cloud: OperatedCloud, stories: dict[str, Story]
) -> None:
    story = stories["anonymous"]
    assert story.accepted["kudos"] == SMALL_COST_SHARED
    assert "always shared" in story.accepted["message"]
    assert story.status["shared"] is True
    assert story.paid == 0
    assert cloud.shared_soon(story.ids[0])["consent"] == "anonymous-default"


def test_image_to_image_is_never_shared_and_pays_the_full_tax(
    cloud: OperatedCloud, stories: dict[str, Story]
) -> None:
    story = stories["img2img"]
    assert story.accepted["kudos"] == SMALL_COST
    assert "not be shared" in story.accepted["message"]
    assert story.status["shared"] is False
    cloud.all_judged()
    assert cloud.shared(story.ids[0]) is None


def test_inpainting_is_drawn_and_never_shared(
    cloud: OperatedCloud, stories: dict[str, Story]
) -> None:
    story = stories["inpainting"]
    assert story.accepted["kudos"] == story.paid == SMALL_COST
    assert story.status["shared"] is False
    cloud.all_judged()
    assert cloud.shared(story.ids[0]) is None


def dead(cloud: OperatedCloud, name: str) -> int:
    """Count the letters of a dead-letter queue; the arena of ``test_races`` has its own queues."""
    sqs = cloud.local.aws("sqs")
    urls = sqs.list_queues()["QueueUrls"]
    (url,) = (one for one in urls if name in one and "/races-" not in one)
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    return int(found["Attributes"]["ApproximateNumberOfMessages"])


def test_a_webhook_is_called_and_holds_nothing_up(
    cloud: OperatedCloud, stories: dict[str, Story]
) -> None:
    assert len(stories["webhook"].ids) == 1
    # Nobody answers at its address: after three tries its image is a dead letter.
    until("the dead letter", lambda: dead(cloud, "WebhooksDead") == 1, seconds=PATIENCE_S)


def test_metadata_is_flat_and_leads_to_nobody(
    cloud: OperatedCloud, stories: dict[str, Story]
) -> None:
    story = stories["shared"]
    row = cloud.shared_soon(story.ids[0])
    assert not any(isinstance(value, dict | list) or value is None for value in row.values())
    account = story.client.expect(200, "GET", "/api/v2/find_user")
    assert account["username"].partition("#")[0] not in str(row)


def test_what_is_downloaded_is_a_webp_of_the_asked_size(stories: dict[str, Story]) -> None:
    for story in stories.values():
        for generation in story.status["generations"]:
            with Image.open(io.BytesIO(story.client.download(generation["img"]))) as image:
                assert (image.format, image.size) == ("WEBP", (64, 64))


def test_a_file_stored_before_its_settlement_is_shared_later(
    cloud: OperatedCloud, model: str
) -> None:
    cloud.all_judged()
    worker, client = cloud.worker(), cloud.user()
    client.generate(small(models=[model], shared=True))
    job = worker.pop(models=[model])
    assert worker.fetch("PUT", job["r2_upload"], webp(width=64)).status == 200
    # As if the function of its submit had died before the settlement.
    sha256 = hashlib.sha256(webp(width=64)).hexdigest()
    cloud.local.aws("s3").put_object(
        Bucket=cloud.local.outputs["OutputsBucket"],
        Key=f"shared/{job['id']}/{sha256}.webp",
        Body=webp(width=64),
    )
    # Its event has come; it is found unsettled and put off.
    until("the event", lambda: cloud.local.uploads_waiting() > 0, seconds=PATIENCE_S, every=0.01)
    time.sleep(1)  # whatever share does with it by then, it may not share it
    assert cloud.shared(job["id"]) is None
    assert worker.submit(job["id"]).status == 200
    assert cloud.shared_soon(job["id"])["prompt"] == "a fox"


def test_our_own_workers_upload_is_bounded_by_its_signature(
    cloud: OperatedCloud, model: str
) -> None:
    worker, client = cloud.worker(), cloud.user()
    accepted = client.generate(small(models=[model]))
    (job,) = worker.pop(models=[model], mixed_batch=True)["jobs"]
    form = job["r2_post"]

    def post(file: bytes, **other: str) -> int:
        sent = {"file": ("image.webp", file, "image/webp")}
        fields = {**form["fields"], **other}
        answer = requests.post(form["url"], data=fields, files=sent, timeout=PATIENCE_S)
        return answer.status_code

    assert post(b"x" * 2**20) == 400
    assert post(webp(width=64), key=f"shared/{job['id']}/{'0' * 64}.webp") == 403
    assert post(webp(width=64), **{"x-amz-signature": "0" * 64}) == 403
    assert post(webp(width=64)) == 204
    assert worker.submit(job["id"]).status == 200
    (generation,) = cloud.done(client, accepted["id"])["generations"]
    assert client.download(generation["img"]) == webp(width=64)


def test_a_swapped_upload_reaches_nobody(cloud: OperatedCloud, model: str) -> None:
    """With IAM enforced: what serves images cannot read an upload."""
    worker, client = cloud.worker(), cloud.user()
    accepted = client.generate(small(models=[model], shared=True))
    job = worker.pop(models=[model])
    assert worker.fetch("PUT", job["r2_upload"], webp("green", 64)).status == 200
    assert worker.submit(job["id"]).status == 200
    assert worker.fetch("PUT", job["r2_upload"], webp("black", 64)).status == 200
    (generation,) = cloud.done(client, accepted["id"])["generations"]
    assert client.download(generation["img"]) == webp("green", 64)
    row = cloud.shared_soon(job["id"])
    assert row["sha256"] == hashlib.sha256(webp("green", 64)).hexdigest()


def test_a_bad_upload_goes_to_another_worker(cloud: OperatedCloud, model: str) -> None:
    client, first, second = cloud.user(), cloud.worker(), cloud.worker()
    accepted = client.generate(small(models=[model]))
    job = first.pop(models=[model])
    assert first.fetch("PUT", job["r2_upload"], b"<html>").status == 200
    answer = first.submit(job["id"])
    assert (answer.status, answer.json["rc"]) == (400, "ImageRefused")
    again = second.pop(models=[model])
    assert again["id"] == job["id"]
    assert second.fetch("PUT", again["r2_upload"], webp(width=64)).status == 200
    assert second.submit(job["id"]).status == 200
    assert cloud.done(client, accepted["id"])["finished"] == 1


def test_r2_false_answers_in_base64(cloud: OperatedCloud, model: str) -> None:
    worker, client = cloud.worker(), cloud.user()
    accepted = client.generate(small(models=[model], r2=False))
    job = worker.pop(models=[model])
    drawn = webp(width=64)
    sent = worker.submit(job["id"], generation=base64.b64encode(drawn).decode())
    assert sent.status == 200
    status = cloud.done(client, accepted["id"])
    assert base64.b64decode(status["generations"][0]["img"]) == drawn


def test_what_was_drawn_is_counted_from_the_stream(
    cloud: OperatedCloud, stories: dict[str, Story]
) -> None:
    images = sum(len(story.ids) for story in stories.values())

    def counted() -> Any:
        totals = cloud.local.store.counters.totals(time.time_ns() // 1_000_000)
        return totals if totals.total.images >= images else None

    found = until("the counters", counted, seconds=PATIENCE_S)
    assert found.day.pixelsteps == found.total.pixelsteps >= images * SMALL_PIXELSTEPS
    shown = cloud.anonymous.expect(200, "GET", "/api/v2/stats/img/totals")
    assert shown["total"]["images"] >= images
    assert shown["anonymous"]["requests"] >= 2
    drawn_by = stories["shared"].status["generations"][0]["worker_id"]
    worker = cloud.anonymous.expect(200, "GET", f"/api/v2/workers/{drawn_by}")
    assert worker["requests_fulfilled"] >= images
    assert worker["performance"].endswith("megapixelsteps per second")
    assert worker in cloud.anonymous.expect(200, "GET", "/api/v2/workers")
    cloud.sweep()

    def listed() -> Any:
        rows = cloud.anonymous.expect(200, "GET", "/api/v2/status/models")
        return [row for row in rows if row["count"] and row["performance"]]

    assert until("the census", listed, seconds=PATIENCE_S)


def test_an_owner_changes_and_deletes_a_worker(cloud: OperatedCloud, model: str) -> None:
    owner, worker = cloud.volunteer()
    worker.pop(models=[model], name=f"first {model}")
    path = f"/api/v2/workers/name/first%20{model}"
    found = owner.expect(200, "GET", path)
    one = f"/api/v2/workers/{found['id']}"
    change = {"maintenance": True, "name": f"second {model}"}
    assert owner.expect(200, "PUT", one, change) == change
    refused = worker.call(
        "POST", "/api/v2/generate/pop", {"name": f"second {model}", "models": [model]}
    )
    assert (refused.status, refused.json["rc"]) == (403, "WorkerMaintenance")
    assert owner.expect(200, "GET", one)["maintenance_mode"] is True
    assert owner.expect(200, "DELETE", one)["deleted_id"] == found["id"]
    assert owner.call("GET", one).status == 404

"""Whatever dies on the way, no kudos and no image is lost."""

import time

import pytest

from infra.local.api_client import Client
from tests.e2e.conftest import OperatedCloud, small, together
from tests.support.images import webp
from tests.support.numbers import MAX_FAULTS, SMALL_COST, SMALL_PRICE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_cancelled_request_is_refunded(cloud: OperatedCloud, model: str) -> None:
    client = cloud.user()
    before = client.kudos()
    accepted = client.generate(small(models=[model], n=3))
    assert client.kudos() == before - 3 * SMALL_COST
    client.cancel(accepted["id"])
    assert client.kudos() == before
    assert client.check(accepted["id"])["done"]


def test_what_a_worker_holds_is_delivered_and_charged_although_cancelled(
    cloud: OperatedCloud, model: str
) -> None:
    client, worker = cloud.user(), cloud.worker()
    before = client.kudos()
    accepted = client.generate(small(models=[model], n=2))
    job = worker.pop(models=[model])
    client.cancel(accepted["id"])
    worker.fetch("PUT", job["r2_upload"], webp(width=64))
    assert worker.submit(job["id"]).status == 200
    assert client.kudos() == before - SMALL_COST
    assert client.check(accepted["id"])["finished"] == 1


def test_an_image_whose_worker_died_is_drawn_by_another(cloud: OperatedCloud, model: str) -> None:
    client, first, second = cloud.user(), cloud.worker(), cloud.worker()
    accepted = client.generate(small(models=[model]))
    lost = first.pop(models=[model])
    cloud.lose_worker(lost["id"])
    counts = client.check(accepted["id"])
    assert (counts["waiting"], counts["restarted"]) == (1, 1)

    job = second.pop(models=[model])
    assert job["id"] == lost["id"]
    # The first was not dead after all: its upload and submit change nothing.
    assert first.fetch("PUT", lost["r2_upload"], webp("red", 64)).status == 200
    assert first.submit(lost["id"]).status == 403
    second.fetch("PUT", job["r2_upload"], webp("green", 64))
    assert second.submit(job["id"]).status == 200
    status = client.status(accepted["id"])
    assert client.download(status["generations"][0]["img"]) == webp("green", 64)


def test_the_last_fault_ends_a_request_and_refunds_it(cloud: OperatedCloud, model: str) -> None:
    client, worker = cloud.user(), cloud.worker(fleet=True)
    before = client.kudos()
    accepted = client.generate(small(models=[model], n=2))
    for _ in range(MAX_FAULTS):
        for lost in worker.pop(models=[model], amount=2)["ids"]:
            cloud.lose_worker(lost)
    counts = client.check(accepted["id"])
    assert counts["faulted"]
    assert counts["done"]
    assert client.kudos() == before
    assert worker.pop(models=[model])["id"] is None


@pytest.mark.parametrize("mode", ["error", "drop"])
def test_tickets_that_runpod_refuses_or_loses_lose_nothing(cloud: OperatedCloud, mode: str) -> None:
    client = cloud.user()
    behave = {"mode": mode, "count": 1}
    runpod = Client(cloud.local.runpod, None)
    assert runpod.call("POST", "/_local/behave", behave).status == 200
    accepted = client.generate(small())
    # As if it waited for two minutes: the sweep makes a new ticket.
    for generation_id in cloud.generations(accepted["id"]):
        cloud.set_generation(generation_id, created_at=int(time.time() - 120) * 1000)
    status = cloud.done(client, accepted["id"], sweeping=True)
    assert len(status["generations"]) == 1


def test_exactly_one_of_16_submits_wins(cloud: OperatedCloud, model: str) -> None:
    client, worker = cloud.user(), cloud.worker()
    accepted = client.generate(small(models=[model]))
    job = worker.pop(models=[model])
    worker.fetch("PUT", job["r2_upload"], webp(width=64))
    answers = together(16, lambda _: worker.submit(job["id"]))
    assert sorted(answer.status for answer in answers) == [200] + [400] * 15
    assert {answer.json["rc"] for answer in answers if answer.status == 400} == {"DuplicateGen"}
    owner = cloud.local.store.requests.generation(job["id"])
    assert owner is not None
    assert owner.worker_user is not None
    paid = cloud.local.store.accounts.get(owner.worker_user)
    assert paid is not None
    assert paid.kudos - paid.floor == SMALL_PRICE
    assert client.check(accepted["id"])["finished"] == 1


def test_16_workers_at_once_get_16_different_images(cloud: OperatedCloud, model: str) -> None:
    client, worker = cloud.user(), cloud.worker(fleet=True)
    client.generate(small(models=[model], n=16))
    jobs = together(16, lambda number: worker.pop(models=[model], name=f"volunteer {number}"))
    assert len({job["id"] for job in jobs}) == 16
    assert None not in {job["id"] for job in jobs}

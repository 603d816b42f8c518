"""Workers that mean harm: what they break, hoard and mint; and honest ones, who notice nothing."""

from typing import Any

import pytest

from horde.records import Generation, State, Worker
from horde.rules import standing
from horde.store.queue import HoldsEnough, Queue
from horde.store.workers import Workers
from tests.support import rights
from tests.support.api_calls import ANONYMOUS, refused
from tests.support.cloud import Cloud
from tests.support.numbers import COST, FLOOR, LIFE_S, MAX_FAULTS, PRICE, REWARD

STRANGERS = 14
TRIES = 3 * STRANGERS * MAX_FAULTS
BATCH = 20
"""Most images of a request, and of a pop."""
HOUR_S = 3600


def faults(cloud: Cloud, worker: str, times: int, **offer: Any) -> int:
    """Pop and give up, again and again; returns how many images were given up."""
    given_up = 0
    for _ in range(times):
        answer = cloud.pop(worker, **offer)
        for one in answer.body.get("ids", []) if answer.status == 200 else []:
            given_up += 1
            assert cloud.submit(worker, one, state="faulted").status == 200
    return given_up


def drawn(cloud: Cloud, worker: str, **offer: Any) -> int:
    """Draw what a worker gets; returns the rewards that it is told."""
    earned = 0
    while jobs := cloud.pop(worker, mixed_batch=True, amount=BATCH, **offer).body.get("jobs"):
        for job in jobs:
            cloud.upload(job["r2_upload"])
            earned += cloud.submit(worker, job["id"]).body["reward"]
    return earned


def processing(cloud: Cloud) -> int:
    images = [item for item in cloud.items() if item["sk"]["S"] == "GENERATION"]
    return sum(item["state"]["S"] == State.PROCESSING for item in images)


# --- killing requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["w1"], ["w1", "w2", "w3"]])
@pytest.mark.slow
def test_an_owner_whose_workers_fault_an_image_does_not_get_it_again(
    cloud: Cloud, owner: int, worker: str, names: list[str]
) -> None:
    cloud.set_flags(owner, trusted=False)
    user, key = cloud.register(kudos=STRANGERS * COST)
    requests = [cloud.generate(key).body["id"] for _ in range(STRANGERS)]
    for name in names:
        faults(cloud, worker, TRIES, name=name)
    shown = [cloud.check(request).body for request in requests]
    assert [one["faulted"] for one in shown] == [False] * STRANGERS
    assert sum(one["restarted"] for one in shown) == STRANGERS
    for name in names:
        assert cloud.pop(worker, name=name).body["skipped"] == {"worker_id": STRANGERS}
    assert len(cloud.draw(cloud.new_worker("honest"), name="honest")) == STRANGERS
    assert cloud.kudos(user) == FLOOR


def test_an_image_whose_lease_ended_is_not_given_to_its_worker_again(
    cloud: Cloud, worker: str
) -> None:
    cloud.generate()
    cloud.clock.pass_seconds(cloud.pop(worker).body["ttl"] + 1)
    cloud.sweep()
    assert cloud.pop(worker).body["skipped"] == {"worker_id": 1}


def test_another_worker_of_a_trusted_owner_may_try_again(
    cloud: Cloud, owner: int, worker: str
) -> None:
    cloud.set_flags(owner, trusted=True)
    cloud.generate()
    assert faults(cloud, worker, 2, name="w1") == 1
    assert faults(cloud, worker, 2, name="w2") == 1


def known(cloud: Cloud, worker: str, name: str) -> Worker:
    """Return a worker that has popped."""
    assert cloud.pop(worker, name=name, models=["another"]).status == 200
    found = cloud.store.workers.get(cloud.store.workers.named(name) or "")
    assert found is not None
    return found


def test_the_condition_of_a_claim_refuses_who_has_faulted_it(cloud: Cloud, worker: str) -> None:
    cloud.generate()

    def waits() -> Generation:
        (image,) = cloud.store.queue.waiting("stable_diffusion", 10)
        return image

    def claim(image: Generation, by: Worker, **more: Any) -> Generation | None:
        until = cloud.clock.now_ms() // 1000 + 150
        return cloud.store.queue.claim(image, by, lease_until=until, held_limit=10, **more)

    at_first = waits()
    assert faults(cloud, worker, 1, name="w1") == 1
    first, sibling = known(cloud, worker, "w1"), known(cloud, worker, "w2")
    stranger = known(cloud, cloud.new_worker("stranger"), "w3")
    assert claim(at_first, stranger) is None  # an older reading would upload to an older key
    assert claim(waits(), first) is None
    assert claim(waits(), first, trusted=True) is None
    assert claim(waits(), sibling) is None
    assert cloud.worker_named("w1")["uncompleted_jobs"] == 1
    claimed = claim(waits(), sibling, trusted=True)
    assert claimed is not None
    assert claimed == cloud.store.requests.generation(claimed.id)
    assert faulted_one(cloud, worker, claimed.id)
    assert claim(waits(), stranger) is not None


# --- hoarding -------------------------------------------------------------------------------------


@pytest.mark.lengthy
def test_what_a_worker_holds_at_once_is_bounded(cloud: Cloud, worker: str) -> None:
    requests = [cloud.generate(params={"n": BATCH}).body["id"] for _ in range(3)]
    for _ in range(6):
        assert cloud.pop(worker, amount=BATCH, mixed_batch=True).status == 200
    assert processing(cloud) == standing.UNMEASURED_HELD
    assert cloud.pop(worker).body["skipped"] == {"performance": 3 * BATCH - processing(cloud)}
    honest = cloud.new_worker("honest")
    assert len(cloud.pop(honest, name="honest", amount=4, mixed_batch=True).body["jobs"]) == 4
    cloud.clock.pass_seconds(LIFE_S)
    cloud.sweep()
    assert all(cloud.check(request).status in {200, 404} for request in requests)


def test_a_claim_holds_the_bound_whatever_the_pop_has_read(cloud: Cloud, worker: str) -> None:
    cloud.generate(params={"n": 3})
    by = known(cloud, worker, "w1")
    images = cloud.store.queue.waiting("stable_diffusion", 10)

    def claim(number: int) -> bool:
        until = cloud.clock.now_ms() // 1000 + 150
        claimed = cloud.store.queue.claim(images[number], by, lease_until=until, held_limit=2)
        return claimed is not None

    assert [claim(0), claim(1)] == [True, True]
    with pytest.raises(HoldsEnough):
        claim(2)
    assert faulted_one(cloud, worker, images[0].id)
    assert claim(2)


def faulted_one(cloud: Cloud, worker: str, image: str) -> bool:
    return cloud.submit(worker, image, state="faulted").status == 200


def test_a_worker_that_holds_images_cannot_be_deleted(cloud: Cloud) -> None:
    owner, key = cloud.register("owner")
    worker = cloud.worker_key(owner)
    cloud.generate(params={"n": 2})
    job = cloud.pop(worker).body
    worker_id = cloud.worker_named()["id"]
    route = "DELETE /api/v2/workers/{id}"
    refused(cloud.call(route, key=key, id=worker_id), "WorkerHoldsImages", 409)
    assert faulted_one(cloud, worker, job["id"])
    assert cloud.call(route, key=key, id=worker_id).status == 200
    assert cloud.call(route, key=key, id=worker_id).status == 404


def test_a_worker_that_is_deleted_during_its_pop_claims_nothing(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.generate()
    found = known(cloud, worker, "w1")
    real = Queue.page

    def deleted_first(self: Queue, *args: Any) -> Any:
        with rights.held_to("manage", cloud.allowed["manage"]):
            assert cloud.store.workers.delete(found)
        return real(self, *args)

    monkeypatch.setattr(Queue, "page", deleted_first)
    assert cloud.pop(worker).body["id"] is None
    assert processing(cloud) == 0


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("flags", "limit", "rc"),
    [({}, 3, "TooManyWorkers"), ({"trusted": True}, 20, "TooManyWorkersTrusted")],
)
def test_an_account_has_a_limited_number_of_workers(
    cloud: Cloud, flags: dict[str, bool], limit: int, rc: str
) -> None:
    owner, key = cloud.register("owner")
    if flags:
        cloud.set_flags(owner, **flags)
    worker = cloud.worker_key(owner)
    for number in range(limit):
        assert cloud.pop(worker, name=f"worker {number}").status == 200
    refused(cloud.pop(worker, name="one more"), rc, 403)
    assert cloud.pop(worker, name="worker 0").status == 200
    first = cloud.worker_named("worker 0")["id"]
    assert cloud.call("DELETE /api/v2/workers/{id}", key=key, id=first).status == 200
    assert cloud.pop(worker, name="one more").status == 200
    cloud.set_flags(owner, fleet=True)
    assert cloud.pop(worker, name="and another").status == 200


def test_first_pops_at_once_do_not_pass_the_limit_of_workers(
    cloud: Cloud, owner: int, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has counted the workers before any of them registers one."""
    cloud.set_flags(owner, trusted=False)
    real, others = Workers.ids_of, [f"worker {number}" for number in range(standing.MAX_WORKERS)]

    def count_then_others(self: Workers, *args: Any) -> list[str]:
        found = real(self, *args)
        if others:
            assert cloud.pop(worker, name=others.pop()).status == 200
        return found

    monkeypatch.setattr(Workers, "ids_of", count_then_others)
    refused(cloud.pop(worker, name="one more"), "TooManyWorkers", 403)


def test_workers_that_were_not_seen_for_long_do_not_count(cloud: Cloud, worker: str) -> None:
    for number in range(standing.MAX_WORKERS):
        cloud.pop(worker, name=f"worker {number}")
    cloud.clock.pass_seconds(31 * 24 * HOUR_S)
    assert cloud.pop(worker, name="the next one").status == 200


# --- standing -------------------------------------------------------------------------------------


def drop_many(cloud: Cloud, worker: str, name: str = "w1") -> int:
    """Fault whatever a worker gets of many images; returns how many these were."""
    for _ in range(2):
        assert cloud.generate(params={"n": BATCH}).status == 202
    return faults(cloud, worker, 2 * BATCH, name=name)


@pytest.mark.slow
def test_a_worker_that_drops_too_many_images_is_put_into_maintenance(cloud: Cloud) -> None:
    owner, key = cloud.register("owner")
    worker = cloud.worker_key(owner)
    assert drop_many(cloud, worker) == standing.MAX_DROPPED + 1
    refused(cloud.pop(worker), "WorkerMaintenance", 403)
    shown = cloud.worker_named(key=key)
    assert shown["maintenance_mode"] is True
    assert str(standing.MAX_DROPPED + 1) in shown["maintenance_msg"]
    assert shown["uncompleted_jobs"] == standing.MAX_DROPPED + 1
    assert "maintenance_msg" not in cloud.worker_named()


@pytest.mark.slow
def test_ending_the_maintenance_does_not_help_within_the_hour(cloud: Cloud) -> None:
    owner, key = cloud.register("owner")
    worker = cloud.worker_key(owner)
    dropped = drop_many(cloud, worker)
    worker_id = cloud.worker_named()["id"]

    def lift() -> None:
        body = {"maintenance": False}
        answer = cloud.call("PUT /api/v2/workers/{id}", body, key=key, id=worker_id)
        assert answer.status == 200, answer

    for _ in range(5):
        lift()
        assert faults(cloud, worker, 1) == 0
    cloud.clock.pass_seconds(HOUR_S)
    refused(cloud.pop(worker), "WorkerMaintenance", 403)
    lift()
    cloud.generate()
    assert cloud.pop(worker).body["id"]
    assert dropped == standing.MAX_DROPPED + 1


@pytest.mark.slow
def test_a_worker_that_is_deleted_and_registered_again_does_not_start_anew(cloud: Cloud) -> None:
    owner, key = cloud.register("owner")
    worker = cloud.worker_key(owner)
    dropped = 0
    for number in range(6):
        name = f"worker {number}"
        dropped += drop_many(cloud, worker, name)
        found = cloud.worker_named(name)["id"]
        assert cloud.call("DELETE /api/v2/workers/{id}", key=key, id=found).status == 200
    assert dropped == standing.MAX_DROPPED * standing.MAX_WORKERS + 1


@pytest.mark.slow
def test_leases_that_end_count_as_dropped(cloud: Cloud, worker: str) -> None:
    for _ in range(3):
        cloud.generate(params={"n": BATCH})
        ttl = cloud.pop(worker, amount=BATCH).body["ttl"]
        cloud.clock.pass_seconds(ttl + 1)
        cloud.sweep()
    assert cloud.worker_named()["uncompleted_jobs"] == 3 * standing.UNMEASURED_HELD
    refused(cloud.pop(worker), "WorkerMaintenance", 403)


@pytest.mark.slow
def test_the_operators_own_workers_are_never_put_into_maintenance(cloud: Cloud, fleet: str) -> None:
    for _ in range(10):
        cloud.generate()
    assert faults(cloud, fleet, 10 * MAX_FAULTS) == 10 * MAX_FAULTS > standing.MAX_DROPPED
    assert cloud.pop(fleet).status == 200
    assert cloud.worker_named()["uncompleted_jobs"] == 10 * MAX_FAULTS


# --- minting --------------------------------------------------------------------------------------

BIG = {"width": 1024, "height": 1024, "steps": 40, "n": 4}


def test_an_anonymous_request_for_a_made_up_model_earns_nothing(cloud: Cloud, worker: str) -> None:
    cloud.pop(worker, models=["mine alone"])  # so that it is a model that is drawn
    for _ in range(3):
        assert cloud.generate(models=["mine alone"], params={"n": 2}).status == 202
    assert drawn(cloud, worker, models=["mine alone"]) == 0


@pytest.mark.lengthy
def test_an_anonymous_request_that_names_a_worker_earns_it_nothing(
    cloud: Cloud, owner: int, worker: str
) -> None:
    cloud.pop(worker)
    mine = cloud.worker_named()["id"]
    for _ in range(3):
        assert cloud.generate(params=BIG, workers=[mine]).status == 202
    assert drawn(cloud, worker) == 0
    assert cloud.kudos(owner) == FLOOR


@pytest.mark.parametrize("how", ["names it", "excludes another", "is preferred", "is its owner"])
@pytest.mark.parametrize("paid", [0, 2, PRICE + 2, 2 * COST])
@pytest.mark.slow
def test_a_worker_earns_no_more_than_was_paid_by_whom_it_chose(
    cloud: Cloud, worker: str, owner: int, how: str, paid: int
) -> None:
    sybil, key = cloud.register("sybil", kudos=paid)
    if how == "is its owner":
        owner, worker = sybil, cloud.worker_key(sybil)
    cloud.pop(worker)
    other = cloud.new_worker("other")
    cloud.pop(other, name="other")
    named: dict[str, dict[str, Any]] = {
        "names it": {"workers": [cloud.worker_named()["id"]]},
        "excludes another": {
            "workers": [cloud.worker_named("other")["id"]],
            "worker_blacklist": True,
        },
    }
    before = cloud.kudos(owner)
    assert cloud.generate(key, params={"n": 2}, **named.get(how, {})).status == 202
    prefers = {"priority_usernames": [f"sybil#{sybil}"]} if how == "is preferred" else {}
    earned = drawn(cloud, worker, **prefers)
    assert earned <= paid
    assert earned == 2 * min(REWARD, max(0, cloud_price(cloud) - waived(cloud)))
    spent = paid if how == "is its owner" else 0
    assert cloud.kudos(owner) == before + earned - min(spent, 2 * COST)


def cloud_price(cloud: Cloud) -> int:
    (item,) = [item for item in cloud.items() if item["sk"]["S"] == "REQUEST"]
    return int(item["price"]["N"])


def waived(cloud: Cloud) -> int:
    (item,) = [item for item in cloud.items() if item["sk"]["S"] == "REQUEST"]
    return int(item["waived"]["N"])


def test_a_censored_image_of_a_request_that_names_its_worker_earns_nothing(
    cloud: Cloud, worker: str
) -> None:
    user, key = cloud.register("sybil", kudos=2 * COST)
    cloud.pop(worker)
    cloud.generate(key, workers=[cloud.worker_named()["id"]])
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"], state="censored").body == {"reward": 0}
    assert cloud.kudos(user) > FLOOR


@pytest.mark.parametrize("key", ["paid", "poor", ANONYMOUS])
@pytest.mark.parametrize("state", ["ok", "censored"])
def test_a_worker_that_chose_nobody_earns_the_whole_reward(
    cloud: Cloud, worker: str, key: str, state: str
) -> None:
    if key != ANONYMOUS:
        key = cloud.register(key, kudos=COST if key == "paid" else 0)[1]
    cloud.generate(key)
    job = cloud.pop(worker, priority_usernames=["somebody#999"]).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"], state=state).body == {"reward": REWARD}


def test_an_image_that_goes_back_to_the_queue_was_preferred_by_nobody(
    cloud: Cloud, worker: str
) -> None:
    user, key = cloud.register("poor")
    cloud.generate(key)
    prefers = {"priority_usernames": [f"poor#{user}"]}
    assert faults(cloud, worker, 1, **prefers) == 1
    assert drawn(cloud, cloud.new_worker("honest"), name="honest") == REWARD

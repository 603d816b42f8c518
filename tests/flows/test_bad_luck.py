"""Bad luck: nothing is lost, charged twice, or shared against the rules."""

import hashlib
import json
from typing import Any

import pytest
import requests

import enqueue
import share
from horde import aws, ending, overdue
from horde.records import Generation, State
from horde.rules.lifecycle import SLIDE_S
from horde.store.accounts import Accounts
from horde.store.due import Due, DueRow, DueRows
from horde.store.endings import Endings
from horde.store.requests import Requests
from horde.store.settlements import outbox_of
from horde.store.sharing import Sharing
from horde.wire.seam import AwsError
from tests.support.api_calls import ANONYMOUS, UNKNOWN, key_of
from tests.support.cloud import Cloud
from tests.support.conflicts import refuse_next
from tests.support.delivery import sqs_record
from tests.support.images import webp
from tests.support.moto_aws import hand_over
from tests.support.numbers import COST, FLOOR, HANG_S, LIFE_S, MAX_FAULTS, OVER_S, PRICE, TAX
from tests.support.records import DELIVERY


def die_after_pop(cloud: Cloud, worker: str, amount: int = 1) -> dict[str, Any]:
    """Pop, never come back, and let the lease run out."""
    job: dict[str, Any] = cloud.pop(worker, name="mortal", amount=amount).body
    cloud.clock.pass_seconds(job["ttl"] + 1)
    cloud.sweep()
    return job


# --- workers ------------------------------------------------------------------------------------


def test_a_worker_that_dies_after_its_pop_loses_nothing(cloud: Cloud, fleet: str) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key).body["id"]
    job = die_after_pop(cloud, fleet)
    counts = cloud.check(request).body
    assert (counts["waiting"], counts["processing"], counts["restarted"]) == (1, 0, 1)
    assert cloud.draw(fleet) == [job["id"]]
    assert cloud.check(request).body["done"] is True
    assert cloud.kudos(user) == FLOOR + 100 - COST


def test_a_lease_that_still_runs_is_left_alone(cloud: Cloud, worker: str) -> None:
    request = cloud.generate().body["id"]
    job = cloud.pop(worker).body
    cloud.clock.pass_seconds(job["ttl"] - 2)
    cloud.sweep()
    assert cloud.check(request).body["processing"] == 1


def test_the_last_fault_ends_a_request_and_refunds_all_its_images(cloud: Cloud, fleet: str) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, params={"n": 2}).body["id"]
    for _ in range(MAX_FAULTS):
        assert cloud.check(request).body["faulted"] is False
        die_after_pop(cloud, fleet, amount=2)
    counts = cloud.check(request).body
    assert (counts["faulted"], counts["done"], counts["restarted"]) == (True, True, 2 * MAX_FAULTS)
    assert cloud.kudos(user) == FLOOR + 100
    assert cloud.pop(fleet).body["id"] is None


def test_one_worker_that_dies_with_a_whole_batch_does_not_end_the_request(
    cloud: Cloud, fleet: str
) -> None:
    request = cloud.generate(params={"n": 4}).body["id"]
    die_after_pop(cloud, fleet, amount=4)
    counts = cloud.check(request).body
    assert (counts["waiting"], counts["restarted"], counts["faulted"]) == (4, 4, False)
    assert len(cloud.draw(fleet)) == 4


def test_what_was_delivered_before_the_last_fault_stays_charged(cloud: Cloud, fleet: str) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, params={"n": 2}).body["id"]
    job = cloud.pop(fleet).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(fleet, job["id"]).status == 200
    for _ in range(MAX_FAULTS):
        die_after_pop(cloud, fleet)
    shown = cloud.status(request).body
    assert (shown["faulted"], len(shown["generations"])) == (True, 1)
    assert cloud.kudos(user) == FLOOR + 100 - COST


def test_an_image_in_flight_when_its_request_faults_may_still_be_delivered(
    cloud: Cloud, fleet: str
) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, params={"n": 2}).body["id"]
    held = cloud.pop(fleet).body
    for _ in range(MAX_FAULTS):
        assert cloud.submit(fleet, cloud.pop(fleet).body["id"], state="faulted").status == 200
    assert cloud.check(request).body["faulted"] is True
    assert cloud.check(request).body["processing"] == 1
    cloud.upload(held["r2_upload"])
    assert cloud.submit(fleet, held["id"]).status == 200
    assert len(cloud.status(request).body["generations"]) == 1
    assert cloud.kudos(user) == FLOOR + 100 - COST


def test_a_submit_after_the_lease_but_before_the_sweep_still_counts(
    cloud: Cloud, worker: str
) -> None:
    cloud.generate()
    job = cloud.pop(worker).body
    cloud.clock.pass_seconds(job["ttl"] + 30)
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).status == 200


def test_a_submit_after_the_requeue_is_aborted(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    job = die_after_pop(cloud, worker)
    answer = cloud.submit(worker, job["id"])
    assert (answer.status, answer.body["rc"]) == (400, "AbortedGen")
    assert "Please check your worker speed" in answer.body["message"]


def test_a_late_worker_overwrites_nothing(cloud: Cloud, worker: str) -> None:
    request = cloud.generate().body["id"]
    late = die_after_pop(cloud, worker)
    other = cloud.new_worker("other")
    assert cloud.draw(other) == [late["id"]]
    cloud.upload(late["r2_upload"], webp("black"))
    answer = cloud.submit(worker, late["id"])
    assert (answer.status, answer.body["rc"]) == (403, "WrongCredentials")
    shown = cloud.status(request).body["generations"][0]["img"]
    assert requests.get(shown, timeout=HANG_S).content == webp()
    cloud.settle_async()
    cloud.settle_async()
    ((image, _),) = cloud.archives().values()
    assert image == webp()


def test_an_upload_of_a_lost_lease_is_never_shared(cloud: Cloud, fleet: str) -> None:
    cloud.generate()
    lost = die_after_pop(cloud, fleet)
    cloud.upload(lost["r2_upload"], webp("black"))
    assert cloud.draw(fleet) == [lost["id"]]
    cloud.settle_async()
    ((image, _),) = cloud.archives().values()
    assert image == webp()


def test_a_worker_that_reports_a_fault_gives_its_image_back_at_once(
    cloud: Cloud, fleet: str
) -> None:
    request = cloud.generate().body["id"]
    job = cloud.pop(fleet).body
    assert cloud.submit(fleet, job["id"], state="faulted").body == {"reward": 0}
    assert cloud.check(request).body["waiting"] == 1
    assert cloud.submit(fleet, job["id"]).body["rc"] == "AbortedGen"
    assert cloud.draw(fleet) == [job["id"]]


# --- cancelling and expiry ------------------------------------------------------------------------


def test_a_cancelled_request_is_refunded_while_waiting(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, params={"n": 3}).body["id"]
    before = cloud.cancel(request).body
    assert before["waiting"] == 3
    assert cloud.kudos(user) == FLOOR + 100
    assert cloud.check(request).body["done"] is True
    assert cloud.pop(worker).body["id"] is None
    cloud.cancel(request)
    assert cloud.kudos(user) == FLOOR + 100


def test_what_a_worker_holds_of_a_cancelled_request_is_delivered_and_charged(
    cloud: Cloud, worker: str
) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, params={"n": 2}).body["id"]
    job = cloud.pop(worker).body
    cloud.cancel(request)
    assert cloud.kudos(user) == FLOOR + 100 - COST
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).status == 200
    assert len(cloud.status(request).body["generations"]) == 1
    assert cloud.kudos(user) == FLOOR + 100 - COST


@pytest.mark.parametrize("by", ["fault", "lease"])
def test_a_cancelled_request_cannot_be_revived(cloud: Cloud, worker: str, by: str) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key).body["id"]
    job = cloud.pop(worker).body
    cloud.cancel(request)
    if by == "fault":
        assert cloud.submit(worker, job["id"], state="faulted").status == 200
    else:
        cloud.clock.pass_seconds(job["ttl"] + 1)
        cloud.sweep()
    assert cloud.pop(worker).body["id"] is None
    assert cloud.check(request).body["done"] is True
    assert cloud.kudos(user) == FLOOR + 100


def test_a_fault_read_before_a_cancel_does_not_revive_it(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key).body["id"]
    job = cloud.pop(worker).body
    seen = cloud.store.requests.get(request), cloud.store.requests.generation(job["id"])
    cloud.cancel(request)
    assert seen[0] is not None
    assert seen[1] is not None
    ending.fault(cloud.store, seen[0], seen[1])
    assert cloud.pop(worker).body["id"] is None
    assert cloud.kudos(user) == FLOOR + 100


def test_a_cancel_that_dies_half_way_is_finished_by_the_sweep(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, params={"n": 3}).body["id"]
    real = Endings.end_undelivered
    ended: list[int] = []

    def dies_after_one(*args: Any, **kwargs: Any) -> bool:
        if ended:
            raise MemoryError
        ended.append(1)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Endings, "end_undelivered", dies_after_one)
        assert cloud.cancel(request).status == 500
    assert cloud.kudos(user) == FLOOR + 100 - 2 * COST
    cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100
    assert cloud.check(request).body["done"] is True


def test_a_second_cancel_finishes_one_that_was_cut(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, params={"n": 2}).body["id"]

    def dies(*_: Any) -> bool:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Endings, "end_undelivered", dies)
        assert cloud.cancel(request).status == 500
    assert cloud.cancel(request).status == 200
    assert cloud.kudos(user) == FLOOR + 100


def test_a_request_that_ended_early_is_swept_once_and_not_every_minute(cloud: Cloud) -> None:
    cloud.cancel(cloud.generate(params={"n": 2}).body["id"])
    now = cloud.clock.now_ms() // 1000
    assert len(list(cloud.due(now))) == 1
    cloud.sweep()
    assert list(cloud.due(now + 60)) == []


def test_a_request_of_one_image_ends_with_it_and_no_sweep_looks_at_it(
    cloud: Cloud, worker: str
) -> None:
    user, key = cloud.register(kudos=100)
    drawn, cancelled, expired = (cloud.generate(key).body["id"] for _ in range(3))
    cloud.clock.pass_seconds(SLIDE_S)
    job = cloud.pop(worker, amount=1).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).status == 200
    cloud.cancel(cancelled)
    asked = cloud.store.requests.get(expired)
    assert asked is not None
    (image,) = asked.generations
    cloud.settle_async()
    assert [(row.kind, row.id) for row in cloud.due(10**11)] == [(Due.IMAGE, image)]
    assert cloud.find_user(key)["active_generations"]["image"] == [expired, drawn]
    cloud.clock.pass_seconds(LIFE_S - SLIDE_S)
    cloud.sweep()
    assert cloud.due(10**11) == []
    assert len(cloud.status(drawn).body["generations"]) == 1
    cloud.clock.pass_seconds(SLIDE_S + 1)
    assert cloud.status(drawn).status == 404
    assert cloud.kudos(user) == FLOOR + 100 - COST


def test_an_expired_request_is_refunded_and_gone(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, params={"n": 2}).body["id"]
    cloud.clock.pass_seconds(OVER_S)
    assert cloud.check(request).status == 404
    cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100
    assert cloud.pop(worker).body["id"] is None
    cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100


def test_each_pop_and_submit_renews_the_life_of_a_request(cloud: Cloud, worker: str) -> None:
    request = cloud.generate(params={"n": 2}).body["id"]
    for _ in range(2):
        cloud.clock.pass_seconds(LIFE_S - 60)
        job = cloud.pop(worker).body
        cloud.upload(job["r2_upload"])
        assert cloud.submit(worker, job["id"]).status == 200
    cloud.clock.pass_seconds(LIFE_S - 60)
    cloud.sweep()
    assert len(cloud.status(request).body["generations"]) == 2
    cloud.clock.pass_seconds(61)
    assert cloud.status(request).status == 404


@pytest.mark.lengthy
def test_a_lease_longer_than_the_requests_life_is_waited_for(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register(kudos=1_000_000)
    request = cloud.generate(
        key, params={"width": 3072, "height": 3072, "steps": 100}, extra_slow_workers=True
    ).body
    job = cloud.pop(worker, max_pixels=10**8).body
    assert job["ttl"] > LIFE_S
    cloud.clock.pass_seconds(LIFE_S + 60)
    cloud.sweep()
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).status == 200
    assert cloud.kudos(user) == FLOOR + 1_000_000 - request["kudos"]
    assert len(cloud.status(request["id"]).body["generations"]) == 1


def test_an_image_whose_lease_ends_after_its_request_is_refunded_once(
    cloud: Cloud, worker: str
) -> None:
    user, key = cloud.register(kudos=100)
    cloud.generate(key, params={"n": 2})
    cloud.pop(worker)
    for _ in range(4):
        cloud.clock.pass_seconds(OVER_S)
        cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100
    assert list(cloud.due(10**11)) == []


def test_an_image_that_is_claimed_while_its_request_ends_keeps_it_open(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key).body["id"]
    cloud.clock.pass_seconds(OVER_S)
    real, jobs = Endings.end_undelivered, list[Any]()

    def too_late(self: Any, *args: Any, **kwargs: Any) -> bool:
        if not jobs:
            jobs.append(cloud.pop(worker).body)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Endings, "end_undelivered", too_late)
    cloud.sweep()
    assert jobs[0]["id"] is not None
    cloud.audit()
    # Its worker gives up: nobody else may find it in the queue of a request that is over.
    assert cloud.submit(worker, jobs[0]["id"], state="faulted").status == 200
    assert cloud.check(request).body["waiting"] == 1
    for _ in range(2):
        cloud.clock.pass_seconds(OVER_S)
        cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100


def test_an_image_that_is_settled_while_its_request_is_closed_can_be_fetched(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key).body["id"]
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    cloud.clock.pass_seconds(OVER_S)
    real = Requests.generations
    said: list[int] = []

    def just_settled(self: Any, of: Any) -> Any:
        if not said:
            said.append(0)
            said.append(cloud.submit(worker, job["id"]).status)
        return real(self, of)

    only = [DueRow(Due.REQUEST, request)]
    monkeypatch.setattr(
        DueRows, "until", lambda _, kind, __: iter(only if kind is Due.REQUEST else [])
    )
    monkeypatch.setattr(Requests, "generations", just_settled)
    cloud.sweep()
    assert said == [0, 200]
    assert len(cloud.status(request).body["generations"]) == 1
    assert cloud.kudos(user) == FLOOR + 100 - COST


def test_two_sweeps_change_nothing_twice(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register(kudos=100)
    cloud.generate(key, params={"n": 2})
    job = cloud.pop(worker).body
    cloud.clock.pass_seconds(job["ttl"] + 1)
    dues = list(cloud.due(10**11))
    for due in [*dues, *dues]:
        overdue.finish(cloud.store, due, cloud.clock.now_ms() // 1000)
    cloud.clock.pass_seconds(3600)
    cloud.sweep()
    cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100


def test_a_lagging_due_row_does_not_end_another_workers_lease(cloud: Cloud, fleet: str) -> None:
    request = cloud.generate().body["id"]
    job = cloud.pop(fleet).body
    cloud.clock.pass_seconds(job["ttl"] + 1)
    now = cloud.clock.now_ms() // 1000
    (row,) = cloud.due(now)
    cloud.sweep()
    assert cloud.pop(fleet).body["id"] == job["id"]
    overdue.finish(cloud.store, row, now)
    assert cloud.check(request).body["processing"] == 1


def test_one_row_that_cannot_be_swept_does_not_hold_the_others(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    bad, good = (cloud.generate(key).body["id"] for _ in range(2))
    real = Requests.get

    def poisoned(self: Any, request_id: str) -> Any:
        if request_id == bad:
            raise KeyError(request_id)
        return real(self, request_id)

    cloud.clock.pass_seconds(OVER_S)
    with monkeypatch.context() as patch:
        patch.setattr(Requests, "get", poisoned)
        with pytest.raises(ExceptionGroup):
            cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100 - COST
    cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100
    assert cloud.check(good).status == 404


def test_what_was_decided_from_a_stale_read_changes_nothing(cloud: Cloud, fleet: str) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.store.requests.get(cloud.generate(key).body["id"])
    assert request is not None
    endings, job = cloud.store.endings, cloud.pop(fleet).body
    first_lease = cloud.store.requests.generation(job["id"])
    assert cloud.submit(fleet, job["id"], state="faulted").status == 200
    assert cloud.pop(fleet).body["id"] == job["id"]
    second_lease = cloud.store.requests.generation(job["id"])
    assert first_lease is not None
    assert second_lease is not None

    def settle(seen: Generation) -> bool:
        return endings.settle(request, seen, **DELIVERY)

    assert settle(first_lease) is False
    assert endings.requeue(request, first_lease) is False
    assert settle(second_lease) is True
    assert settle(second_lease) is False
    assert endings.requeue(request, second_lease) is False
    assert endings.end_undelivered(request, second_lease, State.FAULTED) is False
    assert cloud.kudos(user) == FLOOR + 100 - COST


# --- the queue and RunPod -------------------------------------------------------------------------


def test_a_request_makes_the_tickets_that_its_work_asks_for(cloud: Cloud) -> None:
    request = cloud.generate(params={"n": 10}).body["id"]
    cloud.generate(models=["SDXL 1.0"])
    cloud.settle_async()
    assert [(job["endpoint"], job["input"]["images"]) for job in cloud.runpod.jobs] == [
        ("ep1", 5),
        ("ep1", 5),
        ("ep2", 1),
    ]
    assert cloud.runpod.jobs[0]["input"] == {
        "v": 1,
        "model": "stable_diffusion",
        "request_id": request,
        "images": 5,
    }


def test_only_new_requests_leave_the_stream(cloud: Cloud, worker: str) -> None:
    request = cloud.generate(params={"n": 2}).body["id"]
    cloud.draw(worker)
    cloud.cancel(request)
    assert cloud.stream() == 1


def test_a_model_without_an_endpoint_makes_no_ticket(cloud: Cloud) -> None:
    cloud.generate(models=["rare model"])
    cloud.settle_async()
    assert cloud.runpod.jobs == []
    assert cloud.dead["dispatch"] == []


@pytest.mark.parametrize("mode", ["error", "nothing", "nonsense"])
def test_runpod_being_out_of_order_loses_no_request(cloud: Cloud, worker: str, mode: str) -> None:
    request = cloud.generate().body["id"]
    cloud.runpod.mode = mode
    cloud.stream()
    cloud.deliver("dispatch")
    assert cloud.runpod.jobs == []
    assert len(cloud.pending["dispatch"]) == 1
    cloud.runpod.mode = "ok"
    cloud.deliver("dispatch")
    assert len(cloud.runpod.jobs) == 1
    assert cloud.check(request).body["waiting"] == 1


def test_a_ticket_that_fails_for_good_reaches_the_dlq_and_the_sweep_replaces_it(
    cloud: Cloud,
) -> None:
    cloud.generate(params={"n": 6})
    cloud.runpod.mode = "error"
    cloud.stream()
    for _ in range(10):
        cloud.deliver("dispatch")
    assert len(cloud.dead["dispatch"]) == 1
    cloud.runpod.mode = "ok"
    cloud.clock.pass_seconds(61)
    assert cloud.sweep()["tickets"] == 2
    assert cloud.sweep()["tickets"] == 0


def test_a_ticket_that_runpod_lost_is_replaced(cloud: Cloud) -> None:
    cloud.generate()
    cloud.runpod.mode = "lose"
    cloud.settle_async()
    cloud.runpod.mode = "ok"
    assert cloud.sweep()["tickets"] == 0  # it may still be on its way
    cloud.clock.pass_seconds(61)
    assert cloud.sweep()["tickets"] == 1
    assert cloud.runpod.jobs[0]["input"]["model"] == "stable_diffusion"


def test_a_job_in_progress_counts_as_demand(cloud: Cloud) -> None:
    cloud.generate()
    cloud.clock.pass_seconds(61)
    cloud.runpod.in_progress = 1
    assert cloud.sweep()["tickets"] == 0


def test_runpod_out_of_order_does_not_keep_the_sweep_from_refunding(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=100)
    cloud.generate(key)
    cloud.clock.pass_seconds(OVER_S)
    cloud.generate()
    cloud.clock.pass_seconds(61)
    cloud.runpod.mode = "error"
    with pytest.raises(ExceptionGroup):
        cloud.sweep()
    assert cloud.kudos(user) == FLOOR + 100


def test_a_runpod_key_that_was_changed_is_read_anew(cloud: Cloud) -> None:
    cloud.runpod.key = "another"
    cloud.generate()
    cloud.stream()
    cloud.deliver("dispatch")
    assert len(cloud.pending["dispatch"]) == 1
    cloud.ssm.put_parameter(
        Name="/horde-commons/runpod-api-key", Value="another", Type="SecureString", Overwrite=True
    )
    cloud.deliver("dispatch")
    assert len(cloud.runpod.jobs) == 1


def test_one_bad_event_holds_up_no_other(cloud: Cloud) -> None:
    good = {"model": "stable_diffusion", "images": 1, "request_id": "r"}
    for event in ({}, good, {"model": "stable_diffusion"}):
        hand_over("dispatch", json.dumps(event).encode())
    cloud.deliver("dispatch")
    assert len(cloud.pending["dispatch"]) == 2
    assert len(cloud.runpod.jobs) == 1


def test_a_message_or_stream_record_that_comes_twice_makes_no_second_ticket(
    cloud: Cloud, worker: str
) -> None:
    user, key = cloud.register(kudos=100)
    cloud.generate(key)
    cloud.stream()
    cloud.stream(again=True)
    cloud.deliver("dispatch", twice=True)
    assert len(cloud.runpod.jobs) == 1
    assert len(cloud.draw(worker)) == 1
    assert cloud.pop(worker).body["id"] is None
    assert cloud.kudos(user) == FLOOR + 100 - COST


def test_a_stream_record_that_cannot_be_enqueued_is_retried_alone(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [cloud.generate().body["id"] for _ in range(3)]

    def poisoned(image: dict[str, Any]) -> Any:
        if image["id"]["S"] == requests[1]:
            raise KeyError("n")
        return outbox_of(image)

    monkeypatch.setattr(enqueue, "outbox_of", poisoned)
    cloud.stream()
    assert len(cloud.dead_records) == 1
    handed_over = {event["request_id"] for event in cloud.events_for("dispatch")}
    assert handed_over == {requests[0], requests[2]}


# --- sharing --------------------------------------------------------------------------------------


def deliver_before_settling(cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the event of a delivered file come before its settlement; returns the image's id."""
    real = Endings.settle

    def late(*args: Any, **more: Any) -> bool:
        cloud.deliver("share")
        return real(*args, **more)

    cloud.generate()
    with monkeypatch.context() as patch:
        patch.setattr(Endings, "settle", late)
        (image,) = cloud.draw(worker)
    return image


def test_a_file_that_is_stored_before_its_settlement_is_shared_later(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_before_settling(cloud, worker, monkeypatch)
    assert cloud.laion() == {}
    assert len(cloud.pending["share"]) == 1
    cloud.deliver("share")
    assert len(cloud.laion()) == 1
    assert cloud.pending["share"] == []


def test_an_early_event_that_cannot_be_put_off_does_not_hold_its_batch(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_record: Any) -> None:
        raise AwsError("InternalError")

    seen: list[Any] = []
    real = Endings.settle

    def early_and_another(*args: Any, **more: Any) -> bool:
        cloud.deliver("share")
        (early,) = cloud.pending["share"]
        bodies = {"early": early.body, "settled": json.dumps({"Records": []})}
        records = [sqs_record(body, name) for name, body in bodies.items()]
        seen.append(cloud.invoke("share", {"Records": records}))
        return real(*args, **more)

    monkeypatch.setattr(share, "_postpone", breaks)
    cloud.generate()
    with monkeypatch.context() as patch:
        patch.setattr(Endings, "settle", early_and_another)
        cloud.draw(worker)
    assert seen == [{"batchItemFailures": [{"itemIdentifier": "early"}]}]


def test_an_event_that_is_delivered_twice_changes_nothing(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    cloud.submit(worker, job["id"])
    cloud.deliver("share", twice=True)
    first = cloud.laion()
    cloud.clock.pass_seconds(24 * 3600)
    cloud.upload(job["r2_upload"], webp("black"))
    cloud.deliver("share")
    assert cloud.laion() == first
    assert cloud.pending["share"] == []


def test_a_share_that_dies_between_its_writes_is_done_again(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.generate()
    cloud.draw(worker)

    def dies(*_: Any) -> dict[str, Any]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(share, "row", dies)
        cloud.deliver("share")
    with monkeypatch.context() as patch:
        patch.setattr(Sharing, "mark_shared", dies)
        cloud.deliver("share")
    half = cloud.laion()
    cloud.clock.pass_seconds(24 * 3600)
    cloud.deliver("share")
    assert cloud.laion() == half
    assert cloud.pending["share"] == []


def test_a_shared_image_is_its_exact_bytes_and_a_flat_row(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register("nobody", kudos=100)
    request = cloud.generate(
        key, shared=True, prompt="a red apple ### blur", nsfw=False, params={"cfg_scale": 7}
    ).body["id"]
    (generation,) = cloud.draw(worker)
    cloud.settle_async()
    ((name, archive),) = cloud.laion().items()
    assert name.startswith("incoming/date=20")
    ((image, row),) = cloud.archives().values()
    assert image == webp()
    assert row["sha256"] == hashlib.sha256(image).hexdigest()
    assert row["id"] == generation
    assert (row["prompt"], row["negative_prompt"]) == ("a red apple", "blur")
    assert b'"cfg_scale": 7.0' in archive
    assert (row["consent"], row["user_type"], row["license"]) == (
        "request-flag",
        "pseudonymous",
        "CC0-1.0",
    )
    assert row["nsfw_requested"] is False
    assert all(isinstance(value, str | int | float | bool) for value in row.values())
    text = json.dumps(row)
    assert "nobody" not in text
    assert key not in text
    assert str(cloud.store.requests.get(request)) not in text
    # The private record says whose it is, for withdrawal.
    kept = cloud.db.get_item(
        TableName=cloud.table, Key={"pk": {"S": f"SHARED#{generation}"}, "sk": {"S": "SHARED"}}
    )["Item"]
    assert kept["user_id"]["N"] == str(user)


def test_an_anonymous_row_says_that_its_consent_is_the_default(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    cloud.draw(worker)
    cloud.settle_async()
    ((_, row),) = cloud.archives().values()
    assert (row["consent"], row["user_type"]) == ("anonymous-default", "anon")


def test_what_was_cancelled_or_expired_is_never_shared(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    for _ in range(5):
        cloud.clock.pass_seconds(OVER_S)
        cloud.sweep()
        cloud.deliver("share")
    assert cloud.laion() == {}
    assert cloud.pending["share"] == []


@pytest.mark.parametrize("body", ['{"Service": "Amazon S3", "Event": "s3:TestEvent"}', "{}"])
def test_s3s_test_event_is_taken_quietly(cloud: Cloud, body: str) -> None:
    record = sqs_record(body)
    assert cloud.invoke("share", {"Records": [record]}) == {"batchItemFailures": []}


def test_an_event_of_an_unknown_object_is_dropped(cloud: Cloud) -> None:
    key = f"shared/{UNKNOWN}/{'0' * 64}.webp"
    for name in (key, f"{UNKNOWN}/1.webp", f"private/{UNKNOWN}/{'0' * 64}.webp"):
        event = json.dumps({"Records": [{"s3": {"object": {"key": name}}}]})
        record = sqs_record(event)
        assert cloud.invoke("share", {"Records": [record]}) == {"batchItemFailures": []}
    assert key_of(f"https://outputs.s3.amazonaws.com/{key}?x=1") == key


# --- the table ------------------------------------------------------------------------------------


def test_a_transaction_conflict_is_tried_again(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    refuse_next("transact_write_items", 5, monkeypatch)
    assert cloud.generate(key).status == 202
    assert cloud.kudos(user) == FLOOR + 100 - COST


def test_conflicts_without_end_are_a_clear_503_and_move_nothing(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    refuse_next("transact_write_items", 1000, monkeypatch)
    answer = cloud.generate(key)
    assert (answer.status, answer.body["rc"]) == (503, "Locked")
    assert cloud.kudos(user) == FLOOR + 100


def test_an_accept_whose_answer_was_lost_charges_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    client = aws.dynamodb()
    real = client.transact_write_items
    lost: list[int] = []

    def loses_the_answer(**kwargs: Any) -> Any:
        answer = real(**kwargs)
        if not lost:
            lost.append(1)
            raise AwsError("TransactionInProgressException")
        return answer

    monkeypatch.setattr(client, "transact_write_items", loses_the_answer)
    assert cloud.generate(key).status == 202
    assert cloud.kudos(user) == FLOOR + 100 - COST


@pytest.mark.parametrize(
    ("kudos", "meanwhile", "waived"),
    [(COST, -8, 8), (COST - 4, -3, 7), (COST - 4, 20, 0)],
    ids=["enough before", "waived before", "enough after"],
)
def test_a_balance_that_moves_between_read_and_charge_is_decided_anew(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, kudos: int, meanwhile: int, waived: int
) -> None:
    user, key = cloud.register(kudos=kudos)
    real, moved = Accounts.get, []

    def spends_meanwhile(self: Any, user_id: int) -> Any:
        found = real(self, user_id)
        moved.append(1)
        if len(moved) == 1:
            cloud.store.accounts.grant(user_id, meanwhile)
        return found

    monkeypatch.setattr(Accounts, "get", spends_meanwhile)
    answer = cloud.generate(key)
    monkeypatch.undo()
    assert answer.status == 202
    assert cloud.kudos(user) == FLOOR + max(0, kudos + meanwhile - PRICE - TAX)
    assert cloud.ledger(user)[-1]["postings"].get("waiver", 0) == -waived


def test_our_own_fault_is_a_json_500_that_says_nothing_private(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Requests, "get", breaks)
    answer = cloud.check(UNKNOWN)
    assert answer.status == 500
    assert "secret" not in json.dumps(answer.body)
    assert cloud.call("GET /api/v2/status/heartbeat", key=ANONYMOUS).status == 200

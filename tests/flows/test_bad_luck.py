"""Bad luck: nothing is lost, charged twice, or shared against the rules."""

import hashlib
import json
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

import enqueue
import share
import sweep
from horde import aws, ending, store
from horde.model import Generation, State
from tests.support.cloud import ANONYMOUS, Cloud, key_of, webp

PRICE, TAX = 7, 3


@pytest.fixture
def worker(horde: Cloud) -> str:
    return horde.worker_key(horde.register("owner")[0])


def die_after_pop(horde: Cloud, worker: str, amount: int = 1) -> dict[str, Any]:
    """Pop, never come back, and let the lease run out."""
    job: dict[str, Any] = horde.pop(worker, name="mortal", amount=amount).body
    horde.clock.pass_seconds(job["ttl"] + 1)
    horde.sweep()
    return job


# --- workers ------------------------------------------------------------------------------------


def test_a_worker_that_dies_after_its_pop_loses_nothing(horde: Cloud, worker: str) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key).body["id"]
    job = die_after_pop(horde, worker)
    counts = horde.check(request).body
    assert (counts["waiting"], counts["processing"], counts["restarted"]) == (1, 0, 1)
    assert horde.draw(worker) == [job["id"]]
    assert horde.check(request).body["done"] is True
    assert horde.kudos(user) == 114 - PRICE - TAX


def test_a_lease_that_still_runs_is_left_alone(horde: Cloud, worker: str) -> None:
    request = horde.generate().body["id"]
    job = horde.pop(worker).body
    horde.clock.pass_seconds(job["ttl"] - 2)
    horde.sweep()
    assert horde.check(request).body["processing"] == 1


def test_the_third_fault_ends_a_request_and_refunds_all_its_images(
    horde: Cloud, worker: str
) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key, params={"n": 2}).body["id"]
    for _ in range(3):
        assert horde.check(request).body["faulted"] is False
        die_after_pop(horde, worker, amount=2)
    counts = horde.check(request).body
    assert (counts["faulted"], counts["done"], counts["restarted"]) == (True, True, 6)
    assert horde.kudos(user) == 114
    assert horde.pop(worker).body["id"] is None


def test_one_worker_that_dies_with_a_whole_batch_does_not_end_the_request(
    horde: Cloud, worker: str
) -> None:
    request = horde.generate(params={"n": 4}).body["id"]
    die_after_pop(horde, worker, amount=4)
    counts = horde.check(request).body
    assert (counts["waiting"], counts["restarted"], counts["faulted"]) == (4, 4, False)
    assert len(horde.draw(worker)) == 4


def test_what_was_delivered_before_the_last_fault_stays_charged(horde: Cloud, worker: str) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key, params={"n": 2}).body["id"]
    job = horde.pop(worker).body
    horde.upload(job["r2_upload"])
    assert horde.submit(worker, job["id"]).status == 200
    for _ in range(3):
        die_after_pop(horde, worker)
    shown = horde.status(request).body
    assert (shown["faulted"], len(shown["generations"])) == (True, 1)
    assert horde.kudos(user) == 114 - PRICE - TAX


def test_an_image_in_flight_when_its_request_faults_may_still_be_delivered(
    horde: Cloud, worker: str
) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key, params={"n": 2}).body["id"]
    held = horde.pop(worker).body
    for _ in range(3):
        assert horde.submit(worker, horde.pop(worker).body["id"], state="faulted").status == 200
    assert horde.check(request).body["faulted"] is True
    assert horde.check(request).body["processing"] == 1
    horde.upload(held["r2_upload"])
    assert horde.submit(worker, held["id"]).status == 200
    assert len(horde.status(request).body["generations"]) == 1
    assert horde.kudos(user) == 114 - PRICE - TAX


def test_a_submit_after_the_lease_but_before_the_sweep_still_counts(
    horde: Cloud, worker: str
) -> None:
    horde.generate()
    job = horde.pop(worker).body
    horde.clock.pass_seconds(job["ttl"] + 30)
    horde.upload(job["r2_upload"])
    assert horde.submit(worker, job["id"]).status == 200


def test_a_submit_after_the_requeue_is_aborted(horde: Cloud, worker: str) -> None:
    horde.generate()
    job = die_after_pop(horde, worker)
    answer = horde.submit(worker, job["id"])
    assert (answer.status, answer.body["rc"]) == (400, "AbortedGen")
    assert "Please check your worker speed" in answer.body["message"]


def test_a_late_worker_overwrites_nothing(horde: Cloud, worker: str) -> None:
    request = horde.generate().body["id"]
    late = die_after_pop(horde, worker)
    other = horde.worker_key(horde.register("other")[0])
    assert horde.draw(other) == [late["id"]]
    horde.upload(late["r2_upload"], webp("black"))
    answer = horde.submit(worker, late["id"])
    assert (answer.status, answer.body["rc"]) == (403, "WrongCredentials")
    shown = horde.status(request).body["generations"][0]["img"]
    assert requests.get(shown, timeout=5).content == webp()
    horde.settle_async()
    horde.settle_async()
    (image,) = [body for name, body in horde.laion().items() if name.endswith(".webp")]
    assert image == webp()


def test_an_upload_of_a_lost_lease_is_never_shared(horde: Cloud, worker: str) -> None:
    horde.generate()
    lost = die_after_pop(horde, worker)
    horde.upload(lost["r2_upload"], webp("black"))
    assert horde.draw(worker) == [lost["id"]]
    horde.settle_async()
    (image,) = [body for name, body in horde.laion().items() if name.endswith(".webp")]
    assert image == webp()


def test_a_worker_that_reports_a_fault_gives_its_image_back_at_once(
    horde: Cloud, worker: str
) -> None:
    request = horde.generate().body["id"]
    job = horde.pop(worker).body
    assert horde.submit(worker, job["id"], state="faulted").body == {"reward": 0}
    assert horde.check(request).body["waiting"] == 1
    assert horde.submit(worker, job["id"]).body["rc"] == "AbortedGen"
    assert horde.draw(worker) == [job["id"]]


# --- cancelling and expiry ------------------------------------------------------------------------


def test_a_cancelled_request_is_refunded_while_waiting(horde: Cloud, worker: str) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key, params={"n": 3}).body["id"]
    before = horde.cancel(request).body
    assert before["waiting"] == 3
    assert horde.kudos(user) == 114
    assert horde.check(request).body["done"] is True
    assert horde.pop(worker).body["id"] is None
    horde.cancel(request)
    assert horde.kudos(user) == 114


def test_what_a_worker_holds_of_a_cancelled_request_is_delivered_and_charged(
    horde: Cloud, worker: str
) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key, params={"n": 2}).body["id"]
    job = horde.pop(worker).body
    horde.cancel(request)
    assert horde.kudos(user) == 114 - PRICE - TAX
    horde.upload(job["r2_upload"])
    assert horde.submit(worker, job["id"]).status == 200
    assert len(horde.status(request).body["generations"]) == 1
    assert horde.kudos(user) == 114 - PRICE - TAX


@pytest.mark.parametrize("by", ["fault", "lease"])
def test_a_cancelled_request_cannot_be_revived(horde: Cloud, worker: str, by: str) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key).body["id"]
    job = horde.pop(worker).body
    horde.cancel(request)
    if by == "fault":
        assert horde.submit(worker, job["id"], state="faulted").status == 200
    else:
        horde.clock.pass_seconds(job["ttl"] + 1)
        horde.sweep()
    assert horde.pop(worker).body["id"] is None
    assert horde.check(request).body["done"] is True
    assert horde.kudos(user) == 114


def test_a_fault_read_before_a_cancel_does_not_revive_it(horde: Cloud, worker: str) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key).body["id"]
    job = horde.pop(worker).body
    seen = horde.store.request(request), horde.store.generation(job["id"])
    horde.cancel(request)
    assert seen[0] is not None
    assert seen[1] is not None
    ending.fault(horde.store, seen[0], seen[1])
    assert horde.pop(worker).body["id"] is None
    assert horde.kudos(user) == 114


def test_a_cancel_that_dies_half_way_is_finished_by_the_sweep(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key, params={"n": 3}).body["id"]
    real = store.Store.end_undelivered
    ended: list[int] = []

    def dies_after_one(*args: Any, **kwargs: Any) -> bool:
        if ended:
            raise MemoryError
        ended.append(1)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "end_undelivered", dies_after_one)
        assert horde.cancel(request).status == 500
    assert horde.kudos(user) == 114 - 2 * (PRICE + TAX)
    horde.sweep()
    assert horde.kudos(user) == 114
    assert horde.check(request).body["done"] is True


def test_a_second_cancel_finishes_one_that_was_cut(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key, params={"n": 2}).body["id"]

    def dies(*_: Any) -> bool:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "end_undelivered", dies)
        assert horde.cancel(request).status == 500
    assert horde.cancel(request).status == 200
    assert horde.kudos(user) == 114


def test_a_request_that_ended_early_is_swept_once_and_not_every_minute(horde: Cloud) -> None:
    horde.cancel(horde.generate().body["id"])
    now = horde.clock.now_ms() // 1000
    assert len(list(horde.store.due(now))) == 1
    horde.sweep()
    assert list(horde.store.due(now + 60)) == []


def test_an_expired_request_is_refunded_and_gone(horde: Cloud, worker: str) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key, params={"n": 2}).body["id"]
    horde.clock.pass_seconds(20 * 60 + 1)
    assert horde.check(request).status == 404
    horde.sweep()
    assert horde.kudos(user) == 114
    assert horde.pop(worker).body["id"] is None
    horde.sweep()
    assert horde.kudos(user) == 114


def test_each_pop_and_submit_gives_a_request_twenty_minutes_more(horde: Cloud, worker: str) -> None:
    request = horde.generate(params={"n": 2}).body["id"]
    for _ in range(2):
        horde.clock.pass_seconds(19 * 60)
        job = horde.pop(worker).body
        horde.upload(job["r2_upload"])
        assert horde.submit(worker, job["id"]).status == 200
    horde.clock.pass_seconds(19 * 60)
    horde.sweep()
    assert len(horde.status(request).body["generations"]) == 2
    horde.clock.pass_seconds(61)
    assert horde.status(request).status == 404


def test_a_lease_longer_than_the_requests_life_is_waited_for(horde: Cloud, worker: str) -> None:
    user, key = horde.register(kudos=1_000_000)
    request = horde.generate(
        key, params={"width": 3072, "height": 3072, "steps": 100}, extra_slow_workers=True
    ).body
    job = horde.pop(worker, max_pixels=10**8).body
    assert job["ttl"] > 20 * 60
    horde.clock.pass_seconds(21 * 60)
    horde.sweep()
    horde.upload(job["r2_upload"])
    assert horde.submit(worker, job["id"]).status == 200
    assert horde.kudos(user) == 1_000_014 - request["kudos"]
    assert len(horde.status(request["id"]).body["generations"]) == 1


def test_an_image_whose_lease_ends_after_its_request_is_refunded_once(
    horde: Cloud, worker: str
) -> None:
    user, key = horde.register(kudos=100)
    horde.generate(key, params={"n": 2})
    horde.pop(worker)
    for _ in range(4):
        horde.clock.pass_seconds(20 * 60 + 1)
        horde.sweep()
    assert horde.kudos(user) == 114
    assert list(horde.store.due(10**11)) == []


def test_an_image_that_is_claimed_while_its_request_ends_keeps_it_open(
    horde: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key).body["id"]
    horde.clock.pass_seconds(1201)
    real, jobs = store.Store.end_undelivered, list[Any]()

    def too_late(self: store.Store, *args: Any, **kwargs: Any) -> bool:
        if not jobs:
            jobs.append(horde.pop(worker).body)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(store.Store, "end_undelivered", too_late)
    horde.sweep()
    assert jobs[0]["id"] is not None
    horde.audit()
    # Its worker gives up: nobody else may find it in the queue of a request that is over.
    assert horde.submit(worker, jobs[0]["id"], state="faulted").status == 200
    assert horde.check(request).body["waiting"] == 1
    for _ in range(2):
        horde.clock.pass_seconds(1201)
        horde.sweep()
    assert horde.kudos(user) == 114


def test_an_image_that_is_settled_while_its_request_is_closed_can_be_fetched(
    horde: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    request = horde.generate(key).body["id"]
    job = horde.pop(worker).body
    horde.upload(job["r2_upload"])
    horde.clock.pass_seconds(1201)
    real = store.Store.generations
    said: list[int] = []

    def just_settled(self: store.Store, of: Any) -> Any:
        if not said:
            said.append(0)
            said.append(horde.submit(worker, job["id"]).status)
        return real(self, of)

    only = [store.Due("REQUEST", request)]
    monkeypatch.setattr(store.Store, "due", lambda *_: iter(only))
    monkeypatch.setattr(store.Store, "generations", just_settled)
    horde.sweep()
    assert said == [0, 200]
    assert len(horde.status(request).body["generations"]) == 1
    assert horde.kudos(user) == 114 - PRICE - 3


def test_two_sweeps_change_nothing_twice(horde: Cloud, worker: str) -> None:
    user, key = horde.register(kudos=100)
    horde.generate(key, params={"n": 2})
    job = horde.pop(worker).body
    horde.clock.pass_seconds(job["ttl"] + 1)
    dues = list(horde.store.due(10**11))
    for due in [*dues, *dues]:
        sweep.sweep_due(horde.store, due, horde.clock.now_ms() // 1000)
    horde.clock.pass_seconds(3600)
    horde.sweep()
    horde.sweep()
    assert horde.kudos(user) == 114


def test_a_lagging_due_row_does_not_end_another_workers_lease(horde: Cloud, worker: str) -> None:
    request = horde.generate().body["id"]
    job = horde.pop(worker).body
    horde.clock.pass_seconds(job["ttl"] + 1)
    now = horde.clock.now_ms() // 1000
    (row,) = horde.store.due(now)
    horde.sweep()
    assert horde.pop(worker).body["id"] == job["id"]
    sweep.sweep_due(horde.store, row, now)
    assert horde.check(request).body["processing"] == 1


def test_one_row_that_cannot_be_swept_does_not_hold_the_others(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    bad, good = (horde.generate(key).body["id"] for _ in range(2))
    real = store.Store.request

    def poisoned(self: store.Store, request_id: str) -> Any:
        if request_id == bad:
            raise KeyError(request_id)
        return real(self, request_id)

    horde.clock.pass_seconds(1201)
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "request", poisoned)
        with pytest.raises(ExceptionGroup):
            horde.sweep()
    assert horde.kudos(user) == 114 - PRICE - TAX
    horde.sweep()
    assert horde.kudos(user) == 114
    assert horde.check(good).status == 404


def test_what_was_decided_from_a_stale_read_changes_nothing(horde: Cloud, worker: str) -> None:
    user, key = horde.register(kudos=100)
    request = horde.store.request(horde.generate(key).body["id"])
    assert request is not None
    table, job = horde.store, horde.pop(worker).body
    first_lease = table.generation(job["id"])
    assert horde.submit(worker, job["id"], state="faulted").status == 200
    assert horde.pop(worker).body["id"] == job["id"]
    second_lease = table.generation(job["id"])
    assert first_lease is not None
    assert second_lease is not None

    def settle(seen: Generation) -> bool:
        return table.settle(request, seen, state=State.OK, seed=1, gen_metadata=[])

    assert settle(first_lease) is False
    assert table.requeue(request, first_lease) is False
    assert settle(second_lease) is True
    assert settle(second_lease) is False
    assert table.requeue(request, second_lease) is False
    assert table.end_undelivered(request, second_lease, State.FAULTED) is False
    assert horde.kudos(user) == 114 - PRICE - TAX


# --- the queue and RunPod -------------------------------------------------------------------------


def test_a_request_makes_one_ticket_for_every_batch_full(horde: Cloud) -> None:
    request = horde.generate(params={"n": 10}).body["id"]
    horde.generate(models=["SDXL 1.0"])
    horde.settle_async()
    assert [(job["endpoint"], job["input"]["images"]) for job in horde.runpod.jobs] == [
        ("ep1", 4),
        ("ep1", 4),
        ("ep1", 2),
        ("ep2", 1),
    ]
    assert horde.runpod.jobs[0]["input"] == {
        "v": 1,
        "model": "stable_diffusion",
        "request_id": request,
        "images": 4,
    }


def test_only_new_requests_leave_the_stream(horde: Cloud, worker: str) -> None:
    request = horde.generate(params={"n": 2}).body["id"]
    horde.draw(worker)
    horde.cancel(request)
    assert horde.stream() == 1


def test_a_model_without_an_endpoint_makes_no_ticket(horde: Cloud) -> None:
    horde.generate(models=["rare model"])
    horde.settle_async()
    assert horde.runpod.jobs == []
    assert horde.dead["dispatch"] == []


@pytest.mark.parametrize("mode", ["error", "nothing", "nonsense"])
def test_runpod_being_out_of_order_loses_no_request(horde: Cloud, worker: str, mode: str) -> None:
    request = horde.generate().body["id"]
    horde.runpod.mode = mode
    horde.stream()
    horde.deliver("dispatch")
    assert horde.runpod.jobs == []
    assert len(horde.pending["dispatch"]) == 1
    horde.runpod.mode = "ok"
    horde.deliver("dispatch")
    assert len(horde.runpod.jobs) == 1
    assert horde.check(request).body["waiting"] == 1


def test_a_ticket_that_fails_for_good_reaches_the_dlq_and_the_sweep_replaces_it(
    horde: Cloud,
) -> None:
    horde.generate(params={"n": 6})
    horde.runpod.mode = "error"
    horde.stream()
    for _ in range(10):
        horde.deliver("dispatch")
    assert len(horde.dead["dispatch"]) == 1
    horde.runpod.mode = "ok"
    horde.clock.pass_seconds(61)
    assert horde.sweep()["tickets"] == 2
    assert horde.sweep()["tickets"] == 0


def test_a_ticket_that_runpod_lost_is_replaced(horde: Cloud) -> None:
    horde.generate()
    horde.runpod.mode = "lose"
    horde.settle_async()
    horde.runpod.mode = "ok"
    assert horde.sweep()["tickets"] == 0  # it may still be on its way
    horde.clock.pass_seconds(61)
    assert horde.sweep()["tickets"] == 1
    assert horde.runpod.jobs[0]["input"]["model"] == "stable_diffusion"


def test_a_job_in_progress_counts_as_demand(horde: Cloud) -> None:
    horde.generate()
    horde.clock.pass_seconds(61)
    horde.runpod.in_progress = 1
    assert horde.sweep()["tickets"] == 0


def test_runpod_out_of_order_does_not_keep_the_sweep_from_refunding(horde: Cloud) -> None:
    user, key = horde.register(kudos=100)
    horde.generate(key)
    horde.clock.pass_seconds(1201)
    horde.generate()
    horde.clock.pass_seconds(61)
    horde.runpod.mode = "error"
    with pytest.raises(ExceptionGroup):
        horde.sweep()
    assert horde.kudos(user) == 114


def test_a_runpod_key_that_was_changed_is_read_anew(horde: Cloud) -> None:
    horde.runpod.key = "another"
    horde.generate()
    horde.stream()
    horde.deliver("dispatch")
    assert len(horde.pending["dispatch"]) == 1
    horde.ssm.put_parameter(
        Name="/horde-commons/runpod-api-key", Value="another", Type="SecureString", Overwrite=True
    )
    horde.deliver("dispatch")
    assert len(horde.runpod.jobs) == 1


def test_one_bad_message_does_not_hold_its_batch(horde: Cloud) -> None:
    def record(number: int, body: Any) -> dict[str, Any]:
        return {"messageId": str(number), "body": body, "receiptHandle": "x", "attributes": {}}

    good = json.dumps({"model": "stable_diffusion", "images": 1, "request_id": "r"})
    event = {"Records": [record(1, "{"), record(2, good), record(3, "{}")]}
    failed = horde.invoke("dispatch", event)["batchItemFailures"]
    assert failed == [{"itemIdentifier": "1"}, {"itemIdentifier": "3"}]
    assert len(horde.runpod.jobs) == 1


def test_a_message_or_stream_record_that_comes_twice_costs_an_empty_pop(
    horde: Cloud, worker: str
) -> None:
    user, key = horde.register(kudos=100)
    horde.generate(key)
    horde.stream()
    horde.stream(again=True)
    horde.deliver("dispatch", twice=True)
    assert len(horde.runpod.jobs) == 4
    assert len(horde.draw(worker)) == 1
    assert horde.pop(worker).body["id"] is None
    assert horde.kudos(user) == 114 - PRICE - TAX


def test_a_stream_record_that_cannot_be_enqueued_is_retried_alone(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [horde.generate().body["id"] for _ in range(3)]
    real = enqueue.message_of

    def poisoned(image: dict[str, Any]) -> tuple[str, str]:
        if image["id"]["S"] == requests[1]:
            raise KeyError("n")
        return real(image)

    monkeypatch.setattr(enqueue, "message_of", poisoned)
    horde.stream()
    assert len(horde.dead_records) == 1
    horde.deliver("dispatch")
    assert {job["input"]["request_id"] for job in horde.runpod.jobs} == {requests[0], requests[2]}


# --- sharing --------------------------------------------------------------------------------------


def test_an_upload_before_its_settlement_is_shared_later(horde: Cloud, worker: str) -> None:
    horde.generate()
    job = horde.pop(worker).body
    horde.upload(job["r2_upload"])
    horde.deliver("share")
    assert horde.laion() == {}
    assert len(horde.pending["share"]) == 1
    assert horde.submit(worker, job["id"]).status == 200
    horde.deliver("share")
    assert len(horde.laion()) == 2
    assert horde.pending["share"] == []


def test_an_early_event_that_cannot_be_put_off_does_not_hold_its_batch(
    horde: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_record: Any) -> None:
        raise ClientError({"Error": {"Code": "InternalError"}}, "ChangeMessageVisibility")

    monkeypatch.setattr(share, "_put_off", breaks)
    horde.generate()
    horde.upload(horde.pop(worker).body["r2_upload"])
    horde.deliver("share")
    (early,) = horde.pending["share"]
    bodies = {"early": early.body, "settled": json.dumps({"Records": []})}
    records = [
        {"messageId": name, "body": body, "receiptHandle": "x", "attributes": {}}
        for name, body in bodies.items()
    ]
    answer = horde.invoke("share", {"Records": records})
    assert answer == {"batchItemFailures": [{"itemIdentifier": "early"}]}


def test_an_event_that_comes_twice_changes_nothing(horde: Cloud, worker: str) -> None:
    horde.generate()
    job = horde.pop(worker).body
    horde.upload(job["r2_upload"])
    horde.submit(worker, job["id"])
    horde.deliver("share", twice=True)
    first = horde.laion()
    horde.clock.pass_seconds(24 * 3600)
    horde.upload(job["r2_upload"], webp("black"))
    horde.deliver("share")
    assert horde.laion() == first
    assert horde.pending["share"] == []


def test_a_share_that_dies_between_its_writes_is_done_again(
    horde: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    horde.generate()
    horde.draw(worker)

    def dies(*_: Any) -> dict[str, Any]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(share, "metadata", dies)
        horde.deliver("share")
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "mark_shared", dies)
        horde.deliver("share")
    half = horde.laion()
    horde.clock.pass_seconds(24 * 3600)
    horde.deliver("share")
    assert horde.laion() == half
    assert horde.pending["share"] == []


def test_a_shared_image_is_its_exact_bytes_and_a_flat_row(horde: Cloud, worker: str) -> None:
    user, key = horde.register("nobody", kudos=100)
    request = horde.generate(
        key, shared=True, prompt="a red apple ### blur", nsfw=False, params={"cfg_scale": 7}
    ).body["id"]
    (generation,) = horde.draw(worker)
    horde.settle_async()
    objects = horde.laion()
    (name,) = [name for name in objects if name.endswith(".json")]
    assert name.removesuffix("json") + "webp" in objects
    assert name.startswith("incoming/date=20")
    row = json.loads(objects[name])
    image = objects[name.removesuffix("json") + "webp"]
    assert image == webp()
    assert row["sha256"] == hashlib.sha256(image).hexdigest()
    assert row["id"] == generation
    assert (row["prompt"], row["negative_prompt"]) == ("a red apple", "blur")
    assert b'"cfg_scale": 7.0' in objects[name]
    assert (row["consent"], row["user_type"], row["license"]) == (
        "request-flag",
        "pseudonymous",
        "CC0-1.0",
    )
    assert row["nsfw_requested"] is False
    assert all(isinstance(value, str | int | float | bool) for value in row.values())
    text = objects[name].decode()
    assert "nobody" not in text
    assert key not in text
    assert str(horde.store.request(request)) not in text
    # The private record says whose it is, for withdrawal.
    kept = horde.db.get_item(
        TableName=horde.table, Key={"pk": {"S": f"SHARED#{generation}"}, "sk": {"S": "SHARED"}}
    )["Item"]
    assert kept["user_id"]["N"] == str(user)


def test_an_anonymous_row_says_that_its_consent_is_the_default(horde: Cloud, worker: str) -> None:
    horde.generate()
    horde.draw(worker)
    horde.settle_async()
    (row,) = [json.loads(body) for name, body in horde.laion().items() if name.endswith("json")]
    assert (row["consent"], row["user_type"]) == ("anonymous-default", "anon")


def test_what_was_cancelled_or_expired_is_never_shared(horde: Cloud, worker: str) -> None:
    horde.generate()
    job = horde.pop(worker).body
    horde.upload(job["r2_upload"])
    for _ in range(5):
        horde.clock.pass_seconds(1201)
        horde.sweep()
        horde.deliver("share")
    assert horde.laion() == {}
    assert horde.pending["share"] == []


@pytest.mark.parametrize("body", ['{"Service": "Amazon S3", "Event": "s3:TestEvent"}', "{}"])
def test_s3s_test_event_is_taken_quietly(horde: Cloud, body: str) -> None:
    record = {"messageId": "1", "body": body, "receiptHandle": "x", "attributes": {}}
    assert horde.invoke("share", {"Records": [record]}) == {"batchItemFailures": []}


def test_an_event_of_an_unknown_object_is_dropped(horde: Cloud) -> None:
    key = "11111111-2222-4333-8444-555555555555/1.webp"
    event = json.dumps({"Records": [{"s3": {"object": {"key": key}}}]})
    record = {"messageId": "1", "body": event, "receiptHandle": "x", "attributes": {}}
    assert horde.invoke("share", {"Records": [record]}) == {"batchItemFailures": []}
    assert key_of(f"https://outputs.s3.amazonaws.com/{key}?x=1") == key


# --- the table ------------------------------------------------------------------------------------


def conflicted(horde: Cloud, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next transactions meet another one on the same item."""
    client = aws.dynamodb()
    real, left = client.transact_write_items, [times]

    def conflicting(**kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            reasons = [{"Code": "TransactionConflict"}, {"Code": "None"}]
            answer: Any = {
                "Error": {"Code": "TransactionCanceledException", "Message": ""},
                "CancellationReasons": reasons,
            }
            raise ClientError(answer, "TransactWriteItems")
        return real(**kwargs)

    monkeypatch.setattr(client, "transact_write_items", conflicting)
    monkeypatch.setattr(store, "_pause", lambda _attempt: None)


def test_a_transaction_conflict_is_tried_again(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    conflicted(horde, 5, monkeypatch)
    assert horde.generate(key).status == 202
    assert horde.kudos(user) == 114 - PRICE - TAX


def test_conflicts_without_end_are_a_clear_503_and_move_nothing(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    conflicted(horde, 1000, monkeypatch)
    answer = horde.generate(key)
    assert (answer.status, answer.body["rc"]) == (503, "Locked")
    assert horde.kudos(user) == 114


def test_an_accept_whose_answer_was_lost_charges_once(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    client = aws.dynamodb()
    real = client.transact_write_items
    lost: list[int] = []

    def loses_the_answer(**kwargs: Any) -> Any:
        answer = real(**kwargs)
        if not lost:
            lost.append(1)
            error: Any = {"Error": {"Code": "TransactionInProgressException", "Message": ""}}
            raise ClientError(error, "TransactWriteItems")
        return answer

    monkeypatch.setattr(client, "transact_write_items", loses_the_answer)
    assert horde.generate(key).status == 202
    assert horde.kudos(user) == 114 - PRICE - TAX


@pytest.mark.parametrize(
    ("kudos", "meanwhile", "forgiven"),
    [(10, -8, 8), (6, -3, 7), (6, 20, 0)],
    ids=["enough before", "forgiven before", "enough after"],
)
def test_a_balance_that_moves_between_read_and_charge_is_decided_anew(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch, kudos: int, meanwhile: int, forgiven: int
) -> None:
    user, key = horde.register(kudos=kudos)
    real, moved = store.Store.user, []

    def spends_meanwhile(self: store.Store, user_id: int) -> Any:
        found = real(self, user_id)
        moved.append(1)
        if len(moved) == 1:
            horde.store.grant(user_id, meanwhile)
        return found

    monkeypatch.setattr(store.Store, "user", spends_meanwhile)
    answer = horde.generate(key)
    monkeypatch.undo()
    assert answer.status == 202
    assert horde.kudos(user) == 14 + max(0, kudos + meanwhile - PRICE - TAX)
    assert horde.ledger(user)[-1]["postings"].get("forgiveness", 0) == -forgiven


def test_our_own_fault_is_a_json_500_that_says_nothing_private(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(store.Store, "request", breaks)
    answer = horde.check("11111111-2222-4333-8444-555555555555")
    assert answer.status == 500
    assert "secret" not in json.dumps(answer.body)
    assert horde.call("GET /api/v2/status/heartbeat", key=ANONYMOUS).status == 200

"""What is counted from the stream: once, whatever comes twice, out of order, or is cut."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import NO_STATS, Settlement, WorkerStats
from horde.rules.estimates import moving_speed
from horde.store.due import Due
from horde.store.settlements import event_of
from horde.store.table import Table
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR, MAX_FAULTS, PIXELSTEPS, REWARD, TAX_SHARED


def totals(cloud: Cloud) -> Any:
    cloud.clock.pass_seconds(31)
    answer = cloud.call("GET /api/v2/stats/img/totals")
    assert answer.status == 200, answer
    return answer.body


def by_model(cloud: Cloud, **query: str) -> Any:
    cloud.clock.pass_seconds(31)
    return cloud.call("GET /api/v2/stats/img/models", query=query).body


def draw(cloud: Cloud, worker: str, n: int = 1, seconds: float = 0, **fields: Any) -> None:
    """Ask for images and draw them, ``seconds`` for each."""
    cloud.generate(**{"params": {"n": n}, **fields})
    while jobs := cloud.pop(worker, amount=20, mixed_batch=True).body.get("jobs"):
        for job in jobs:
            cloud.clock.pass_seconds(seconds)
            cloud.upload(job["r2_upload"])
            assert cloud.submit(worker, job["id"]).status == 200


def at_noon(cloud: Cloud) -> None:
    now = cloud.clock.now_ms()
    cloud.clock.freeze(now - now % 86_400_000 + 43_200_000)


def test_nothing_drawn_is_nothing_counted(cloud: Cloud) -> None:
    nothing = {"images": 0, "ps": 0}
    assert totals(cloud) == {
        **dict.fromkeys(("minute", "hour", "day", "month", "total"), nothing),
        "anonymous": {"requests": 0, "images_requested": 0, "images": 0, "taxes": 0},
    }
    assert by_model(cloud) == {"day": {}, "month": {}, "total": {}}


def test_each_delivered_image_is_counted_in_every_span(cloud: Cloud, worker: str) -> None:
    at_noon(cloud)
    draw(cloud, worker, n=2)
    cloud.settle_async()
    two, none = {"images": 2, "ps": 2 * PIXELSTEPS}, {"images": 0, "ps": 0}
    cloud.clock.pass_seconds(60 - 31)
    found = totals(cloud)
    assert [found[span] for span in ("minute", "hour", "day", "month", "total")] == [two] * 5
    cloud.clock.pass_seconds(120 - 31)
    found = totals(cloud)
    assert [found[span] for span in ("minute", "hour", "day")] == [none, two, two]
    cloud.clock.pass_seconds(3600)
    assert totals(cloud)["hour"] == none
    cloud.clock.pass_seconds(86_400)
    found = totals(cloud)
    assert [found[span] for span in ("day", "month")] == [none, two]
    cloud.clock.pass_seconds(31 * 86_400)
    found = totals(cloud)
    assert [found[span] for span in ("month", "total")] == [none, two]


def test_the_past_minute_is_in_the_fleets_performance(cloud: Cloud, worker: str) -> None:
    at_noon(cloud)
    draw(cloud, worker)
    cloud.stream()
    cloud.clock.pass_seconds(60)
    found = cloud.call("GET /api/v2/status/performance").body
    assert found["past_minute_megapixelsteps"] == PIXELSTEPS / 1e6


def test_images_are_counted_by_model(cloud: Cloud, worker: str) -> None:
    long = "\u00fc" * 50
    for model in ("stable_diffusion", "rare", long):
        cloud.pop(worker, models=[model])
        cloud.generate(models=[model], params={"n": 2 if model == "rare" else 1})
        cloud.draw(worker, models=[model])
    cloud.stream()
    counts = {"stable_diffusion": 1, "rare": 2, long: 1}
    assert by_model(cloud) == {"day": counts, "month": counts, "total": counts}
    assert by_model(cloud, model_state="known")["total"] == {"stable_diffusion": 1}
    assert by_model(cloud, model_state="custom")["total"] == {"rare": 2, long: 1}


def test_a_workers_statistics_show_what_it_did(cloud: Cloud, worker: str) -> None:
    draw(cloud, worker, n=2)
    cloud.generate()
    job = cloud.pop(worker).body
    cloud.submit(worker, job["id"], state="faulted")
    cloud.stream()
    found = cloud.worker_named()
    assert found["requests_fulfilled"] == 2
    assert found["kudos_rewards"] == found["kudos_details"]["generated"] == 2 * REWARD
    assert found["megapixelsteps_generated"] == 2 * PIXELSTEPS / 1e6
    assert found["uncompleted_jobs"] == 1


def test_a_claim_that_comes_to_nothing_is_counted_however_it_ends(cloud: Cloud, fleet: str) -> None:
    cloud.generate()
    for _ in range(MAX_FAULTS - 1):
        cloud.submit(fleet, cloud.pop(fleet).body["id"], state="faulted")
    cloud.pop(fleet)
    cloud.clock.pass_seconds(200)
    cloud.sweep()  # the lease ran out: the last fault ends it
    assert cloud.worker_named()["uncompleted_jobs"] == MAX_FAULTS
    cloud.generate()
    request = cloud.generate(params={"steps": 8}).body["id"]
    cloud.cancel(request)  # nobody had it
    assert cloud.worker_named()["uncompleted_jobs"] == MAX_FAULTS


def test_a_censored_image_counts_as_drawn(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    cloud.submit(worker, job["id"], state="censored")
    cloud.stream()
    assert totals(cloud)["total"]["images"] == 1


@pytest.mark.lengthy
def test_a_record_that_is_delivered_again_is_not_counted_again(cloud: Cloud, worker: str) -> None:
    draw(cloud, worker, n=3)
    cloud.stream()
    once = totals(cloud), cloud.worker_named(), by_model(cloud)
    cloud.stream(again=True)
    draw(cloud, worker)  # new ones among old ones
    cloud.stream(again=True)
    assert totals(cloud)["total"]["images"] == once[0]["total"]["images"] + 1 == 4
    assert cloud.worker_named()["requests_fulfilled"] == 4
    assert totals(cloud)["anonymous"]["requests"] == 2


def test_a_record_twice_in_one_batch_is_counted_once(cloud: Cloud, worker: str) -> None:
    draw(cloud, worker, n=2)
    records = cloud.records_of_the_stream()
    rewards = [
        r for r in records if r["dynamodb"].get("NewImage", {}).get("kind") == {"S": "REWARD"}
    ]
    inserted = [r for r in rewards if r["eventName"] == "INSERT"]
    assert len(inserted) == 2
    assert cloud.invoke("payouts", {"Records": inserted * 3}) == {"batchItemFailures": []}
    assert totals(cloud)["total"] == {"images": 2, "ps": 2 * PIXELSTEPS}


def test_records_out_of_order_are_counted_in_their_own_time(cloud: Cloud, worker: str) -> None:
    at_noon(cloud)
    for _ in range(3):
        draw(cloud, worker, seconds=6)
        cloud.clock.pass_seconds(600)
    rewards = [
        r
        for r in cloud.records_of_the_stream()
        if r["eventName"] == "INSERT"
        and "tax" in r["dynamodb"]["NewImage"]
        and r["dynamodb"]["NewImage"]["sk"]["S"].startswith("LEDGER#")
    ]
    assert len(rewards) == 3
    for record in reversed(rewards):
        cloud.invoke("payouts", {"Records": [record]})
    minutes = [row for row in stats(cloud) if row.startswith("MINUTE#")]
    assert len(minutes) == 3
    assert totals(cloud)["hour"]["images"] == 3


def stats(cloud: Cloud) -> list[str]:
    return [item["sk"]["S"] for item in cloud.store.counters.between("A", "Z")]


def test_a_batch_that_is_cut_counts_the_rest_when_it_comes_again(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    import payouts

    monkeypatch.setattr(payouts, "MAX_RECORDS", 2)
    draw(cloud, worker, n=5)
    real, calls = Table.transact, []

    def cut(self: Any, parts: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError
        real(self, parts)
        if len(calls) == 4:  # written, and the answer lost
            raise OSError

    monkeypatch.setattr(Table, "transact", cut)
    cloud.stream()
    assert len(calls) > 4
    assert cloud.uncounted == []
    assert totals(cloud)["total"]["images"] == 5
    assert cloud.worker_named()["requests_fulfilled"] == 5


def test_a_record_that_cannot_be_read_is_left_alone(cloud: Cloud, worker: str) -> None:
    draw(cloud, worker)
    cloud.db.put_item(
        TableName=cloud.table,
        Item={
            "pk": {"S": "USER#9"},
            "sk": {"S": "LEDGER#x"},
            "kind": {"S": "REWARD"},
            "amount": {"N": "0"},
            "postings": {"M": {}},
            "reference": {"S": "?"},
        },
    )
    draw(cloud, worker)
    cloud.stream()
    assert totals(cloud)["total"]["images"] == 2
    assert len(cloud.uncounted) == 1
    cloud.db.delete_item(
        TableName=cloud.table, Key={"pk": {"S": "USER#9"}, "sk": {"S": "LEDGER#x"}}
    )


@pytest.mark.lengthy
def test_more_counters_than_a_transaction_takes_are_counted_in_parts(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde.store import payouts

    monkeypatch.setattr(payouts, "BATCH", 12)
    real, sizes = Table.transact, []

    def spy(self: Any, parts: Any) -> None:
        sizes.append(len(parts))
        real(self, parts)

    key = cloud.new_worker("many", trusted=True)
    cloud.generate(params={"n": 5})
    for number in range(5):
        job = cloud.pop(key, name=f"w{number}").body
        cloud.upload(job["r2_upload"])
        cloud.submit(key, job["id"])
    monkeypatch.setattr(Table, "transact", spy)
    cloud.stream()
    assert len(sizes) > 1
    assert max(sizes) <= 12
    assert totals(cloud)["total"]["images"] == 5
    assert {cloud.worker_named(f"w{n}")["requests_fulfilled"] for n in range(5)} == {1}


@pytest.mark.lengthy
def test_the_anonymous_accounts_requests_images_and_taxes_are_counted(
    cloud: Cloud, worker: str
) -> None:
    _, key = cloud.register(kudos=1000)
    cloud.generate(key)
    cloud.generate(ANONYMOUS, params={"n": 3})
    cloud.cancel(cloud.generate(ANONYMOUS, params={"n": 2}).body["id"])
    cloud.draw(worker)
    cloud.stream()
    cloud.stream(again=True)
    assert totals(cloud)["anonymous"] == {
        "requests": 2,
        "images_requested": 5,
        "images": 3,  # a cancelled image burns no tax
        "taxes": 3 * TAX_SHARED,
    }


def test_the_anonymous_account_itself_is_never_written(cloud: Cloud, worker: str) -> None:
    draw(cloud, worker)
    cloud.stream()
    assert "USER#0" not in {item["pk"]["S"] for item in cloud.rows("USER")}


@pytest.mark.lengthy
def test_a_workers_speed_is_what_it_drew_by_the_time_it_had_work(cloud: Cloud, worker: str) -> None:
    cloud.clock.freeze()
    draw(cloud, worker, n=4, seconds=6)
    cloud.settle_async()
    assert cloud.worker_named()["performance"] == "1.3 megapixelsteps per second"
    cloud.clock.pass_seconds(3600)  # idle time is not slowness
    draw(cloud, worker, n=4, seconds=6)
    cloud.stream()
    assert cloud.worker_named()["performance"] == "1.3 megapixelsteps per second"
    cloud.sweep()
    cloud.clock.pass_seconds(10)
    (found,) = cloud.call("GET /api/v2/status/models/{name}", name="stable_diffusion").body
    assert found["performance"] == pytest.approx(PIXELSTEPS / 6, rel=0.05)


def test_a_slow_worker_gets_no_request_that_refuses_slow_workers(cloud: Cloud, worker: str) -> None:
    _, key = cloud.register(kudos=1000)
    cloud.generate(key, slow_workers=False)
    assert cloud.pop(worker).body["id"]  # nobody knows yet
    draw(cloud, worker, seconds=30)
    cloud.stream()
    cloud.generate(key, slow_workers=False)
    assert cloud.pop(worker).body["skipped"] == {"performance": 1}


def settled(at: int, claimed: int) -> Settlement:
    return Settlement(
        entry_id=f"LEDGER#{at}",
        owner_id=1,
        worker_id="w",
        user_id=1,
        generation_id="g",
        model="m",
        pixelsteps=1000,
        claimed_at=claimed,
        settled_at=at,
        reward=1,
        tax=1,
    )


def after(record: WorkerStats, *images: Settlement) -> WorkerStats:
    """Return a worker's statistics after more images."""
    changes: dict[str, Any] = {**moving_speed(record, images)}
    return replace(record, **changes)


def test_a_batchs_seconds_are_counted_once() -> None:
    batch = [settled(10_000, 0), settled(20_000, 0), settled(30_000, 0)]
    together = after(NO_STATS, *batch)
    one_by_one = NO_STATS
    for event in batch:
        one_by_one = after(one_by_one, event)
    assert together.speed == pytest.approx(100, abs=1)
    assert one_by_one.speed == pytest.approx(100, abs=1)


def test_the_speed_follows_the_last_images() -> None:
    record = NO_STATS
    for number in range(1, 100):
        record = after(record, settled(number * 10_000, (number - 1) * 10_000))
    assert record.speed == pytest.approx(100, abs=2)
    start = record.settled_at
    for number in range(1, 60):
        event = settled(start + number * 1000, start + (number - 1) * 1000)
        record = after(record, event)
    assert 600 < (record.speed or 0) <= 1000


def test_nothing_is_counted_where_everything_was(cloud: Cloud, worker: str) -> None:
    draw(cloud, worker)
    cloud.stream()
    events = [
        event
        for record in [
            r for r in cloud.records_of_the_stream(again=True) if r["eventName"] == "INSERT"
        ]
        if _counts(record) and (event := event_of(record["dynamodb"]["NewImage"]))
    ]
    assert events
    assert cloud.store.payouts.post(events) == 0


def _counts(record: Any) -> bool:
    image = record["dynamodb"]["NewImage"]
    return bool(image["sk"]["S"] == "REQUEST" or image.get("kind") == {"S": "REWARD"})


@pytest.mark.lengthy
def test_a_reward_is_paid_once_when_it_is_counted(cloud: Cloud) -> None:
    owner, _ = cloud.register("owner")
    cloud.generate(params={"n": 3})
    cloud.draw(cloud.worker_key(owner))
    balances = []
    for _ in range(2):
        account = cloud.store.accounts.get(owner)
        assert account is not None
        balances.append((account.kudos, account.fulfilled))
        cloud.stream(again=True)
        cloud.stream(again=True)
    assert balances[0] == (FLOOR, 0)
    assert balances[1][1] == 3
    assert balances[1][0] == FLOOR + sum(entry["amount"] for entry in cloud.ledger(owner)[1:])
    assert {due.kind for due in cloud.due(10**11)} == {Due.REQUEST}


def test_a_reward_whose_record_was_lost_is_paid_by_the_sweep(cloud: Cloud) -> None:
    owner, _ = cloud.register("owner")
    cloud.generate(params={"n": 2})
    cloud.draw(cloud.worker_key(owner))
    cloud.stream(only="enqueue")
    cloud.clock.pass_seconds(301)
    cloud.sweep()
    account = cloud.store.accounts.get(owner)
    assert account is not None
    assert (account.fulfilled, account.kudos - FLOOR) == (2, 2 * REWARD)
    cloud.sweep()
    assert cloud.store.accounts.get(owner) == account


def test_what_this_horde_does_not_have_is_an_empty_list_or_zeros_in_the_hordes_shape(
    cloud: Cloud, worker: str
) -> None:
    cloud.pop(worker)  # neither a worker nor its id is named "messages"
    for path in ("v2/teams", "v1/teams", "v2/workers/messages"):
        answer = cloud.call(f"GET /api/{path}")
        assert (answer.status, answer.body) == (200, []), path
    totals = cloud.call("GET /api/v2/stats/text/totals")
    none = {"requests": 0, "tokens": 0}
    assert totals.status == 200
    assert totals.body == dict.fromkeys(("minute", "hour", "day", "month", "total"), none)
    models = cloud.call("GET /api/v2/stats/text/models")
    assert (models.status, models.body) == (200, {"day": {}, "month": {}, "total": {}})

"""What is counted from the stream: once, whatever comes twice, out of order, or is cut."""

from typing import Any

import pytest

from horde import statistics
from horde.fleet import Record
from horde.store import Store
from tests.flows.test_rules import PRICE
from tests.support.cloud import ANONYMOUS, Cloud

PS = 512 * 512 * 30
"""The pixelsteps of a usual image."""


@pytest.fixture
def owner(horde: Cloud) -> int:
    return horde.register("owner")[0]


@pytest.fixture
def worker(horde: Cloud, owner: int) -> str:
    return horde.worker_key(owner)


def totals(horde: Cloud) -> Any:
    horde.clock.pass_seconds(31)
    answer = horde.call("GET /api/v2/stats/img/totals")
    assert answer.status == 200, answer
    return answer.body


def by_model(horde: Cloud, **query: str) -> Any:
    horde.clock.pass_seconds(31)
    return horde.call("GET /api/v2/stats/img/models", query=query).body


def the_worker(horde: Cloud, name: str = "w1") -> Any:
    return horde.call("GET /api/v2/workers/name/{name}", name=name).body


def draw(horde: Cloud, worker: str, n: int = 1, seconds: float = 0, **fields: Any) -> None:
    """Ask for images and draw them, ``seconds`` for each."""
    horde.generate(**{"params": {"n": n}, **fields})
    while jobs := horde.pop(worker, amount=20, mixed_batch=True).body.get("jobs"):
        for job in jobs:
            horde.clock.pass_seconds(seconds)
            horde.upload(job["r2_upload"])
            assert horde.submit(worker, job["id"]).status == 200


def at_noon(horde: Cloud) -> None:
    now = horde.clock.now_ms()
    horde.clock.freeze(now - now % 86_400_000 + 43_200_000)


def test_nothing_drawn_is_nothing_counted(horde: Cloud) -> None:
    nothing = {"images": 0, "ps": 0}
    assert totals(horde) == {
        **dict.fromkeys(("minute", "hour", "day", "month", "total"), nothing),
        "anonymous": {"requests": 0, "images_requested": 0, "images": 0, "taxes": 0},
    }
    assert by_model(horde) == {"day": {}, "month": {}, "total": {}}


def test_each_delivered_image_is_counted_in_every_span(horde: Cloud, worker: str) -> None:
    at_noon(horde)
    draw(horde, worker, n=2)
    horde.stream()
    two, none = {"images": 2, "ps": 2 * PS}, {"images": 0, "ps": 0}
    horde.clock.pass_seconds(60 - 31)
    found = totals(horde)
    assert [found[span] for span in ("minute", "hour", "day", "month", "total")] == [two] * 5
    horde.clock.pass_seconds(120 - 31)
    found = totals(horde)
    assert [found[span] for span in ("minute", "hour", "day")] == [none, two, two]
    horde.clock.pass_seconds(3600)
    assert totals(horde)["hour"] == none
    horde.clock.pass_seconds(86_400)
    found = totals(horde)
    assert [found[span] for span in ("day", "month")] == [none, two]
    horde.clock.pass_seconds(31 * 86_400)
    found = totals(horde)
    assert [found[span] for span in ("month", "total")] == [none, two]


def test_the_past_minute_is_in_the_fleets_performance(horde: Cloud, worker: str) -> None:
    at_noon(horde)
    draw(horde, worker)
    horde.stream()
    horde.clock.pass_seconds(60)
    found = horde.call("GET /api/v2/status/performance").body
    assert found["past_minute_megapixelsteps"] == PS / 1e6


def test_images_are_counted_by_model(horde: Cloud, worker: str) -> None:
    long = "\u00fc" * 255
    for model in ("stable_diffusion", "rare", long):
        horde.generate(models=[model], params={"n": 2 if model == "rare" else 1})
        horde.draw(worker, models=[model])
    horde.stream()
    counts = {"stable_diffusion": 1, "rare": 2, long: 1}
    assert by_model(horde) == {"day": counts, "month": counts, "total": counts}
    assert by_model(horde, model_state="known")["total"] == {"stable_diffusion": 1}
    assert by_model(horde, model_state="custom")["total"] == {"rare": 2, long: 1}


def test_a_worker_has_a_record_of_what_it_did(horde: Cloud, worker: str) -> None:
    draw(horde, worker, n=2)
    horde.generate()
    job = horde.pop(worker).body
    horde.submit(worker, job["id"], state="faulted")
    horde.stream()
    found = the_worker(horde)
    assert found["requests_fulfilled"] == 2
    assert found["kudos_rewards"] == found["kudos_details"]["generated"] == 14
    assert found["megapixelsteps_generated"] == 2 * PS / 1e6
    assert found["uncompleted_jobs"] == 1


def test_a_claim_that_comes_to_nothing_is_counted_however_it_ends(
    horde: Cloud, worker: str
) -> None:
    horde.generate()
    for _ in range(2):
        horde.submit(worker, horde.pop(worker).body["id"], state="faulted")
    horde.pop(worker)
    horde.clock.pass_seconds(200)
    horde.sweep()  # the lease ran out: the third fault ends it
    assert the_worker(horde)["uncompleted_jobs"] == 3
    horde.generate()
    request = horde.generate(params={"steps": 8}).body["id"]
    horde.cancel(request)  # nobody had it
    assert the_worker(horde)["uncompleted_jobs"] == 3


def test_a_censored_image_was_drawn_too(horde: Cloud, worker: str) -> None:
    horde.generate()
    job = horde.pop(worker).body
    horde.upload(job["r2_upload"])
    horde.submit(worker, job["id"], state="censored")
    horde.stream()
    assert totals(horde)["total"]["images"] == 1


def test_a_record_that_comes_again_is_not_counted_again(horde: Cloud, worker: str) -> None:
    draw(horde, worker, n=3)
    horde.stream()
    once = totals(horde), the_worker(horde), by_model(horde)
    horde.stream(again=True)
    draw(horde, worker)  # new ones among old ones
    horde.stream(again=True)
    assert totals(horde)["total"]["images"] == once[0]["total"]["images"] + 1 == 4
    assert the_worker(horde)["requests_fulfilled"] == 4
    assert totals(horde)["anonymous"]["requests"] == 2


def test_a_record_twice_in_one_batch_is_counted_once(horde: Cloud, worker: str) -> None:
    draw(horde, worker, n=2)
    records = horde._records()
    rewards = [
        r for r in records if r["dynamodb"].get("NewImage", {}).get("kind") == {"S": "REWARD"}
    ]
    inserted = [r for r in rewards if r["eventName"] == "INSERT"]
    assert len(inserted) == 2
    assert horde.invoke("tally", {"Records": inserted * 3}) == {"batchItemFailures": []}
    assert totals(horde)["total"] == {"images": 2, "ps": 2 * PS}


def test_records_out_of_order_are_counted_in_their_own_time(horde: Cloud, worker: str) -> None:
    at_noon(horde)
    for _ in range(3):
        draw(horde, worker, seconds=6)
        horde.clock.pass_seconds(600)
    rewards = [
        r
        for r in horde._records()
        if r["eventName"] == "INSERT"
        and "tax" in r["dynamodb"]["NewImage"]
        and r["dynamodb"]["NewImage"]["sk"]["S"].startswith("LEDGER#")
    ]
    assert len(rewards) == 3
    for record in reversed(rewards):
        horde.invoke("tally", {"Records": [record]})
    minutes = [row for row in stats(horde) if row.startswith("MINUTE#")]
    assert len(minutes) == 3
    assert totals(horde)["hour"]["images"] == 3


def stats(horde: Cloud) -> list[str]:
    return [item["sk"]["S"] for item in horde.store._stats("A", "Z")]


def test_a_tally_that_is_cut_counts_the_rest_when_it_comes_again(
    horde: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tally

    monkeypatch.setattr(tally, "AT_ONCE", 2)
    draw(horde, worker, n=5)
    real, calls = Store._transact, []

    def cut(self: Store, parts: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError
        real(self, parts)
        if len(calls) == 4:  # written, and the answer lost
            raise OSError

    monkeypatch.setattr(Store, "_transact", cut)
    horde.stream()
    assert len(calls) > 4
    assert horde.uncounted == []
    assert totals(horde)["total"]["images"] == 5
    assert the_worker(horde)["requests_fulfilled"] == 5


def test_a_record_that_cannot_be_read_is_left_alone(horde: Cloud, worker: str) -> None:
    draw(horde, worker)
    horde.db.put_item(
        TableName=horde.table,
        Item={
            "pk": {"S": "USER#9"},
            "sk": {"S": "LEDGER#x"},
            "kind": {"S": "REWARD"},
            "amount": {"N": "0"},
            "postings": {"M": {}},
            "reference": {"S": "?"},
        },
    )
    draw(horde, worker)
    horde.stream()
    assert totals(horde)["total"]["images"] == 2
    assert len(horde.uncounted) == 1
    horde.db.delete_item(
        TableName=horde.table, Key={"pk": {"S": "USER#9"}, "sk": {"S": "LEDGER#x"}}
    )


def test_more_counters_than_a_transaction_takes_are_counted_in_parts(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde import store

    monkeypatch.setattr(store, "BATCH", 12)
    real, sizes = Store._transact, []

    def spy(self: Store, parts: Any) -> None:
        sizes.append(len(parts))
        real(self, parts)

    owner = horde.register("many")[0]
    key = horde.worker_key(owner)
    horde.generate(params={"n": 5})
    for number in range(5):
        job = horde.pop(key, name=f"w{number}").body
        horde.upload(job["r2_upload"])
        horde.submit(key, job["id"])
    monkeypatch.setattr(Store, "_transact", spy)
    horde.stream()
    assert len(sizes) > 1
    assert max(sizes) <= 12
    assert totals(horde)["total"]["images"] == 5
    assert {the_worker(horde, f"w{n}")["requests_fulfilled"] for n in range(5)} == {1}


def test_the_anonymous_accounts_requests_images_and_taxes_are_counted(
    horde: Cloud, worker: str
) -> None:
    _, key = horde.register(kudos=1000)
    horde.generate(key)
    horde.generate(ANONYMOUS, params={"n": 3})
    horde.cancel(horde.generate(ANONYMOUS, params={"n": 2}).body["id"])
    horde.draw(worker)
    horde.stream()
    horde.stream(again=True)
    assert totals(horde)["anonymous"] == {
        "requests": 2,
        "images_requested": 5,
        "images": 3,  # a cancelled image burns no tax
        "taxes": 3,
    }


def test_the_anonymous_account_itself_is_never_written(horde: Cloud, worker: str) -> None:
    draw(horde, worker)
    horde.stream()
    assert "USER#0" not in {item["pk"]["S"] for item in horde.rows("USER")}


def test_a_workers_speed_is_what_it_drew_by_the_time_it_had_work(horde: Cloud, worker: str) -> None:
    horde.clock.freeze(horde.clock.now_ms())
    draw(horde, worker, n=4, seconds=6)
    horde.stream()
    assert the_worker(horde)["performance"] == "1.3 megapixelsteps per second"
    horde.clock.pass_seconds(3600)  # idle time is not slowness
    draw(horde, worker, n=4, seconds=6)
    horde.stream()
    assert the_worker(horde)["performance"] == "1.3 megapixelsteps per second"
    horde.sweep()
    horde.clock.pass_seconds(10)
    (found,) = horde.call("GET /api/v2/status/models/{name}", name="stable_diffusion").body
    assert found["performance"] == pytest.approx(PS / 6, rel=0.05)


def test_a_slow_worker_gets_no_request_that_refuses_slow_workers(horde: Cloud, worker: str) -> None:
    _, key = horde.register(kudos=1000)
    horde.generate(key, slow_workers=False)
    assert horde.pop(worker).body["id"]  # nobody knows yet
    draw(horde, worker, seconds=30)
    horde.stream()
    horde.generate(key, slow_workers=False)
    assert horde.pop(worker).body["skipped"] == {"performance": 1}


def settled(at: int, claimed: int) -> statistics.Settled:
    return statistics.Settled(
        entry=("USER#1", f"LEDGER#{at}"),
        worker_id="w",
        user_id=1,
        model="m",
        pixelsteps=1000,
        claimed_at=claimed,
        settled_at=at,
        kudos=1,
        tax=1,
    )


def test_a_batchs_seconds_are_counted_once() -> None:
    batch = [settled(10_000, 0), settled(20_000, 0), settled(30_000, 0)]
    together = Record(**statistics.pace(Record(), batch))
    one_by_one = Record()
    for event in batch:
        one_by_one = Record(**statistics.pace(one_by_one, [event]))
    assert together.speed == pytest.approx(100, abs=1)
    assert one_by_one.speed == pytest.approx(100, abs=1)


def test_the_speed_follows_the_last_images() -> None:
    record = Record()
    for number in range(1, 100):
        record = Record(
            **statistics.pace(record, [settled(number * 10_000, (number - 1) * 10_000)])
        )
    assert record.speed == pytest.approx(100, abs=2)
    start = record.settled_at
    for number in range(1, 60):
        event = settled(start + number * 1000, start + (number - 1) * 1000)
        record = Record(**statistics.pace(record, [event]))
    assert 600 < (record.speed or 0) <= 1000


def test_nothing_is_counted_where_everything_was(horde: Cloud, worker: str) -> None:
    draw(horde, worker)
    horde.stream()
    events = [
        event
        for record in [r for r in _all_records(horde) if r["eventName"] == "INSERT"]
        if _counts(record) and (event := statistics.read(record["dynamodb"]["NewImage"]))
    ]
    assert events
    assert horde.store.tally(events) == 0


def _all_records(horde: Cloud) -> list[Any]:
    horde._iterators.clear()
    return horde._records()


def _counts(record: Any) -> bool:
    image = record["dynamodb"]["NewImage"]
    return bool(image["sk"]["S"] == "REQUEST" or image.get("kind") == {"S": "REWARD"})


def test_a_reward_is_paid_once_when_it_is_counted(horde: Cloud) -> None:
    owner, _ = horde.register("owner")
    horde.generate(params={"n": 3})
    horde.draw(horde.worker_key(owner))
    balances = []
    for _ in range(2):
        account = horde.store.user(owner)
        assert account is not None
        balances.append((account.kudos, account.fulfilled))
        horde.stream(again=True)
        horde.stream(again=True)
    assert balances[0] == (14, 0)
    assert balances[1][1] == 3
    assert balances[1][0] == 14 + sum(entry["amount"] for entry in horde.ledger(owner)[1:])
    assert {due.kind for due in horde.store.due(10**11)} == {"REQUEST"}


def test_a_reward_whose_record_was_lost_is_paid_by_the_sweep(horde: Cloud) -> None:
    owner, _ = horde.register("owner")
    horde.generate(params={"n": 2})
    horde.draw(horde.worker_key(owner))
    horde.stream(only="enqueue")
    horde.clock.pass_seconds(301)
    horde.sweep()
    account = horde.store.user(owner)
    assert account is not None
    assert (account.fulfilled, account.kudos - 14) == (2, 2 * PRICE)
    horde.sweep()
    assert horde.store.user(owner) == account

"""Rewards are posted in as few transactions as DynamoDB allows: a hundred items each."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from horde.records import Settlement, State
from horde.rules import statistics
from horde.store import settlements
from horde.store.table import BATCH, Table
from tests.support.cloud import Cloud, fresh_cloud
from tests.support.records import IMAGE, REQUEST


@pytest.fixture
def bare(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[Cloud]:
    """A cloud that nobody audits after the test: these rewards are of no image."""
    with fresh_cloud(template, clients) as cloud:
        yield cloud


def pending(cloud: Cloud, count: int) -> list[Settlement]:
    """Append so many rewards of one worker, which nobody has posted."""
    owner, _ = cloud.register("owner")
    worker, found = str(uuid.uuid4()), []
    for _ in range(count):
        image = replace(
            IMAGE, id=str(uuid.uuid4()), worker_id=worker, worker_user=owner, lease_until=200
        )
        part = settlements.pending(REQUEST, image, State.OK, cloud.clock.now_ms())
        cloud.store.table.transact([part])
        entry = cloud.store.payouts.pending(owner, part["Put"]["Item"]["sk"]["S"])
        assert entry is not None
        found.append(entry)
    return found


@pytest.mark.lengthy
@pytest.mark.parametrize(("over", "parts"), [(0, 1), (1, 2)])
def test_as_many_rewards_are_posted_at_once_as_a_transaction_has_room_for(
    bare: Cloud, monkeypatch: pytest.MonkeyPatch, over: int, parts: int
) -> None:
    events = pending(bare, BATCH)
    beside = len(statistics.counters(events)) + 1  # the counters, and the owner's account
    events = events[: BATCH - beside + over]
    sizes: list[int] = []
    real = Table.transact

    def counted(table: Table, items: list[Any]) -> None:
        sizes.append(len(items))
        real(table, items)

    with monkeypatch.context() as patch:
        patch.setattr(Table, "transact", counted)
        assert bare.store.payouts.post(events) == len(events)
    assert len(sizes) == parts
    assert sum(sizes) == len(events) + parts * beside
    assert max(sizes) - min(sizes) <= 1
    assert bare.store.payouts.post(events) == 0

"""The sweep keeps up: what is due is worked off in parallel, and leases are never late.

moto would need an hour for 100,000 rows. So rows, calls and time are simulated here, while the
sweep, its events and ``finish`` are the real ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import finish
import sweep
from horde import aws, clock, overdue
from horde.records import State
from horde.store import connect
from horde.store.due import Due, DueRow
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR, LIFE_S

START_S = 1_800_000_000
COST_S = {
    Due.LEASE: 0.06,
    Due.IMAGE: 0.04,
    Due.REQUEST: 0.06,
    Due.REWARD: 0.03,
    Due.ACCOUNT: 0.5,
}
"""Seconds that a row costs at 512 MB: three to six calls, and their CPU."""
MINUTE_S = 60


@dataclass
class World:
    """Rows that are due, by kind and shard, and one clock for each run."""

    now: float = START_S
    rows: dict[tuple[Due, int], dict[str, int]] = field(default_factory=dict)
    late_s: dict[Due, float] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: Due, number: int, at: int) -> None:
        self.rows.setdefault((kind, number % kind.shards), {})[f"{kind}-{number}"] = at

    def of_shard(self, kind: Due, shard: int, now: int) -> Iterator[DueRow]:
        found = sorted((at, name) for name, at in self.rows.get((kind, shard), {}).items())
        yield from (DueRow(kind, name) for at, name in found if at <= now)

    def until(self, kind: Due, now: int) -> Iterator[DueRow]:
        for shard in range(kind.shards):
            yield from self.of_shard(kind, shard, now)

    def finish(self, _store: Any, row: DueRow, _now: int) -> None:
        number = int(row.id.rpartition("-")[2])
        at = self.rows[row.kind, number % row.kind.shards].pop(row.id)
        self.now += COST_S[row.kind]
        self.late_s[row.kind] = max(self.late_s.get(row.kind, 0), self.now - at)

    def hand_over(self, function: str, event: dict[str, Any]) -> None:
        assert function == "finish"
        self.events.append(event)

    def minute(self) -> None:
        """Run the sweep, and then each event that it handed over, all at the same time."""
        began = self.now
        sweep.handler({}, None)
        assert self.now - began < 55
        handed, self.events = self.events, []
        asked = self.now
        for event in handed:
            self.now = asked
            finish.handler(event, None)
            assert self.now - asked < 55
        self.now = began + MINUTE_S

    def left(self, *kinds: Due) -> int:
        return sum(len(rows) for (kind, _), rows in self.rows.items() if kind in (kinds or Due))


@pytest.fixture
def world(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(clock, "now_ms", lambda: int(made.now * 1000))
    store = connect(cloud.table)
    for name, value in {"until": made.until, "of_shard": made.of_shard}.items():
        monkeypatch.setattr(store.due, name, value, raising=False)
    monkeypatch.setattr(overdue, "finish", made.finish)
    monkeypatch.setattr(aws, "hand_over", made.hand_over)
    for step in (sweep.count_fleet, sweep.top_up, sweep.release_held):
        monkeypatch.setattr(sweep, step.__name__, lambda _: 0)
    for file in ("sweep", "finish"):
        for variable, setting in cloud.environment(file).items():
            monkeypatch.setenv(variable, setting)
    aws.clear_settings()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Due.REQUEST, Due.IMAGE])
def test_a_backlog_of_100_000_rows_is_worked_off_and_no_lease_is_two_minutes_late(
    world: World, kind: Due
) -> None:
    for number in range(100_000):
        world.add(kind, number, START_S - 1)
    minutes = 0
    while world.left(kind):
        for number in range(100):  # workers go on dying meanwhile
            world.add(Due.LEASE, minutes * 1000 + number, int(world.now) + number // 2)
        world.minute()
        minutes += 1
    assert minutes <= 15
    assert world.late_s[Due.LEASE] < 120


def test_leases_of_a_whole_fleet_are_ended_within_two_minutes(world: World) -> None:
    for number in range(10_000):
        world.add(Due.LEASE, number, START_S)
    world.minute()
    world.minute()
    assert world.left() == 0
    assert world.late_s[Due.LEASE] < 120


def test_few_rows_need_no_other_function(world: World) -> None:
    for kind in Due:
        for number in range(10):
            world.add(kind, number, START_S)
    sweep.handler({}, None)
    assert world.events == []
    assert world.left() == 0


def test_a_message_that_the_sweep_has_sent_again_is_let_go(world: World) -> None:
    world.add(Due.REQUEST, 0, START_S)
    event = {"kind": Due.REQUEST, "shard": 0}
    for at, left in ((START_S - finish.STALE_S, 1), (START_S - finish.STALE_S + 1, 0)):
        finish.handler({**event, "at": at}, None)
        assert world.left() == left


def states(cloud: Cloud) -> set[State]:
    return {State(item["state"]["S"]) for item in cloud.rows("GENERATION")}


def test_too_much_for_the_sweep_is_finished_all_the_same(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "MAX_HERE", 1)
    user, key = cloud.register(kudos=1000)
    assert {cloud.generate(key).status for _ in range(3)} == {202}
    cloud.clock.pass_seconds(LIFE_S + 1)
    cloud.sweep()
    assert states(cloud) == {State.WAITING}
    assert cloud.deliver("finish", twice=True) == Due.REQUEST.shards
    assert states(cloud) == {State.EXPIRED}
    assert cloud.due(10**11) == []
    assert cloud.kudos(user) == 1000 + FLOOR


def test_a_row_that_cannot_be_finished_stops_no_other_and_raises_the_alarm(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {cloud.generate(ip=f"203.0.113.{n}").status for n in range(2)} == {202}
    cloud.clock.pass_seconds(LIFE_S + 1)
    rows = cloud.due(cloud.clock.now_ms() // 1000)
    real, bad = overdue.finish, rows[0].id

    def fails(store: Any, row: DueRow, now: int) -> None:
        if row.id == bad:
            message = "cannot be read"
            raise ValueError(message)
        real(store, row, now)

    monkeypatch.setattr(overdue, "finish", fails)
    monkeypatch.setattr(sweep, "MAX_HERE", 1)
    cloud.sweep()
    cloud.deliver("finish")
    assert len(cloud.dead["finish"]) == 1  # the alarm's; the sweep asks again
    monkeypatch.setattr(overdue, "finish", real)
    monkeypatch.setattr(sweep, "MAX_HERE", 200)
    cloud.sweep()
    assert states(cloud) == {State.EXPIRED}

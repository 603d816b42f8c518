"""The counters: statistics by minute, day and model, and of each worker.

``add`` returns a part for the transaction that writes the counted event, so each event is counted
exactly once.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from horde import clock
from horde.records import ANONYMOUS_ID, NO_STATS, Amount, ModelCounts, Totals, WorkerStats
from horde.rules.dates import DAY_S, HOUR_S, day, minute
from horde.rules.statistics import MONTH_DAYS, Counter, Scope, Series
from horde.store.items import (
    PK,
    SK,
    TTL,
    Item,
    Kind,
    Row,
    encode_all,
    from_item,
    key_of,
    partition,
    stats_key,
)
from horde.store.table import Table
from horde.store.transaction import update

STATS_KEEP_S = 90 * DAY_S
"""Seconds without a drawn image after which a worker's statistics are deleted."""
COUNTERS = Kind.STATS.value
"""The partition of the counters that belong to no worker or account."""
MINUTE_MS = 60_000


_PREFIX = {
    Scope.MINUTE: "MINUTE",
    Scope.DAY: "DAY",
    Scope.TOTAL: "TOTAL",
    Scope.MODEL_DAY: "MODELDAY",
    Scope.MODEL: "MODEL",
}
"""How the sort keys of the counters begin that belong to no worker or account."""
_SCOPES = {prefix: scope for scope, prefix in _PREFIX.items()}


def row(series: Series) -> Row:
    """Return the key of a series' item. Model names are hashed: they may exceed a sort key."""
    if series.scope is Scope.WORKER:
        return Row(partition(Kind.WORKER, series.name), Kind.STATS)
    if series.scope is Scope.ANONYMOUS:
        return Row(partition(Kind.USER, ANONYMOUS_ID), Kind.STATS)
    model = hashlib.sha256(series.name.encode()).hexdigest()[:32] if series.name else ""
    parts = (_PREFIX[series.scope], series.period, model)
    return Row(COUNTERS, "#".join(part for part in parts if part))


def scope_of(row: Row) -> Scope:
    """Return the scope of a counter item, from its key."""
    if row.pk != COUNTERS:
        return Scope.WORKER if row.pk.startswith(f"{Kind.WORKER}#") else Scope.ANONYMOUS
    return _SCOPES[row.sk.partition("#")[0]]


def add(series: Series, counter: Counter, changes: Mapping[str, int] | None = None) -> Item:
    """Return the part that adds ``counter`` to a series and sets the fields of ``changes``.

    A new item starts at 0.
    """
    fixed: dict[str, Any] = dict(changes or {})
    if counter.gone_at:
        fixed[TTL] = counter.gone_at
    elif series.scope is Scope.WORKER:
        fixed[TTL] = clock.now() + STATS_KEEP_S
    if series.scope in {Scope.MODEL, Scope.MODEL_DAY}:
        fixed["model"] = series.name
    setting = "SET " + ", ".join(f"#{name} = :{name}" for name in fixed) + " " if fixed else ""
    return update(
        key_of(row(series)),
        setting + "ADD " + ", ".join(f"#{name} :{name}" for name in counter.add),
        "",
        encode_all(counter.add | fixed),
        {f"#{name}": name for name in [*counter.add, *fixed]},
    )


class Counters:
    """Reads of the counters."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def anonymous(self) -> WorkerStats:
        """Read the anonymous account's statistics."""
        item = self._table.get(stats_key(Kind.USER, ANONYMOUS_ID))
        return from_item(WorkerStats, item) if item else NO_STATS

    def totals(self, now_ms: int) -> Totals:
        """Return the images and work up to ``now_ms`` (ms since the epoch), by period."""

        def minute_of(ms: int) -> str:
            return row(Series(Scope.MINUTE, period=minute(ms))).sk

        def day_of(ms: int) -> str:
            return row(Series(Scope.DAY, period=day(ms))).sk

        minutes = self.between(minute_of(now_ms - HOUR_S * 1000), minute_of(now_ms))
        days = self.between(day_of(_month_ago(now_ms)), day_of(now_ms))
        total = row(Series(Scope.TOTAL)).sk
        nothing = Amount()
        return Totals(
            minute=_amounts(minutes).get(minute_of(now_ms - MINUTE_MS), nothing),
            hour=_sum(_amounts(minutes)),
            day=_amounts(days).get(day_of(now_ms), nothing),
            month=_sum(_amounts(days)),
            total=_sum(_amounts(self.between(total, total))),
        )

    def by_model(self, now_ms: int) -> ModelCounts:
        """Return the images by model up to ``now_ms`` (ms since the epoch)."""
        by_day, ever = _PREFIX[Scope.MODEL_DAY], _PREFIX[Scope.MODEL]
        today = f"{by_day}#{day(now_ms)}#"
        month = self.between(f"{by_day}#{day(_month_ago(now_ms))}#", f"{today}~")
        return ModelCounts(
            day=_by_model(item for item in month if item[SK]["S"].startswith(today)),
            month=_by_model(month),
            total=_by_model(self.between(f"{ever}#", f"{ever}#~")),
        )

    def between(self, first: str, last: str, *, consistent: bool = False) -> list[Item]:
        """Read the counters between two sort keys, inclusive."""
        pages = self._table.pages(
            f"{PK} = :stats AND {SK} BETWEEN :first AND :last",
            {"stats": COUNTERS, "first": first, "last": last},
            ConsistentRead=consistent,
        )
        return [item for page in pages for item in page]


def _month_ago(now_ms: int) -> int:
    return now_ms - (MONTH_DAYS - 1) * DAY_S * 1000


def _amounts(items: Iterable[Item]) -> dict[str, Amount]:
    return {
        item[SK]["S"]: Amount(int(item["images"]["N"]), int(item["pixelsteps"]["N"]))
        for item in items
    }


def _sum(amounts: Mapping[str, Amount]) -> Amount:
    return Amount(
        sum(amount.images for amount in amounts.values()),
        sum(amount.pixelsteps for amount in amounts.values()),
    )


def _by_model(items: Iterable[Item]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in items:
        name = item["model"]["S"]
        found[name] = found.get(name, 0) + int(item["images"]["N"])
    return found

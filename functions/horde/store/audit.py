"""Reads for the audit alone: the whole table, and the rows that confirm a finding.

No Lambda imports this module (``tests/infra/test_rooms.py``).
"""

from collections.abc import Iterable, Iterator, Mapping

from horde.rules import kudos
from horde.rules.dates import iso
from horde.rules.statistics import Scope, Series
from horde.store.counters import Counters, row
from horde.store.items import (
    PK,
    SK,
    WORKER_SHARDS,
    Item,
    Kind,
    Row,
    encode_all,
    id_of,
    key_of,
    partition,
    row_of,
    workers_shard,
)
from horde.store.table import Table


def ledger_from(since_ms: int) -> str:
    """Return the lowest sort key of ledger entries written at or after a time, in ms."""
    return f"{Kind.LEDGER}#{iso(since_ms)}"


class AuditStore:
    """The table as the audit reads it. No method writes."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._counters = Counters(table)

    def size(self) -> int:
        """Return the approximate number of items; DynamoDB updates it every six hours."""
        described = self._table.client.describe_table(TableName=self._table.name)
        return described["Table"]["ItemCount"]

    def scan(self, segment: int = 0, segments: int = 1) -> Iterator[list[Item]]:
        """Yield the items of one of ``segments`` parts of the table, a page at a time.

        The parts together are the whole table and may be read in parallel. Each page shows the
        table at the time it is read, so the scan is not a snapshot.
        """
        return self._table.scan(Segment=segment, TotalSegments=segments, ConsistentRead=True)

    def rows(self, keys: Iterable[Row]) -> list[Item]:
        """Read items by their keys, in no order; missing items are left out."""
        return self._table.batch(key_of(row) for row in dict.fromkeys(keys))

    def partitions(self, names: Iterable[str]) -> list[Item]:
        """Read all items of partitions."""
        pages = (
            self._table.pages(f"{PK} = :pk", {"pk": name}, ConsistentRead=True) for name in names
        )
        return [item for found in pages for page in found for item in page]

    def account_since(self, user_id: int, since_ms: int) -> list[Item]:
        """Read an account's ledger entries since a time (ms), and then the account itself."""
        pages = self._table.pages(
            f"{PK} = :pk AND {SK} >= :since",
            {"pk": partition(Kind.USER, user_id), "since": ledger_from(since_ms)},
            ConsistentRead=True,
        )
        return [item for page in pages for item in page]

    def transfers_since(self, since_ms: int) -> list[Item]:
        """Read all ledger entries of transfers since a time (ms). Scans the whole table."""
        bounds = {"since": ledger_from(since_ms), "until": f"{Kind.LEDGER}#~"}
        pages = self._table.scan(
            FilterExpression=f"kind = :kind AND {SK} BETWEEN :since AND :until",
            ExpressionAttributeValues=encode_all({"kind": kudos.Kind.TRANSFER, **bounds}),
            ConsistentRead=True,
        )
        return [item for page in pages for item in page]

    def counted(self, rows: Iterable[Row] | None = None) -> dict[Row, dict[str, int]]:
        """Read counters and workers' statistics: those of ``rows``, or all.

        A worker without statistics maps to an empty dictionary; a deleted worker is left out.
        """
        if rows is None:
            wanted = [row(Series(Scope.ANONYMOUS))]
            wanted += [row(Series(Scope.WORKER, worker_id)) for worker_id in self._workers()]
        else:
            wanted = [one for one in rows if one.pk != Kind.STATS]
        found: dict[Row, dict[str, int]] = {one: {} for one in wanted}
        shared = self._counters.between("A", "~", consistent=True)
        for item in [*shared, *self._table.batch(key_of(one) for one in wanted)]:
            found[row_of(item)] = numbers_of(item)
        return found

    def _workers(self) -> Iterator[str]:
        for shard in range(WORKER_SHARDS):
            for page in self._table.list_pages(workers_shard(shard)):
                yield from map(id_of, page)


def numbers_of(item: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Return an item's numeric attributes by name."""
    return {name: int(value["N"]) for name, value in item.items() if "N" in value}

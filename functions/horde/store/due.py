"""The due index: expired leases and requests, rewards not posted in time, deleted accounts."""

from collections.abc import Iterator
from dataclasses import dataclass

from horde.store.items import DUE, DUE_SHARDS, SK, Kind, id_of
from horde.store.table import Table


@dataclass(frozen=True, slots=True)
class DueRow:
    """One row of the due index.

    It is an expired lease (``GENERATION``), an expired request (``REQUEST``), a deleted account
    (``USER``), or a reward not posted in time (``LEDGER``, whose id is its whole sort key).
    """

    kind: Kind
    id: str
    user_id: int = 0
    """The account whose ledger holds a reward."""


class DueRows:
    """The due index."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def until(self, now: int) -> Iterator[DueRow]:
        """Yield the rows that are due by ``now`` (seconds), oldest first in each shard."""
        for shard in range(DUE_SHARDS):
            pages = self._table.pages(
                f"{DUE.partition} = :shard AND {DUE.sort} <= :now",
                {"shard": f"due#{shard}", "now": now},
                IndexName=DUE.name,
            )
            for page in pages:
                for item in page:
                    kind = Kind(item[SK]["S"].partition("#")[0])
                    if kind is Kind.LEDGER:
                        yield DueRow(kind, item[SK]["S"], int(id_of(item)))
                    else:
                        yield DueRow(kind, id_of(item))

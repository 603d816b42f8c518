"""The due index: what has expired, rewards not posted in time, and deleted accounts."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from horde.store.items import DUE, SK, Item, Kind, id_of
from horde.store.table import Table


class Due(StrEnum):
    """What an item is due for, which is the first part of its partition of the due index.

    Each has partitions of its own, so that a backlog of one does not delay another.
    """

    LEASE = "lease"
    IMAGE = "image"
    REQUEST = "request"
    REWARD = "reward"
    ACCOUNT = "account"

    @property
    def shards(self) -> int:
        """The number of its partitions: none becomes hot, and each is worked off alone."""
        return _DUE_SHARDS[self]


_DUE_SHARDS = {Due.LEASE: 8, Due.IMAGE: 16, Due.REQUEST: 16, Due.REWARD: 8, Due.ACCOUNT: 1}


def due_partition(kind: Due, shard: int) -> str:
    """Return one partition of the due index."""
    return f"{kind}#{shard}"


def due_shard(kind: Due, key: str | int) -> str:
    """Return the partition of the due index for an item with this UUID or number."""
    number = key if isinstance(key, int) else uuid.UUID(key).int
    return due_partition(kind, number % kind.shards)


def due(kind: Due, key: str, at_s: int) -> Item:
    """Return the attributes that make an item due at a time (seconds since the epoch)."""
    return {DUE.partition: {"S": due_shard(kind, key)}, DUE.sort: {"N": str(at_s)}}


@dataclass(frozen=True, slots=True)
class DueRow:
    """One row of the due index."""

    kind: Due
    id: str
    """The leased or waiting image, the request, the account, or the sort key of a reward."""
    user_id: int = 0
    """The account whose ledger holds a reward."""


class DueRows:
    """The due index."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def until(self, kind: Due, now: int) -> Iterator[DueRow]:
        """Yield the rows of a kind that are due by ``now`` (seconds), shard after shard."""
        for shard in range(kind.shards):
            yield from self.of_shard(kind, shard, now)

    def of_shard(self, kind: Due, shard: int, now: int) -> Iterator[DueRow]:
        """Yield the rows of one shard that are due by ``now`` (seconds), oldest first."""
        pages = self._table.pages(
            f"{DUE.partition} = :shard AND {DUE.sort} <= :now",
            {"shard": due_partition(kind, shard), "now": now},
            IndexName=DUE.name,
        )
        for page in pages:
            for item in page:
                if item[SK]["S"].startswith(f"{Kind.LEDGER}#"):
                    yield DueRow(kind, item[SK]["S"], int(id_of(item)))
                else:
                    yield DueRow(kind, id_of(item))

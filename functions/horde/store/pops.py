"""What a pop, and a new request, read of who sends them, with the marks of their queues."""

from collections.abc import Iterable

from horde.records import NO_STATS, ApiKey, Dropped, User, Worker, WorkerStats
from horde.store import counts
from horde.store.apikeys import key_of_item
from horde.store.items import SK, Kind, by_kind, from_item, key, stats_key
from horde.store.registry import Marks, Registry
from horde.store.table import Table
from horde.store.workers import name_key, worker_of


class Pops:
    """The reads of a pop."""

    def __init__(self, table: Table, registry: Registry) -> None:
        self._table = table
        self._registry = registry

    def key(self, key_hash: str, targets: Iterable[str]) -> ApiKey | None:
        """Return the API key with this hash, and read the marks of targets in the same call.

        The marks are then what this process remembers.
        """
        _, unread = self._registry.known(targets)
        items = self._table.batch([key(Kind.KEY, key_hash), *unread])
        self._registry.take(unread, items)
        found = [item for item in items if item[SK]["S"] == Kind.KEY]
        return key_of_item(found[0]) if found else None

    def caller(self, key_hash: str, name: str) -> tuple[ApiKey | None, str | None]:
        """Return the API key with this hash, and the id of the worker with this name."""
        keys = [key(Kind.KEY, key_hash), name_key(name)]
        found = by_kind(self._table.batch(keys))
        api_key, named = found.get(Kind.KEY), found.get(Kind.NAME)
        return (
            key_of_item(api_key) if api_key else None,
            str(named["worker_id"]["S"]) if named else None,
        )

    def context(
        self, worker_id: str | None, owner_id: int, others: Iterable[int], targets: Iterable[str]
    ) -> tuple[Worker | None, WorkerStats, Dropped, dict[int, User], Marks, bool]:
        """Read all that a pop decides from, in one call unless it is of very many models.

        That is a worker, its statistics, what its owner's workers dropped in this hour, the
        accounts of its owner and ``others`` by id, and the marks of the queues of ``targets``.
        Missing items are left out. Last is whether all marks were read now; some may be from a pop
        a moment ago.
        """
        wanted = list(dict.fromkeys(targets))
        known, unread = self._registry.known(wanted)
        keys = [counts.dropped_key(owner_id), *unread]
        keys += [key(Kind.USER, one) for one in dict.fromkeys((owner_id, *others))]
        if worker_id is not None:
            keys += [key(Kind.WORKER, worker_id), stats_key(Kind.WORKER, worker_id)]
        items = self._table.batch(keys)
        marks = {**known, **self._registry.take(unread, items)}
        found = by_kind(items)
        stats = found.get(Kind.STATS)
        users = [from_item(User, item) for item in items if item[SK]["S"] == Kind.USER]
        return (
            worker_of(found.get(Kind.WORKER)),
            from_item(WorkerStats, stats) if stats else NO_STATS,
            counts.dropped(found.get(Kind.DROPPED), worker_id),
            {user.id: user for user in users},
            marks,
            len(unread) == len(wanted),
        )

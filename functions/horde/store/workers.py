"""Workers, their names, and the models they offer."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from horde import clock
from horde.records import NO_STATS, ONLINE_S, Offer, User, Worker, WorkerStats
from horde.rules.dates import DAY_S
from horde.rules.refusals import WorkerHoldsImages
from horde.store import counts
from horde.store.items import (
    KEEP_S,
    LISTED,
    PK,
    SK,
    TTL,
    WORKER_SHARDS,
    Item,
    Kind,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    key_of,
    listed,
    partition,
    stats_key,
    to_item,
    workers_list,
    workers_shard,
)
from horde.store.remembered import Remembered
from horde.store.table import ConditionFailed, Table
from horde.store.transaction import ABSENT, delete, new, sets, update

WORKER_KEEP_S = 30 * DAY_S
"""Seconds without a pop after which a worker is deleted and its name is free again."""
MAX_NEW_MODELS = 2
"""Most models of an offer that are recorded at once, with a write each."""
_OFFER_FIELDS = (
    "bridge_agent",
    "models",
    "max_pixels",
    "threads",
    "nsfw",
    "img2img",
    "painting",
    "post_processing",
    "lora",
    "controlnet",
    "sdxl_controlnet",
    "unable",
    "extra_slow",
    "limit_max_steps",
    "require_upfront_kudos",
)
"""The fields of an offer that are stored with its worker."""


LIVE_CACHE_S = 10
"""Seconds for which a process remembers whether an online worker offers a model."""
_live = Remembered[tuple[str, str], tuple[int, bool]]()
"""When that was read, and what, by table and model."""


def clear_cache() -> None:
    """Drop what this process remembers, for tests."""
    _live.clear()


class Workers:
    """The workers that have popped."""

    def __init__(self, table: Table) -> None:
        self._table = table

    # --- read -------------------------------------------------------------------------------

    def named(self, name: str) -> str | None:
        """Return the id of the worker with this name, ignoring case."""
        item = self._table.get(name_key(name))
        return str(item["worker_id"]["S"]) if item else None

    def get(self, worker_id: str) -> Worker | None:
        """Read a worker."""
        return worker_of(self._table.get(key(Kind.WORKER, worker_id)))

    def get_many(self, ids: Iterable[str]) -> list[tuple[Worker, WorkerStats]]:
        """Read workers with their statistics, sorted by name."""
        keys = [make(Kind.WORKER, worker_id) for worker_id in ids for make in (key, stats_key)]
        workers, stats = [], {}
        for item in self._table.batch(keys):
            if item[SK]["S"] == Kind.STATS:
                stats[id_of(item)] = from_item(WorkerStats, item)
            elif (worker := worker_of(item)) is not None:
                workers.append(worker)
        workers.sort(key=lambda worker: worker.name)
        return [(worker, stats.get(worker.id, NO_STATS)) for worker in workers]

    def ids_of(self, user_id: int, limit: int) -> list[str]:
        """Return the ids of an account's workers, up to ``limit``; consistent."""
        answer = self._table.query(
            f"{PK} = :user AND begins_with({SK}, :worker)",
            {"user": partition(Kind.USER, user_id), "worker": f"{Kind.WORKER}#"},
            Limit=limit,
            ConsistentRead=True,
        )
        now = clock.now()
        return [
            item[SK]["S"].partition("#")[2] for item in answer["Items"] if int(item[TTL]["N"]) > now
        ]

    def seen_since(self, since: int, limit: int) -> list[str]:
        """Return the ids of workers seen after a time (seconds), up to ``limit`` per shard."""
        return [
            id_of(item)
            for shard in range(WORKER_SHARDS)
            for item in self._table.read_list(
                workers_shard(shard), limit, last_first=True, since=since
            )
        ]

    def model_is_live(self, model: str) -> bool:
        """Return whether an online worker offers a model, as of ``LIVE_CACHE_S`` ago at most."""
        now, place = clock.now(), (self._table.name, model)
        if _live.get(place, (0, False))[0] <= now - LIVE_CACHE_S:
            item = self._table.get(key(Kind.MODEL, model))
            is_live = item is not None and int(item["seen_at"]["N"]) > now - ONLINE_S
            _live.put(place, (now, is_live))
        return _live[place][1]

    # --- change -----------------------------------------------------------------------------

    def register(self, worker: Worker, owner: User, instead_of: str | None = None) -> bool:
        """Register a new worker.

        ``instead_of`` is the id of a deleted worker whose name it takes over. Returns False if the
        name has been taken meanwhile, or if ``owner`` has registered another worker since it was
        read: the caller must count its workers again.
        """
        owned = {**_owned_key(worker), TTL: encode(worker.gone_at)}
        named = _name_item(worker, worker.name)
        free = new(named)
        if instead_of is not None:
            free = new(named, f"{ABSENT} OR worker_id = :old", old=instead_of)
        parts = [free, new(_worker_item(worker)), new(owned)]
        if not owner.fleet:
            parts.append(counts.one_more_worker(owner))
        return self._table.try_transact(parts)

    def seen(self, worker: Worker, offer: Offer, models: Iterable[str]) -> None:
        """Record that a worker is online, and its offer; ``worker`` is as it was read.

        ``models`` are those of its models that the census does not show to be drawn by anybody.
        The first ``MAX_NEW_MODELS`` of them are recorded at once, the others by the next census. If
        several processes see the worker at once, one of them writes.
        """
        now = clock.now()
        gone_at = worker.gone_at
        if gone_at < now + WORKER_KEEP_S - DAY_S:  # extend once a day: the name before the worker
            gone_at = now + WORKER_KEEP_S
            name = name_key(worker.name)
            self._table.change(name, {TTL: gone_at}, {"worker_id": worker.id})
            self._table.change(_owned_key(worker), {TTL: gone_at})
        offered, away = asdict(offer), now - worker.seen_at
        changes = {
            **{name: offered[name] for name in _OFFER_FIELDS},
            "seen_at": now,
            LISTED.sort: now,
            TTL: gone_at,
            "uptime": worker.uptime + (away if worker.online(now) else 0),
        }
        item_key, seen = key(Kind.WORKER, worker.id), {"seen_at": worker.seen_at}
        if self._table.change(item_key, changes, seen) is None:
            return
        times = {name: encode(at) for name, at in (("seen_at", now), (TTL, now + KEEP_S))}
        for model in [] if worker.resting else list(models)[:MAX_NEW_MODELS]:
            self._table.put({**key(Kind.MODEL, model), **times})
            _live.pop((self._table.name, model), None)

    def change(self, worker_id: str, **changes: Any) -> Worker | None:
        """Set fields of a worker, such as its maintenance; returns None if it is gone."""
        return worker_of(self._table.change(key(Kind.WORKER, worker_id), changes))

    def rename(self, worker: Worker, name: str, changes: Mapping[str, Any] | None = None) -> bool:
        """Rename a worker and free its old name; ``changes`` are set with it, all or nothing.

        Returns False if the name is taken, or if the worker was renamed since it was read.
        """
        item_key, changed = key(Kind.WORKER, worker.id), {**(changes or {}), "name": name}
        if name.casefold() == worker.name.casefold():
            return self._table.change(item_key, changed, {"name": worker.name}) is not None
        expression, names, values = sets(changed)
        return self._table.try_transact(
            [
                new(_name_item(worker, name)),
                _free_name(worker),
                update(
                    item_key,
                    expression,
                    "#name = :old",
                    values | {":old": encode(worker.name)},
                    names,
                ),
            ]
        )

    def delete(self, worker: Worker) -> bool:
        """Delete a worker and its statistics, and free its name; returns False if it is gone.

        If the worker pops again, it is registered as a new one. Raises WorkerHoldsImages: or a
        worker that is deleted and registered again could hold any number of images. Those of the
        operator's own workers are not counted, so their owner may still submit them.
        """
        same_name = ("#name = :name", encode_all({"name": worker.name}), {"#name": "name"})
        holds_none = "attribute_not_exists(held) OR size(held) = :zero"
        parts = [
            delete(stats_key(Kind.WORKER, worker.id), holds_none, {":zero": encode(0)}),
            delete(key(Kind.WORKER, worker.id), *same_name),
            _free_name(worker),
            delete(_owned_key(worker)),
        ]
        try:
            self._table.transact(parts)
        except ConditionFailed as failed:
            if 0 in failed.which:
                raise WorkerHoldsImages from None
            return False
        return True


def _free_name(worker: Worker) -> Item:
    return delete(name_key(worker.name), "worker_id = :id", {":id": encode(worker.id)})


def _owned_key(worker: Worker) -> Item:
    owned = partition(Kind.WORKER, worker.id)
    return key_of((partition(Kind.USER, worker.user_id), owned))


def name_key(name: str) -> Item:
    """Return the key of the item that says which worker has a name."""
    return key(Kind.NAME, name.casefold())


def _name_item(worker: Worker, name: str) -> Item:
    return {**name_key(name), "worker_id": {"S": worker.id}, TTL: encode(worker.gone_at)}


def _worker_item(worker: Worker) -> Item:
    in_list = listed(workers_list(worker.id), worker.seen_at)
    return {**key(Kind.WORKER, worker.id), **to_item(worker), **in_list}


def worker_of(item: Item | None) -> Worker | None:
    """Return the worker in an item, or None if it has expired: TTL may delete it days later."""
    worker = from_item(Worker, item) if item else None
    return worker if worker is not None and worker.gone_at > clock.now() else None

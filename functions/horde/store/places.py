"""Samples of queues, from which clients hear their places (``rules.places``).

One item for each model has the samples of its queues. Each process remembers it for a second. If it
is too old, one caller renews it, and the others answer from the old one. Crash window: a renewal
that dies is begun again ``RENEWAL_MS`` later.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from horde import clock
from horde.records import Generation, Request
from horde.rules.marks import FRESH_MS
from horde.rules.places import MAX_SAMPLED, Sample, ahead, life_ms, sample
from horde.store.items import (
    KEEP_S,
    SK,
    TTL,
    WAITING,
    Item,
    Kind,
    by_kind,
    encode,
    encode_all,
    from_item,
    json_text,
    key,
)
from horde.store.queuenames import QueueName, model_target
from horde.store.registry import Registry
from horde.store.remembered import Remembered
from horde.store.table import Table

RENEWAL_MS = 5000
"""Milliseconds after which a renewal that has not ended is begun again."""


@dataclass(frozen=True, slots=True)
class _View:
    """What a process knows of a model: when it read it, when the samples were taken (ms)."""

    read_at: int
    taken_at: int
    samples: Sequence[Sample]


_views = Remembered[tuple[str, str], _View]()
"""By table and model."""


def clear_cache() -> None:
    """Drop what this process remembers, for tests."""
    _views.clear()


class Places:
    """The samples of queues."""

    def __init__(self, table: Table, registry: Registry) -> None:
        self._table = table
        self._registry = registry

    def generations(self, request: Request) -> list[Generation]:
        """Read all images of a request by index, and with them the places of its model.

        The places are read only if this process has not done so within a second.
        """
        keys = [key(Kind.GENERATION, one) for one in request.generations]
        view = self._known(request.model)
        if view is None or view.read_at <= clock.now_ms() - FRESH_MS:
            keys.append(key(Kind.PLACES, request.model))
        found = self._table.batch(keys)
        items = by_kind(found)
        if len(keys) > len(request.generations):
            self._remember(request.model, items.get(Kind.PLACES, {}))
        images = [from_item(Generation, item) for item in found if item[SK]["S"] == Kind.GENERATION]
        return sorted(images, key=lambda image: image.index)

    def ahead(self, model: str, priority: int) -> int:
        """Return how many images of a model have a higher priority, as of some seconds ago."""
        view = self._known(model)
        if view is None or view.taken_at <= clock.now_ms() - life_ms(view.samples):
            view = self._renewed(model, view)
        return ahead(view.samples, priority)

    def _renewed(self, model: str, view: _View | None) -> _View:
        """Take the samples of a model's queues, unless somebody else does."""
        now, item_key = clock.now_ms(), key(Kind.PLACES, model)
        nobody_renews = "attribute_not_exists(renewed_at) OR renewed_at <= :before"
        times = {"now": now, "before": now - RENEWAL_MS, "gone": now // 1000 + KEEP_S}
        begun = self._table.try_update(
            item_key,
            f"SET renewed_at = :now, {TTL} = :gone",
            nobody_renews,
            encode_all(times),
        )
        if begun is None and view is not None and view.taken_at:
            return view
        queues = list(self._registry.marks(model_target(model)))
        samples = [self._sample(queue, MAX_SAMPLED // len(queues)) for queue in queues]
        if begun is not None:
            text = json_text([astuple(one) for one in samples])
            self._table.try_update(
                item_key,
                "SET taken_at = :now, samples = :samples REMOVE renewed_at",
                "renewed_at = :now",
                {":now": encode(now), ":samples": encode(text)},
            )
        return self._put(model, _View(now, now, samples))

    def _sample(self, queue: QueueName, limit: int) -> Sample:
        answer = self._table.query(
            f"{WAITING.partition} = :queue",
            {"queue": str(queue)},
            IndexName=WAITING.name,
            ProjectionExpression=WAITING.sort,
            ScanIndexForward=False,
            Limit=max(1, limit),
        )
        priorities = [int(item[WAITING.sort]["N"]) for item in answer["Items"]]
        return sample(priorities, whole="LastEvaluatedKey" not in answer)

    # --- what a process remembers -----------------------------------------------------------

    def _known(self, model: str) -> _View | None:
        return _views.get((self._table.name, model))

    def _remember(self, model: str, item: Item) -> None:
        rows = json.loads(item["samples"]["S"]) if "samples" in item else []
        samples = [Sample(tuple(points), count, whole) for points, count, whole in rows]
        taken_at = int(item["taken_at"]["N"]) if "taken_at" in item else 0
        self._put(model, _View(clock.now_ms(), taken_at, samples))

    def _put(self, model: str, view: _View) -> _View:
        return _views.put((self._table.name, model), view)

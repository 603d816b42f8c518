"""The registry of queues: which of them may have images, by marks (``rules.marks``).

One item for each target has the marks of its queues. It is in the index of waiting images as long
as it has any, with the best of their priorities. So one read shows which of many targets have
something waiting.

Crash windows: a mark is set before its image waits, so a request that is not accepted leaves a mark
alone, which lapses. Who sees an empty queue and dies leaves its mark, which the next one sees.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any
from uuid import UUID

from horde import clock
from horde.records import Generation
from horde.rules.marks import FRESH_MS, Mark, corrected, raised
from horde.rules.refusals import Busy
from horde.rules.shards import SAMPLE, WINDOW_S, is_counted, shards_for
from horde.store.items import (
    KEEP_S,
    SK,
    TTL,
    WAITING,
    Item,
    Kind,
    encode,
    encode_all,
    id_of,
    json_text,
    key,
)
from horde.store.queuenames import MARKS, QueueName, queue_named, queue_of, target_of
from horde.store.remembered import Remembered
from horde.store.table import DECISION_TRIES, Table
from horde.store.transaction import EXISTS

MAX_CORRECTED = 4
"""Targets whose marks are corrected after one look, with a write each."""
_IN_INDEX = f"{WAITING.partition} = :index, {WAITING.sort} = :top"
Marks = Mapping[QueueName, Mark]
"""Marks by their queues."""


@dataclass(frozen=True, slots=True)
class _View:
    """What a process knows of a target's queues, and since when (ms)."""

    at: int
    marks: Marks
    shards: int = 1


_views = Remembered[tuple[str, str], _View]()
"""By table and target."""
_best: dict[tuple[str, int], _View] = {}
"""By table and limit."""


def clear_cache() -> None:
    """Drop what this process remembers, for tests."""
    _views.clear()
    _best.clear()


class Registry:
    """The marks of queues."""

    def __init__(self, table: Table) -> None:
        self._table = table

    # --- read -------------------------------------------------------------------------------

    def known(self, targets: Iterable[str]) -> tuple[Marks, list[Item]]:
        """Return the marks of the targets that this process read within ``FRESH_MS``.

        The second part are the keys of the others' items.
        """
        views = {target: self._fresh(target) for target in targets}
        unknown = [key(Kind.QUEUES, target) for target, view in views.items() if view is None]
        found = (view.marks for view in views.values() if view is not None)
        return {queue: mark for marks in found for queue, mark in marks.items()}, unknown

    def take(self, asked: Iterable[Item], items: Iterable[Item]) -> Marks:
        """Remember and return the marks that a read of these keys returned.

        Other items are ignored.
        """
        found = {id_of(item): item for item in items if item[SK]["S"] == Kind.QUEUES}
        targets = [id_of(one) for one in asked]
        views = [self._remember(target, found.get(target, {})) for target in targets]
        return {queue: mark for view in views for queue, mark in view.marks.items()}

    def marks(self, target: str) -> Marks:
        """Return the marks of a target's queues, at most ``FRESH_MS`` old."""
        return self._view(target).marks

    def read(self, targets: Iterable[str]) -> Marks:
        """Read the marks of targets now, whatever this process remembers."""
        keys = [key(Kind.QUEUES, target) for target in targets]
        return self.take(keys, self._table.batch(keys))

    def best(self, limit: int, *, fresh: bool = False) -> tuple[Marks, bool]:
        """Return the marks of up to ``limit`` targets that have any, the best priority first.

        One page of the index is read, so that of very many targets only the best are returned. It
        is at most ``FRESH_MS`` old, or read now with ``fresh``; second is whether it was read now.
        """
        cached = _best.get((self._table.name, limit))
        if cached is not None and not fresh and cached.at > clock.now_ms() - FRESH_MS:
            return cached.marks, False
        answer = self._table.query(
            f"{WAITING.partition} = :marks",
            {"marks": MARKS},
            IndexName=WAITING.name,
            ScanIndexForward=False,
            Limit=limit,
        )
        found: dict[QueueName, Mark] = {}
        for item in answer["Items"]:
            found |= _marks(id_of(item), item)
        _best[self._table.name, limit] = _View(clock.now_ms(), found)
        return found, True

    # --- change -----------------------------------------------------------------------------

    def enter(self, generation: Generation, images: int = 0) -> QueueName:
        """Return the queue that an image is going to wait in, marked for it; raises Busy.

        ``images`` is the number of its request's images if they are new. It counts for the number
        of the queue's shards.
        """
        target = target_of(generation)
        queue = queue_of(generation, self._view(target).shards)
        self.mark(queue, generation.priority)
        if images and is_counted(UUID(generation.request_id).int):
            self._count(target, images * SAMPLE)
        return queue

    def _count(self, target: str, images: int) -> None:
        """Count images that came; if enough time has passed, change the number of shards."""
        now = clock.now()
        counted = self._table.try_update(
            key(Kind.QUEUES, target),
            "SET since = if_not_exists(since, :now) ADD came :images",
            EXISTS,
            encode_all({"now": now, "images": images}),
        )
        if counted is None:
            return
        came = int(counted["came"]["N"])
        since = int(counted["since"]["N"])
        if now - since < WINDOW_S:
            return
        shards = shards_for(came, now - since)
        item = self._table.try_update(
            key(Kind.QUEUES, target),
            "SET shards = :shards, since = :now REMOVE came",
            "since = :since",  # one of many begins a new count
            encode_all({"shards": shards, "now": now, "since": since}),
        )
        if item is not None:
            self._remember(target, item)

    def mark(self, queue: QueueName, priority: int) -> None:
        """Make sure that a queue is marked, before an image with this priority waits in it.

        Raises Busy.
        """
        for _ in range(DECISION_TRIES):
            marks = self.marks(queue.target)
            mark = raised(marks.get(queue), priority, clock.now())
            if mark is None or self._change(queue.target, marks, {queue: mark}):
                return
        raise Busy

    def correct(
        self, heads: Mapping[QueueName, int | None], seen: Marks, *, at_once: bool = False
    ) -> None:
        """Correct marks by what was seen in their queues: the best priority, or None if empty.

        ``seen`` are the marks as they were before. Those of a target that have changed since are
        left as they are, and so are all but ``MAX_CORRECTED`` targets. ``at_once`` as in
        ``rules.marks.corrected``.
        """
        now = clock.now()
        changes: dict[str, dict[QueueName, Mark | None]] = {}
        for queue, head in heads.items():
            mark = corrected(seen[queue], head, now, at_once=at_once)
            if mark != seen[queue]:
                changes.setdefault(queue.target, {})[queue] = mark
        for target, changed in list(changes.items())[:MAX_CORRECTED]:
            marks = {queue: mark for queue, mark in seen.items() if queue.target == target}
            self._change(target, marks, changed)

    def _change(self, target: str, seen: Marks, changes: Mapping[QueueName, Mark | None]) -> bool:
        """Change marks of a target if all are as they were seen; returns whether they were.

        If so, this process knows them from then on, else it forgets what it knew.
        """
        after = {queue: mark for queue, mark in {**seen, **changes}.items() if mark is not None}
        values = {":after": encode(_text(after))}
        as_seen = "attribute_not_exists(marks)"
        if seen:
            as_seen = "marks = :seen"
            values[":seen"] = encode(_text(seen))
        if after:
            expression = f"SET marks = :after, {_IN_INDEX} REMOVE {TTL}"
            best = max(mark.top for mark in after.values())
            values |= encode_all({"index": MARKS, "top": best})
        else:
            expression = f"SET {TTL} = :gone REMOVE marks, {WAITING.attributes}"
            del values[":after"]
            values[":gone"] = encode(clock.now() + KEEP_S)
        item = self._table.try_update(key(Kind.QUEUES, target), expression, as_seen, values)
        if item is None:
            _views.pop((self._table.name, target), None)
            return False
        _best.clear()
        self._remember(target, item)
        return True

    # --- what a process remembers -----------------------------------------------------------

    def _fresh(self, target: str) -> _View | None:
        view = _views.get((self._table.name, target))
        return view if view is not None and view.at > clock.now_ms() - FRESH_MS else None

    def _view(self, target: str) -> _View:
        view = self._fresh(target)
        if view is None:
            item = self._table.get(key(Kind.QUEUES, target))
            view = self._remember(target, item or {})
        return view

    def _remember(self, target: str, item: Mapping[str, Any]) -> _View:
        shards = int(item["shards"]["N"]) if "shards" in item else 1
        view = _View(clock.now_ms(), _marks(target, item), shards)
        return _views.put((self._table.name, target), view)


def _text(marks: Marks) -> str:
    """Return the marks of one target as text, the same for the same marks."""
    rows = sorted((queue.label, astuple(mark)) for queue, mark in marks.items())
    return json_text(dict(rows))


def _marks(target: str, item: Mapping[str, Any]) -> Marks:
    """Return the marks in a target's item."""
    rows = json.loads(item["marks"]["S"]) if "marks" in item else {}
    return {queue_named(target, label): Mark(*row) for label, row in rows.items()}

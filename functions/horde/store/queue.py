"""The queue of waiting images, and how a worker claims one."""

from dataclasses import replace
from typing import Any

from horde import clock
from horde.records import Generation, QueueSize, State, Worker
from horde.rules.lifecycle import extended
from horde.rules.marks import GRACE_S
from horde.store import counts
from horde.store.entries import withdraw
from horde.store.items import WAITING, Item, Kind, from_item, key
from horde.store.leases import lease
from horde.store.queuenames import QueueName, model_target
from horde.store.registry import Registry
from horde.store.table import ConditionFailed, Table
from horde.store.transaction import update

_IN_QUEUE = f"{WAITING.partition} = :queue"


class HoldsEnough(Exception):  # noqa: N818 - an expected result, not an error
    """The worker holds as many images as it may, or has been deleted."""


class Queue:
    """The images that wait for a worker, by priority.

    The indexes are eventually consistent and may show an image that no longer waits. The condition
    of ``claim`` decides.
    """

    def __init__(self, table: Table, registry: Registry) -> None:
        self._table = table
        self._registry = registry

    def page(
        self, queue: QueueName, limit: int | None, after: Item | None = None
    ) -> tuple[list[Generation], Item | None]:
        """Return images of a queue, the best first, and where to read on; None at its end.

        ``limit`` bounds their number, and None is as many as DynamoDB reads in one call.
        """
        options: dict[str, Any] = {"Limit": limit} if limit else {}
        if after is not None:
            options["ExclusiveStartKey"] = after
        answer = self._table.query(
            _IN_QUEUE,
            {"queue": str(queue)},
            IndexName=WAITING.name,
            ScanIndexForward=False,
            **options,
        )
        found = [from_item(Generation, item) for item in answer["Items"]]
        return found, answer.get("LastEvaluatedKey")

    def waiting(self, model: str, limit: int) -> list[Generation]:
        """Return the best images that wait for a model, up to ``limit``."""
        queues = self._registry.marks(model_target(model))
        found = [image for queue in queues for image in self.page(queue, limit)[0]]
        return sorted(found, key=lambda image: -image.priority)[:limit]

    def claim(
        self,
        generation: Generation,
        worker: Worker,
        *,
        lease_until: int,
        held_limit: int | None = None,
        trusted: bool = False,
        preferred: bool = False,
    ) -> Generation | None:
        """Lease a waiting image to a worker until ``lease_until`` (seconds since the epoch).

        ``held_limit`` is the number of images that the worker may hold, or None for the operator's
        own workers, which have no limit and may take an image again that they faulted. For others,
        ``trusted`` says whether their owner is: only then another worker of the same owner may take
        what one has faulted. ``preferred`` is recorded.

        Returns the image as claimed, or None if it no longer waits for this worker. Raises
        HoldsEnough if the worker holds ``held_limit`` images, or has been deleted.

        An image that the worker's statistics need not list is claimed by a plain write.
        """
        claimed = replace(
            generation,
            state=State.PROCESSING,
            attempt=generation.attempt + 1,
            worker_id=worker.id,
            worker_name=worker.name,
            worker_user=worker.user_id,
            lease_until=lease_until,
            held=held_limit is not None,
            preferred=preferred,
            expires_at=extended(generation, clock.now()),
        )
        write = lease(claimed, trusted=trusted)
        if held_limit is None:
            return self._ended(generation, claimed if self._table.try_update(*write) else None)
        held = counts.hold(worker.id, generation.id, held_limit)
        try:
            self._table.transact([update(*write), *held])
        except ConditionFailed as failed:
            if 0 in failed.which:
                return self._ended(generation, None)
            raise HoldsEnough from None
        return self._ended(generation, claimed)

    def _ended(self, generation: Generation, claimed: Generation | None) -> Generation | None:
        """Take an image's copies out of their queues if it waits no more; returns ``claimed``."""
        if generation.models and claimed is None:
            item = self._table.get(key(Kind.GENERATION, generation.id))
            now = from_item(Generation, item) if item else None
            if now and now.state is State.WAITING and now.attempt == generation.attempt:
                return None  # it waits on, for others
        withdraw(self._table, generation)
        return claimed

    def size(self, model: str, limit: int) -> QueueSize:
        """Sum up a model's waiting images, up to the ``limit`` with the highest priority."""
        images, pixelsteps = 0, 0
        requests: set[str] = set()
        for queue in self._registry.marks(model_target(model)):
            answers = self._table.first(
                _IN_QUEUE,
                {"queue": str(queue)},
                limit - images,
                IndexName=WAITING.name,
                ExpressionAttributeNames={"#steps": "steps"},
                ProjectionExpression="request_id, pixels, #steps",
                ScanIndexForward=False,
            )
            for item in (item for answer in answers for item in answer["Items"]):
                images += 1
                requests.add(item["request_id"]["S"])
                steps = int(item.get("steps", {"N": "0"})["N"])
                pixelsteps += int(item["pixels"]["N"]) * steps
        return QueueSize(images=images, requests=len(requests), pixelsteps=pixelsteps)

    def tidy(self, limit: int) -> int:
        """Look into up to ``limit`` queues that may be empty, and correct their marks.

        Returns how many were looked into.
        """
        now, looked = clock.now(), 0
        marks, _ = self._registry.best(limit, fresh=True)
        doubtful = [queue for queue, mark in marks.items() if mark.marked_at < now - GRACE_S]
        for queue in doubtful[:limit]:
            found, _ = self.page(queue, 1)
            head = found[0].priority if found else None
            self._registry.correct({queue: head}, marks)
            looked += 1
        return looked

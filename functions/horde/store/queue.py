"""The queue of waiting images, and how a worker claims one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from horde import clock
from horde.records import Generation, QueueSize, State, User, Worker
from horde.store import counts
from horde.store.due import Due, due_shard
from horde.store.items import (
    DUE,
    LISTED,
    WAITING,
    Item,
    Kind,
    encode_all,
    from_item,
    id_of,
    key,
    waiting_list,
)
from horde.store.table import ConditionFailed, Table
from horde.store.transaction import update

RECOUNT_AFTER_S = 60
"""Seconds after which the index surely shows an image that began to wait; it lags by less."""


class HoldsEnough(Exception):  # noqa: N818 - an expected result, not an error
    """The worker holds as many images as it may, or has been deleted."""


class Queue:
    """The images that wait for a worker, by priority.

    The indexes are eventually consistent and may show an image that no longer waits. The condition
    of ``claim`` decides.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def windows(self, model: str, page: int) -> Iterator[list[Generation]]:
        """Yield a model's waiting images, highest priority first, ``page`` images at a time."""
        found = self._table.pages(
            f"{WAITING.partition} = :model",
            {"model": model},
            IndexName=WAITING.name,
            ScanIndexForward=False,
            Limit=page,
        )
        for items in found:
            yield [from_item(Generation, item) for item in items]

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

        An image that no count needs is claimed by a plain write; it costs half as much.
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
        )
        write = _lease(claimed, trusted=trusted)
        no_longer = counts.waits_no_more(generation)
        if held_limit is None and not no_longer:
            return claimed if self._table.try_update(*write) else None
        held = [] if held_limit is None else counts.hold(worker.id, generation.id, held_limit)
        try:
            self._table.transact([update(*write), *held, *no_longer])
        except ConditionFailed as failed:
            if 0 in failed.which:
                return None
            if max(failed.which) <= len(held):
                raise HoldsEnough from None
            raise
        return claimed

    def ahead(self, model: str, priority: int, limit: int) -> int:
        """Count the images of a model with a higher priority, up to ``limit``."""
        return self._table.count(
            WAITING,
            model,
            limit,
            more=f" AND {WAITING.sort} > :mine",
            values={"mine": priority},
            ScanIndexForward=False,
        )

    def count_of(self, user: User, limit: int) -> int:
        """Count the waiting images of an account, or of a part of the anonymous one, up to a limit.

        The index lags; ``store.counts`` has the exact count.
        """
        return self._table.count(LISTED, waiting_list(user.id, user.part), limit)

    def recount(self, user: User) -> int:
        """Correct a count of waiting images if it is too high; returns the count.

        A count that has grown within ``RECOUNT_AFTER_S`` is left as it is, since the index lags.
        """
        if user.waiting_at > clock.now() - RECOUNT_AFTER_S:
            return user.waiting
        counted = self.count_of(user, user.waiting)
        same_count = {"waiting": user.waiting, "waiting_at": user.waiting_at}
        if counted >= user.waiting or not self._table.change(
            counts.waiting_key(user.id, user.part), {"waiting": counted}, same_count
        ):
            return user.waiting
        return counted

    def ids_of(self, user_id: int, limit: int) -> list[str]:
        """Return the ids of an account's waiting images, oldest first; none if anonymous."""
        return [id_of(item) for item in self._table.read_list(waiting_list(user_id, None), limit)]

    def waiting_since(self, model: str, before_ms: int, limit: int) -> int:
        """Count images that were waiting before a time (ms), among the first ``limit``."""
        return self._table.count(
            WAITING,
            model,
            limit,
            values={"before": before_ms},
            FilterExpression="created_at < :before",
        )

    def size(self, model: str, limit: int) -> QueueSize:
        """Sum up a model's waiting images, up to the ``limit`` with the highest priority."""
        images, pixelsteps = 0, 0
        start: dict[str, Any] = {}
        requests: set[str] = set()
        while images < limit:
            answer = self._table.query(
                f"{WAITING.partition} = :model",
                {"model": model},
                IndexName=WAITING.name,
                ExpressionAttributeNames={"#steps": "steps"},
                ProjectionExpression="request_id, pixels, #steps",
                ScanIndexForward=False,
                Limit=limit - images,
                **start,
            )
            for item in answer["Items"]:
                images += 1
                requests.add(item["request_id"]["S"])
                pixelsteps += int(item["pixels"]["N"]) * int(item.get("steps", {"N": "0"})["N"])
            if "LastEvaluatedKey" not in answer:
                break
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        return QueueSize(images=images, requests=len(requests), pixelsteps=pixelsteps)


def _lease(claimed: Generation, *, trusted: bool) -> tuple[Item, str, str, Item, dict[str, str]]:
    """Return the write that leases an image: key, expression, condition, values and names.

    The image was read from an index. It must still be exactly that: each fault follows a claim,
    which raises ``attempt``.
    """
    still_waiting = "#state = :waiting AND attempt = :seen"
    if claimed.held:
        faulted = "contains(faulted_by, :worker)"
        faulted += "" if trusted else " OR contains(faulted_by, :user)"
        still_waiting += f" AND (attribute_not_exists(faulted_by) OR NOT ({faulted}))"
    flags = {name: True for name in ("held", "preferred") if getattr(claimed, name)}
    expression = (
        "SET #state = :processing, worker_id = :worker, worker_name = :name, "
        f"worker_user = :user, lease_until = :lease, {DUE.partition} = :shard, "
        f"{DUE.sort} = :lease, attempt = :attempt"
        + "".join(f", {name} = :{name}" for name in flags)
        + f" REMOVE {WAITING.partition}, {LISTED.attributes}"
    )
    values = {
        "waiting": State.WAITING,
        "processing": claimed.state,
        "seen": claimed.attempt - 1,
        "attempt": claimed.attempt,
        "worker": claimed.worker_id,
        "name": claimed.worker_name,
        "user": claimed.worker_user,
        "lease": claimed.lease_until,
        "shard": due_shard(Due.LEASE, claimed.id),
        **flags,
    }
    key_of_image = key(Kind.GENERATION, claimed.id)
    return key_of_image, expression, still_waiting, encode_all(values), {"#state": "state"}

"""The queue of waiting images, and how a worker claims one."""

from collections.abc import Iterator
from typing import Any

from horde.records import Generation, QueueSize, State, User, Worker
from horde.store.items import (
    DUE,
    LISTED,
    WAITING,
    Kind,
    due_shard,
    encode_all,
    from_item,
    id_of,
    key,
    waiting_list,
)
from horde.store.table import Table


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
        self, generation: Generation, worker: Worker, *, lease_until: int
    ) -> Generation | None:
        """Lease a waiting image to a worker until ``lease_until`` (seconds since the epoch).

        Returns the image as claimed, or None if it no longer waits.
        """
        still_waiting = "#state = :waiting"
        claimed = self._table.try_update(
            key(Kind.GENERATION, generation.id),
            "SET #state = :processing, worker_id = :worker, worker_name = :name, "
            f"worker_user = :user, lease_until = :lease, {DUE.partition} = :shard, "
            f"{DUE.sort} = :lease, attempt = attempt + :one "
            f"REMOVE {WAITING.partition}, {LISTED.attributes}",
            still_waiting,
            encode_all(
                {
                    "waiting": State.WAITING,
                    "processing": State.PROCESSING,
                    "worker": worker.id,
                    "name": worker.name,
                    "user": worker.user_id,
                    "lease": lease_until,
                    "shard": due_shard(generation.id),
                    "one": 1,
                }
            ),
            {"#state": "state"},
        )
        return from_item(Generation, claimed) if claimed else None

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

    def count_of(self, user: User, model: str, limit: int) -> int:
        """Count an account's waiting images up to ``limit``; the anonymous account's by model."""
        return self._table.count(LISTED, waiting_list(user.id, model), limit)

    def ids_of(self, user_id: int, limit: int) -> list[str]:
        """Return the ids of an account's waiting images, oldest first; none if anonymous."""
        return [id_of(item) for item in self._table.read_list(waiting_list(user_id, ""), limit)]

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

"""What waits for an endpoint: before more comes, and for so long that a ticket may be lost."""

from collections.abc import Iterator, Mapping
from typing import Any

from horde.records import QueueSize
from horde.rules.drawing import Ability
from horde.rules.features import FEATURES
from horde.rules.needs import smallest
from horde.store.items import WAITING
from horde.store.queuenames import QueueName, model_target
from horde.store.registry import Registry
from horde.store.table import Table


class Backlog:
    """Waiting images that an endpoint can draw. It reads an index and writes nothing.

    Larger images than the endpoint draws do not count, nor those with features that it lacks, nor
    those for named workers: no ticket would draw them.
    """

    def __init__(self, table: Table, registry: Registry) -> None:
        self._table = table
        self._registry = registry

    def older(
        self, models: Mapping[str, Ability], request: tuple[int, str], limit: int
    ) -> dict[str, QueueSize] | None:
        """Sum up, by model, the waiting images that came before a request; None beyond ``limit``.

        ``models`` are those of one endpoint. ``request`` is its time (ms) and its id. An image of
        several models counts for the first of them that it waits for. ``limit`` bounds the waiting
        images that are looked at, older or not.
        """
        known: set[str] = set()
        found: dict[str, QueueSize] = {}
        for model, able in models.items():
            images, pixelsteps, requests = 0, 0, set[str]()
            condition, values = _drawable(able)
            for queue in self._queues(model, able):
                answer = self._table.query(
                    f"{WAITING.partition} = :queue",
                    {"queue": str(queue), **values},
                    IndexName=WAITING.name,
                    ScanIndexForward=False,
                    Limit=limit + 1,
                    FilterExpression=condition,
                    ExpressionAttributeNames={"#steps": "steps"},
                    ProjectionExpression="id, request_id, created_at, pixels, #steps",
                )
                limit -= int(answer["ScannedCount"])
                if limit < 0 or "LastEvaluatedKey" in answer:
                    return None
                for item in answer["Items"]:
                    came = int(item["created_at"]["N"]), item["request_id"]["S"]
                    if came < request and item["id"]["S"] not in known:
                        known.add(item["id"]["S"])
                        requests.add(came[1])
                        images += 1
                        steps = int(item.get("steps", {"N": "0"})["N"])
                        pixelsteps += int(item["pixels"]["N"]) * steps
            found[model] = QueueSize(images=images, requests=len(requests), pixelsteps=pixelsteps)
        return found

    def since(self, models: Mapping[str, Ability], before_ms: int, limit: int) -> dict[str, int]:
        """Count, by model, the images that waited before a time (ms), among ``limit`` of a queue.

        ``models`` are those of one endpoint. An image of several models counts for the first of
        them that it waits for.
        """
        known: set[str] = set()
        found: dict[str, int] = {}
        for model, able in models.items():
            condition, values = _drawable(able)
            options: dict[str, Any] = {
                "values": {"before": before_ms, **values},
                "FilterExpression": f"created_at < :before AND {condition}",
            }
            queues = [str(queue) for queue in self._queues(model, able)]
            if len(models) == 1:
                found[model] = sum(
                    self._table.count(WAITING, queue, limit, **options) for queue in queues
                )
                continue
            before = len(known)
            for queue in queues:
                known.update(self._table.ids(WAITING, queue, limit, **options))
            found[model] = len(known) - before
        return found

    def _queues(self, model: str, able: Ability) -> Iterator[QueueName]:
        """Yield a model's queues but those of larger images than the endpoint draws."""
        queues = self._registry.marks(model_target(model))
        return (queue for queue in queues if smallest(queue.needs) <= able.max_pixels)


def _drawable(able: Ability) -> tuple[str, dict[str, Any]]:
    """Return the filter of images that an endpoint draws, and its values."""
    lacking = {f"f{n}": name for n, name in enumerate(FEATURES) if name not in able.features}
    parts = [
        "pixels <= :most",
        "(attribute_not_exists(workers) OR worker_blacklist = :true)",
        *(f"NOT contains(features, :{name})" for name in lacking),
    ]
    return " AND ".join(parts), {"most": able.max_pixels, "true": True, **lacking}

"""What already waits for an endpoint when more comes, by which its tickets are counted."""

from collections.abc import Mapping

from horde.records import QueueSize
from horde.rules.needs import smallest
from horde.store.items import WAITING
from horde.store.queuenames import model_target
from horde.store.registry import Registry
from horde.store.table import Table

FOR_ANYBODY = "(attribute_not_exists(workers) OR worker_blacklist = :true)"
"""Images whose requests do not name the workers that may draw them."""


class Backlog:
    """Waiting images of models that share an endpoint. It reads an index and writes nothing."""

    def __init__(self, table: Table, registry: Registry) -> None:
        self._table = table
        self._registry = registry

    def older(
        self, models: Mapping[str, int], request: tuple[int, str], limit: int
    ) -> dict[str, QueueSize] | None:
        """Sum up, by model, the waiting images that came before a request; None beyond ``limit``.

        ``models`` are the pixels of the largest image that the endpoint draws, by model; larger
        images do not count, nor those for named workers. ``request`` is its time (ms) and its id.
        An image of several models counts for the first of them that it waits for. ``limit`` bounds
        the waiting images that are looked at, older or not.
        """
        known: set[str] = set()
        found: dict[str, QueueSize] = {}
        for model, most in models.items():
            images, pixelsteps, requests = 0, 0, set[str]()
            for queue in self._registry.marks(model_target(model)):
                if smallest(queue.needs) > most:
                    continue
                answer = self._table.query(
                    f"{WAITING.partition} = :queue",
                    {"queue": str(queue), "most": most, "true": True},
                    IndexName=WAITING.name,
                    ScanIndexForward=False,
                    Limit=limit + 1,
                    FilterExpression=f"pixels <= :most AND {FOR_ANYBODY}",
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

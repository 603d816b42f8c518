"""The size of a queue, as the census sums it up page by page."""

from typing import Any

from horde.records import QueueSize
from horde.rules.marks import Mark
from horde.store.queue import Queue
from horde.store.queuenames import QueueName
from horde.store.registry import Marks, Registry
from horde.store.table import Table


class Client:
    """Stands for DynamoDB: gives its pages in turn, and remembers what it was asked."""

    def __init__(self, *pages: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self._pages = list(pages)

    def query(self, **arguments: Any) -> Any:
        self.asked.append(arguments)
        page = self._pages.pop(0)
        return {**page, "ScannedCount": len(page["Items"])}


def image(request: str, pixels: int, steps: int | None = None) -> dict[str, Any]:
    """A waiting image; one from before steps were kept has none."""
    kept = {} if steps is None else {"steps": {"N": str(steps)}}
    return {"request_id": {"S": request}, "pixels": {"N": str(pixels)}, **kept}


class OneQueue(Registry):
    """Stands for the registry: all images of a model need the same."""

    def marks(self, target: str) -> Marks:
        return {QueueName(target, "0"): Mark(0, 0)}


LAST = {"pk": {"S": "GENERATION#7"}}
FIRST_PAGE = {"Items": [image("a", 3, 5), image("a", 100)], "LastEvaluatedKey": LAST}


def size(limit: int, *pages: Any) -> tuple[QueueSize, Client]:
    client = Client(*pages)
    table = Table("t", client)  # type: ignore[arg-type]
    return Queue(table, OneQueue(table)).size("m", limit), client


def test_all_pages_of_a_queue_are_summed_up() -> None:
    found, client = size(9, FIRST_PAGE, {"Items": [image("b", 7, 11)]})
    assert found == QueueSize(images=3, requests=2, pixelsteps=3 * 5 + 7 * 11)
    first, second = client.asked
    assert (first["Limit"], second["Limit"]) == (9, 7)
    assert "ExclusiveStartKey" not in first
    assert second["ExclusiveStartKey"] == LAST


def test_no_more_of_a_queue_is_read_than_is_asked_for() -> None:
    found, client = size(2, FIRST_PAGE)
    assert found.images == 2
    assert len(client.asked) == 1

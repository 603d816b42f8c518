"""A very popular model is not one partition's limit: the units of each partition, simulated.

The registry, the marks and the pops are the real ones. The table is a dictionary, and the index a
sorted list for each queue that shows a claim late. Each simulated process remembers marks of its
own.
"""

import math
import random
import re
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest

from horde import clock
from horde.claiming import Claimer, claim_waiting
from horde.records import Generation
from horde.rules.matching import priority
from horde.rules.shards import PER_SHARD, SAMPLE, WINDOW_S, is_counted, shard_of, shards_for
from horde.store.queuenames import QueueName, model_target
from horde.store.registry import Registry, clear_cache
from tests.support.records import CONTEXT, IMAGE
from tests.unit.test_needs import OFFER

MOST_WRITES, MOST_READS = 1000, 3000
"""Units a second that one partition of DynamoDB takes."""
RATE = 5000
"""Images a second, and pops of one image."""
PROCESSES = 250
LAG_MS = 20
MEASURED_MS = 500
IMAGE_KB = 1
Row = dict[str, Any]


def test_one_in_many_requests_is_counted_and_shards_are_even() -> None:
    numbers = range(SAMPLE * 1300)
    assert sum(map(is_counted, numbers)) == 1300
    spread = Counter(shard_of(number, 13) for number in numbers)
    assert len(spread) == 13
    assert max(spread.values()) == min(spread.values())


@pytest.mark.parametrize(
    ("images", "seconds", "shards"),
    [
        (0, 10, 1),
        (PER_SHARD * 10, 10, 1),
        (PER_SHARD * 10 + 1, 10, 2),
        (RATE * 10, 10, 13),
        (1, 0, 1),
        (10**9, 1, 64),
    ],
)
def test_the_number_of_shards_follows_the_load(images: int, seconds: int, shards: int) -> None:
    assert shards_for(images, seconds) == shards


@dataclass
class Rows:
    """Stands for the table: one dictionary, for all processes, that counts units by partition."""

    rows: dict[str, Row] = field(default_factory=dict)
    writes: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Table:
    """One process's connection to it."""

    name: str
    shared: Rows

    def get(self, key: Row) -> Row | None:
        self.shared.reads[key["pk"]["S"]] += 1
        return self.shared.rows.get(key["pk"]["S"])

    def batch(self, keys: Any) -> list[Row]:
        return [item for one in keys if (item := self.get(one))]

    def try_update(self, key: Row, expression: str, condition: str, values: Row) -> Row | None:
        item = self._written(key)
        if " ADD " in expression:
            came = int(item.get("came", {"N": "0"})["N"]) + int(values[":images"]["N"])
            item |= {"came": {"N": str(came)}, "since": item.get("since", values[":now"])}
            return item
        name, _, value = condition.partition(" = ")
        if item.get(name) != values[value] if value else "marks" in item:
            return None
        sets, _, removes = expression.removeprefix("SET ").partition(" REMOVE ")
        for name, value in re.findall(r"(\w+) = (:\w+)", sets):
            item[name] = values[value]
        for name in removes.split(", "):
            item.pop(name, None)
        return item

    def _written(self, key: Row) -> Row:
        self.shared.writes[key["pk"]["S"]] += 2  # the item, and its place in the index
        return self.shared.rows.setdefault(key["pk"]["S"], dict(key))


@dataclass
class Index:
    """Stands for the index of waiting images: it shows a claim only ``LAG_MS`` later."""

    shared: Rows
    queues: dict[str, list[tuple[int, str, Generation]]] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    """The queues of the images that wait."""
    gone: list[tuple[int, str, tuple[int, str, Generation]]] = field(default_factory=list)
    lost: int = 0
    pages: int = 0

    def put(self, queue: QueueName, image: Generation) -> None:
        self.shared.writes[str(queue)] += IMAGE_KB
        insort(self.queues.setdefault(str(queue), []), (image.priority, image.id, image))
        self.waiting[image.id] = str(queue)

    def page(self, queue: QueueName, limit: int, _after: Any = None) -> tuple[list[Any], None]:
        found = self.queues.get(str(queue), [])[: -limit - 1 : -1]
        self.shared.reads[str(queue)] += max(1, math.ceil(len(found) * IMAGE_KB / 4)) / 2  # type: ignore[assignment]
        self.pages += 1
        return [image for _, _, image in found], None

    def claim(self, image: Generation, *_: Any, **__: Any) -> Generation | None:
        queue = self.waiting.pop(image.id, None)
        if queue is None:
            self.lost += 1
            return None
        self.shared.writes[queue] += IMAGE_KB
        self.gone.append((clock.now_ms() + LAG_MS, queue, (image.priority, image.id, image)))
        return image

    def pass_time(self) -> None:
        while self.gone and self.gone[0][0] <= clock.now_ms():
            _, queue, entry = self.gone.pop(0)
            self.queues[queue].remove(entry)


@dataclass
class Store:
    """What a pop uses of the store."""

    registry: Registry
    queue: Index


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    at = [1_800_000_000_000]
    monkeypatch.setattr(clock, "now_ms", lambda: at[0])
    random.seed(7)
    clear_cache()
    yield at
    clear_cache()


def coming(now_ms: int, draw: Callable[[int], int]) -> Generation:
    """An image of a request that comes now, of somebody with any number of kudos."""
    number = UUID(int=draw(128), version=4)
    rank = priority(draw(13), now_ms)
    return replace(IMAGE, id=str(number), request_id=str(number), model="m", priority=rank)


@pytest.mark.slow
@pytest.mark.parametrize("needs", [1, 2])
def test_5000_images_a_second_of_one_model_stay_within_each_partitions_limits(
    now: list[int], needs: int
) -> None:
    shared = Rows()
    index = Index(shared)
    stores = [
        Store(Registry(Table(f"p{number}", shared)), index)  # type: ignore[arg-type]
        for number in range(PROCESSES)
    ]
    draw = random.getrandbits

    def accept(*, store: bool = True) -> None:
        image = replace(coming(now[0], draw), nsfw=bool(draw(8) % needs))
        queue = stores[draw(16) % PROCESSES].registry.enter(image, 1)
        if store:
            index.put(queue, image)

    for _ in range(WINDOW_S * 1000 + 1000):  # nobody knows yet how many come
        for _ in range(RATE // 1000):
            accept(store=False)
        now[0] += 1
    assert stores[0].registry.marks(model_target("m"))
    accept()
    assert len(set(map(str, stores[0].registry.marks(model_target("m"))))) > 1
    for _ in range(2000):  # some are always waiting
        accept()
    shared.writes.clear()
    shared.reads.clear()
    index.lost = index.pages = 0
    taken: list[str] = []
    offer = replace(OFFER, models=["m"])
    for _ in range(MEASURED_MS):
        for _ in range(RATE // 1000):
            accept()
            process = stores[draw(16) % PROCESSES]
            marks = process.registry.marks(model_target("m"))  # a pop reads them with its worker
            take = Claimer(process, CONTEXT, offer, [])  # type: ignore[arg-type]
            taken += [image.id for image in claim_waiting(take, marks, fresh=False)]
        now[0] += 1
        index.pass_time()
    pops, seconds = RATE * MEASURED_MS // 1000, MEASURED_MS / 1000
    assert len(set(taken)) == len(taken) == pops
    assert len(index.queues) > RATE // PER_SHARD
    assert max(shared.writes.values()) < MOST_WRITES * seconds, shared.writes
    assert max(shared.reads.values()) < MOST_READS * seconds, shared.reads
    assert index.lost < pops
    assert index.pages < 2.5 * needs * pops

"""Fills a table with more items than moto could hold: those that nobody reads are never made.

``Sparse`` answers moto's queries of an index from sorted lists of keys, and makes an item when it
is read. An item is a copy of one that the functions themselves have stored, with another id and
another place, so nothing here knows what an item looks like.
"""

import bisect
import copy
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import Table

from tests.bench.meter import asked_of, partition_of
from tests.support.moto_aws import ACCOUNT, REGION

Place = tuple[int, str]
"""The sort key of an index, and the partition key of the item in the table."""


@dataclass
class Sparse:
    """Items that are there, and not made yet."""

    table: Table
    places: dict[tuple[str, str], list[Place]] = field(default_factory=lambda: defaultdict(list))
    """By index and partition, sorted."""
    models: dict[str, tuple[Item, dict[str, int]]] = field(default_factory=dict)
    """By the partition key of an item: what it is a copy of, and its sort keys by attribute."""

    def copies(self, stored: dict[str, Any], count: int, step: int) -> None:
        """Add so many copies of a stored item, each ``step`` further in every index it is in."""
        pk, sk = (DynamoType(stored[name]) for name in self.table.table_key_attrs)
        model = self.table.items[pk][sk]
        kind = stored["pk"]["S"].partition("#")[0]
        for number in range(1, count + 1):
            key = f"{kind}#{uuid.UUID(int=number + (uuid.uuid4().int & ~0xFFFFFFFF))}"
            sorts = {}
            for index in self.table.global_indexes or []:
                partition, sort = (part["AttributeName"] for part in index.schema)
                if partition not in stored or sort not in stored:
                    continue
                at = sorts[sort] = int(stored[sort]["N"]) + number * step
                self.places[index.name, next(iter(stored[partition].values()))].append((at, key))
            self.models[key] = model, sorts
        for places in self.places.values():
            places.sort()

    def make(self, key: str) -> None:
        """Make an item that is read."""
        model, sorts = self.models.pop(key)
        item = copy.deepcopy(model)
        own = DynamoType({"S": key})
        item.attrs["pk"] = own
        item.hash_key = own
        for name, at in sorts.items():
            item.attrs[name] = DynamoType({"N": str(at)})
        assert item.range_key is not None
        self.table.items[own][item.range_key] = item

    def wake(self, index: str, partition: str, between: Any, most: int, *, forward: bool) -> None:
        """Make the items that a query of a range will see, up to ``most``."""
        left = self.places.get((index, partition), [])
        low, high = between
        first = bisect.bisect_left(left, (low, ""))
        last = bisect.bisect_right(left, (high, "\uffff"))
        span = left[first:last]
        for _, key in span[:most] if forward else span[::-1][:most]:
            if key in self.models:
                self.make(key)


PAGE = 1 << 20
"""Bytes of a query's answer, at most."""
LOWEST, HIGHEST = -(10**18), 10**18


def _between(comparison: str | None, values: list[Any]) -> tuple[int, int]:
    """Return the range of sort keys of a condition."""
    if comparison is None:
        return LOWEST, HIGHEST
    numbers = [int(value.value) for value in values]
    match comparison.upper():
        case "BETWEEN":
            return numbers[0], numbers[1]
        case "<=" | "<" | "LE" | "LT":
            return LOWEST, numbers[0]
        case ">=" | ">" | "GE" | "GT":
            return numbers[0], HIGHEST
        case "=" | "EQ":
            return numbers[0], numbers[0]
    raise NotImplementedError(comparison)


@contextmanager
def sparse(name: str) -> Iterator[Sparse]:
    """Let a table of moto be sparse meanwhile."""
    table = dynamodb_backends[ACCOUNT][REGION].tables[name]
    rest = Sparse(table)
    query, get = Table.query, Table.get_item

    def asked(self: Table, *given: Any, **more: Any) -> Any:
        known = asked_of(given, more)
        if index := known["index_name"]:
            sort = next(one for one in self.all_indexes() if one.name == index).schema[1]
            low, high = _between(known["range_comparison"], known["range_objs"])
            forward = known["scan_index_forward"] is not False
            if start := known["exclusive_start_key"]:
                at = int(start[sort["AttributeName"]]["N"])
                low, high = (max(low, at), high) if forward else (low, min(high, at))
            # A page holds 1 MB; no item of a list is smaller than its keys.
            most = (known["limit"] or PAGE // 100) + 1
            rest.wake(index, partition_of(known), (low, high), most, forward=forward)
        return query(self, **known)

    def got(self: Table, hash_key: Any, *more: Any, **options: Any) -> Any:
        if hash_key.value in rest.models:
            rest.make(hash_key.value)
        return get(self, hash_key, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "query", asked)
        patch.setattr(Table, "get_item", got)
        yield rest

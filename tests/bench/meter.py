"""Counts what functions ask of AWS: calls, items, and capacity units for each table, index and key.

``with metered() as meter: ...`` around anything that runs on moto. The rules are ``units``'s; this
looks at items before and after each call. A transaction that was refused pays for all its parts:
DynamoDB's pages do not say that it pays less, so this is an upper bound.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.models.table import Table

from tests.support import direct
from tests.support.deployment import Deployment
from tests.support.moto_aws import ACCOUNT, REGION
from tests.support.units import Index, read_units, size_of, write_units

Item = dict[str, Any]
TABLE = "table"
"""The name under which the table itself is charged; indexes have their own."""


@dataclass
class Meter:
    """What was asked of AWS meanwhile."""

    calls: Counter[str] = field(default_factory=Counter)
    """Calls by ``service.Operation``, of all services."""
    reads: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    """Read units by table or index, and partition key."""
    writes: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """Write units by table or index, and partition key."""
    invocations: Counter[str] = field(default_factory=Counter)
    """Runs of functions, by file."""
    each: list[int] = field(default_factory=list)
    """Calls of DynamoDB by each meter that was added."""
    found: bool = True
    """Whether what was asked for was there; who measures says so."""
    items: int = 0
    """Items that reads looked at, before any filter."""
    answered: int = 0
    """Bytes of answers to API requests: their lines of headers, and their bodies."""

    @property
    def asked(self) -> int:
        """All calls."""
        return self.calls.total()

    @property
    def of_the_table(self) -> int:
        """Calls of DynamoDB alone."""
        return sum(n for name, n in self.calls.items() if name.startswith("dynamodb."))

    @property
    def read_units(self) -> float:
        """All read units."""
        return sum(self.reads.values())

    @property
    def write_units(self) -> int:
        """All write units, indexes included."""
        return sum(self.writes.values())

    def of(self, where: str) -> int:
        """Return the write units of the table or an index."""
        return sum(units for (name, _), units in self.writes.items() if name == where)

    def add(self, other: "Meter") -> None:
        """Add what another meter has counted."""
        self.calls.update(other.calls)
        self.invocations.update(other.invocations)
        self.each.append(other.of_the_table)
        self.items += other.items
        self.answered += other.answered
        for name, units in other.reads.items():
            self.reads[name] += units
        for name, written in other.writes.items():
            self.writes[name] += written


def _indexes(table: Table) -> list[Index]:
    keys = tuple(table.table_key_attrs)
    found = []
    for index in table.global_indexes or []:
        partition, sort = (key["AttributeName"] for key in index.schema)
        only = index.projection["ProjectionType"] == "KEYS_ONLY"
        found.append(Index(index.name, partition, sort, keys, only))
    return found


def _stored(table: Table, key: Item) -> Item | None:
    """Return an item from moto's memory."""
    partition, sort = (DynamoType(key[name]) for name in table.table_key_attrs)
    found = table.get_item(partition, sort)
    return None if found is None else dict(found.to_json()["Attributes"])


class _Metering:
    """Charges one meter for each call of DynamoDB."""

    def __init__(self, meter: Meter, make: Callable[[str, Item], Any]) -> None:
        self.meter, self.make = meter, make

    def call(self, operation: str, params: Item) -> Any:
        """Make one call, and charge it."""
        kind = {
            "PutItem": "Put",
            "UpdateItem": "Update",
            "DeleteItem": "Delete",
        }.get(operation)
        if kind:
            return self._write([{kind: params}], operation, params, transaction=False)
        if operation == "TransactWriteItems":
            return self._write(params["TransactItems"], operation, params, transaction=True)
        self._read(operation, params)
        return self.make(operation, params)

    def _write(self, parts: list[Item], operation: str, params: Item, *, transaction: bool) -> Any:
        rows = [row for part in parts for row in part.values()]
        tables = [_table(row["TableName"]) for row in rows]
        keys = [
            {name: row.get("Key", row.get("Item"))[name] for name in table.table_key_attrs}
            for row, table in zip(rows, tables, strict=True)
        ]
        before = [_stored(table, key) for table, key in zip(tables, keys, strict=True)]
        refused = None
        try:
            answer = self.make(operation, params)
        except ClientError as error:
            refused = error
        for table, key, old in zip(tables, keys, before, strict=True):
            new = _stored(table, key)
            (partition,) = key[table.table_key_attrs[0]].values()
            units = write_units(old, new, transaction=transaction)
            self.meter.writes[TABLE, partition] += units
            for index in _indexes(table):
                for where, cost in index.writes(old, new):
                    self.meter.writes[index.name, where] += cost
        if refused:
            raise refused
        return answer

    def _read(self, operation: str, params: Item) -> None:
        match operation:
            case "GetItem":
                wanted = [params["Key"]]
                consistent = params.get("ConsistentRead", False)
                self._items(params["TableName"], wanted, consistent=consistent)
            case "BatchGetItem":
                for name, asked in params["RequestItems"].items():
                    consistent = asked.get("ConsistentRead", False)
                    self._items(name, asked["Keys"], consistent=consistent)
            case "Query":
                pass  # ``_looking`` sees what a filter drops
            case _:
                message = f"nobody has said what {operation} costs"
                raise NotImplementedError(message)

    def _items(self, name: str, keys: list[Item], *, consistent: bool) -> None:
        table = _table(name)
        for key in keys:
            size = size_of(_stored(table, key) or {})
            (partition,) = key[table.table_key_attrs[0]].values()
            self.meter.reads[TABLE, partition] += read_units(size, consistent=consistent)
            self.meter.items += 1


def _table(name: str) -> Table:
    found: Table = dynamodb_backends[ACCOUNT][REGION].tables[name]
    return found


def _length(answer: Item) -> int:
    """Return the bytes of an answer as a function gives it; API Gateway adds some headers."""
    lines = sum(len(f"{name}: {value}\r\n") for name, value in answer["headers"].items())
    return lines + len((answer.get("body") or "").encode())


ASKED = (
    "hash_key",
    "range_comparison",
    "range_objs",
    "limit",
    "exclusive_start_key",
    "scan_index_forward",
    "projection_expressions",
    "index_name",
    "consistent_read",
    "filter_expression",
)
"""The parameters of moto's ``Table.query``, in order."""


def asked_of(given: tuple[Any, ...], more: Item) -> Item:
    """Return all parameters of moto's query by name."""
    return {**dict.fromkeys(ASKED), **dict(zip(ASKED, given, strict=False)), **more}


def partition_of(asked: Item) -> str:
    """Return the partition that a query reads."""
    conditions = asked.get("hash_key_conditions")
    return str((conditions[0][1] if conditions else asked["hash_key"]).value)


def _looking(meter: Meter, plain: Any) -> Callable[..., Any]:
    """Return moto's query, which also charges for all items of the range, filtered or not."""

    def query(table: Table, *given: Any, **more: Any) -> Any:
        asked = asked_of(given, more)
        whole = {**asked, "projection_expressions": None, "filter_expression": None}
        found, _, _ = plain(table, **whole)
        index, consistent = asked["index_name"], bool(asked["consistent_read"])
        size = sum(size_of(item.to_json()["Attributes"]) for item in found)
        where = index or TABLE, partition_of(asked)
        meter.reads[where] += read_units(size, consistent=consistent)
        meter.items += len(found)
        return plain(table, **asked)

    return query


@contextmanager
def metered(*, functions_alone: bool = True) -> Iterator[Meter]:
    """Count what functions ask of AWS meanwhile; ``functions_alone=False``: whoever asks."""
    meter, inside = Meter(), list[str]()
    plain = direct.dynamodb
    metering = _Metering(meter, plain)
    make, invoke = vars(BaseClient)["_make_api_call"], Deployment.invoke
    plain_query: Any = Table.query
    query = _looking(meter, plain_query)

    def counts() -> bool:
        return bool(inside) or not functions_alone

    def invoked(cloud: Deployment, file: str, event: Item) -> Any:
        meter.invocations[file] += 1
        inside.append(file)
        try:
            answer = invoke(cloud, file, event)
        finally:
            inside.pop()
        if isinstance(answer, dict) and "statusCode" in answer:
            meter.answered += _length(answer)
        return answer

    def counted(client: Any, operation: str, params: Item) -> Any:
        if counts():
            meter.calls[f"{client.meta.service_model.service_name}.{operation}"] += 1
        return make(client, operation, params)

    def charged(operation: str, params: Item) -> Any:
        return (metering.call if counts() else plain)(operation, params)

    def looked(*args: Any, **options: Any) -> Any:
        return (query if counts() else plain_query)(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "dynamodb", charged)
        patch.setattr(Table, "query", looked)
        patch.setattr(BaseClient, "_make_api_call", counted)
        patch.setattr(Deployment, "invoke", invoked)
        yield meter

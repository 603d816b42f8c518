"""moto's transactions without a copy of the whole table for each of their parts.

moto 5.2 copies every item and every stream record of the table once for each part of a
transaction, to roll back by. Here only the items that a transaction names are kept.
"""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from moto.dynamodb import models
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.models.table import Table


def install(patch: pytest.MonkeyPatch) -> None:
    """Replace moto's way of rolling back for as long as the patch holds."""
    plain = models.DynamoDBBackend.transact_write_items

    def transact(self: models.DynamoDBBackend, transact_items: list[dict[str, Any]]) -> None:
        kept = [_Kept(self, part) for item in transact_items for part in item.values()]
        try:
            plain(self, transact_items)
        except Exception:
            for one in kept:
                one.restore()
            raise

    def deepcopy(value: Any) -> Any:
        return value if isinstance(value, Table) else copy.deepcopy(value)

    patch.setattr(models.DynamoDBBackend, "transact_write_items", transact)
    patch.setattr(models, "copy", SimpleNamespace(copy=copy.copy, deepcopy=deepcopy))


class _Kept:
    """One item as it was, and where its table's stream ended."""

    def __init__(self, backend: models.DynamoDBBackend, part: dict[str, Any]) -> None:
        self.table = backend.get_table(part["TableName"])
        key = part.get("Key") or part["Item"]
        assert self.table.range_key_attr is not None
        self.hash = DynamoType(key[self.table.hash_key_attr])
        self.range = DynamoType(key[self.table.range_key_attr])
        self.item = copy.deepcopy(self.table.get_item(self.hash, self.range))
        shard = self.table.stream_shard
        self.streamed = len(shard.items) if shard else 0

    def restore(self) -> None:
        if self.item is None:
            self.table.items[self.hash].pop(self.range, None)
        else:
            self.table.items[self.hash][self.range] = self.item
        if self.table.stream_shard:
            del self.table.stream_shard.items[self.streamed :]

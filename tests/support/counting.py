"""Counts calls of DynamoDB and the read units that they cost.

moto measures no capacity, so units are counted from the size of what is returned (``units``).
Writes are counted, not measured.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import direct
from tests.support.units import read_units, size_of


@dataclass
class Counted:
    """Calls, in order, and read units."""

    calls: list[str] = field(default_factory=list)
    read_units: float = 0
    queues: list[str] = field(default_factory=list)
    """The partitions of the index of waiting images that were read."""

    def add(self, operation: str, params: dict[str, Any], answer: dict[str, Any]) -> None:
        """Count what one call has read."""
        match operation:
            case "GetItem":
                self.read_units += _units([answer.get("Item", {})])
            case "BatchGetItem":
                for table, wanted in params["RequestItems"].items():
                    found = answer["Responses"][table]
                    missing = len(wanted["Keys"]) - len(found)
                    self.read_units += sum(_units([item]) for item in found) + missing
            case "Query":
                self.read_units += _units(answer.get("Items", [])) / 2
                if params.get("IndexName") == "waiting":
                    self.queues += [
                        value["S"]
                        for name, value in params["ExpressionAttributeValues"].items()
                        if name in {":queue", ":of"}
                    ]


def _units(items: list[Any]) -> float:
    return read_units(sum(map(size_of, items)), consistent=True)


@contextmanager
def counted() -> Iterator[Counted]:
    """Count the calls of DynamoDB that are made meanwhile."""
    made, real = Counted(), direct.dynamodb

    def count(operation: str, params: dict[str, Any]) -> Any:
        made.calls.append(operation)
        answer = real(operation, params)
        made.add(operation, params, answer)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "dynamodb", count)
        yield made

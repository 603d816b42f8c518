"""The capacity units that DynamoDB charges, by its own rules.

moto and MiniStack answer ``ReturnConsumedCapacity`` with guesses, so nothing here asks them. The
rules are those of the Amazon DynamoDB Developer Guide; each function names its page.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Item = Mapping[str, Any]
"""An item in DynamoDB's own JSON."""
WRITE_BYTES, READ_BYTES = 1024, 4096
"""Bytes of an item that one write unit and one read unit pay for ("Read and write operations")."""
IN_TRANSACTION = 2
"""Each part of a transaction is prepared and committed ("DynamoDB transactions: how it works")."""
EVENTUAL = 0.5
"""Units of an eventually consistent read; all reads of an index are such."""


def size_of(item: Item) -> int:
    """Return an item's bytes ("DynamoDB item sizes and formats"): names and values in UTF-8."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Mapping[str, Any]) -> int:  # noqa: PLR0911 - a list of types
    ((kind, inner),) = value.items()
    match kind:
        case "S":
            return len(inner.encode())
        case "N":
            return _number_size(inner)
        case "B":
            return len(inner)
        case "BOOL" | "NULL":
            return 1
        case "L":
            return 3 + sum(1 + _value_size(part) for part in inner)
        case "M":
            return 3 + sum(1 + len(n.encode()) + _value_size(v) for n, v in inner.items())
        case "SS" | "NS" | "BS":
            return sum(_value_size({kind[0]: part}) for part in inner)
    message = f"DynamoDB has no type {kind}"
    raise ValueError(message)


def _number_size(text: str) -> int:
    """Return about what a number takes: a byte for two significant digits, and one more."""
    digits = text.lstrip("-").replace(".", "").strip("0")
    return math.ceil(len(digits) / 2) + 1 + text.startswith("-")


def write_units(before: Item | None, after: Item | None, *, transaction: bool = False) -> int:
    """Return the units of a write to the table: of the larger item, before or after it.

    A write whose condition fails pays for the item that it met, and at least one unit ("Condition
    expressions"); call it with that item on both sides. A check in a transaction pays as a write.
    """
    size = max(size_of(item) if item else 0 for item in (before, after))
    units = max(1, math.ceil(size / WRITE_BYTES))
    return units * (IN_TRANSACTION if transaction else 1)


def read_units(size: int, *, consistent: bool) -> float:
    """Return the units of a read of so many bytes, at least of one page; half if not consistent."""
    return max(1, math.ceil(size / READ_BYTES)) * (1 if consistent else EVENTUAL)


@dataclass(frozen=True, slots=True)
class Index:
    """A global secondary index: its keys, and what is projected into it."""

    name: str
    partition: str
    sort: str
    table_keys: tuple[str, ...]
    keys_only: bool

    def projected(self, item: Item | None) -> Item | None:
        """Return an item as the index has it; None if it is not in the index."""
        if item is None or self.partition not in item or self.sort not in item:
            return None
        if not self.keys_only:
            return item
        return {name: item[name] for name in (*self.table_keys, self.partition, self.sort)}

    def writes(self, before: Item | None, after: Item | None) -> Iterator[tuple[str, int]]:
        """Yield what a write to the table costs here: the partition and its units.

        "Global secondary indexes: provisioned throughput considerations": 1 unit to put an item
        into the index or to delete one, 2 if a key changes (one of each), 1 if only another
        projected attribute does, and none if nothing projected changes. Indexes follow after the
        transaction, so its factor of 2 does not apply.
        """
        old, new = self.projected(before), self.projected(after)
        if old == new:
            return
        kept = old is not None and new is not None and self._key(old) == self._key(new)
        if old is not None and not kept:
            yield self._key(old)[0], write_units(old, None)
        if new is not None:
            yield self._key(new)[0], write_units(old if kept else None, new)

    def _key(self, item: Item) -> tuple[str, str]:
        (partition,), (sort,) = item[self.partition].values(), item[self.sort].values()
        return str(partition), str(sort)

"""Doubles DynamoDB's bill: the write units of what a transaction puts, by its published rules.

An item is as large as its names and values. In a transaction each KB begun costs two units. An item
that is in an index costs one more for each KB begun of what the index has of it; an index of keys
alone has one. ``waiting`` has the whole item, the others the keys.
"""

import math
from typing import Any

from horde.store.items import DUE, LISTED, PK, SK, WAITING

KB = 1024
Item = dict[str, Any]


def size_of(item: Item) -> int:
    """Return the bytes of an item in DynamoDB's JSON."""
    return sum(len(name.encode()) + _value(value) for name, value in item.items())


def _value(value: Item) -> int:
    ((kind, inner),) = value.items()
    match kind:
        case "S":
            return len(str(inner).encode())
        case "N":
            digits = str(inner).lstrip("-0")
            return (len(digits) + 1) // 2 + 1 + str(inner).startswith("-")
        case "L":
            return 3 + sum(1 + _value(one) for one in inner)
        case "M":
            return 3 + sum(1 + len(name.encode()) + _value(one) for name, one in inner.items())
        case _:
            return 1


def units_of_new(item: Item) -> int:
    """Return the units of a new item in a transaction, its indexes included."""
    units = 2 * math.ceil(size_of(item) / KB)
    if WAITING.partition in item:
        units += math.ceil(size_of(item) / KB)
    for index in (DUE, LISTED):
        if index.partition in item:
            keys = {name: item[name] for name in (PK, SK, index.partition, index.sort)}
            units += math.ceil(size_of(keys) / KB)
    return units


def units_of(parts: list[Item]) -> int:
    """Return the units of a transaction that puts new items and updates small ones (under a KB).

    What an update changes in an index is not counted.
    """
    puts = [part["Put"]["Item"] for part in parts if "Put" in part]
    return sum(map(units_of_new, puts)) + 2 * (len(parts) - len(puts))

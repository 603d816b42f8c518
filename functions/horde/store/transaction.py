"""The parts of a transaction: plain dictionaries without a table name.

Functions return parts, so one transaction can write to several rooms. ``Table.transact`` writes all
parts or none.
"""

from collections.abc import Mapping
from typing import Any

from horde.store.items import PK, Item, encode_all, is_empty

EXISTS = f"attribute_exists({PK})"
ABSENT = f"attribute_not_exists({PK})"


def new(item: Item, condition: str = ABSENT, **values: Any) -> Item:
    """Return the part that writes an item under a condition: by default, that it is new."""
    optional = {"ExpressionAttributeValues": encode_all(values)} if values else {}
    return {"Put": {"Item": item, "ConditionExpression": condition, **optional}}


def update(
    key: Item, expression: str, condition: str, values: Item, names: Mapping[str, str] | None = None
) -> Item:
    """Return the part that updates an item; ``values`` are encoded, by placeholder."""
    optional = _conditional(condition, values, names)
    return {"Update": {"Key": key, "UpdateExpression": expression, **optional}}


def delete(
    key: Item,
    condition: str = "",
    values: Item | None = None,
    names: Mapping[str, str] | None = None,
) -> Item:
    """Return the part that deletes an item, under a condition if there is one."""
    return {"Delete": {"Key": key, **_conditional(condition, values, names)}}


def _conditional(condition: str, values: Item | None, names: Mapping[str, str] | None) -> Item:
    """Return the arguments of a condition; DynamoDB refuses empty ones."""
    arguments: Item = {
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }
    return {name: value for name, value in arguments.items() if value}


def check(key: Item, condition: str) -> Item:
    """Return the part that checks a condition and writes nothing."""
    return {"ConditionCheck": {"Key": key, "ConditionExpression": condition}}


def sets(changes: Mapping[str, Any]) -> tuple[str, dict[str, str], Item]:
    """Return the update that sets fields and removes the empty ones: expression, names, values."""
    names = {f"#{name}": name for name in changes}
    present = {name: value for name, value in changes.items() if not is_empty(value)}
    removed = [f"#{name}" for name in changes if name not in present]
    assignments = ", ".join(f"#{name} = :{name}" for name in present)
    expression = f"SET {assignments} " if present else ""
    expression += "REMOVE " + ", ".join(removed) if removed else ""
    return expression, names, encode_all(present)

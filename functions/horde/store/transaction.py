"""The parts of a transaction: plain dictionaries, which name no table.

What crosses rooms in one transaction is functions that return such parts; ``Table.transact`` writes
all of them or none.
"""

from collections.abc import Mapping
from typing import Any

from horde.store.items import PK, Item, encode_all, is_nothing

EXISTS = f"attribute_exists({PK})"
ABSENT = f"attribute_not_exists({PK})"


def new(item: Item, condition: str = ABSENT, **values: Any) -> Item:
    """Return the part that writes an item that is not there yet."""
    given = {"ExpressionAttributeValues": encode_all(values)} if values else {}
    return {"Put": {"Item": item, "ConditionExpression": condition, **given}}


def update(
    key: Item, expression: str, condition: str, values: Item, names: Mapping[str, str] | None = None
) -> Item:
    """Return the part that changes an item; ``values`` are encoded, by their placeholders."""
    given: Item = {
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }
    kept = {name: value for name, value in given.items() if value}
    return {"Update": {"Key": key, "UpdateExpression": expression, **kept}}


def delete(
    key: Item,
    condition: str = "",
    values: Item | None = None,
    names: Mapping[str, str] | None = None,
) -> Item:
    """Return the part that deletes an item, under a condition if there is one."""
    given: Item = {
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }
    return {"Delete": {"Key": key, **{name: value for name, value in given.items() if value}}}


def check(key: Item, condition: str) -> Item:
    """Return the part that only asks for a condition."""
    return {"ConditionCheck": {"Key": key, "ConditionExpression": condition}}


def sets(changes: Mapping[str, Any]) -> tuple[str, dict[str, str], Item]:
    """Return the update that sets fields, or removes those whose value is stored as none."""
    names = {f"#{name}": name for name in changes}
    kept = {name: value for name, value in changes.items() if not is_nothing(value)}
    gone = [f"#{name}" for name in changes if name not in kept]
    assignments = ", ".join(f"#{name} = :{name}" for name in kept)
    expression = f"SET {assignments} " if kept else ""
    expression += "REMOVE " + ", ".join(gone) if gone else ""
    return expression, names, encode_all(kept)

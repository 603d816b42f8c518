"""Shared keys and their budgets. A budget changes in the transaction that moves the kudos."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from horde import clock
from horde.records import UNLIMITED, SharedKey
from horde.store.items import Item, Kind, encode, encode_all, from_item, key, to_item
from horde.store.table import Table
from horde.store.transaction import EXISTS, delete, new, sets, update


class SharedKeys:
    """Keys that let others spend an account's kudos."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, key_id: str) -> SharedKey | None:
        """Read a shared key."""
        item = self._table.get(key(Kind.SHAREDKEY, key_id))
        return from_item(SharedKey, item) if item else None

    def add(self, shared: SharedKey, limit: int) -> bool:
        """Add a shared key; returns False if its owner is gone or has ``limit`` keys already."""
        room_for_one_more = "attribute_not_exists(sharedkey_ids) OR size(sharedkey_ids) < :limit"
        parts = [
            new({**key(Kind.SHAREDKEY, shared.id), **to_item(_tracked(shared))}),
            update(
                key(Kind.USER, shared.user_id),
                "ADD sharedkey_ids :key",
                f"{EXISTS} AND attribute_not_exists(deleted) AND ({room_for_one_more})",
                {":key": {"SS": [shared.id]}, ":limit": encode(limit)},
            ),
        ]
        return self._table.try_transact(parts)

    def change(
        self, key_id: str, user_id: int, changes: Mapping[str, int | str | None]
    ) -> SharedKey | None:
        """Set fields of a user's shared key; None removes one. Returns None if the key is gone.

        A new budget starts a new revision of the key.
        """
        expression, names, values = sets(changes)
        same_owner = f"{EXISTS} AND user_id = :owner"
        values[":owner"] = encode(user_id)
        if "kudos" in changes:
            expression, values[":one"] = f"{expression} ADD revision :one", encode(1)
        if changes.get("kudos", UNLIMITED) != UNLIMITED:
            expression = expression.replace("SET ", "SET granted = utilized + :kudos, ", 1)
        changed = self._table.try_update(
            key(Kind.SHAREDKEY, key_id), expression, same_owner, values, names
        )
        return from_item(SharedKey, changed) if changed else None

    def remove(self, shared: SharedKey) -> bool:
        """Delete a shared key; returns False if it is gone. Its requests are still drawn."""
        parts = [
            delete(key(Kind.SHAREDKEY, shared.id), EXISTS),
            update(
                key(Kind.USER, shared.user_id),
                "DELETE sharedkey_ids :key",
                EXISTS,
                {":key": {"SS": [shared.id]}},
            ),
        ]
        return self._table.try_transact(parts)


def spend(shared: SharedKey, *, paid: int, total: int) -> Item:
    """Return the part that spends ``paid`` kudos, if the budget covers ``total``.

    The difference is the part of the charge that is waived.
    """
    may_spend, values = _NOT_EXPIRED, {"now": clock.now()}
    if shared.kudos != UNLIMITED:
        may_spend += " AND kudos >= :total"
        values["total"] = total
    return _move_budget(shared, may_spend, add=-paid, used=paid, **values)


def raise_budget(shared: SharedKey, amount: int) -> Item:
    """Return the part that raises the budget of a key that has not expired."""
    return _move_budget(shared, _NOT_EXPIRED, add=amount, used=0, grant=amount, now=clock.now())


def give_back(shared: SharedKey, amount: int, revision: int) -> Item:
    """Return the part that refunds the shared key that paid, under the budget of ``revision``.

    If the owner has set another budget since, that one stays as it is: a disabled key stays
    disabled. Then the refund only lowers what the key has used.
    """
    if shared.revision != revision:
        # What the key was granted falls with what it has used: the budget between them stays.
        tracked = "" if shared.granted is None else ", granted :used"
        values = encode_all({"used": -amount, "revision": shared.revision})
        same_revision = "revision = :revision"
        expression = f"ADD utilized :used{tracked}"
        return update(key(Kind.SHAREDKEY, shared.id), expression, same_revision, values)
    return _move_budget(shared, EXISTS, add=amount, used=-amount)


_NOT_EXPIRED = "(attribute_not_exists(expires_at) OR expires_at > :now)"


def _tracked(shared: SharedKey) -> SharedKey:
    """Return a new key with what lets the audit check its budget for good."""
    granted = None if shared.kudos == UNLIMITED else shared.kudos + shared.utilized
    return replace(shared, granted=granted, in_ledger=True)


def _move_budget(
    shared: SharedKey, condition: str, *, add: int, used: int, grant: int = 0, **values: int
) -> Item:
    """Return the part that changes a key's budget, what it has used, and what it was granted.

    The budget must still be the one that was read, as its owner set it: with the same revision,
    and limited, or unlimited. A key made before there were revisions has none, which counts as 0.
    """
    limited = shared.kudos != UNLIMITED
    same_budget = "kudos >= :zero" if limited else "kudos = :unlimited"
    same_budget += " AND (revision = :revision" + (
        ")" if shared.revision else " OR attribute_not_exists(revision))"
    )
    placed: dict[str, Any] = {**values, "used": used, "revision": shared.revision}
    placed |= {"zero": 0, "add": add} if limited else {"unlimited": UNLIMITED}
    moves = "ADD utilized :used" + (", kudos :add" if limited else "")
    if grant and limited and shared.granted is not None:
        moves, placed["grant"] = f"{moves}, granted :grant", grant
    return update(
        key(Kind.SHAREDKEY, shared.id),
        moves,
        f"{same_budget} AND {condition}",
        encode_all(placed),
    )

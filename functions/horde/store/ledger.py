"""The ledger: one transaction appends an entry and moves the balance.

``post`` returns both parts. A reward is the one exception: ``settle`` appends it as pending, and
``payouts`` applies it to the balance later (``store.settlements``).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from horde import clock
from horde.records import User
from horde.rules import kudos, sharedkeys
from horde.rules.dates import iso
from horde.store.items import LISTED, Item, Kind, encode, encode_all, key, key_of, partition
from horde.store.transaction import EXISTS, new, sets, update

PLACE_EVERY_S = 60 * 60
"""Seconds that an account keeps its place in the list of users while rewards and charges move its
balance: a new place costs two more write units than the move itself."""


class Condition(NamedTuple):
    """A condition on an account without which its kudos do not move."""

    expression: str
    values: Mapping[str, int | str] = {}


NOT_DELETED = Condition("attribute_not_exists(deleted)")
"""Not deleted. A flagged account may still ask for images."""
IN_GOOD_STANDING = Condition("attribute_not_exists(deleted) AND attribute_not_exists(flagged)")
"""Neither deleted nor flagged. False is never stored, so a flag is either present or absent."""


def balance_is(kudos: int) -> Condition:
    """Return the condition that a balance is still exactly what was read."""
    return Condition("kudos = :seen", {"seen": kudos})


def balance_at_least(kudos: int) -> Condition:
    """Return the condition that a balance is at least this many kudos."""
    return Condition("kudos >= :minimum", {"minimum": kudos})


def no_allowance_since(month: int) -> Condition:
    """Return the condition that an account got no allowance since ``month`` (seconds)."""
    return Condition("(attribute_not_exists(allowed_at) OR allowed_at < :month)", {"month": month})


def needs_place(user: User) -> bool:
    """Return whether the next write of an account's balance should set its place in the list."""
    return user.placed_at <= clock.now() - PLACE_EVERY_S


def post(
    entry: kudos.Entry,
    *conditions: Condition,
    reference: str,
    place: bool = True,
    counts: Mapping[str, int | frozenset[str]] | None = None,
    changes: Mapping[str, Any] | None = None,
    taken: Mapping[str, frozenset[str]] | None = None,
    sharedkey_id: str | None = None,
) -> list[Item]:
    """Return the parts that append an entry and move its account's balance.

    ``place`` also sets the account's place in the list of users; a frequent write leaves it as it
    is for ``PLACE_EVERY_S``. ``counts`` are added to the account's fields, ``changes`` are set, and
    ``taken`` are taken out of its sets. ``sharedkey_id`` is the shared key that paid, if one did;
    the entry names it by its mark.
    """
    balance = apply_to_balance(
        [entry], *conditions, place=place, counts=counts, changes=changes, taken=taken
    )
    paid_by = {"sharedkey": {"S": sharedkeys.mark(sharedkey_id)}} if sharedkey_id else None
    return [balance, append_entry(entry, reference=reference, more=paid_by)]


def apply_to_balance(
    entries: Sequence[kudos.Entry],
    *conditions: Condition,
    place: bool,
    counts: Mapping[str, int | frozenset[str]] | None = None,
    changes: Mapping[str, Any] | None = None,
    taken: Mapping[str, frozenset[str]] | None = None,
) -> Item:
    """Return the part that moves an account's balance by entries, all of that account.

    One update changes the balance, its ``kudos_details`` and, if ``place``, the account's place in
    the list of users, so they cannot disagree. The account must exist, whatever the conditions.
    ``counts`` are added to the account's fields, ``changes`` are set, and ``taken`` are taken out
    of its sets.
    """
    total = sum(entry.amount for entry in entries)
    added: dict[str, Any] = dict(counts or {})
    for entry in entries:
        name = kudos.detail(entry.kind, entry.amount)
        added[name] = added.get(name, 0) + entry.amount
    moves = ["kudos :amount", *(f"{name} :{name}" for name in added)]
    placed = {"placed_at": clock.now()} if place else {}
    setting, names, values = sets({**(changes or {}), **placed})
    if place:  # an update reads the balance as it was before it
        setting = setting.replace("SET ", f"SET {LISTED.sort} = kudos + :amount, ", 1)
    for condition in conditions:
        values |= encode_all(condition.values)
    taking = ", ".join(f"{name} :{name}" for name in taken or {})
    return update(
        key(Kind.USER, entries[0].user_id),
        f"{setting} ADD {', '.join(moves)}" + (f" DELETE {taking}" if taking else ""),
        " AND ".join([EXISTS, *(condition.expression for condition in conditions)]),
        values | encode_all({"amount": total, **added, **(taken or {})}),
        names,
    )


def append_entry(entry: kudos.Entry, *, reference: str, more: Item | None = None) -> Item:
    """Return the part that appends an entry; ``more`` holds its further attributes."""
    written = f"{iso(clock.now_ms())}#{uuid4()}"
    return new(
        {
            **key_of((partition(Kind.USER, entry.user_id), f"{Kind.LEDGER}#{written}")),
            "kind": {"S": entry.kind},
            "amount": {"N": str(entry.amount)},
            "postings": {"M": {name: encode(value) for name, value in entry.postings.items()}},
            "reference": {"S": reference},
            **(more or {}),
        }
    )

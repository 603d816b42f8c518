"""The ledger's entries: known kinds, zero sums, both sides of a transfer, and their reasons."""

from horde.rules.kudos import Account as Side
from horde.rules.kudos import Kind
from horde.store.raters import RATED
from infra.operate.audit.findings import (
    TRANSFERS,
    Finding,
    Findings,
    Rule,
    View,
    generation_key,
    item_name,
    request_key,
    user_key,
)

SIDES: dict[str, frozenset[str]] = {
    Kind.ACCEPT: frozenset({Side.PRICE, Side.TAX, Side.WAIVER}),
    Kind.REFUND: frozenset({Side.PRICE, Side.TAX, Side.WAIVER}),
    Kind.REWARD: frozenset({Side.REWARDS}),
    Kind.REVERSAL: frozenset({Side.REWARDS}),
    Kind.GRANT: frozenset({Side.GRANTS}),
    Kind.FLOOR: frozenset({Side.WAIVER}),
    Kind.TRANSFER: frozenset({Side.TRANSFERS}),
    Kind.AWARD: frozenset({Side.AWARDS}),
    Kind.ALLOWANCE: frozenset({Side.ALLOWANCES}),
    Kind.STYLE: frozenset({Side.TAX}),
}
"""The system accounts to which each kind of entry may post."""


ONCE = frozenset({Kind.ACCEPT, Kind.REFUND, Kind.REWARD, Kind.STYLE})


AWARDED_BY = "by "
"""The beginning of an award's reference if it is not for a rating."""


def readable(view: View) -> Findings:
    """Check that all items could be parsed."""
    for row, why in view.books.unreadable.items():
        yield Finding(
            rule=Rule.READABLE,
            item=item_name(row),
            what="its attributes",
            expected="the form this system writes",
            found=why,
            about=frozenset({row[0]}),
        )


def entries(view: View) -> Findings:
    """Check that each entry has a known kind, is balanced, and is the only one of its event."""
    for entry in view.books.entries.values():
        about = frozenset({entry.row[0]})
        sides = SIDES.get(entry.kind)
        if sides is None:
            yield Finding(
                rule=Rule.KNOWN,
                item=item_name(entry.row),
                what="kind",
                expected="a known one",
                found=entry.kind,
                about=about,
            )
        elif not sides.issuperset(entry.postings):
            yield Finding(
                rule=Rule.KNOWN,
                item=item_name(entry.row),
                what="postings",
                expected=", ".join(sorted(sides)),
                found=", ".join(sorted(entry.postings)),
                about=about,
            )
        if entry.amount + sum(entry.postings.values()):
            yield Finding(
                rule=Rule.ZERO,
                item=item_name(entry.row),
                what="its sum",
                expected=0,
                found=entry.amount + sum(entry.postings.values()),
                about=about,
            )
    for (kind, reference), found in view.events.items():
        rating = kind == Kind.AWARD and not reference.startswith(AWARDED_BY)
        if len(found) == 1 or not (kind in ONCE or rating):
            continue
        for entry in sorted(found, key=lambda entry: entry.row[1])[1:]:
            yield Finding(
                rule=Rule.ONCE,
                item=item_name(entry.row),
                what=f"{kind} of {reference}",
                expected=1,
                found=len(found),
                about=frozenset(entry.row[0] for entry in found),
            )


def transfers(view: View) -> Findings:
    """Check that the two entries of each transfer match."""
    for (kind, reference), found in view.events.items():
        if kind != Kind.TRANSFER:
            continue
        total = sum(entry.postings.get(Side.TRANSFERS, 0) for entry in found)
        users = {entry.user_id for entry in found}
        first = min(found, key=lambda entry: entry.row[1])
        if total or len(found) != 2 or len(users) != 2:  # noqa: PLR2004 - two sides
            yield Finding(
                rule=Rule.PAIRED,
                item=item_name(first.row),
                what=f"both sides of {reference}",
                expected="0 in 2 entries of 2 users",
                found=f"{total} in {len(found)} entries of {len(users)} users",
                about=frozenset({TRANSFERS, *map(user_key, users)}),
            )


def reasons(view: View) -> Findings:
    """Check that each entry's request or image exists, or may have been deleted by TTL."""
    books = view.books
    for entry in view.books.entries.values():
        reference, there = entry.reference, True
        if entry.kind == Kind.ACCEPT or (
            entry.kind == Kind.AWARD and not reference.startswith((AWARDED_BY, RATED))
        ):
            there, name = reference in books.requests, request_key(reference)
        elif entry.kind in {Kind.REFUND, Kind.REWARD, Kind.STYLE}:
            there, name = reference in books.images, generation_key(reference)
        if not there and view.young(entry):
            yield Finding(
                rule=Rule.REASON,
                item=item_name(entry.row),
                what=f"{entry.kind}'s reference",
                expected=name,
                found="no such item",
                about=frozenset({entry.row[0], name}),
            )

"""The ledger entries of every event: double-entry bookkeeping in whole kudos.

An entry has a user's signed amount and signed postings to system accounts, which sum to zero. The
kinds are the Horde's (horde-api.md 3.3).
"""

from dataclasses import dataclass
from enum import StrEnum

from horde.records import User


class Account(StrEnum):
    """A system account: the horde's side of an entry."""

    PRICE = "price"
    TAX = "tax"
    WAIVER = "waiver"
    """The part of a charge that is waived, since it would take the balance below its floor."""
    REWARDS = "rewards"
    GRANTS = "grants"
    AWARDS = "awards"
    ALLOWANCES = "allowances"
    TRANSFERS = "transfers"
    """Clears the two entries of a transfer between users."""


class Kind(StrEnum):
    """The kind of an entry."""

    ACCEPT = "GENERATION"
    REFUND = "REFUND"
    REWARD = "REWARD"
    REVERSAL = "REWARD_REVERSAL"
    """Rewards that the operator took back."""
    GRANT = "ADMIN_ADJUSTMENT"
    FLOOR = "FLOOR_ADJUSTMENT"
    TRANSFER = "TRANSFER"
    AWARD = "AWARD"
    ALLOWANCE = "RECURRING"
    STYLE = "STYLE_REWARD"


@dataclass(frozen=True, slots=True)
class Entry:
    """One movement of a user's balance. ``amount`` and ``postings`` are signed kudos."""

    kind: Kind
    user_id: int
    amount: int
    postings: dict[str, int]
    waived: int = 0
    """Kudos that were waived from a charge or deducted from a refund."""

    def __post_init__(self) -> None:
        """Raise ValueError if the amount and the postings do not sum to zero."""
        if self.amount + sum(self.postings.values()) != 0:
            message = f"an entry must sum to zero: {self}"
            raise ValueError(message)


def _entry(kind: Kind, user_id: int, system: dict[Account, int], waived: int = 0) -> Entry:
    postings = {str(account): amount for account, amount in system.items() if amount}
    return Entry(kind, user_id, -sum(postings.values()), postings, waived)


def accept(user_id: int, *, balance: int, floor: int, price: int, tax: int, n: int) -> Entry:
    """Charge ``n`` images at ``price`` and ``tax`` kudos each.

    The part that would take the balance below its floor is waived.
    """
    total = (price + tax) * n
    waived = max(0, total - max(0, balance - floor))
    return _entry(
        Kind.ACCEPT,
        user_id,
        {Account.PRICE: price * n, Account.TAX: tax * n, Account.WAIVER: -waived},
        waived,
    )


def refund(user_id: int, *, price: int, tax: int, waived_left: int) -> Entry:
    """Refund one image's price and tax, minus the request's waived kudos not yet deducted.

    Waived kudos are deducted first, so refunds in any order never exceed what was paid.
    """
    deducted = min(price + tax, waived_left)
    return _entry(
        Kind.REFUND,
        user_id,
        {Account.PRICE: -price, Account.TAX: -tax, Account.WAIVER: deducted},
        deducted,
    )


def reward(user_id: int, amount: int) -> Entry:
    """Pay a worker's owner for one drawn image."""
    return _entry(Kind.REWARD, user_id, {Account.REWARDS: -amount})


def reversal(user_id: int, amount: int) -> Entry:
    """Take ``amount`` kudos of rewards back from a worker's owner."""
    return _entry(Kind.REVERSAL, user_id, {Account.REWARDS: amount})


def award(user_id: int, amount: int) -> Entry:
    """Give a user new kudos for something other than an image, such as a rating."""
    return _entry(Kind.AWARD, user_id, {Account.AWARDS: -amount})


def style_reward(user_id: int, amount: int) -> Entry:
    """Pay a style's author for an image that another account paid for, out of its tax."""
    return _entry(Kind.STYLE, user_id, {Account.TAX: -amount})


def allowance(user_id: int, amount: int) -> Entry:
    """Give a user this month's allowance."""
    return _entry(Kind.ALLOWANCE, user_id, {Account.ALLOWANCES: -amount})


def grant(user_id: int, amount: int) -> Entry:
    """Give kudos for the operator or an admin, or take them if ``amount`` is negative."""
    return _entry(Kind.GRANT, user_id, {Account.GRANTS: -amount})


def transfer(sender: int, receiver: int, amount: int) -> tuple[Entry, Entry]:
    """Move kudos between two users; returns the sender's entry and the receiver's."""
    return (
        _entry(Kind.TRANSFER, sender, {Account.TRANSFERS: amount}),
        _entry(Kind.TRANSFER, receiver, {Account.TRANSFERS: -amount}),
    )


def detail(kind: Kind, amount: int) -> str:
    """Return the field of the Horde's ``kudos_details`` that an entry counts in.

    Each entry counts in exactly one field, so a user's details sum to the balance.
    """
    match kind:
        case Kind.TRANSFER:
            return "gifted" if amount < 0 else "received"
        case Kind.AWARD:
            return "awarded"
        case Kind.ALLOWANCE:
            return "recurring"
        case Kind.STYLE:
            return "styled"
        case Kind.GRANT | Kind.FLOOR:
            return "admin"  # the horde gives a new account its first kudos
        case _:
            return "accumulated"


def opening(user: User) -> Entry:
    """Raise a new account's balance to its floor."""
    return _entry(Kind.FLOOR, user.id, {Account.WAIVER: -user.floor})

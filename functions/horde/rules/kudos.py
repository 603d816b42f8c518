"""Which account gains and which loses, for every event: double-entry, in whole kudos.

An entry's postings are signed and sum to zero with its amount: what a user pays stands against the
system accounts below. Kinds are the Horde's (horde-api.md 3.3).
"""

from dataclasses import dataclass
from enum import StrEnum

from horde.records import User


class Account(StrEnum):
    """The system's side of every entry."""

    PRICE = "price"
    TAX = "tax"
    WAIVER = "waiver"
    """What an account need not pay, since its balance would fall below its floor."""
    REWARDS = "rewards"
    GRANTS = "grants"
    AWARDS = "awards"
    ALLOWANCES = "allowances"
    TRANSFERS = "transfers"
    """Between two users: what goes in with one entry comes out with the other."""


class Kind(StrEnum):
    """What happened."""

    ACCEPT = "GENERATION"
    REFUND = "REFUND"
    REWARD = "REWARD"
    GRANT = "ADMIN_ADJUSTMENT"
    FLOOR = "FLOOR_ADJUSTMENT"
    TRANSFER = "TRANSFER"
    AWARD = "AWARD"
    ALLOWANCE = "RECURRING"


@dataclass(frozen=True, slots=True)
class Entry:
    """One movement of a user's balance. ``amount`` and ``postings`` are signed kudos."""

    kind: Kind
    user_id: int
    amount: int
    postings: dict[str, int]
    waived: int = 0
    """Kudos of a charge that were waived, or that were deducted from a refund."""

    def __post_init__(self) -> None:
        """Refuse an entry that mints or loses kudos; raises ValueError."""
        if self.amount + sum(self.postings.values()) != 0:
            message = f"an entry must sum to zero: {self}"
            raise ValueError(message)


def _entry(kind: Kind, user_id: int, system: dict[Account, int], waived: int = 0) -> Entry:
    postings = {str(account): amount for account, amount in system.items() if amount}
    return Entry(kind, user_id, -sum(postings.values()), postings, waived)


def accept(user_id: int, *, balance: int, floor: int, price: int, tax: int, n: int) -> Entry:
    """Charge ``n`` images; what would push the balance below its floor is waived."""
    total = (price + tax) * n
    waived = max(0, total - max(0, balance - floor))
    return _entry(
        Kind.ACCEPT,
        user_id,
        {Account.PRICE: price * n, Account.TAX: tax * n, Account.WAIVER: -waived},
        waived,
    )


def refund(user_id: int, *, price: int, tax: int, waived_left: int) -> Entry:
    """Give one image's price and tax back; waived kudos are deducted first.

    So a request's refunds never return more than was paid, whatever their order.
    """
    off = min(price + tax, waived_left)
    return _entry(
        Kind.REFUND,
        user_id,
        {Account.PRICE: -price, Account.TAX: -tax, Account.WAIVER: off},
        off,
    )


def reward(user_id: int, amount: int) -> Entry:
    """Pay a worker's owner for one drawn image."""
    return _entry(Kind.REWARD, user_id, {Account.REWARDS: -amount})


def award(user_id: int, amount: int) -> Entry:
    """Give a user new kudos for something other than an image, such as a rating."""
    return _entry(Kind.AWARD, user_id, {Account.AWARDS: -amount})


def allowance(user_id: int, amount: int) -> Entry:
    """Give a user this month's kudos."""
    return _entry(Kind.ALLOWANCE, user_id, {Account.ALLOWANCES: -amount})


def grant(user_id: int, amount: int) -> Entry:
    """Give (or take, if negative) kudos by the operator's or an admin's hand."""
    return _entry(Kind.GRANT, user_id, {Account.GRANTS: -amount})


def transfer(sender: int, receiver: int, amount: int) -> tuple[Entry, Entry]:
    """Move kudos between two users: what leaves one and what arrives at the other."""
    return (
        _entry(Kind.TRANSFER, sender, {Account.TRANSFERS: amount}),
        _entry(Kind.TRANSFER, receiver, {Account.TRANSFERS: -amount}),
    )


def detail(kind: Kind, amount: int) -> str:
    """Return which of the Horde's ``kudos_details`` an entry belongs to, by its amount's sign.

    Each entry belongs to one, so a user's details sum to the balance.
    """
    match kind:
        case Kind.TRANSFER:
            return "gifted" if amount < 0 else "received"
        case Kind.AWARD:
            return "awarded"
        case Kind.ALLOWANCE:
            return "recurring"
        case Kind.GRANT | Kind.FLOOR:
            return "admin"  # the kudos of a new account are a gift of the house
        case _:
            return "accumulated"


def opening(user: User) -> Entry:
    """Lift a new account to its floor."""
    return _entry(Kind.FLOOR, user.id, {Account.WAIVER: -user.floor})

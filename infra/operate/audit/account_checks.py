"""Accounts and their ledgers: balances, details, floors, and their place in the list."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from horde.records import ANONYMOUS_ID, User
from horde.rules import kudos
from horde.rules.kudos import Account as Side
from horde.rules.kudos import Kind
from horde.store import items
from horde.store.audit_rows import AccountRow, EntryRow
from horde.store.items import LISTED, users_list
from infra.operate.audit.entry_checks import SIDES
from infra.operate.audit.findings import (
    SLACK_S,
    Finding,
    Findings,
    Rule,
    View,
    finding_of,
    finding_of_account,
    generation_key,
    own_item,
    user_key,
)

OPENING = "registration"


DETAILS = ("accumulated", "gifted", "received", "admin", "awarded", "recurring")


@dataclass(slots=True)
class _Sums:
    """The sums of one account's ledger."""

    balance: int = 0
    details: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    """Kudos that its requests paid, minus refunds, by system account; in all under ``""``."""
    openings: int = 0
    opened_with: int = 0
    rewards: int = 0

    def add(self, entry: EntryRow) -> None:
        if entry.kind == Kind.REWARD and not entry.posted:
            return  # still pending
        self.balance += entry.amount
        if entry.kind in SIDES:
            self.details[kudos.detail(Kind(entry.kind), entry.amount)] += entry.amount
        if entry.kind in {Kind.ACCEPT, Kind.REFUND}:
            self.paid.update({Side.PRICE: 0, Side.TAX: 0, **entry.postings, "": -entry.amount})
        if entry.kind == Kind.FLOOR:
            self.openings += 1
            self.opened_with += entry.amount
        self.rewards += entry.kind == Kind.REWARD


def accounts(view: View) -> Findings:
    """Check each account against its ledger."""
    sums: dict[int, _Sums] = defaultdict(_Sums)
    for entry in view.books.entries.values():
        sums[entry.user_id].add(entry)
    known = view.books.accounts
    for user_id in sums.keys() - known.keys() - {ANONYMOUS_ID}:
        yield Finding(
            rule=Rule.OWNED,
            item=own_item(user_key(user_id)),
            what="the item",
            expected="an account",
            found="no such item",
            about=frozenset({user_key(user_id)}),
        )
    if ANONYMOUS_ID in sums or ANONYMOUS_ID in known:
        yield Finding(
            rule=Rule.ANONYMOUS,
            item=own_item(user_key(ANONYMOUS_ID))
            if ANONYMOUS_ID in known
            else f"{user_key(ANONYMOUS_ID)}/{items.Kind.LEDGER}",
            what="the item",
            expected="none",
            found="an account" if ANONYMOUS_ID in known else f"kudos {sums[0].balance}",
            about=frozenset({user_key(ANONYMOUS_ID)}),
        )
    for user_id, account in known.items():
        if user_id != ANONYMOUS_ID:
            yield from _account(account, sums[user_id])
            yield from _waiting(view, account.user)


def _waiting(view: View, user: User) -> Findings:
    """Check a count that has not grown for long: images that began to wait meanwhile are unread."""
    images = view.waiting.get(user.id, [])
    if user.waiting_at < view.now - SLACK_S and user.waiting != len(images):
        about = frozenset({user_key(user.id), *map(generation_key, images)})
        finding = finding_of(own_item(user_key(user.id)), about)
        yield finding(Rule.WAITS, "waiting", len(images), user.waiting)


def _account(account: AccountRow, ledger: _Sums) -> Findings:
    user, finding = account.user, finding_of_account(account.user)
    if user.kudos != ledger.balance:
        yield finding(Rule.BALANCE, "kudos", ledger.balance, user.kudos)
    for name in DETAILS:
        if getattr(user, name) != ledger.details[name]:
            yield finding(Rule.DETAILS, name, ledger.details[name], getattr(user, name))
    if sum(getattr(user, name) for name in DETAILS) != user.kudos:
        details = sum(getattr(user, name) for name in DETAILS)
        yield finding(Rule.DETAILS, "their sum", user.kudos, details)
    if user.kudos < user.floor:
        yield finding(Rule.FLOOR, "kudos", f"at least {user.floor}", user.kudos)
    if ledger.openings != 1:
        yield finding(Rule.OPENED, f"entries of {OPENING}", 1, ledger.openings)
    elif ledger.opened_with != user.floor:
        yield finding(Rule.OPENED, "kudos it was opened with", user.floor, ledger.opened_with)
    if user.fulfilled != ledger.rewards:
        yield finding(Rule.FULFILLED, "fulfilled", ledger.rewards, user.fulfilled)
    yield from _listed(account)
    yield from _given_back(account, ledger)


def _given_back(account: AccountRow, ledger: _Sums) -> Findings:
    finding = finding_of_account(account.user)
    for name, what in ((Side.PRICE, "prices"), (Side.TAX, "taxes"), ("", "kudos")):
        if ledger.paid[name] < 0:
            excess = f"{-ledger.paid[name]} more given back"
            yield finding(Rule.GIVEN_BACK, what, "none", excess)


def _listed(account: AccountRow) -> Findings:
    user, finding = account.user, finding_of_account(account.user)
    if account.listed_at != user.kudos:
        yield finding(Rule.LISTED, LISTED.sort, user.kudos, account.listed_at or "none")
    listed = "none" if user.deleted else users_list(user.id)
    if (account.listed or "none") != listed:
        yield finding(Rule.LISTED, LISTED.partition, listed, account.listed or "none")

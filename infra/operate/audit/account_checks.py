"""Accounts and their ledgers: balances, details, floors, and their place in the list."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from horde.records import ANONYMOUS_ID
from horde.rules import kudos, ruleset
from horde.rules.dates import month_start
from horde.rules.kudos import Account as Side
from horde.rules.kudos import Kind
from horde.store import items
from horde.store.audit_rows import AccountRow, EntryRow
from horde.store.items import LISTED, users_list
from horde.store.ledger import PLACE_EVERY_S
from infra.operate.audit.entry_checks import SIDES
from infra.operate.audit.findings import (
    Finding,
    Findings,
    Rule,
    View,
    finding_of,
    finding_of_account,
    item_name,
    own_item,
    user_key,
)

OPENING = "registration"
MINUTE_S = 60


DETAILS = ("accumulated", "gifted", "received", "admin", "awarded", "recurring", "styled")


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
    moved_at: int = 0
    """When the last entry that is in the balance was written."""
    placed_at: int = 0
    """When the last entry was written that sets a place in the list, if an hour has passed."""

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
        self.moved_at = max(self.moved_at, entry.written_at)
        if entry.kind not in {Kind.REFUND, Kind.REWARD, Kind.STYLE}:
            self.placed_at = max(self.placed_at, entry.written_at)


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
    yield from _opened(account, ledger)
    if user.fulfilled != ledger.rewards:
        yield finding(Rule.FULFILLED, "fulfilled", ledger.rewards, user.fulfilled)
    yield from _listed(account, ledger)
    yield from _given_back(account, ledger)


def _opened(account: AccountRow, ledger: _Sums) -> Findings:
    """Check an account's floor and opening balance by the rules it was opened under."""
    user, finding = account.user, finding_of_account(account.user)
    if ledger.openings != 1:
        yield finding(Rule.OPENED, f"entries of {OPENING}", 1, ledger.openings)
    try:
        floor = ruleset.of(user.ruleset).floor
    except KeyError:
        yield finding(Rule.RULED, "ruleset", "a known one", user.ruleset)
        return
    if user.floor != floor:
        yield finding(Rule.FLOORED, "floor", floor, user.floor)
    if ledger.openings == 1 and ledger.opened_with != floor:
        yield finding(Rule.OPENED, "kudos it was opened with", floor, ledger.opened_with)


def allowances(view: View) -> Findings:
    """Check that each account got at most one allowance for each month, and in that month.

    The entry names the month. Its account remembers when the last one was given.
    """
    last: dict[int, int] = {}
    given: dict[tuple[int, str], list[EntryRow]] = defaultdict(list)
    for entry in view.books.entries.values():
        if entry.kind == Kind.ALLOWANCE:
            given[entry.user_id, entry.reference].append(entry)
            month = max(last.get(entry.user_id, 0), month_start(entry.written_at))
            last[entry.user_id] = month
    for (_, reference), entries in given.items():
        first, *more = sorted(entries, key=lambda entry: entry.row.sk)
        finding = finding_of(item_name((more or [first])[0].row), frozenset({first.row.pk}))
        if more:
            yield finding(Rule.ALLOWED, f"entries of {reference}", 1, len(entries))
        # Decided within a month, an entry may be written a moment after its end.
        months = {
            f"month {month_start(at)}" for at in (first.written_at, first.written_at - MINUTE_S)
        }
        if reference not in months:
            written = f"month {month_start(first.written_at)}"
            yield finding(Rule.ALLOWED, "reference", written, reference)
    for user_id, account in view.books.accounts.items():
        month, known = last.get(user_id, 0), account.user.allowed_at
        if month not in ({month_start(known), month_start(known + MINUTE_S)} if known else {0}):
            finding = finding_of_account(account.user)
            yield finding(Rule.ALLOWED, "allowed_at", f"in month {month}", known or "none")


def _given_back(account: AccountRow, ledger: _Sums) -> Findings:
    finding = finding_of_account(account.user)
    for name, what in ((Side.PRICE, "prices"), (Side.TAX, "taxes"), ("", "kudos")):
        if ledger.paid[name] < 0:
            excess = f"{-ledger.paid[name]} more given back"
            yield finding(Rule.GIVEN_BACK, what, "none", excess)


def _listed(account: AccountRow, ledger: _Sums) -> Findings:
    """Check an account's place in the list: at its balance, or at one of at most an hour before.

    A reward is posted some time after its entry was written.
    """
    user, finding = account.user, finding_of_account(account.user)
    if ledger.placed_at > user.placed_at + PLACE_EVERY_S + MINUTE_S:
        yield finding(Rule.LISTED, "placed_at", f"{ledger.placed_at} or later", user.placed_at)
    elif account.listed_at is None or (
        account.listed_at != user.kudos and ledger.moved_at < user.placed_at - PLACE_EVERY_S
    ):
        yield finding(Rule.LISTED, LISTED.sort, user.kudos, account.listed_at or "none")
    listed = "none" if user.deleted else users_list(user.id)
    if (account.listed or "none") != listed:
        yield finding(Rule.LISTED, LISTED.partition, listed, account.listed or "none")

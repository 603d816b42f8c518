"""The rules that the books must satisfy, by name. Pure: books in, findings out.

TTL deletes the items of an ended request after two days, but ledger entries stay. So a missing item
is a finding only if TTL cannot have deleted it yet. Each request is judged by the ruleset under
which it was accepted.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

from horde.records import (
    ANONYMOUS_ID,
    DELIVERED,
    OPEN,
    UNLIMITED,
    Request,
    Settlement,
    SharedKey,
    State,
    User,
)
from horde.rules import kudos, pricing, ratings, ruleset, statistics
from horde.rules.dates import DAY_S
from horde.rules.kudos import Account as Side
from horde.rules.kudos import Kind
from horde.rules.statistics import Scope, Series
from horde.store import counters, items
from horde.store.audit_rows import AccountRow, EntryRow, ImageRow, IndexKeys, RequestRow
from horde.store.counters import STATS_KEEP_S, scope_of
from horde.store.items import (
    DUE,
    KEEP_S,
    LISTED,
    Row,
    due_shard,
    partition,
    requests_list,
    users_list,
    waiting_list,
)
from infra.operate.audit.books import Books

SLACK_S = 3600
"""Seconds by which clocks, retries and concurrent sweeps may shift the TTL of an item."""


class Rule(StrEnum):
    """The rules, in the words of a finding."""

    READABLE = "every item has the form that this system writes"
    KNOWN = "an entry has a known kind and posts to that kind's system accounts"
    ZERO = "an entry and its postings sum to zero"
    ONCE = "an event has one entry"
    PAIRED = "a transfer takes from one user what it gives to another"
    OWNED = "a ledger belongs to an account"
    ANONYMOUS = "no request writes the anonymous account"
    BALANCE = "a balance is the sum of its ledger"
    DETAILS = "a balance's details are the sums of its entries by kind"
    FLOOR = "a balance is not below its floor"
    OPENED = "an account was opened once"
    FULFILLED = "an account's count of drawn images equals the number of its rewards"
    LISTED = "an account is in the list of users at its balance; a deleted account is not"
    GIVEN_BACK = "no account gets back more than it paid"
    CHARGED = "the charge of a request is the price and tax of its images, minus what was waived"
    UNCHARGED = "a refund follows a charge"
    WAIVED = "waived kudos are deducted from the first refunds"
    REFUNDED = "an image's refund matches its final state"
    REWARDED = "a delivered image has one reward, and no other image has any"
    REASON = "an entry refers to a request or image that exists"
    COMPLETE = "a request has all its images, and an image has its request"
    DUE = "an open request is due; a closed request has no open image"
    OPEN_LISTED = "an account's list of requests has its open requests only"
    LEASED = "an image in processing is leased and due, and not in the queue"
    WAITING = "a waiting image is in its queue and its owner's list, and not leased"
    ENDED = "an image in a final state is in no index"
    RULED = "a request names a known ruleset"
    TAXED = "a request's tax is the ruleset's tax for shared or private images"
    SHAREABLE = "images from a source image are never shared; anonymous text-to-image always is"
    PUBLISHED = "the data set has only delivered, uncensored images of shared requests"
    RATED = "a rating's award goes to the request's owner, within the rules and below its cost"
    BUDGET = "a shared key has spent what its requests paid, and is not overdrawn"
    KEY_OWNER = "a shared key is listed in its owner's account"
    COUNTED = "statistics are the sums of the events they have counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One violation of a rule."""

    rule: Rule
    item: str
    """``pk/sk`` of the item; for a shared key, which is a secret, only its beginning."""
    what: str
    """The part of the item that is wrong."""
    expected: int | str
    found: int | str
    about: frozenset[str] = field(default=frozenset(), compare=False)
    """The partitions to read again before it is reported; also STATS or TRANSFERS."""

    @property
    def place(self) -> tuple[object, ...]:
        """Its rule, item and part, without the values."""
        return (self.rule, self.item, self.what)

    @property
    def key(self) -> tuple[object, ...]:
        """The identity of a finding over several reads.

        For numbers it contains only their difference, since both may change meanwhile.
        """
        if isinstance(self.expected, int) and isinstance(self.found, int):
            return (*self.place, self.found - self.expected)
        return (*self.place, self.expected, self.found)

    def __str__(self) -> str:
        """Return the line of the report."""
        wrong = f"expected {self.expected}, found {self.found}"
        return f"{self.item}: {self.rule}: {self.what}: {wrong}"


Findings = Iterator[Finding]

STATS = items.Kind.STATS.value
TRANSFERS = "TRANSFERS"

SIDES: dict[str, frozenset[str]] = {
    Kind.ACCEPT: frozenset({Side.PRICE, Side.TAX, Side.WAIVER}),
    Kind.REFUND: frozenset({Side.PRICE, Side.TAX, Side.WAIVER}),
    Kind.REWARD: frozenset({Side.REWARDS}),
    Kind.GRANT: frozenset({Side.GRANTS}),
    Kind.FLOOR: frozenset({Side.WAIVER}),
    Kind.TRANSFER: frozenset({Side.TRANSFERS}),
    Kind.AWARD: frozenset({Side.AWARDS}),
    Kind.ALLOWANCE: frozenset({Side.ALLOWANCES}),
}
"""The system accounts to which each kind of entry may post."""
ONCE = frozenset({Kind.ACCEPT, Kind.REFUND, Kind.REWARD})
OPENING = "registration"
AWARDED_BY = "by "
"""The beginning of an award's reference if it is not for a rating."""
DETAILS = ("accumulated", "gifted", "received", "admin", "awarded", "recurring")
FIELDS = {
    Scope.WORKER: ("images", "pixelsteps", "kudos"),
    Scope.ANONYMOUS: ("images", "pixelsteps", "taxes"),
}
"""The numbers in the statistics of workers and of the anonymous account.

All other statistics have images and pixelsteps.
"""


@dataclass
class View:
    """The books, with look-ups that several rules share; ``now`` is in seconds since the epoch."""

    books: Books
    now: int

    @cached_property
    def events(self) -> dict[tuple[str, str], list[EntryRow]]:
        """All entries by kind and reference."""
        found: dict[tuple[str, str], list[EntryRow]] = defaultdict(list)
        for entry in self.books.entries.values():
            found[entry.kind, entry.reference].append(entry)
        return dict(found)

    def event(self, kind: Kind, reference: str) -> list[EntryRow]:
        """Return the entries with a kind and a reference."""
        return self.events.get((kind, reference), [])

    def refunds(self, request: Request) -> list[EntryRow]:
        """Return the refunds of a request's images."""
        return [
            entry
            for generation_id in request.generations
            for entry in self.event(Kind.REFUND, generation_id)
        ]

    def cost(self, request: Request) -> int:
        """Return the kudos that a request's owner paid for it, minus refunds."""
        charges = self.event(Kind.ACCEPT, request.id)
        return -sum(entry.amount for entry in [*charges, *self.refunds(request)])

    def expired(self, gone_at: int | None) -> bool:
        """Return whether TTL may have deleted an item with this TTL."""
        return gone_at is not None and gone_at <= self.now + SLACK_S

    def young(self, entry: EntryRow) -> bool:
        """Return whether the request or image of an entry must still exist."""
        return entry.written_at + KEEP_S > self.now + SLACK_S

    def around(self, request_id: str, *generations: str) -> frozenset[str]:
        """Return the partitions that findings about a request and its images depend on."""
        row = self.books.requests.get(request_id)
        names, users = {_request(request_id)}, set()
        for name in [*generations, *(row.request.generations if row else [])]:
            names |= {_generation(name), partition(items.Kind.SHARED, name)}
            image = self.books.images.get(name)
            if image is not None:
                users |= {image.generation.worker_user, image.generation.user_id}
            users |= {
                entry.user_id
                for kind in (Kind.REFUND, Kind.REWARD)
                for entry in self.event(kind, name)
            }
        users |= {row.request.user_id} if row else set()
        users |= {entry.user_id for entry in self.event(Kind.ACCEPT, request_id)}
        return frozenset(names | {_user(user) for user in users if user is not None})


def judge(view: View, rules: Iterable["Check"] | None = None) -> Iterator[tuple["Check", Finding]]:
    """Yield all findings, each with the check that found it."""
    for rule in RULES if rules is None else rules:
        for finding in rule(view):
            yield rule, finding


def _item(row: Row) -> str:
    return "/".join(row)


def _user(user_id: int) -> str:
    return partition(items.Kind.USER, user_id)


def _request(request_id: str) -> str:
    return partition(items.Kind.REQUEST, request_id)


def _generation(generation_id: str) -> str:
    return partition(items.Kind.GENERATION, generation_id)


def _own(name: str) -> str:
    """Return the main item of a partition, such as ``USER#7/USER``."""
    return f"{name}/{name.partition('#')[0]}"


# --- entries --------------------------------------------------------------------------------------


def readable(view: View) -> Findings:
    """Check that all items could be parsed."""
    for row, why in view.books.unreadable.items():
        yield Finding(
            rule=Rule.READABLE,
            item=_item(row),
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
                item=_item(entry.row),
                what="kind",
                expected="a known one",
                found=entry.kind,
                about=about,
            )
        elif not sides.issuperset(entry.postings):
            yield Finding(
                rule=Rule.KNOWN,
                item=_item(entry.row),
                what="postings",
                expected=", ".join(sorted(sides)),
                found=", ".join(sorted(entry.postings)),
                about=about,
            )
        if entry.amount + sum(entry.postings.values()):
            yield Finding(
                rule=Rule.ZERO,
                item=_item(entry.row),
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
                item=_item(entry.row),
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
                item=_item(first.row),
                what=f"both sides of {reference}",
                expected="0 in 2 entries of 2 users",
                found=f"{total} in {len(found)} entries of {len(users)} users",
                about=frozenset({TRANSFERS, *map(_user, users)}),
            )


def reasons(view: View) -> Findings:
    """Check that each entry's request or image exists, or may have been deleted by TTL."""
    books = view.books
    for entry in view.books.entries.values():
        reference, there = entry.reference, True
        if entry.kind == Kind.ACCEPT or (
            entry.kind == Kind.AWARD and not reference.startswith(AWARDED_BY)
        ):
            there, name = reference in books.requests, _request(reference)
        elif entry.kind in {Kind.REFUND, Kind.REWARD}:
            there, name = reference in books.images, _generation(reference)
        if not there and view.young(entry):
            yield Finding(
                rule=Rule.REASON,
                item=_item(entry.row),
                what=f"{entry.kind}'s reference",
                expected=name,
                found="no such item",
                about=frozenset({entry.row[0], name}),
            )


# --- accounts -------------------------------------------------------------------------------------


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
            item=_own(_user(user_id)),
            what="the item",
            expected="an account",
            found="no such item",
            about=frozenset({_user(user_id)}),
        )
    if ANONYMOUS_ID in sums or ANONYMOUS_ID in known:
        yield Finding(
            rule=Rule.ANONYMOUS,
            item=_own(_user(ANONYMOUS_ID))
            if ANONYMOUS_ID in known
            else f"{_user(ANONYMOUS_ID)}/{items.Kind.LEDGER}",
            what="the item",
            expected="none",
            found="an account" if ANONYMOUS_ID in known else f"kudos {sums[0].balance}",
            about=frozenset({_user(ANONYMOUS_ID)}),
        )
    for user_id, account in known.items():
        if user_id != ANONYMOUS_ID:
            yield from _account(account, sums[user_id])


def _of(item: str, about: frozenset[str]) -> Callable[..., Finding]:
    """Return a function that makes the findings of one item."""

    def finding(rule: Rule, what: str, expected: object, found: object) -> Finding:
        return Finding(
            rule=rule,
            item=item,
            what=what,
            expected=expected if isinstance(expected, int) else str(expected),
            found=found if isinstance(found, int) else str(found),
            about=about,
        )

    return finding


def _of_account(user: User) -> Callable[..., Finding]:
    return _of(_own(_user(user.id)), frozenset({_user(user.id)}))


def _account(account: AccountRow, ledger: _Sums) -> Findings:
    user, finding = account.user, _of_account(account.user)
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
    finding = _of_account(account.user)
    for name, what in ((Side.PRICE, "prices"), (Side.TAX, "taxes"), ("", "kudos")):
        if ledger.paid[name] < 0:
            excess = f"{-ledger.paid[name]} more given back"
            yield finding(Rule.GIVEN_BACK, what, "none", excess)


def _listed(account: AccountRow) -> Findings:
    user, finding = account.user, _of_account(account.user)
    if account.listed_at != user.kudos:
        yield finding(Rule.LISTED, LISTED.sort, user.kudos, account.listed_at or "none")
    listed = "none" if user.deleted else users_list(user.id)
    if (account.listed or "none") != listed:
        yield finding(Rule.LISTED, LISTED.partition, listed, account.listed or "none")


# --- requests -------------------------------------------------------------------------------------


def requests(view: View) -> Findings:
    """Check each request against its entries and its images."""
    for row in view.books.requests.values():
        yield from _by_itself(view, row)
        yield from _open_or_closed(view, row)
        if row.request.anonymous:
            yield from _uncharged(view, row.request)
        else:
            yield from _charged(view, row.request)


def _of_request(view: View, request: Request) -> Callable[..., Finding]:
    return _of(_own(_request(request.id)), view.around(request.id))


def _by_itself(view: View, row: RequestRow) -> Findings:
    """Check a request's ruleset, tax, sharing and images."""
    request, keys, finding = row.request, row.keys, _of_request(view, row.request)
    try:
        rules = ruleset.of(request.ruleset)
    except KeyError:
        yield finding(Rule.RULED, "ruleset", "a known one", request.ruleset)
    else:
        tax = pricing.tax(shared=request.shared, rules=rules)
        if request.tax != tax:
            yield finding(Rule.TAXED, "tax", tax, request.tax)
    if request.shared and request.source_key is not None:
        yield finding(Rule.SHAREABLE, "shared", "false", "true")
    if request.anonymous and request.source_key is None and not request.shared:
        yield finding(Rule.SHAREABLE, "shared", "true", "false")
    if len(set(request.generations)) != request.n:
        yield finding(Rule.COMPLETE, "its images", request.n, len(set(request.generations)))
    missing = sum(name not in view.books.images for name in request.generations)
    if missing and not view.expired(keys.gone_at):
        yield finding(Rule.COMPLETE, "images not there", 0, missing)


def _open_or_closed(view: View, row: RequestRow) -> Findings:
    request, keys, finding = row.request, row.keys, _of_request(view, row.request)
    is_open = keys.gone_at is None and not (request.cancelled or request.faulted)
    listed = requests_list(request.user_id) if is_open and not request.anonymous else "none"
    if (keys.listed or "none") != listed:
        yield finding(Rule.OPEN_LISTED, LISTED.partition, listed, keys.listed or "none")
    if keys.gone_at is None:
        if keys.due_at is None or keys.due_shard != due_shard(request.id):
            yield finding(Rule.DUE, DUE.partition, due_shard(request.id), keys.due_shard or "none")
        return
    if keys.due_at is not None or keys.due_shard is not None:
        yield finding(Rule.DUE, DUE.partition, "none", keys.due_shard or "none")
    images = [view.books.images.get(name) for name in request.generations]
    still_open = sum(image is not None and image.generation.state in OPEN for image in images)
    if still_open:
        yield finding(Rule.DUE, "open images of a closed request", 0, still_open)


def _uncharged(view: View, request: Request) -> Findings:
    """Check that an anonymous request has neither charge nor award."""
    finding = _of_request(view, request)
    charges, awards = (view.event(kind, request.id) for kind in (Kind.ACCEPT, Kind.AWARD))
    for name, found in (("charges", charges), ("awards", awards)):
        if found:
            yield finding(Rule.ANONYMOUS, name, 0, len(found))
    if request.waived or request.sharedkey_id is not None:
        yield finding(Rule.ANONYMOUS, "waived", 0, request.waived)


def _charged(view: View, request: Request) -> Findings:
    finding = _of_request(view, request)
    charges, refunds = view.event(Kind.ACCEPT, request.id), view.refunds(request)
    if len(charges) != 1:
        yield finding(Rule.CHARGED, "charges", 1, len(charges))
        return
    (charge,) = charges
    if charge.user_id != request.user_id:
        yield finding(Rule.CHARGED, "user of the charge", request.user_id, charge.user_id)
    for side, each in ((Side.PRICE, request.price), (Side.TAX, request.tax)):
        if charge.postings.get(side, 0) != each * request.n:
            yield finding(Rule.CHARGED, side, each * request.n, charge.postings.get(side, 0))
    total = (request.price + request.tax) * request.n
    waived = -charge.postings.get(Side.WAIVER, 0)
    if not 0 <= waived <= total:
        yield finding(Rule.CHARGED, "waived kudos", f"0 to {total}", waived)
    # Whatever the order of the refunds, each had as much deducted as was left.
    gross = -sum(
        entry.postings.get(side, 0) for entry in refunds for side in (Side.PRICE, Side.TAX)
    )
    deducted = sum(entry.postings.get(Side.WAIVER, 0) for entry in refunds)
    if deducted != min(waived, gross):
        yield finding(Rule.WAIVED, "kudos deducted from refunds", min(waived, gross), deducted)
    if request.waived != waived - deducted:
        yield finding(Rule.WAIVED, "waived", waived - deducted, request.waived)
    back = sum(entry.amount for entry in refunds)
    if back > -charge.amount:
        yield finding(Rule.GIVEN_BACK, "refunds", f"at most {-charge.amount}", back)


# --- images ---------------------------------------------------------------------------------------


def images(view: View) -> Findings:
    """Check each image's request, attributes in the indexes, refund and reward."""
    for image in view.books.images.values():
        generation = image.generation
        row = view.books.requests.get(generation.request_id)
        if row is None:
            if not view.expired(image.keys.gone_at):
                yield _of_image(view, image)(
                    Rule.COMPLETE, "request_id", generation.request_id, "no such request"
                )
        elif generation.id not in row.request.generations:
            yield _of_image(view, image)(
                Rule.COMPLETE, "request_id", "a request that names it", generation.request_id
            )
        yield from _indexed(view, image)
        yield from _refunded(view, image, row.request if row else None)
        yield from _rewarded(view, image, row.request if row else None)


def _of_image(view: View, image: ImageRow) -> Callable[..., Finding]:
    generation = image.generation
    about = view.around(generation.request_id, generation.id)
    return _of(_own(_generation(generation.id)), about)


def _indexed(view: View, image: ImageRow) -> Findings:
    generation, keys, finding = image.generation, image.keys, _of_image(view, image)
    rule, expected = Rule.ENDED, IndexKeys()
    if generation.state is State.PROCESSING:
        rule = Rule.LEASED
        expected = IndexKeys(due_shard=due_shard(generation.id), due_at=generation.lease_until)
        for name in ("worker_id", "worker_user", "lease_until"):
            if getattr(generation, name) is None:
                yield finding(rule, name, "a value", "none")
    elif generation.state is State.WAITING:
        rule = Rule.WAITING
        expected = IndexKeys(
            wait_model=generation.model,
            listed=waiting_list(generation.user_id, generation.model),
            listed_at=generation.created_at,
        )
        if generation.lease_until is not None:
            yield finding(rule, "lease_until", "none", generation.lease_until)
    found = keys.places()
    for name, right in expected.places().items():
        if found[name] != right:
            yield finding(rule, name, right, found[name])


def _refunded(view: View, image: ImageRow, request: Request | None) -> Findings:
    generation, finding = image.generation, _of_image(view, image)
    refunds = view.event(Kind.REFUND, generation.id)
    owner = request.user_id if request else generation.user_id
    not_refunded = generation.state in OPEN or generation.state is State.OK
    due = 0 if not_refunded or owner == ANONYMOUS_ID else 1
    if min(len(refunds), 1) != due:
        what = f"refunds in state {generation.state}"
        yield finding(Rule.REFUNDED, what, due, len(refunds))
        return
    if refunds and not view.event(Kind.ACCEPT, generation.request_id):
        yield finding(Rule.UNCHARGED, "charges of its request", 1, 0)
    for refund in refunds:
        if refund.user_id != owner:
            yield finding(Rule.REFUNDED, "user of the refund", owner, refund.user_id)
        if request is None:
            continue
        tax = 0 if generation.state is State.CENSORED else request.tax
        for side, each in ((Side.PRICE, request.price), (Side.TAX, tax)):
            if -refund.postings.get(side, 0) != each:
                yield finding(Rule.REFUNDED, side, each, -refund.postings.get(side, 0))
        deducted = refund.postings.get(Side.WAIVER, 0)
        if not 0 <= deducted <= request.price + tax:
            yield finding(Rule.REFUNDED, "deducted", f"0 to {request.price + tax}", deducted)


def _rewarded(view: View, image: ImageRow, request: Request | None) -> Findings:
    generation, finding = image.generation, _of_image(view, image)
    rewards = view.event(Kind.REWARD, generation.id)
    earned = generation.state in DELIVERED and generation.worker_user is not None
    if min(len(rewards), 1) != int(earned):
        what = f"rewards in state {generation.state}"
        yield finding(Rule.REWARDED, what, int(earned), len(rewards))
        return
    for reward in rewards:
        if reward.user_id != generation.worker_user:
            who = generation.worker_user
            yield finding(Rule.REWARDED, "user of the reward", who, reward.user_id)
        if request is not None and reward.amount != request.reward:
            yield finding(Rule.REWARDED, "amount", request.reward, reward.amount)


# --- sharing, ratings, shared keys and statistics -------------------------------------------------


def published(view: View) -> Findings:
    """Check the images in the data set whose items still exist."""
    marked = {
        name for name, image in view.books.images.items() if image.generation.shared_at is not None
    }
    for name in marked | view.books.published.keys():
        record, image = view.books.published.get(name), view.books.images.get(name)
        if image is None:
            continue
        row = view.books.requests.get(image.generation.request_id)
        finding = _of_image(view, image)
        if record is None or name not in marked:
            pair = "both marks" if record is None else "shared_at"
            yield finding(Rule.PUBLISHED, "its mark and its record", "both", f"not {pair}")
        if image.generation.state is not State.OK:
            yield finding(Rule.PUBLISHED, "state", State.OK, image.generation.state)
        if row is None:
            continue
        if not row.request.shared or row.request.source_key is not None:
            yield finding(Rule.PUBLISHED, "its request", "a shared one", "one that is not shared")
        if record is not None and record.user_id != row.request.user_id:
            yield finding(Rule.PUBLISHED, "its author", row.request.user_id, record.user_id)


def awards(view: View) -> Findings:
    """Check each award for ratings, by the rules of its request.

    A request of unknown rules is a finding of its own.
    """
    known = {rules.version for rules in ruleset.RULESETS}
    for entry in view.books.entries.values():
        row = view.books.requests.get(entry.reference) if entry.kind == Kind.AWARD else None
        if row is None or row.request.anonymous or row.request.ruleset not in known:
            continue
        request = row.request
        bound = min(view.cost(request) - 1, ratings.max_reward(request))
        expected: dict[str, tuple[object, object]] = {
            "user of the award": (request.user_id, entry.user_id),
            "its request": ("rated", "rated" if row.rated else "not rated"),
            "amount": (f"at most {bound}", f"at most {bound}" if entry.amount <= bound else "more"),
        }
        for what, (right, found) in expected.items():
            if right != found:
                yield Finding(
                    rule=Rule.RATED,
                    item=_item(entry.row),
                    what=what,
                    expected=str(right),
                    found=str(entry.amount if what == "amount" else found),
                    about=view.around(request.id) | {entry.row[0]},
                )


def sharedkeys(view: View) -> Findings:
    """Check each shared key's requests, budget and owner."""
    paid_with: dict[str, list[Request]] = defaultdict(list)
    for row in view.books.requests.values():
        if row.request.sharedkey_id is not None:
            paid_with[row.request.sharedkey_id].append(row.request)
    for key in view.books.sharedkeys.values():
        yield from _sharedkey(view, key, paid_with[key.id])
    for account in view.books.accounts.values():
        gone = account.user.sharedkey_ids - view.books.sharedkeys.keys()
        if gone:
            what = "missing shared keys"
            yield _of_account(account.user)(Rule.KEY_OWNER, what, 0, len(gone))


def _sharedkey(view: View, key: SharedKey, paid: list[Request]) -> Findings:
    about = {partition(items.Kind.SHAREDKEY, key.id), _user(key.user_id)}
    about |= {_request(request.id) for request in paid}

    finding = _of(partition(items.Kind.SHAREDKEY, key.id[:8]), frozenset(about))
    used = sum(view.cost(request) for request in paid)
    all_there = key.created_at + KEEP_S > view.now + SLACK_S
    if key.utilized < used or (all_there and key.utilized != used):
        yield finding(Rule.BUDGET, "utilized", used, key.utilized)
    if key.kudos < 0 and key.kudos != UNLIMITED:
        yield finding(Rule.BUDGET, "kudos", f"at least 0, or {UNLIMITED}", key.kudos)
    for request in paid:
        if request.user_id != key.user_id:
            yield finding(Rule.KEY_OWNER, f"owner of {request.id}", key.user_id, request.user_id)
    owner = view.books.accounts.get(key.user_id)
    if owner is None or key.id not in owner.user.sharedkey_ids:
        yield finding(Rule.KEY_OWNER, "user_id", "an account that lists it", key.user_id)


def counts(view: View) -> Findings:
    """Compare the counters, read before and after all entries, with the posted rewards.

    The transaction that counts a reward also marks it posted. So the sum of the marked rewards is
    at least the counters before and at most the counters after. Without concurrent writes, all
    three are equal.
    """
    books = view.books
    posted = [entry.settlement for entry in books.entries.values() if entry.posted]
    flagged = [settlement for settlement in posted if settlement is not None]
    sums = {counters.row(series): one for series, one in statistics.counters(flagged).items()}
    restarted = _restarted(flagged, view.now)
    for row in {*books.before, *books.after, *sums}:
        scope = scope_of(row)
        if scope is Scope.WORKER and row not in books.after:
            continue  # deleted: images that it still submits start new statistics
        before, after = books.before.get(row, {}), books.after.get(row, {})
        expires = scope is Scope.MINUTE or row in restarted
        for name in FIELDS.get(scope, ("images", "pixelsteps")):
            total = sums[row].add.get(name, 0) if row in sums else 0
            lower, upper = before.get(name, 0), after.get(name, 0)
            if total < lower or (total > upper and not expires):
                yield _miscounted(row, name, total, lower if total < lower else upper)
    anonymous = counters.row(Series(Scope.ANONYMOUS))
    requested = books.after.get(anonymous, {}).get("requests", 0)
    if requested < len(books.counted):
        yield _miscounted(anonymous, "requests", len(books.counted), requested)


def _miscounted(row: Row, name: str, expected: int, found: int) -> Finding:
    return Finding(
        rule=Rule.COUNTED,
        item=_item(row),
        what=name,
        expected=expected,
        found=found,
        about=frozenset({STATS}),
    )


def _restarted(settlements: Iterable[Settlement], now: int) -> set[Row]:
    """Return the rows of workers whose statistics TTL may have deleted during a long pause."""
    times: dict[str, list[int]] = defaultdict(list)
    for settlement in settlements:
        times[settlement.worker_id].append(settlement.settled_at // 1000)
    pause = STATS_KEEP_S - DAY_S
    found = set()
    for worker_id, settled in times.items():
        moments = pairwise([*sorted(settled), now])
        if any(after - before > pause for before, after in moments):
            found.add(counters.row(Series(Scope.WORKER, worker_id)))
    return found


Check = Callable[[View], Findings]
RULES: tuple[Check, ...] = (
    readable,
    entries,
    transfers,
    reasons,
    accounts,
    requests,
    images,
    published,
    awards,
    sharedkeys,
    counts,
)

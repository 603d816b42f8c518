"""What must hold of the books, each rule by its name. Pure: books in, findings out.

Items of an ended request go two days after its end, ledger entries stay for ever. So a missing item
is a finding only where it cannot have gone yet. Each request is judged by the ruleset it was
accepted under.
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
"""By how much clocks, retries and two sweeps at once may shift when an item goes, in seconds."""


class Rule(StrEnum):
    """The rules, as a finding words them."""

    READABLE = "an item is as this system writes it"
    KNOWN = "an entry is of a known kind and moves kudos as that kind does"
    ZERO = "an entry and its postings sum to zero"
    ONCE = "an event is entered once"
    PAIRED = "what one user sends another one gets"
    OWNED = "a ledger is that of an account"
    NOBODY = "no request writes the anonymous account"
    BALANCE = "a balance is the sum of its ledger"
    DETAILS = "a balance's details are the sums of its entries by kind"
    FLOOR = "a balance is not under its floor"
    OPENED = "an account was opened once"
    FULFILLED = "an account's count of drawn images is that of its rewards"
    LISTED = "an account is in the list of users at its balance; a deleted one is not"
    GIVEN_BACK = "no account gets back more than it paid"
    CHARGED = "a request was charged price and tax of each image, less what was waived"
    UNCHARGED = "what is refunded was charged"
    WAIVED = "waived kudos are deducted from the first refunds"
    REFUNDED = "an image is refunded as it ended"
    REWARDED = "a delivered image is rewarded, and no other one"
    REASON = "an entry is of a request or an image that is there"
    COMPLETE = "a request has its images, and an image its request"
    DUE = "a request that is not closed is due; a closed one has no open image"
    GOING_ON = "an account's list of requests holds its open ones, and no other"
    LEASED = "an image that is drawn is leased and due, and does not wait"
    WAITING = "an image that waits is in its queue and its owner's list, and is not leased"
    ENDED = "an image that ended is in no index"
    RULED = "a request names the rules it was accepted under"
    TAXED = "the tax is that of what is shared"
    SHAREABLE = "nothing made from a source image is shared; anonymous text-to-image is"
    PUBLISHED = "only what was delivered, uncensored, of a shared request is in the data set"
    RATED = "a rating's award goes to the request's owner, within the rules and below its cost"
    BUDGET = "a shared key used what its requests paid, and is not overdrawn"
    HELD = "a shared key is in its owner's account"
    COUNTED = "statistics are the sums of what they have counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that breaks a rule."""

    rule: Rule
    item: str
    """``pk/sk`` of the item; of a shared key, which is a secret, only the beginning."""
    what: str
    """The part of the item that is wrong."""
    expected: int | str
    found: int | str
    about: frozenset[str] = field(default=frozenset(), compare=False)
    """The partitions that decide it, to be read anew; and STATS or TRANSFERS."""

    @property
    def place(self) -> tuple[object, ...]:
        """The rule and where it is broken, whatever was found there."""
        return (self.rule, self.item, self.what)

    @property
    def key(self) -> tuple[object, ...]:
        """What must be equal for it to be the same finding after a re-read.

        For two sums that both change, the difference between them.
        """
        if isinstance(self.expected, int) and isinstance(self.found, int):
            return (*self.place, self.found - self.expected)
        return (*self.place, self.expected, self.found)

    def __str__(self) -> str:
        """Return its line of the report."""
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
"""The system accounts that each kind of entry may be posted against."""
ONCE = frozenset({Kind.ACCEPT, Kind.REFUND, Kind.REWARD})
OPENING = "registration"
AWARDED_BY = "by "
"""The start of an award's reference where it is not for a rating."""
DETAILS = ("accumulated", "gifted", "received", "admin", "awarded", "recurring")
FIELDS = {
    Scope.WORKER: ("images", "pixelsteps", "kudos"),
    Scope.ANONYMOUS: ("images", "pixelsteps", "taxes"),
}
"""What is counted of workers and of the anonymous account; elsewhere images and pixelsteps."""


@dataclass
class View:
    """The books, with lookups that several rules share; ``now`` is in seconds since the epoch."""

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
        """Return the entries of an event."""
        return self.events.get((kind, reference), [])

    def refunds(self, request: Request) -> list[EntryRow]:
        """Return the refunds of a request's images."""
        return [
            entry
            for generation_id in request.generations
            for entry in self.event(Kind.REFUND, generation_id)
        ]

    def cost(self, request: Request) -> int:
        """Return what a request's owner paid for it, net of refunds."""
        charges = self.event(Kind.ACCEPT, request.id)
        return -sum(entry.amount for entry in [*charges, *self.refunds(request)])

    def expired(self, gone_at: int | None) -> bool:
        """Say whether an item that expires at this time may be gone."""
        return gone_at is not None and gone_at <= self.now + SLACK_S

    def young(self, entry: EntryRow) -> bool:
        """Say whether the request or image of an entry must still exist."""
        return entry.written_at + KEEP_S > self.now + SLACK_S

    def around(self, request_id: str, *generations: str) -> frozenset[str]:
        """Return the partitions that decide the findings of a request and its images."""
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
    """Yield everything that breaks a rule, with the check that found it."""
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
    """Return the item of a partition that has it alone: ``USER#7/USER``."""
    return f"{name}/{name.partition('#')[0]}"


# --- entries --------------------------------------------------------------------------------------


def readable(view: View) -> Findings:
    """Report items that could not be read."""
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
    """Each entry is known, balanced, and there once."""
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
    """Each transfer has both sides."""
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
    """Each entry's request or image exists, or has expired."""
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
    """What the entries of one ledger add up to."""

    balance: int = 0
    details: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    """What its requests paid, net of refunds, by system account."""
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
            self.kept.update({Side.PRICE: 0, Side.TAX: 0, **entry.postings, "": -entry.amount})
        if entry.kind == Kind.FLOOR:
            self.openings += 1
            self.opened_with += entry.amount
        self.rewards += entry.kind == Kind.REWARD


def accounts(view: View) -> Findings:
    """Each account agrees with its ledger."""
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
            rule=Rule.NOBODY,
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
    """Return a function that makes findings about one item."""

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
        if ledger.kept[name] < 0:
            kept = f"{-ledger.kept[name]} more given back"
            yield finding(Rule.GIVEN_BACK, what, "none", kept)


def _listed(account: AccountRow) -> Findings:
    user, finding = account.user, _of_account(account.user)
    if account.listed_at != user.kudos:
        yield finding(Rule.LISTED, LISTED.sort, user.kudos, account.listed_at or "none")
    listed = "none" if user.deleted else users_list(user.id)
    if (account.listed or "none") != listed:
        yield finding(Rule.LISTED, LISTED.partition, listed, account.listed or "none")


# --- requests -------------------------------------------------------------------------------------


def requests(view: View) -> Findings:
    """Each request agrees with its entries and its images."""
    for row in view.books.requests.values():
        yield from _kept_rules(view, row)
        yield from _open_or_closed(view, row)
        if row.request.anonymous:
            yield from _uncharged(view, row.request)
        else:
            yield from _charged(view, row.request)


def _of_request(view: View, request: Request) -> Callable[..., Finding]:
    return _of(_own(_request(request.id)), view.around(request.id))


def _kept_rules(view: View, row: RequestRow) -> Findings:
    """Check a request by itself, whoever asked for it."""
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
    goes_on = keys.gone_at is None and not (request.cancelled or request.faulted)
    listed = requests_list(request.user_id) if goes_on and not request.anonymous else "none"
    if (keys.listed or "none") != listed:
        yield finding(Rule.GOING_ON, LISTED.partition, listed, keys.listed or "none")
    if keys.gone_at is None:
        if keys.due_at is None or keys.due_shard != due_shard(request.id):
            yield finding(Rule.DUE, DUE.partition, due_shard(request.id), keys.due_shard or "none")
        return
    if keys.due_at is not None or keys.due_shard is not None:
        yield finding(Rule.DUE, DUE.partition, "none", keys.due_shard or "none")
    images = [view.books.images.get(name) for name in request.generations]
    still = sum(image is not None and image.generation.state in OPEN for image in images)
    if still:
        yield finding(Rule.DUE, "open images of a closed request", 0, still)


def _uncharged(view: View, request: Request) -> Findings:
    """Nobody pays for an anonymous request, so nobody is refunded."""
    finding = _of_request(view, request)
    charges, awards = (view.event(kind, request.id) for kind in (Kind.ACCEPT, Kind.AWARD))
    for name, found in (("charges", charges), ("awards", awards)):
        if found:
            yield finding(Rule.NOBODY, name, 0, len(found))
    if request.waived or request.sharedkey_id is not None:
        yield finding(Rule.NOBODY, "waived", 0, request.waived)


def _charged(view: View, request: Request) -> Findings:
    finding = _of_request(view, request)
    charges, refunds = view.event(Kind.ACCEPT, request.id), view.refunds(request)
    if len(charges) != 1:
        yield finding(Rule.CHARGED, "charges", 1, len(charges))
        return
    (charge,) = charges
    if charge.user_id != request.user_id:
        yield finding(Rule.CHARGED, "whose charge", request.user_id, charge.user_id)
    for side, each in ((Side.PRICE, request.price), (Side.TAX, request.tax)):
        if charge.postings.get(side, 0) != each * request.n:
            yield finding(Rule.CHARGED, side, each * request.n, charge.postings.get(side, 0))
    total = (request.price + request.tax) * request.n
    waived = -charge.postings.get(Side.WAIVER, 0)
    if not 0 <= waived <= total:
        yield finding(Rule.CHARGED, "waived kudos", f"0 to {total}", waived)
    # In whatever order images ended, each refund had as much deducted as was left.
    gross = -sum(
        entry.postings.get(side, 0) for entry in refunds for side in (Side.PRICE, Side.TAX)
    )
    off = sum(entry.postings.get(Side.WAIVER, 0) for entry in refunds)
    if off != min(waived, gross):
        yield finding(Rule.WAIVED, "kudos deducted from refunds", min(waived, gross), off)
    if request.waived != waived - off:
        yield finding(Rule.WAIVED, "waived", waived - off, request.waived)
    back = sum(entry.amount for entry in refunds)
    if back > -charge.amount:
        yield finding(Rule.GIVEN_BACK, "refunds", f"at most {-charge.amount}", back)


# --- images ---------------------------------------------------------------------------------------


def images(view: View) -> Findings:
    """Each image agrees with its request, its index keys, its refund and its reward."""
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
    kept = generation.state in OPEN or generation.state is State.OK
    due = 0 if kept or owner == ANONYMOUS_ID else 1
    if min(len(refunds), 1) != due:
        yield finding(Rule.REFUNDED, f"refunds of what is {generation.state}", due, len(refunds))
        return
    if refunds and not view.event(Kind.ACCEPT, generation.request_id):
        yield finding(Rule.UNCHARGED, "charges of its request", 1, 0)
    for refund in refunds:
        if refund.user_id != owner:
            yield finding(Rule.REFUNDED, "whose refund", owner, refund.user_id)
        if request is None:
            continue
        tax = 0 if generation.state is State.CENSORED else request.tax
        for side, each in ((Side.PRICE, request.price), (Side.TAX, tax)):
            if -refund.postings.get(side, 0) != each:
                yield finding(Rule.REFUNDED, side, each, -refund.postings.get(side, 0))
        off = refund.postings.get(Side.WAIVER, 0)
        if not 0 <= off <= request.price + tax:
            yield finding(Rule.REFUNDED, "deducted", f"0 to {request.price + tax}", off)


def _rewarded(view: View, image: ImageRow, request: Request | None) -> Findings:
    generation, finding = image.generation, _of_image(view, image)
    rewards = view.event(Kind.REWARD, generation.id)
    earned = generation.state in DELIVERED and generation.worker_user is not None
    if min(len(rewards), 1) != int(earned):
        yield finding(
            Rule.REWARDED, f"rewards of what is {generation.state}", int(earned), len(rewards)
        )
        return
    for reward in rewards:
        if reward.user_id != generation.worker_user:
            yield finding(Rule.REWARDED, "whose reward", generation.worker_user, reward.user_id)
        if request is not None and reward.amount != request.reward:
            yield finding(Rule.REWARDED, "amount", request.reward, reward.amount)


# --- what is shared, rated and counted ------------------------------------------------------------


def published(view: View) -> Findings:
    """Check what is in the data set, as far as its items are there."""
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
            yield finding(Rule.PUBLISHED, "whose it is", row.request.user_id, record.user_id)


def awards(view: View) -> Findings:
    """Each award of a rating goes to the rated request's owner, within the rules of the request.

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
            "whose award": (request.user_id, entry.user_id),
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
    """Each shared key agrees with its requests, its budget and its owner."""
    asked: dict[str, list[Request]] = defaultdict(list)
    for row in view.books.requests.values():
        if row.request.sharedkey_id is not None:
            asked[row.request.sharedkey_id].append(row.request)
    for key in view.books.sharedkeys.values():
        yield from _sharedkey(view, key, asked[key.id])
    for account in view.books.accounts.values():
        gone = account.user.sharedkey_ids - view.books.sharedkeys.keys()
        if gone:
            what = "shared keys that are not there"
            yield _of_account(account.user)(Rule.HELD, what, 0, len(gone))


def _sharedkey(view: View, key: SharedKey, asked: list[Request]) -> Findings:
    about = {partition(items.Kind.SHAREDKEY, key.id), _user(key.user_id)}
    about |= {_request(request.id) for request in asked}

    finding = _of(partition(items.Kind.SHAREDKEY, key.id[:8]), frozenset(about))
    used = sum(view.cost(request) for request in asked)
    all_there = key.created_at + KEEP_S > view.now + SLACK_S
    if key.utilized < used or (all_there and key.utilized != used):
        yield finding(Rule.BUDGET, "utilized", used, key.utilized)
    if key.kudos < 0 and key.kudos != UNLIMITED:
        yield finding(Rule.BUDGET, "kudos", f"at least 0, or {UNLIMITED}", key.kudos)
    for request in asked:
        if request.user_id != key.user_id:
            yield finding(Rule.HELD, f"owner of {request.id}", key.user_id, request.user_id)
    owner = view.books.accounts.get(key.user_id)
    if owner is None or key.id not in owner.user.sharedkey_ids:
        yield finding(Rule.HELD, "user_id", "an account that has it", key.user_id)


def counts(view: View) -> Findings:
    """Hold the counters of before and after the reading against what it found posted.

    A reward is marked posted in the transaction that counts it. So what the counters had before is
    marked by the time it is read, and what is marked is counted by the end: on a table that stands
    still these are the same, and on one that moves they need not be.
    """
    books = view.books
    posted = [entry.settlement for entry in books.entries.values() if entry.posted]
    flagged = [settlement for settlement in posted if settlement is not None]
    sums = {counters.row(series): one for series, one in statistics.counters(flagged).items()}
    restarted = _restarted(flagged, view.now)
    for row in {*books.before, *books.after, *sums}:
        scope = scope_of(row)
        if scope is Scope.WORKER and row not in books.after:
            continue  # deleted: what it still draws starts new statistics
        least, most = books.before.get(row, {}), books.after.get(row, {})
        fades = scope is Scope.MINUTE or row in restarted
        for name in FIELDS.get(scope, ("images", "pixelsteps")):
            total = sums[row].add.get(name, 0) if row in sums else 0
            below, above = least.get(name, 0), most.get(name, 0)
            if total < below or (total > above and not fades):
                yield _miscounted(row, name, total, below if total < below else above)
    anonymous = counters.row(Series(Scope.ANONYMOUS))
    asked = books.after.get(anonymous, {}).get("requests", 0)
    if asked < len(books.counted):
        yield _miscounted(anonymous, "requests", len(books.counted), asked)


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
    """Return the statistics of workers that paused for so long that they may have started anew."""
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

"""What a check finds, and what several checks look up."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from horde.records import Request, User
from horde.rules.kudos import Kind
from horde.store import items
from horde.store.audit_rows import EntryRow
from horde.store.items import KEEP_S, Row, partition
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
    OPENED = "an account was opened once, at the floor of its rules"
    FLOORED = "an account's floor is that of the rules it was opened under"
    ALLOWED = "an account gets one allowance a month"
    FULFILLED = "an account's count of drawn images equals the number of its rewards"
    LISTED = (
        "an account is in the list of users, at a balance of the hour before it last moved; "
        "a deleted account is not"
    )
    GIVEN_BACK = "no account gets back more than it paid"
    CHARGED = "the charge of a request is the price and tax of its images, minus what was waived"
    UNCHARGED = "a refund follows a charge"
    WAIVED = "waived kudos are deducted from the first refunds"
    REFUNDED = "an image's refund matches its final state"
    REWARDED = "a delivered image has one reward, and no other image has any"
    STYLED = "the author of a style has one reward for each image that another account paid for"
    SETTLED = "a reward says what was drawn, by whom and for whom"
    REASON = "an entry refers to a request or image that exists"
    COMPLETE = "a request has all its images, and an image has its request"
    DUE = "an open request is due; a closed request has no open image"
    LEASED = "an image in processing is leased and due, and not in the queue"
    WAITING = "a waiting image is in its queue and its owner's list, and not leased"
    ENDED = "an image in a final state is in no index"
    RULED = "a request and an account name a known ruleset"
    PRICED = "a request's price, its reward and its images' work follow from its payload"
    TAXED = "a request's tax is the ruleset's tax for shared or private images"
    SHAREABLE = "images from a source image are never shared; anonymous text-to-image always is"
    PUBLISHED = "the data set has only delivered, uncensored images of shared requests"
    SHARED = (
        "what was delivered for sharing is in the data set or held back, or something forbids it"
    )
    STORED = "the bucket has the files of every image in the data set, and no others"
    RATED = "a rating's award goes to the request's owner, within the rules and its price"
    POOLED = "an image's counts are the sums of its ratings, and it has no more than it needs"
    POOL_PAID = (
        "a reward for a rating of an image of others is posted once, to who gave it, at the "
        "ruleset's amount"
    )
    BUDGET = "a shared key has spent what its requests paid, and has left what else it was granted"
    KEY_OWNER = "a shared key is listed in its owner's account"
    OPEN_IMAGES = "an account lists its open images"
    HELD = "a worker's statistics list the images that it holds"
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
    """The partitions to read again before it is reported; also what the constants below name."""

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


OBJECT = "OBJECT"
"""The kind, in ``Finding.about``, of a file in the data set's bucket."""


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

    @cached_property
    def used_with(self) -> dict[str, int]:
        """Kudos that requests paid by the mark of their shared key, minus refunds."""
        found: dict[str, int] = defaultdict(int)
        for entry in self.books.entries.values():
            if entry.sharedkey is not None:
                found[entry.sharedkey] -= entry.amount
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
        names, users = {request_key(request_id)}, set()
        for name in [*generations, *(row.request.generations if row else [])]:
            kinds = (items.Kind.GENERATION, items.Kind.SHARED, items.Kind.HELD)
            names |= {partition(kind, name) for kind in kinds}
            image = self.books.images.get(name)
            if image is not None:
                users |= {image.generation.worker_user, image.generation.user_id}
            users |= {
                entry.user_id
                for kind in (Kind.REFUND, Kind.REWARD, Kind.STYLE)
                for entry in self.event(kind, name)
            }
        users |= {row.request.user_id} if row else set()
        users |= {entry.user_id for entry in self.event(Kind.ACCEPT, request_id)}
        return frozenset(names | {user_key(user) for user in users if user is not None})


def item_name(row: Row) -> str:
    """Return an item's key as a finding shows it."""
    return "/".join(row)


def user_key(user_id: int) -> str:
    """Return the partition of an account."""
    return partition(items.Kind.USER, user_id)


def part_key(part: int) -> str:
    """Return the partition of one part of the anonymous account."""
    return items.partition(items.Kind.ANONYMOUS, part)


def request_key(request_id: str) -> str:
    """Return the partition of a request."""
    return partition(items.Kind.REQUEST, request_id)


def generation_key(generation_id: str) -> str:
    """Return the partition of an image."""
    return partition(items.Kind.GENERATION, generation_id)


HELD = "HELD BY"
"""The kind, in ``Finding.about``, of a worker's statistics."""


def held_key(worker_id: str) -> str:
    """Return what stands for a worker's statistics in ``Finding.about``."""
    return f"{HELD}#{worker_id}"


def object_key(key: str) -> str:
    """Return what stands for a file in ``Finding.about``."""
    return f"{OBJECT}#{key}"


def own_item(name: str) -> str:
    """Return the main item of a partition, such as ``USER#7/USER``."""
    return f"{name}/{name.partition('#')[0]}"


def finding_of(item: str, about: frozenset[str]) -> Callable[..., Finding]:
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


def finding_of_account(user: User) -> Callable[..., Finding]:
    """Return a function that makes findings of an account."""
    return finding_of(own_item(user_key(user.id)), frozenset({user_key(user.id)}))

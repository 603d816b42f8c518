"""The table's items as the audit sees them: typed rows. ``store.audit_read`` parses them.

No Lambda imports this module (``tests/infra/test_rooms.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from horde.records import (
    OLD_ENDING,
    Generation,
    GivenRating,
    PoolImage,
    Rater,
    Request,
    Settlement,
    SharedKey,
    User,
)
from horde.store.items import TTL, Row


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account, and its place in the list of all users."""

    user: User
    listed: str | None
    listed_at: int | None


@dataclass(frozen=True, slots=True)
class PartRow:
    """What one part of the anonymous account has open."""

    part: int
    open_images: frozenset[str]
    opened_at: int


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One entry of a ledger; amounts are signed kudos."""

    row: Row
    user_id: int
    kind: str
    amount: int
    postings: Mapping[str, int]
    reference: str
    posted: bool = False
    """Whether a reward has been paid and counted."""
    settlement: Settlement | None = None
    """The delivered image that a reward is for."""
    sharedkey: str | None = None
    """The mark of the shared key that paid a charge, or got a refund back."""

    @property
    def written_at(self) -> int:
        """When the entry was written, in seconds since the epoch; raises ValueError."""
        text = self.row.sk.split("#")[1].replace("Z", "+00:00")
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexKeys:
    """An item's attributes in the indexes and its TTL; times are in seconds since the epoch."""

    wait_queue: str | None = None
    listed: str | None = None
    listed_at: int | None = None
    due_shard: str | None = None
    due_at: int | None = None
    gone_at: int | None = None

    def places(self) -> dict[str, str | int | None]:
        """Return the attributes of the indexes by name, without the TTL."""
        return {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name != TTL}


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request; of its payload only what its price depends on is kept."""

    request: Request
    keys: IndexKeys
    rated: bool


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A generation, and what was delivered of it, if its settlement says so."""

    generation: Generation
    keys: IndexKeys
    sha256: str | None = None
    size: int | None = None
    """In bytes."""
    held: bool = False
    """Whether its worker's statistics list it while the worker holds it."""


@dataclass(frozen=True, slots=True)
class HeldRow:
    """The images that a worker holds, as its statistics list them."""

    worker_id: str
    images: frozenset[str]


@dataclass(frozen=True, slots=True)
class SharedKeyRow:
    """A shared key."""

    shared: SharedKey


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """The private record of a shared image."""

    generation_id: str
    request_id: str
    user_id: int
    object_key: str
    withdrawn: bool
    size: int | None = None
    """The object's, in bytes; None if image and row are two objects."""
    withdrawn_at: int | None = None
    """In ms since the epoch."""
    kept_back: str | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """The keys of its files in the data set's bucket: one, or of an early image two."""
        if self.object_key.endswith(OLD_ENDING):
            return self.object_key, self.object_key.removesuffix(OLD_ENDING) + ".json"
        return (self.object_key,)


@dataclass(frozen=True, slots=True)
class HeldBackRow:
    """An image that is held back from the data set."""

    generation_id: str


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A released image that accounts may rate, and its place in a list."""

    image: PoolImage
    listed: str | None
    listed_at: int | None


@dataclass(frozen=True, slots=True)
class RatingRow:
    """A rating of a released image by an account that does not own it."""

    given: GivenRating


@dataclass(frozen=True, slots=True)
class RaterRow:
    """What an account has rated."""

    rater: Rater


@dataclass(frozen=True, slots=True)
class CountedRow:
    """The item that marks an anonymous request as counted."""

    request_id: str


AuditRow = (
    AccountRow
    | PartRow
    | EntryRow
    | RequestRow
    | ImageRow
    | HeldRow
    | SharedKeyRow
    | PublishedRow
    | HeldBackRow
    | CountedRow
    | PoolRow
    | RatingRow
    | RaterRow
)


def kind_of(row: Row) -> str:
    """Return the first part of an item's sort key, which is usually its kind."""
    return row.sk.partition("#")[0]


def name_of(row: Row) -> str:
    """Return the id in an item's partition key."""
    return row.pk.partition("#")[2]

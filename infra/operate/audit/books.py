"""The items of the whole table in memory, as the audit checks them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from horde.records import GivenRating, Rater, SharedKey
from horde.store.audit_read import read
from horde.store.audit_rows import (
    AccountRow,
    CountedRow,
    EntryRow,
    HeldBackRow,
    HeldRow,
    ImageRow,
    PartRow,
    PoolRow,
    PublishedRow,
    RaterRow,
    RatingRow,
    RequestRow,
    SharedKeyRow,
    kind_of,
    name_of,
)
from horde.store.items import Item, Kind, Row, row_of
from infra.operate.audit.objects import Released, StoredObject


@dataclass(slots=True)
class Books:
    """The items that were read. Each takes one or two kilobytes of memory, a file half of one."""

    items: int = 0
    accounts: dict[int, AccountRow] = field(default_factory=dict)
    parts: dict[int, PartRow] = field(default_factory=dict)
    """The parts of the anonymous account."""
    entries: dict[Row, EntryRow] = field(default_factory=dict)
    requests: dict[str, RequestRow] = field(default_factory=dict)
    images: dict[str, ImageRow] = field(default_factory=dict)
    sharedkeys: dict[str, SharedKey] = field(default_factory=dict)
    published: dict[str, PublishedRow] = field(default_factory=dict)
    held_back: set[str] = field(default_factory=set)
    """The images that are held back from the data set."""
    held: dict[str, frozenset[str]] = field(default_factory=dict)
    """The images that workers hold, by worker, as their statistics list them."""
    pool: dict[str, PoolRow] = field(default_factory=dict)
    """The released images that accounts may rate."""
    ratings: dict[str, dict[int, GivenRating]] = field(default_factory=dict)
    """The ratings of released images by others than their owners, by image and account."""
    raters: dict[int, Rater] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    """The anonymous requests that are marked as counted; the marks expire after two days."""
    objects: dict[str, StoredObject] | None = None
    """The files in the data set's bucket by key; None if it was not listed."""
    released: Released = field(default_factory=Released)
    """What the release in the data set's bucket has, if it was listed."""
    unreadable: dict[Row, str] = field(default_factory=dict)
    before: dict[Row, dict[str, int]] = field(default_factory=dict)
    """The counters of the statistics, read before everything else."""
    after: dict[Row, dict[str, int]] = field(default_factory=dict)
    """The same counters, read after everything else."""

    def put(self, item: Item) -> None:  # noqa: C901, PLR0912 - a flat table of kinds
        """Add or replace an item; one that this system did not write becomes ``unreadable``."""
        row = row_of(item)
        self.drop(row)
        try:
            found = read(item)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self.unreadable[row] = f"{type(error).__name__}: {error}"
            return
        match found:
            case AccountRow():
                self.accounts[found.user.id] = found
            case PartRow():
                self.parts[found.part] = found
            case EntryRow():
                self.entries[row] = found
            case RequestRow():
                self.requests[found.request.id] = found
            case ImageRow():
                self.images[found.generation.id] = found
            case SharedKeyRow():
                self.sharedkeys[found.shared.id] = found.shared
            case PublishedRow():
                self.published[name_of(row)] = found
            case HeldBackRow():
                self.held_back.add(found.generation_id)
            case HeldRow():
                self.held[found.worker_id] = found.images
            case PoolRow():
                self.pool[found.image.id] = found
            case RatingRow():
                self.ratings.setdefault(found.given.image_id, {})[found.given.user_id] = found.given
            case RaterRow():
                self.raters[found.rater.user_id] = found.rater
            case CountedRow():
                self.counted.add(found.request_id)

    def drop(self, row: Row) -> None:  # noqa: C901 - a flat table of kinds
        """Remove an item."""
        name = name_of(row)
        self.unreadable.pop(row, None)
        match kind_of(row):
            case Kind.USER:
                self.accounts.pop(int(name) if name.isdecimal() else -1, None)
            case Kind.ANONYMOUS:
                self.parts.pop(int(name) if name.isdecimal() else -1, None)
            case Kind.REQUEST:
                self.requests.pop(name, None)
            case Kind.GENERATION:
                self.images.pop(name, None)
            case Kind.SHAREDKEY:
                self.sharedkeys.pop(name, None)
            case Kind.SHARED:
                self.published.pop(name, None)
            case Kind.HELD:
                self.held_back.discard(name)
            case Kind.POOL:
                self.pool.pop(name, None)
            case Kind.RATER if row.pk.startswith(f"{Kind.RATING}#"):
                self._drop_rating(name, row.sk.partition("#")[2])
            case Kind.RATER:
                self.raters.pop(int(name) if name.isdecimal() else -1, None)
            case Kind.STATS:
                self.held.pop(name, None)
            case _:
                self.entries.pop(row, None)

    def rows_of(self, partitions: Iterable[str]) -> list[Row]:
        """Return the rows of ratings and of images in the pool that were read of partitions."""
        found = []
        for pk in partitions:
            kind, _, name = pk.partition("#")
            if kind == Kind.POOL and name in self.pool:
                found.append(Row(pk, f"{Kind.POOL}#{self.pool[name].image.model}"))
            if kind == Kind.RATING:
                found += [Row(pk, f"{Kind.RATER}#{user}") for user in self.ratings.get(name, {})]
        return found

    def _drop_rating(self, image_id: str, user_id: str) -> None:
        found = self.ratings.get(image_id, {})
        found.pop(int(user_id) if user_id.isdecimal() else -1, None)

    def refresh(self, rows: Iterable[Row], items: Iterable[Item]) -> None:
        """Replace ``rows`` by the items read again; rows without an item are dropped."""
        found = {row_of(item): item for item in items}
        for row in rows:
            if row not in found:
                self.drop(row)
        for item in found.values():
            self.put(item)

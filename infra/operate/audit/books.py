"""The table's items as typed rows, and all of them together as the books. Pure.

Beside ``horde.store``, which writes the items, this is the only module that knows their form: it
reads them without trusting it.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from horde import statistics
from horde.kudos import Kind
from horde.model import Generation, Request, SharedKey, User
from horde.statistics import Row
from horde.store import from_item

Item = dict[str, Any]
LEDGER = "LEDGER#"


@dataclass(frozen=True, slots=True)
class Account:
    """An account, and where it stands in the list of all."""

    user: User
    listed: str | None
    listed_at: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a ledger; amounts are signed kudos."""

    row: Row
    user_id: int
    kind: str
    amount: int
    postings: Mapping[str, int]
    reference: str
    tallied: bool = False
    """Whether statistics have counted it."""
    settled: statistics.Settled | None = None
    """What a reward was for."""

    @property
    def written_at(self) -> int:
        """When it was written, in seconds since the epoch; raises ValueError."""
        text = self.row[1].split("#")[1].replace("Z", "+00:00")
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Where an item stands in the indexes, and when it may go, in seconds since the epoch."""

    wait_model: str | None = None
    listed: str | None = None
    listed_at: int | None = None
    due_shard: str | None = None
    due_at: int | None = None
    gone_at: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A request; its payload is left out."""

    request: Request
    keys: Keys
    rated: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A generation."""

    generation: Generation
    keys: Keys


@dataclass(frozen=True, slots=True)
class Published:
    """The private record of a shared image."""

    generation_id: str
    request_id: str
    user_id: int


@dataclass(slots=True)
class Books:
    """What was read of the table: a kilobyte or two of memory for each item."""

    items: int = 0
    accounts: dict[int, Account] = field(default_factory=dict)
    entries: dict[Row, Entry] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    sharedkeys: dict[str, SharedKey] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    """The anonymous requests that statistics have counted, as far as that is remembered."""
    unreadable: dict[Row, str] = field(default_factory=dict)
    before: dict[Row, dict[str, int]] = field(default_factory=dict)
    """The counters of statistics as they were before the rest was read, and after it."""
    after: dict[Row, dict[str, int]] = field(default_factory=dict)

    def put(self, item: Item) -> None:
        """Take an item; one that is not as this system writes it is kept as ``unreadable``."""
        row = pk, sk = item["pk"]["S"], item["sk"]["S"]
        take = _TAKE.get(LEDGER if sk.startswith(LEDGER) else sk)
        self.drop(row)
        if take is None:
            return
        try:
            take(self, row, pk.partition("#")[2], item)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self.unreadable[row] = f"{type(error).__name__}: {error}"

    def drop(self, row: Row) -> None:
        """Forget an item."""
        pk, sk = row
        name = pk.partition("#")[2]
        self.unreadable.pop(row, None)
        match sk:
            case "USER":
                self.accounts.pop(int(name) if name.isdecimal() else -1, None)
            case "REQUEST":
                self.orders.pop(name, None)
            case "GENERATION":
                self.images.pop(name, None)
            case "SHAREDKEY":
                self.sharedkeys.pop(name, None)
            case "SHARED":
                self.published.pop(name, None)
            case _:
                self.entries.pop(row, None)

    def refresh(self, rows: Iterable[Row], items: Iterable[Item]) -> None:
        """Put what was read of some rows anew; those of them that were not found are gone."""
        found = {(item["pk"]["S"], item["sk"]["S"]): item for item in items}
        for row in rows:
            if row not in found:
                self.drop(row)
        for item in found.values():
            self.put(item)


def _text(item: Item, name: str) -> str | None:
    return str(item[name]["S"]) if name in item else None


def _number(item: Item, name: str) -> int | None:
    return int(item[name]["N"]) if name in item else None


def _keys(item: Item) -> Keys:
    return Keys(
        wait_model=_text(item, "wait_model"),
        listed=_text(item, "listed"),
        listed_at=_number(item, "listed_at"),
        due_shard=_text(item, "due_shard"),
        due_at=_number(item, "due_at"),
        gone_at=_number(item, "gone_at"),
    )


def _is_its_own(found: str, name: str) -> None:
    if found != name:
        message = f"its id is {found!r}"
        raise ValueError(message)


def _is_a_uuid(name: str) -> None:
    if str(uuid.UUID(name)) != name:
        message = f"{name!r} is no lowercase UUID"
        raise ValueError(message)


def _account(books: Books, _row: Row, name: str, item: Item) -> None:
    user = from_item(User, item)
    _is_its_own(str(user.id), name)
    books.accounts[user.id] = Account(user, _text(item, "listed"), _number(item, "listed_at"))


def _entry(books: Books, row: Row, name: str, item: Item) -> None:
    kind = item["kind"]["S"]
    entry = Entry(
        row,
        int(name),
        kind,
        int(item["amount"]["N"]),
        {account: int(amount["N"]) for account, amount in item["postings"]["M"].items()},
        item["reference"]["S"],
        tallied="tallied" in item,
        settled=_settled(item) if kind == Kind.REWARD else None,
    )
    _ = entry.written_at  # raises for a key that is none
    books.entries[row] = entry


def _settled(item: Item) -> statistics.Settled:
    found = statistics.read(item)
    if not isinstance(found, statistics.Settled):
        message = "a reward says nothing of what was drawn"
        raise TypeError(message)
    return found


def _order(books: Books, _row: Row, name: str, item: Item) -> None:
    # Prompts are long, and nobody's business here.
    request = from_item(Request, {**item, "payload": {"S": "{}"}})
    _is_its_own(request.id, name)
    _is_a_uuid(name)
    books.orders[name] = Order(request, _keys(item), "rated_at" in item)


def _image(books: Books, _row: Row, name: str, item: Item) -> None:
    generation = from_item(Generation, item)
    _is_its_own(generation.id, name)
    _is_a_uuid(name)
    books.images[name] = Image(generation, _keys(item))


def _sharedkey(books: Books, _row: Row, name: str, item: Item) -> None:
    books.sharedkeys[name] = from_item(SharedKey, item)


def _publish(books: Books, _row: Row, name: str, item: Item) -> None:
    books.published[name] = Published(
        item["generation_id"]["S"], item["request_id"]["S"], int(item["user_id"]["N"])
    )


def _count(books: Books, _row: Row, name: str, _item: Item) -> None:
    books.asked.add(name)


_TAKE: dict[str, Callable[[Books, Row, str, Item], None]] = {
    "USER": _account,
    LEDGER: _entry,
    "REQUEST": _order,
    "GENERATION": _image,
    "SHAREDKEY": _sharedkey,
    "SHARED": _publish,
    "TALLIED": _count,
}

"""The table's items as the audit sees them: typed rows, parsed without trusting the items.

No Lambda imports this module (``tests/infra/test_rooms.py``).
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from horde.records import Generation, Request, Settlement, SharedKey, User
from horde.rules import kudos
from horde.store.items import DUE, LISTED, TTL, WAITING, Item, Kind, Row, from_item, row_of
from horde.store.settlements import POSTED, settlement_of


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account, and its place in the list of all users."""

    user: User
    listed: str | None
    listed_at: int | None


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

    wait_model: str | None = None
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

    @property
    def objects(self) -> tuple[str, str]:
        """The keys of its image and of its metadata in the data set's bucket."""
        return self.object_key, self.object_key.removesuffix("webp") + "json"


@dataclass(frozen=True, slots=True)
class CountedRow:
    """The item that marks an anonymous request as counted."""

    request_id: str


AuditRow = AccountRow | EntryRow | RequestRow | ImageRow | SharedKeyRow | PublishedRow | CountedRow


def kind_of(row: Row) -> str:
    """Return the first part of an item's sort key, which is usually its kind."""
    return row.sk.partition("#")[0]


def name_of(row: Row) -> str:
    """Return the id in an item's partition key."""
    return row.pk.partition("#")[2]


def read(item: Item) -> AuditRow | None:  # noqa: PLR0911 - a flat table of kinds
    """Return an item as a typed row, or None if the audit does not check its kind.

    Raises KeyError, ValueError, TypeError or AttributeError for an item that this system did not
    write.
    """
    row = row_of(item)
    name = name_of(row)
    match kind_of(row):
        case Kind.USER:
            return _account(name, item)
        case Kind.LEDGER:
            return _entry(row, name, item)
        case Kind.REQUEST:
            return _request(name, item)
        case Kind.GENERATION:
            return _image(name, item)
        case Kind.SHAREDKEY:
            return SharedKeyRow(from_item(SharedKey, item))
        case Kind.SHARED:
            return PublishedRow(
                generation_id=item["generation_id"]["S"],
                request_id=item["request_id"]["S"],
                user_id=int(item["user_id"]["N"]),
                object_key=item["object_key"]["S"],
                withdrawn="withdrawn_at" in item,
            )
        case Kind.COUNTED:
            return CountedRow(name)
        case _:
            return None


def _account(name: str, item: Item) -> AccountRow:
    user = from_item(User, item)
    _check_id(str(user.id), name)
    return AccountRow(user, _text(item, LISTED.partition), _number(item, LISTED.sort))


def _entry(row: Row, name: str, item: Item) -> EntryRow:
    kind = item["kind"]["S"]
    entry = EntryRow(
        row,
        int(name),
        kind,
        int(item["amount"]["N"]),
        {account: int(amount["N"]) for account, amount in item["postings"]["M"].items()},
        item["reference"]["S"],
        posted=POSTED in item,
        settlement=settlement_of(item) if kind == kudos.Kind.REWARD else None,
        sharedkey=_text(item, "sharedkey"),
    )
    _ = entry.written_at  # raises ValueError for a malformed sort key
    return entry


def _request(name: str, item: Item) -> RequestRow:
    # Prompts are long, and the audit has no need to see them.
    payload = json.dumps(_priced(json.loads(item["payload"]["S"])))
    request = from_item(Request, {**item, "payload": {"S": payload}})
    _check_id(request.id, name)
    _check_uuid(name)
    return RequestRow(request, _keys(item), "rated_at" in item)


def _priced(payload: Mapping[str, Any]) -> dict[str, Any]:
    strength = payload.get("denoising_strength")
    return {
        "width": int(payload["width"]),
        "height": int(payload["height"]),
        "ddim_steps": int(payload["ddim_steps"]),
        "sampler_name": str(payload["sampler_name"]),
        "hires_fix": payload["hires_fix"] is True,
        "denoising_strength": None if strength is None else float(strength),
    }


def _image(name: str, item: Item) -> ImageRow:
    generation = from_item(Generation, item)
    _check_id(generation.id, name)
    _check_uuid(name)
    return ImageRow(generation, _keys(item), _text(item, "sha256"), _number(item, "size"))


def _text(item: Mapping[str, Any], name: str) -> str | None:
    return str(item[name]["S"]) if name in item else None


def _number(item: Mapping[str, Any], name: str) -> int | None:
    return int(item[name]["N"]) if name in item else None


def _keys(item: Item) -> IndexKeys:
    return IndexKeys(
        wait_model=_text(item, WAITING.partition),
        listed=_text(item, LISTED.partition),
        listed_at=_number(item, LISTED.sort),
        due_shard=_text(item, DUE.partition),
        due_at=_number(item, DUE.sort),
        gone_at=_number(item, TTL),
    )


def _check_id(found: str, name: str) -> None:
    if found != name:
        message = f"its id is {found!r}"
        raise ValueError(message)


def _check_uuid(name: str) -> None:
    if str(uuid.UUID(name)) != name:
        message = f"{name!r} is not a lowercase UUID"
        raise ValueError(message)

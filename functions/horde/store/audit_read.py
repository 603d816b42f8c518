"""Parse the table's items for the audit, without trusting them.

No Lambda imports this module (``tests/infra/test_rooms.py``).
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from horde.records import (
    Generation,
    GivenRating,
    PoolImage,
    Rater,
    Request,
    SharedKey,
    User,
)
from horde.rules import kudos
from horde.store.audit_rows import (
    AccountRow,
    AuditRow,
    CountedRow,
    EntryRow,
    HeldBackRow,
    HeldRow,
    ImageRow,
    IndexKeys,
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
from horde.store.counts import OPEN_IMAGES, full_id
from horde.store.items import DUE, LISTED, TTL, WAITING, Item, Kind, Row, from_item, row_of
from horde.store.settlements import POSTED, settlement_of


def read(item: Item) -> AuditRow | None:  # noqa: C901, PLR0911, PLR0912 - a flat table of kinds
    """Return an item as a typed row, or None if the audit does not check its kind.

    Raises KeyError, ValueError, TypeError or AttributeError for an item that this system did not
    write.
    """
    row = row_of(item)
    name = name_of(row)
    match kind_of(row):
        case Kind.USER:
            return _account(name, item)
        case Kind.ANONYMOUS:
            found = frozenset(item.get(OPEN_IMAGES, {"SS": []})["SS"])
            _check_open(found)
            return PartRow(int(name), found, _number(item, "opened_at") or 0)
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
                withdrawn_at=int(item["withdrawn_at"]["N"]) if "withdrawn_at" in item else None,
                kept_back=item.get("kept_back", {}).get("S"),
                size=_number(item, "size"),
            )
        case Kind.HELD:
            return HeldBackRow(name)
        case Kind.POOL:
            image = from_item(PoolImage, item)
            _check_id(image.id, name)
            _check_uuid(name)
            return PoolRow(image, _text(item, LISTED.partition), _number(item, LISTED.sort))
        case Kind.RATER if row.pk.startswith(f"{Kind.RATING}#"):
            given = from_item(GivenRating, item)
            _check_id(f"{given.image_id} {given.user_id}", f"{name} {row.sk.partition('#')[2]}")
            return RatingRow(given)
        case Kind.RATER:
            rater = from_item(Rater, item)
            _check_id(str(rater.user_id), name)
            return RaterRow(rater)
        case Kind.COUNTED:
            return CountedRow(name)
        case Kind.STATS if row.pk.startswith(f"{Kind.WORKER}#"):
            return HeldRow(name, frozenset(item["held"]["SS"] if "held" in item else ()))
        case _:
            return None


def _account(name: str, item: Item) -> AccountRow:
    user = from_item(User, item)
    _check_id(str(user.id), name)
    _check_open(user.open_images)
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
        "loras": [{}] * len(payload.get("loras") or ()),
        "tis": [{}] * len(payload.get("tis") or ()),
        "control_type": payload.get("control_type"),
        "return_control_map": payload.get("return_control_map") is True,
        "post_processing": [str(name) for name in payload.get("post_processing") or ()],
    }


def _image(name: str, item: Item) -> ImageRow:
    generation = from_item(Generation, item)
    _check_id(generation.id, name)
    _check_uuid(name)
    return ImageRow(
        generation,
        _keys(item),
        sha256=_text(item, "sha256"),
        size=_number(item, "size"),
        held="held" in item,
    )


def _text(item: Mapping[str, Any], name: str) -> str | None:
    return str(item[name]["S"]) if name in item else None


def _number(item: Mapping[str, Any], name: str) -> int | None:
    return int(item[name]["N"]) if name in item else None


def _keys(item: Item) -> IndexKeys:
    return IndexKeys(
        wait_queue=_text(item, WAITING.partition),
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


def _check_open(names: frozenset[str]) -> None:
    for name in names:
        full_id(name)


def _check_uuid(name: str) -> None:
    if str(uuid.UUID(name)) != name:
        message = f"{name!r} is not a lowercase UUID"
        raise ValueError(message)

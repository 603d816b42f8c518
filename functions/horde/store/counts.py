"""What limits an account's open images and what a worker holds.

Each change is a part of the transaction that changes the image's state, so both are exact after any
crash. The one exception: a delivered image leaves its account's set with the reward that
``payouts`` posts, some seconds later, so that no pop and no submit writes the account's item.

``User.open_images`` is a set of the ids of images that wait or are drawn. They are shortened, so
that a usual account stays below the 1 KB of one write unit. ``accept`` adds them, and their end
takes them out. Both are idempotent, so the set has no drift. It says what an account has open
without an index. What the limit is about is the waiting ones: who reaches it has its images read
(``generate.with_room``).

The anonymous account's images are in sets by part (``Generation.part``): one item for all would be
hot. An address has one part, so it takes an eighth of the places at most.

``WorkerStats.held`` is such a set too. Images that the operator's own workers claim are not in it.

``DROPPED`` counts the images that workers failed to draw, by owner and hour. It has one attribute
per worker, named by its id, so that a pop reads one item for both.
"""

import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence

from horde import clock
from horde.records import NOTHING_DROPPED, Dropped, Generation, User
from horde.rules.dates import hour
from horde.store.counters import STATS_KEEP_S
from horde.store.items import (
    KEEP_S,
    TTL,
    Item,
    Kind,
    encode,
    encode_all,
    key,
    stats_key,
)
from horde.store.ledger import Condition
from horde.store.transaction import EXISTS, check, update

OPEN_IMAGES = "open_images"
MAX_DRAWN = 60
"""Most images of an account that are drawn and take no place: a condition has 4 KB."""


def open_key(user_id: int, part: int | None) -> Item:
    """Return the key of the item with an account's open images: the account, or its part."""
    return key(Kind.USER, user_id) if part is None else key(Kind.ANONYMOUS, part)


def opened(generation_ids: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return images as an account's item has them, by the attribute's name; empty if none."""
    images = frozenset(map(short_id, generation_ids))
    return {OPEN_IMAGES: images} if images else {}


def ids_of_open(user: User) -> list[str]:
    """Return the ids of an account's open images, always in the same order."""
    return [full_id(name) for name in sorted(user.open_images)]


def short_id(generation_id: str) -> str:
    """Return the name of an image in a set of open images."""
    return urlsafe_b64encode(uuid.UUID(generation_id).bytes).rstrip(b"=").decode()


def full_id(name: str) -> str:
    """Return the id of an image from a set of open images; raises ValueError for no such name."""
    return str(uuid.UUID(bytes=urlsafe_b64decode(f"{name}==")))


def no_places(user: User, drawn: frozenset[str]) -> list[str]:
    """Return which of an account's open images take no place of waiting ones.

    ``drawn`` are images that were being drawn, as the set names them. Since then some may have been
    delivered and left the set. At most ``MAX_DRAWN`` are told, in an order that is always the same.
    """
    return sorted(user.open_images & drawn)[:MAX_DRAWN]


def room_for(n: int, limit: int, drawn: Sequence[str] = ()) -> Condition:
    """Return the condition that an account may open ``n`` more images.

    ``limit`` is how many may wait. ``drawn`` take no place, as long as they are open.
    """
    values: dict[str, int | str] = {"room": limit + len(drawn) - n}
    still_room = f"size({OPEN_IMAGES}) <= :room"
    if n <= limit and not drawn:
        still_room = f"(attribute_not_exists({OPEN_IMAGES}) OR {still_room})"
    for number, name in enumerate(drawn):
        still_room += f" AND contains({OPEN_IMAGES},:d{number})"
        values[f"d{number}"] = name
    return Condition(still_room, values)


def no_longer_open(user_id: int, part: int | None, generation_ids: Iterable[str]) -> Item:
    """Return the part that takes ended images out of their account's set."""
    return update(
        open_key(user_id, part),
        f"DELETE {OPEN_IMAGES} :{OPEN_IMAGES}",
        EXISTS,
        encode_all(opened(generation_ids)),
    )


def hold(worker_id: str, generation_id: str, limit: int) -> list[Item]:
    """Return the parts that let a worker hold an image, if it holds fewer than ``limit``.

    The worker must exist, or one that is being deleted could claim images that no limit counts.
    """
    holds_fewer = "attribute_not_exists(held) OR size(held) < :limit"
    values = {
        ":image": {"SS": [generation_id]},
        ":limit": encode(limit),
        ":gone": encode(clock.now() + STATS_KEEP_S),
    }
    return [
        update(
            stats_key(Kind.WORKER, worker_id),
            f"SET {TTL} = :gone ADD held :image",
            holds_fewer,
            values,
        ),
        check(key(Kind.WORKER, worker_id), EXISTS),
    ]


def hold_no_more(generation: Generation, *, dropped: bool) -> list[Item]:
    """Return the parts that take an image off its worker's hands.

    ``dropped`` says whether the worker failed: that counts in its statistics, and in what it and
    its owner's other workers dropped in this hour, unless it is one of the operator's own.
    """
    if generation.worker_id is None or not (generation.held or dropped):
        return []
    values = {":gone": encode(clock.now() + STATS_KEEP_S)}
    expression = f"SET {TTL} = :gone"
    if dropped:
        expression += " ADD faults :one"
        values[":one"] = encode(1)
    if generation.held:
        expression += " DELETE held :image"
        values[":image"] = {"SS": [generation.id]}
    parts = [update(stats_key(Kind.WORKER, generation.worker_id), expression, "", values)]
    if dropped and generation.held and generation.worker_user is not None:
        parts.append(drop(generation.worker_user, generation.worker_id))
    return parts


def one_more_worker(owner: User) -> Item:
    """Return the part that fails if an account has registered a worker since it was read.

    So its workers can be counted before, from their items. A number of them would be wrong: workers
    expire.
    """
    no_other_registered = "registrations = :seen"
    if not owner.registrations:
        no_other_registered = f"({no_other_registered} OR attribute_not_exists(registrations))"
    return update(
        key(Kind.USER, owner.id),
        "SET registrations = :next",
        f"{EXISTS} AND {no_other_registered}",
        encode_all({"seen": owner.registrations, "next": owner.registrations + 1}),
    )


# --- what was dropped ---------------------------------------------------------------------------


def dropped_key(owner_id: int) -> Item:
    """Return the key of the count of images that an owner's workers dropped in this hour."""
    return key(Kind.DROPPED, f"{owner_id}#{hour(clock.now())}")


def dropped(item: Item | None, worker_id: str | None) -> Dropped:
    """Return what a worker and its owner dropped, from that item."""
    if item is None:
        return NOTHING_DROPPED
    by_worker = item.get(worker_id or "", {"N": "0"})
    return Dropped(by_worker=int(by_worker["N"]), by_owner=int(item["by_owner"]["N"]))


def drop(owner_id: int, worker_id: str) -> Item:
    """Return the part that counts an image that a worker dropped."""
    return update(
        dropped_key(owner_id),
        f"SET {TTL} = :gone ADD by_owner :one, #worker :one",
        "",
        encode_all({"gone": clock.now() + KEEP_S, "one": 1}),
        {"#worker": worker_id},
    )

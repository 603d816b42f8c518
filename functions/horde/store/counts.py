"""Counts that limit what an account may have waiting and what a worker may hold.

Each change is a part of the transaction that changes the image's state, so the counts are exact
after any crash.

``User.waiting`` is a number, since an account may have hundreds of images waiting. Only images with
``counted`` are in it. Images accepted before this field existed are not, so their end takes nothing
off. While functions of the version before it still run, one may claim or end a counted image
without counting. So when the count refuses a request, ``queue.recount`` compares it with the list
of waiting images.

The anonymous account's images are counted by part (``Generation.part``): one item for all would be
hot. An address has one part, so it takes an eighth of the places at most.

``WorkerStats.held`` is a set of image ids, since a worker holds few. Adding and removing an id is
idempotent, so this count has no drift. Images that the operator's own workers claim are not in it.

``DROPPED`` counts the images that workers failed to draw, by owner and hour. It has one attribute
per worker, named by its id, so that a pop reads one item for both.
"""

from horde import clock
from horde.records import NOTHING_DROPPED, Dropped, Generation, State, User
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


def waiting_key(user_id: int, part: int | None) -> Item:
    """Return the key of what counts an account's waiting images: the account, or its part."""
    return key(Kind.USER, user_id) if part is None else key(Kind.ANONYMOUS, part)


def room_for(n: int, limit: int) -> Condition:
    """Return the condition that an account may have ``n`` more images waiting."""
    still_room = "waiting <= :room"
    if n <= limit:
        still_room = f"(attribute_not_exists(waiting) OR {still_room})"
    return Condition(still_room, {"room": limit - n})


def waiting_again(generation: Generation) -> list[Item]:
    """Return the part that counts a requeued image as waiting."""
    if not generation.counted:
        return []
    expression = "SET waiting_at = :now ADD waiting :one"
    return [_of_account(generation, expression, {"one": 1, "now": clock.now()})]


def waits_no_more(generation: Generation) -> list[Item]:
    """Return the part that takes a claimed image off its owner's count of waiting images."""
    if not generation.counted:
        return []
    return [_of_account(generation, "ADD waiting :less", {"less": -1})]


def ended_waiting(generation: Generation) -> dict[str, int]:
    """Return what the end of an image adds to its owner's account, for ``ledger.post``."""
    return {"waiting": -1} if generation.counted and generation.state is State.WAITING else {}


def ended_anonymously(generation: Generation) -> list[Item]:
    """Return the part that takes an anonymous image, which no entry refunds, off its count."""
    return waits_no_more(generation) if generation.state is State.WAITING else []


def _of_account(generation: Generation, expression: str, values: dict[str, int]) -> Item:
    counter = waiting_key(generation.user_id, generation.part)
    return update(counter, expression, EXISTS, encode_all(values))


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

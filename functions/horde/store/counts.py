"""Counts that limit what an account may have waiting and what a worker may hold.

Each change is a part of the transaction that changes the image's state, so the counts are exact
after any crash.

``User.waiting`` is a number, since an account may have hundreds of images waiting. Only images with
``counted`` are in it. Images of the anonymous account are not: its one item would be hot. Images
accepted before this field existed are not either, so their end takes nothing off. While functions
of the version before it still run, one may claim or end a counted image without counting. So when
the count refuses a request, ``queue.recount`` compares it with the list of waiting images.

``WorkerStats.held`` is a set of image ids, since a worker holds few. Adding and removing an id is
idempotent, so this count has no drift. Images that the operator's own workers claim are not in it.
"""

from horde import clock
from horde.records import Generation, State
from horde.store.counters import STATS_KEEP_S
from horde.store.items import TTL, Item, Kind, encode, encode_all, key, stats_key
from horde.store.ledger import Condition
from horde.store.transaction import EXISTS, check, update


def room_for(n: int, limit: int) -> Condition:
    """Return the condition that an account may have ``n`` more images waiting."""
    still_room = "(attribute_not_exists(waiting) OR waiting <= :room)"
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


def _of_account(generation: Generation, expression: str, values: dict[str, int]) -> Item:
    return update(key(Kind.USER, generation.user_id), expression, EXISTS, encode_all(values))


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


def hold_no_more(generation: Generation, *, faults: int = 0) -> list[Item]:
    """Return the part that takes an image off its worker's hands and counts a failed claim."""
    if generation.worker_id is None or not (generation.held or faults):
        return []
    values = {":gone": encode(clock.now() + STATS_KEEP_S)}
    expression = f"SET {TTL} = :gone"
    if faults:
        expression += " ADD faults :faults"
        values[":faults"] = encode(faults)
    if generation.held:
        expression += " DELETE held :image"
        values[":image"] = {"SS": [generation.id]}
    return [update(stats_key(Kind.WORKER, generation.worker_id), expression, "", values)]

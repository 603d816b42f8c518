"""How far a worker is trusted: images it may hold, images it may drop, workers of one owner.

The workers of a *fleet* account are the operator's own endpoints. None of these limits applies to
them. A worker that must be stopped is put into maintenance, as in the Horde (horde-api.md 2).
"""

from horde.records import Dropped, Generation, User, WorkerStats
from horde.rules.refusals import TooManyWorkers

MAX_WORKERS = 3
"""Workers that an account may have (horde-api.md 2)."""
MAX_WORKERS_TRUSTED = 20
"""Workers that a trusted account may have."""
MAX_DROPPED = 20
"""Images that a worker may drop in one hour by the clock (horde-api.md 2)."""
MIN_HELD = 2
"""Images that the slowest worker may hold: one that it draws, and the next."""
MAX_HELD = 40
"""Images that the fastest worker may hold: two pops of the largest ``amount``."""
UNMEASURED_HELD = 10
"""Images that a worker may hold before its first delivery: its queue, its threads, one batch."""


def held_limit(stats: WorkerStats, owner: User, generation: Generation) -> int | None:
    """Return how many images a worker may hold if it claims this one; None for no limit.

    As many as it can draw within the image's lease at its measured speed, if all are like it:
    others would only be late. The measured speed includes the waits of images in its own queue.
    """
    if owner.fleet:
        return None
    if stats.speed is None:
        return UNMEASURED_HELD
    drawn_in_time = stats.speed * generation.ttl // max(1, generation.pixelsteps)
    return max(MIN_HELD, min(MAX_HELD, drawn_in_time))


def max_workers(owner: User) -> int | None:
    """Return how many workers an account may have; None for no limit."""
    if owner.fleet:
        return None
    return MAX_WORKERS_TRUSTED if owner.trusted else MAX_WORKERS


def check_workers(owner: User, count: int) -> None:
    """Refuse one more worker to an account that has ``count``; raises TooManyWorkers."""
    limit = max_workers(owner)
    if limit is not None and count >= limit:
        message = f"This account has {count} workers and may have {limit}. Please delete one."
        raise TooManyWorkers(message, rc="TooManyWorkersTrusted" if owner.trusted else None)


def drops_too_many(owner: User, dropped: Dropped) -> bool:
    """Return whether a worker dropped too many images in this hour, alone or with its siblings.

    A dropped image is one that its worker faulted, let expire, or submitted an upload for that was
    refused. All of an owner's workers together may drop as many as its number of workers allows,
    or one that is deleted and registered again would start anew.
    """
    workers = max_workers(owner)
    if workers is None:
        return False
    return dropped.by_worker > MAX_DROPPED or dropped.by_owner > MAX_DROPPED * workers


def dropped_message(dropped: Dropped) -> str:
    """Return the maintenance message of a worker that dropped too many images."""
    return (
        f"This worker dropped {dropped.by_worker} images within an hour, and all workers of its "
        f"owner {dropped.by_owner}. A worker may drop {MAX_DROPPED}. It gets no images in this "
        "hour. Please find the cause, and end the maintenance then."
    )

"""How far a worker is trusted: images it may hold, images it may drop, workers of one owner.

The workers of a *fleet* account are the operator's own endpoints. None of these limits applies to
them. A worker that must be stopped is put into maintenance, as in the Horde (horde-api.md 2).
"""

from horde.records import Generation, User, WorkerStats

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

"""How images and requests end without a delivery: cancelled, faulted, expired.

Each image ends in one transaction with its refund, so a run that is cut anywhere leaves images
that are ended and refunded, and images that are neither; whoever comes next (the sweep at the
latest, a request stays on the due index until all its images have ended) ends the rest.
"""

from horde import clock
from horde.model import OPEN, After, Generation, Request, State, after_fault
from horde.store import Store


def cancel(table: Store, request: Request, generations: list[Generation]) -> None:
    """Cancel what waits; what a worker holds is still delivered and charged."""
    if not OPEN.intersection(generation.state for generation in generations):
        return
    flagged = table.mark_cancelled(request.id, clock.now())
    if flagged is not None:
        end_waiting(table, flagged, generations, State.CANCELLED)


def end_waiting(
    table: Store, request: Request, generations: list[Generation], state: State
) -> None:
    """End every waiting image of a request, each with its refund."""
    for generation in generations:
        if generation.state is State.WAITING:
            table.end_undelivered(request, generation, state)


def fault(table: Store, request: Request, generation: Generation) -> None:
    """Take an image from a worker that failed or went silent: requeue it, or end it.

    ``generation`` is ``processing``, as read; if it has moved on since, nothing happens.
    """
    match after_fault(request, generation, clock.now()):
        case After.REQUEUE:
            if table.requeue(request, generation):
                return
            fresh = table.request(request.id)
            if fresh is None or after_fault(fresh, generation, clock.now()) is After.REQUEUE:
                return  # the image itself moved on: somebody else saw to it
            fault(table, fresh, generation)
        case After.CANCEL:
            table.end_undelivered(request, generation, State.CANCELLED)
        case After.EXPIRE:
            table.end_undelivered(request, generation, State.EXPIRED)
        case After.FAULT:
            # Crash window: the request is faulted, its other images still wait. The same
            # transaction made the request due, so the next sweep ends them.
            if table.end_undelivered(request, generation, State.FAULTED, last_fault=True):
                end_waiting(table, request, table.generations(request), State.FAULTED)


def end_request(table: Store, request: Request, now: int) -> bool:
    """End the waiting images of a request that was cancelled, faulted, or whose time is up.

    True when all is over and the request can be closed. Images that a worker still holds keep it
    open: the sweep comes back when their leases end.
    """
    over = request.expires_at <= now
    if request.cancelled:
        reason = State.CANCELLED
    elif request.faulted:
        reason = State.FAULTED
    elif over:
        reason = State.EXPIRED
    else:
        return False  # it slid on since the index was read
    generations = table.generations(request)
    end_waiting(table, request, generations, reason)
    if any(generation.state is State.WAITING for generation in generations):
        generations = table.generations(request)  # a worker may have claimed one meanwhile
    left = [g.lease_until or now for g in generations if g.state in OPEN]
    if over and not left:
        return True
    table.look_again(request, max([*left, request.expires_at]) + 1)
    return False

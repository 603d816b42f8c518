"""How images and requests end without a delivery: cancelled, faulted, expired.

Each image ends in one transaction with its refund, so a run that is cut anywhere leaves images
that are ended and refunded, and images that are neither. The next run ends the rest: at the latest
the sweep, since a request stays on the due index until all its images have ended.
"""

from horde import clock
from horde.records import OPEN, Generation, Request, State
from horde.rules.lifecycle import After, after_fault
from horde.store import Store


def cancel(store: Store, request: Request, generations: list[Generation]) -> None:
    """Cancel what waits; what a worker holds is still delivered and charged."""
    if not OPEN.intersection(generation.state for generation in generations):
        return
    cancelled = store.requests.cancel(request.id, clock.now())
    if cancelled is not None:
        end_waiting(store, cancelled, generations, State.CANCELLED)


def end_waiting(
    store: Store, request: Request, generations: list[Generation], state: State
) -> None:
    """End every waiting image of a request, each with its refund."""
    for generation in generations:
        if generation.state is State.WAITING:
            store.endings.end_undelivered(request, generation, state)


def fault(store: Store, request: Request, generation: Generation) -> None:
    """Take an image from a worker that failed or went silent: requeue it, or end it.

    ``generation`` is ``processing``, as read; if it has moved on since, nothing happens.
    """
    match after_fault(request, generation, clock.now()):
        case After.REQUEUE:
            if store.endings.requeue(request, generation):
                return
            fresh = store.requests.get(request.id)
            if fresh is None or after_fault(fresh, generation, clock.now()) is After.REQUEUE:
                return  # the image itself moved on: another run ended or requeued it
            fault(store, fresh, generation)
        case After.CANCEL:
            store.endings.end_undelivered(request, generation, State.CANCELLED)
        case After.EXPIRE:
            store.endings.end_undelivered(request, generation, State.EXPIRED)
        case After.FAULT:
            # Crash window: the request is faulted, its other images still wait. The same
            # transaction made the request due, so the next sweep ends them.
            ended = store.endings.end_undelivered(
                request, generation, State.FAULTED, last_fault=True
            )
            if ended:
                end_waiting(store, request, store.requests.generations(request), State.FAULTED)


def end_request(store: Store, request: Request, now: int) -> bool:
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
        return False  # its end was extended since the index was read
    generations = store.requests.generations(request)
    end_waiting(store, request, generations, reason)
    if any(generation.state is State.WAITING for generation in generations):
        generations = store.requests.generations(request)  # a worker may have claimed one
    left = [g.lease_until or now for g in generations if g.state in OPEN]
    if over and not left:
        return True
    store.requests.reschedule(request, max([*left, request.expires_at]) + 1)
    return False

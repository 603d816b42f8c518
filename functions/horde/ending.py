"""How images and requests end without a delivery: cancelled, faulted, expired.

Each image ends in one transaction with its refund. So after a crash, each image is either ended and
refunded, or neither. The next run ends the rest. The sweep is the last resort, since a request
stays in the due index until all its images have ended.
"""

from horde import clock
from horde.log import logger
from horde.records import OPEN, Generation, Request, State
from horde.rules.lifecycle import FaultOutcome, after_fault, ends_with
from horde.store import Store

MAX_CANCELLED = 1000
"""Most waiting images that a deletion, or one sweep of it, cancels; an account has far fewer."""
FLEET_DROP = "own worker dropped an image"
"""Logged if one of the operator's own workers fails: nothing else stops it, so an alarm rings."""


def cancel(store: Store, request: Request, generations: list[Generation]) -> None:
    """Cancel a request's waiting images; claimed ones are still delivered and charged."""
    if not OPEN.intersection(generation.state for generation in generations):
        return
    cancelled = store.requests.cancel(request.id, clock.now())
    if cancelled is not None:
        end_waiting(store, cancelled, generations, State.CANCELLED)


def cancel_all_of(store: Store, user_id: int) -> None:
    """Cancel the open requests of a deleted account; claimed images are still delivered.

    Crash window: the account is deleted, but some of its requests are still open. The write that
    deleted it also made it due, so the next sweep does this again. Nothing is added meanwhile: a
    charge has the condition that its account is not deleted.
    """
    # What waits comes first. It may belong to a request that has left the list of requests: one
    # whose cancellation was cut.
    waiting = store.requests.generations_by_id(store.queue.ids_of(user_id, MAX_CANCELLED))
    for request_id in dict.fromkeys(image.request_id for image in waiting):
        found = store.requests.get(request_id)
        if found is not None:
            cancel(store, found, store.requests.generations(found))
    for request, generations in store.requests.all_open_of(user_id):
        cancel(store, request, generations)


def end_waiting(
    store: Store, request: Request, generations: list[Generation], state: State
) -> None:
    """End every waiting image of a request in ``state``, each with its refund."""
    for generation in generations:
        if generation.state is State.WAITING:
            store.endings.end_undelivered(request, generation, state)


def fault(store: Store, request: Request, generation: Generation) -> None:
    """Take an image back from a worker that failed or went silent: requeue it, or end it.

    ``generation`` was ``processing`` when it was read. If it has changed since, nothing happens.
    """
    if not generation.held:
        logger.warning(FLEET_DROP, extra={"worker": generation.worker_id})
    match after_fault(request, generation, clock.now()):
        case FaultOutcome.REQUEUE:
            if store.endings.requeue(request, generation):
                return
            fresh = store.requests.get(request.id)
            if fresh is None or after_fault(fresh, generation, clock.now()) is FaultOutcome.REQUEUE:
                return  # the image itself has changed: another run ended or requeued it
            fault(store, fresh, generation)
        case FaultOutcome.CANCEL:
            store.endings.end_undelivered(request, generation, State.CANCELLED)
        case FaultOutcome.EXPIRE:
            store.endings.end_undelivered(request, generation, State.EXPIRED)
        case FaultOutcome.FAULT:
            # Crash window: the request is faulted, but its other images still wait. The
            # transaction also made the request due, so the next sweep ends them.
            ended = store.endings.end_undelivered(
                request, generation, State.FAULTED, last_fault=True
            )
            if ended:
                end_waiting(store, request, store.requests.generations(request), State.FAULTED)


def end_request(store: Store, request: Request, now: int) -> bool:
    """End the waiting images of a cancelled, faulted or expired request; ``now`` is in seconds.

    Returns whether the request can be closed. Claimed images keep it open, and the sweep looks at
    it again when their leases end.
    """
    over = request.expires_at <= now
    if request.cancelled:
        reason = State.CANCELLED
    elif request.faulted:
        reason = State.FAULTED
    elif over:
        reason = State.EXPIRED
    else:
        return False  # its expiry was extended since the index was read
    generations = store.requests.generations(request)
    end_waiting(store, request, generations, reason)
    if ends_with(request) and generations and generations[0].state is State.WAITING:
        return False  # closed with its image; or a worker has claimed it, and the next sweep looks
    if any(generation.state is State.WAITING for generation in generations):
        generations = store.requests.generations(request)  # a worker may have claimed one
    left = [g.lease_until or now for g in generations if g.state in OPEN]
    if over and not left:
        return True
    store.requests.reschedule(request, max([*left, request.expires_at]) + 1)
    return False

"""How images and requests end without a delivery: cancelled, faulted, expired.

Each image ends in one transaction with its refund. So after a crash, each image is either ended and
refunded, or neither. The next run ends the rest. The sweep is the last resort, since a request
stays in the due index until all its images have ended.
"""

from horde import clock
from horde.log import logger
from horde.records import OPEN, Generation, Request, State
from horde.rules.lifecycle import FaultOutcome, after_fault, ends_with_image, expires_at
from horde.store import Store

FLEET_DROP = "own worker dropped an image"
"""Logged if one of the operator's own workers fails: nothing else stops it, so an alarm rings."""


def cancel(store: Store, request: Request, generations: list[Generation]) -> None:
    """Cancel a request's waiting images; claimed ones are still delivered and charged.

    Crash window: the request is flagged, but images of it still wait. The sweep ends them: soon if
    the request itself is due, else when its image expires. Asking again ends them at once.
    """
    if not OPEN.intersection(generation.state for generation in generations):
        return
    cancelled = store.requests.cancel(request, clock.now())
    if cancelled is None:
        return
    if ends_with_image(request):  # its worker may have failed between the read and the flag
        generations = store.requests.generations(request)
    end_waiting(store, cancelled, generations, State.CANCELLED)


def cancel_all_of(store: Store, user_id: int) -> None:
    """Cancel the open requests of a deleted account; claimed images are still delivered.

    Crash window: the account is deleted, but some of its requests are still open. The write that
    deleted it also made it due, so the next sweep does this again. Nothing is added meanwhile: a
    charge has the condition that its account is not deleted.
    """
    user = store.accounts.get(user_id)
    images = store.listings.open_images(user) if user is not None else []
    for request in store.requests.get_many(image.request_id for image in images).values():
        cancel(store, request, store.requests.generations(request))


def end_waiting(
    store: Store, request: Request, generations: list[Generation], state: State
) -> None:
    """End every waiting image of a request in ``state``, each with its refund."""
    for generation in generations:
        if generation.state is State.WAITING:
            store.endings.end_undelivered(request, generation, state)


def fault(
    store: Store, request: Request, generation: Generation, *, unobtainable: bool = False
) -> None:
    """Take an image back from a worker that failed or went silent: requeue it, or end it.

    ``generation`` was ``processing`` when it was read. If it has changed since, nothing happens.
    ``unobtainable``: the worker says that what the request names cannot be had, such as its LoRA.
    The operator's own are believed, which no statistics count: other tries would start GPUs in
    vain. It is no failure of theirs either.
    """
    hopeless = unobtainable and not generation.held
    if not generation.held and not hopeless:
        logger.warning(FLEET_DROP, extra={"worker": generation.worker_id})
    match after_fault(request, generation, clock.now(), hopeless=hopeless):
        case FaultOutcome.REQUEUE:
            if store.endings.requeue(request, generation):
                return
            fresh = store.requests.get(request.id)
            if fresh is None or after_fault(fresh, generation, clock.now()) is FaultOutcome.REQUEUE:
                return  # the image itself has changed: another run ended or requeued it
            fault(store, fresh, generation, unobtainable=unobtainable)
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
    if not (over or request.cancelled or request.faulted):
        return False  # its expiry was extended since the index was read
    generations = store.requests.generations(request)
    end_waiting(store, request, generations, _reason(request))
    if any(generation.state is State.WAITING for generation in generations):
        generations = store.requests.generations(request)  # a worker may have claimed one
    left = [g.lease_until or now for g in generations if g.state in OPEN]
    if over and not left:
        return True
    store.requests.reschedule(request, max([*left, request.expires_at]) + 1)
    return False


def end_image(store: Store, generation: Generation, now: int) -> None:
    """End a waiting image that has expired, and with it its request; ``now`` is in seconds."""
    if generation.state is not State.WAITING:
        return
    request = store.requests.get(generation.request_id)
    if request is None:
        message = f"the request of image {generation.id} is gone; it cannot be refunded"
        raise RuntimeError(message)
    if expires_at(request, [generation]) <= now:
        store.endings.end_undelivered(request, generation, _reason(request))


def _reason(request: Request) -> State:
    """Return the state in which the images of a request end that is over or to be ended."""
    if request.cancelled:
        return State.CANCELLED
    return State.FAULTED if request.faulted else State.EXPIRED

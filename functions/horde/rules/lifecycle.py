"""How requests and images change state, and the kudos that they have consumed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from horde.records import OPEN, Generation, Request, State
from horde.rules import ruleset


class FaultOutcome(StrEnum):
    """What happens to a generation whose worker failed or went silent."""

    REQUEUE = "requeue"
    CANCEL = "cancel"
    EXPIRE = "expire"
    FAULT = "fault"


def after_fault(
    request: Request, generation: Generation, now: int, *, hopeless: bool = False
) -> FaultOutcome:
    """Return what happens after a fault; both records are as they were before it.

    Too many faults of one image end its request. Faults are counted per image, since one worker
    that dies can fault a whole batch of a request's images. ``now`` is in seconds. ``hopeless``:
    what the request asks for cannot be had, so no other try would help.
    """
    if request.cancelled:
        return FaultOutcome.CANCEL
    if expires_at(request, [generation]) <= now:
        return FaultOutcome.EXPIRE
    if hopeless or request.faulted or generation.attempt >= ruleset.of(request.ruleset).max_faults:
        return FaultOutcome.FAULT
    return FaultOutcome.REQUEUE


def ends_with_image(request: Request) -> bool:
    """Return whether a request is over as soon as its one image has ended.

    Then its image has its ``expires_at``, and nothing else of it changes on the usual way. Others
    are closed by the sweep: those of several images, and those whose source image must be deleted.
    """
    return request.n == 1 and request.source_key is None


def expires_at(request: Request, generations: Iterable[Generation]) -> int:
    """Return when a request expires, in seconds: its images may have extended its life."""
    return max([request.expires_at, *(one.expires_at or 0 for one in generations)])


def extended(generation: Generation, now: int) -> int | None:
    """Return when an image expires that is drawn ``now`` (seconds); None if its request says so.

    A pop and a submit give it a whole life.
    """
    if generation.expires_at is None:
        return None
    return max(generation.expires_at, now + ruleset.IN_FORCE.request_life_s)


SLIDE_S = 60
"""Seconds by which the end of a request's life may lag behind what was last done for it."""


def slid(request: Request, now: int) -> int | None:
    """Return when a request expires that is drawn ``now`` (both in seconds), if that is to change.

    It is one whose images do not say when. A pop and a submit give it a whole life. Once a minute
    is enough, and spares two index writes.
    """
    until = now + ruleset.IN_FORCE.request_life_s
    return until if request.expires_at < until - SLIDE_S else None


def faulted_by(generation: Generation) -> list[int | str]:
    """Return who has faulted an image, once its present worker has: workers and their owners."""
    present = [generation.worker_id, generation.worker_user]
    return list(
        dict.fromkeys([*generation.faulted_by, *(one for one in present if one is not None)])
    )


def waiting_again(generation: Generation) -> Generation:
    """Return an image that its worker failed to draw as it waits again, for all of its models."""
    return replace(
        generation,
        state=State.WAITING,
        model=generation.models[0] if generation.models else generation.model,
        faulted_by=faulted_by(generation),
        lease_until=None,
        held=False,
        preferred=False,
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """The counts that check and status return (horde-api.md 1.2)."""

    finished: int
    processing: int
    waiting: int
    restarted: int
    done: bool
    faulted: bool
    kudos: int
    """Kudos consumed by the images delivered so far."""


def consumed(request: Request, generation: Generation) -> int:
    """Return the kudos that one image has consumed: price and tax, or only tax if censored."""
    if generation.state is State.OK:
        return request.price + request.tax
    return request.tax if generation.state is State.CENSORED else 0


def progress(request: Request, generations: list[Generation]) -> Progress:
    """Return a request's progress from its images."""
    states = [generation.state for generation in generations]
    ok, censored = states.count(State.OK), states.count(State.CENSORED)
    return Progress(
        finished=ok + censored,
        processing=states.count(State.PROCESSING),
        waiting=states.count(State.WAITING),
        restarted=sum(generation.faults for generation in generations),
        done=request.faulted or not OPEN.intersection(states),
        faulted=request.faulted,
        kudos=sum(consumed(request, generation) for generation in generations),
    )

"""How requests and images go from state to state, and what was consumed at the end."""

from dataclasses import dataclass
from enum import StrEnum

from horde.records import OPEN, Generation, Request, State
from horde.rules import ruleset


class After(StrEnum):
    """What becomes of a generation whose worker gave up or died."""

    REQUEUE = "requeue"
    CANCEL = "cancel"
    EXPIRE = "expire"
    FAULT = "fault"


def after_fault(request: Request, generation: Generation, now: int) -> After:
    """Decide what a fault of one generation leads to; both are as they were before it.

    Too many faults of one image end its request. They are counted by image, since one worker
    that dies takes a whole batch of a request's images with it.
    """
    if request.cancelled:
        return After.CANCEL
    if request.expires_at <= now:
        return After.EXPIRE
    if request.faulted or generation.attempt >= ruleset.of(request.ruleset).max_faults:
        return After.FAULT
    return After.REQUEUE


@dataclass(frozen=True, slots=True)
class Progress:
    """The counts of check and status (horde-api.md 1.2)."""

    finished: int
    processing: int
    waiting: int
    restarted: int
    done: bool
    faulted: bool
    kudos: int
    """Kudos consumed by what was delivered so far."""


def consumed(request: Request, generation: Generation) -> int:
    """Return the kudos that one image cost in the end."""
    if generation.state is State.OK:
        return request.price + request.tax
    return request.tax if generation.state is State.CENSORED else 0


def progress(request: Request, generations: list[Generation]) -> Progress:
    """Count a request's images."""
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

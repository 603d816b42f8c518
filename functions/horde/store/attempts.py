"""Calls to DynamoDB: which are made again, for how long, and what is raised in the end."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from horde.rules.refusals import Busy, Throttled
from horde.throttling import is_throttle
from horde.wire.seam import AwsError

T = TypeVar("T")

CONFLICT_TRIES = 30
"""Tries of a write that conflicts with others, about five seconds (docs/contention.md)."""
THROTTLED_S = 5
"""Seconds for which a throttled write is tried again: each try already has the SDK's own pauses."""


def ask(call: Callable[..., T], **arguments: Any) -> T:
    """Make a call; raises Throttled if DynamoDB refuses it for its rate, after the SDK's tries."""
    try:
        return call(**arguments)
    except AwsError as error:
        if is_throttle(error):
            raise Throttled from error
        raise


def retry_on_conflict(write: Callable[..., T], **arguments: Any) -> T:
    """Write, and retry with jitter if another transaction holds the same item, or if throttled.

    DynamoDB does not queue writes to an item. Of two concurrent transactions, or a transaction and
    a plain write, it refuses one. Raises Busy or Throttled.
    """
    started, given_up = time.monotonic(), Busy
    for attempt in range(CONFLICT_TRIES):
        try:
            return write(**arguments)
        except AwsError as error:
            if "ConditionalCheckFailed" in error.reasons:
                raise  # a retry would fail the same condition
            if is_throttle(error):
                given_up = Throttled
            elif is_conflict(error):
                given_up = Busy
            else:
                raise
        if given_up is Throttled and time.monotonic() - started > THROTTLED_S:
            break
        pause(attempt)
    raise given_up


def is_conflict(error: AwsError) -> bool:
    """Return whether another write of the same item was under way."""
    met = {"TransactionInProgressException", "TransactionConflictException"}
    return error.code in met or "TransactionConflict" in error.reasons


def pause(attempt: int) -> None:
    """Wait before the next try."""
    time.sleep(pause_s(attempt))


def pause_s(attempt: int) -> float:
    """Return the delay after a refused write, in seconds: exponential, with jitter."""
    return random.uniform(0.005, min(0.4, 0.02 * 2**attempt))  # noqa: S311 - jitter

"""When a call is made again: botocore's ``standard`` mode with three tries."""

import random
from threading import Lock

from horde import throttling
from horde.wire.seam import AwsError, NoAnswerError

TRIES = 3
MAX_PAUSE_S = 20
TRANSIENT = frozenset({500, 502, 503, 504})
"""HTTP statuses of passing troubles."""
_LIKE_THROTTLES = (
    "ThrottledException TransactionInProgressException BandwidthLimitExceeded "
    "LimitExceededException PriorRequestNotComplete EC2ThrottledException"
)
_TIMEOUTS = "RequestTimeout RequestTimeoutException"
RETRYABLE = throttling.CODES.union(_LIKE_THROTTLES.split(), _TIMEOUTS.split())
"""Error codes of passing troubles and of throttles."""
QUOTA, RETRY, RETRY_OF_TIMEOUT, SUCCESS = 500, 5, 10, 1
"""What a client may spend on retries, what each costs, and what a success without one brings."""


class Quota:
    """A client's budget of retries: while most calls fail, few are made again."""

    def __init__(self) -> None:
        self.left, self._lock = QUOTA, Lock()

    def take(self, error: AwsError) -> int:
        """Pay for a retry after an error; returns its cost, or 0 if too little is left."""
        timed_out = isinstance(error, NoAnswerError) and error.timed_out
        cost = RETRY_OF_TIMEOUT if timed_out else RETRY
        with self._lock:
            if cost > self.left:
                return 0
            self.left -= cost
        return cost

    def give(self, cost: int) -> None:
        """Give back the cost of the last retry of a call that succeeded."""
        if self.left < QUOTA:
            with self._lock:
                self.left = min(QUOTA, self.left + (cost or SUCCESS))


def is_transient(error: AwsError) -> bool:
    """Return whether another try may succeed."""
    again = isinstance(error, NoAnswerError) or error.status in TRANSIENT
    return again or error.code in RETRYABLE


def pause_s(tries: int, error: AwsError) -> float:
    """Return the seconds to wait after so many tries.

    Unlike botocore, the first try on a socket that the server closed is made again at once.
    """
    closed = isinstance(error, NoAnswerError) and error.reused and not error.timed_out
    longest = 0 if closed and tries == 1 else min(2 ** (tries - 1), MAX_PAUSE_S)
    return random.random() * longest  # noqa: S311 - jitter

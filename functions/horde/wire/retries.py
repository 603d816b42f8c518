"""When a call is made again: botocore's ``standard`` mode with three tries."""

import random

from horde import throttling
from horde.wire.seam import AwsError, NoAnswerError

TRIES = 3
TRANSIENT = frozenset({500, 502, 503, 504})
"""HTTP statuses of passing troubles."""
_OTHERS = (
    "ThrottledException TransactionInProgressException BandwidthLimitExceeded "
    "LimitExceededException PriorRequestNotComplete EC2ThrottledException "
    "RequestTimeout RequestTimeoutException"
)
RETRYABLE = throttling.CODES.union(_OTHERS.split())
"""Error codes of passing troubles and of throttles."""
QUOTA, RETRY, RETRY_OF_TIMEOUT, SUCCESS = 500, 5, 10, 1
"""What a client may spend on retries, what each costs, and what a success without one brings."""


def is_transient(error: AwsError) -> bool:
    """Return whether another try may succeed."""
    return isinstance(error, NoAnswerError) or error.status in TRANSIENT or error.code in RETRYABLE


def cost(error: AwsError) -> int:
    """Return what a try after this error costs of the client's quota."""
    return RETRY_OF_TIMEOUT if isinstance(error, NoAnswerError) and error.timed_out else RETRY


def pause_s(tries: int) -> float:
    """Return the seconds to wait after so many tries."""
    return random.random() * (1 << tries - 1)  # noqa: S311 - jitter

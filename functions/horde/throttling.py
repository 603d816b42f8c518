"""How AWS says that too much is asked of it at once; the same call may succeed a little later."""

from horde.wire.seam import AwsError

CODES = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes of DynamoDB, SQS, S3, Lambda, SSM and Secrets Manager."""
REASONS = frozenset({"ThrottlingError", "ProvisionedThroughputExceeded"})
"""Why DynamoDB cancelled a transaction, by its parts."""


def is_throttle(error: BaseException) -> bool:
    """Return whether AWS refused a call for the rate of calls alone, and changed nothing."""
    if not isinstance(error, AwsError):
        return False
    return error.code in CODES or not REASONS.isdisjoint(error.reasons)

"""The kudos that an account receives each month: the operator's default, or its own amount.

An account receives them when it first requests images or calls ``find_user`` in a month (UTC). So
inactive accounts cost nothing, and they lose the allowance of months they miss.
"""

from horde.records import User
from horde.rules.dates import month_start


def amount(user: User, default: int) -> int:
    """Return an account's monthly allowance in kudos; 0 if it is not in good standing."""
    if user.anonymous or user.deleted or user.flagged:
        return 0
    return default if user.monthly_kudos is None else user.monthly_kudos


def due(user: User, default: int, now: int) -> int:
    """Return the kudos due to an account at ``now`` (seconds); 0 if it has this month's already."""
    return 0 if (user.allowed_at or 0) >= month_start(now) else amount(user, default)

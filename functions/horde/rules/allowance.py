"""The kudos that an account is given each month: the operator's setting, or an admin's for one.

They are given when an account asks for images or looks at itself for the first time in a month
(UTC), so accounts that sleep cost nothing. Months that passed unused are lost.
"""

from horde.records import User
from horde.rules.dates import month_start


def amount(user: User, default: int) -> int:
    """Return what an account in good standing gets each month, in kudos."""
    if user.anonymous or user.deleted or user.flagged:
        return 0
    return default if user.monthly_kudos is None else user.monthly_kudos


def due(user: User, default: int, now: int) -> int:
    """Return what an account is to be given at ``now`` (seconds), 0 if it has it already."""
    return 0 if (user.allowed_at or 0) >= month_start(now) else amount(user, default)

"""Kudos that an account is given by the month: the operator's setting, or an admin's for one.

Given when an account asks for images or looks at itself for the first time in a month (UTC), so
accounts that are not used cost nothing. ``give`` is one transaction with the month as its
condition: there is no crash window, and two at once give once. Months that passed unused are lost.
"""

from typing import TYPE_CHECKING

from horde import clock
from horde.model import User

if TYPE_CHECKING:
    from horde.store import Store


def amount(user: User, default: int) -> int:
    """Return what an account in good standing gets each month, in kudos."""
    if user.anonymous or user.deleted or user.flagged:
        return 0
    return default if user.monthly_kudos is None else user.monthly_kudos


def give(table: "Store", user: User, default: int) -> User:
    """Give what is due and return the account as it is then; ``default`` is everybody's amount."""
    due = amount(user, default)
    month = clock.month_start(clock.now())
    if not due or (user.allowed_at or 0) >= month:
        return user
    table.allow(user.id, due, month)  # what another call gave meanwhile is given
    return table.user(user.id) or user

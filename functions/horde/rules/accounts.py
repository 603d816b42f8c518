"""Who may see and change which fields of an account, and who is a moderator or admin.

Privileges come from the account's own flags and from the operator's setting ``admins``, never from
an account's number or age. Moderators act on accounts without a role. On moderators and admins,
themselves included, only admins do.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from horde.records import ANONYMOUS_ID, User
from horde.rules import ruleset
from horde.rules.refusals import (
    AnonForbiddenUserMod,
    NotAdmin,
    NotModerator,
    NotOwner,
    NoUserModSelected,
    TooLongUserName,
    UserChangeRefused,
)

MAX_NAME = 30
"""Longest user name, in characters."""
BY_OWNER = frozenset({"username", "contact"})
BY_MODERATOR = frozenset({"concurrency", "trusted", "flagged", "admin_comment", "undelete"})
BY_ADMIN = frozenset({"kudos", "moderator", "monthly_kudos"})
MAX_API_KEYS = 5
"""Most account keys of an account. Worker keys, which the operator makes, do not count."""
MAX_USER_DIGITS = 18
"""Most digits of an account's number; the table stores no larger ones."""


def anonymous() -> User:
    """Return the anonymous account; its balance sets its priority in the queue."""
    floor = ruleset.IN_FORCE.floor_anonymous
    return User(id=ANONYMOUS_ID, alias="Anonymous", kudos=floor, floor=floor, created_at=0)


def user_number(text: str) -> int | None:
    """Return a text as an account number, or None if it is not one."""
    if text.isascii() and text.isdecimal() and len(text) <= MAX_USER_DIGITS:
        return int(text)
    return None


class Privilege(IntEnum):
    """How much of an account a viewer may see."""

    PUBLIC = 0
    OWNER = 1
    MODERATOR = 2


def privilege(viewer: User | None, user: User, admins: str) -> Privilege:
    """Return how much of ``user`` a viewer may see; None is a viewer without a key."""
    if viewer is None or viewer.anonymous:
        return Privilege.PUBLIC
    if is_moderator(viewer, admins):
        return Privilege.MODERATOR
    return Privilege.OWNER if viewer.id == user.id else Privilege.PUBLIC


def is_admin(user: User, admins: str) -> bool:
    """Return whether an account is an admin (``admins``: ids, comma-separated)."""
    return not user.anonymous and str(user.id) in {part.strip() for part in admins.split(",")}


def is_moderator(user: User, admins: str) -> bool:
    """Return whether an account is a moderator; admins are too."""
    return user.moderator or is_admin(user, admins)


def require_admin(user: User, admins: str) -> None:
    """Raise NotAdmin unless the user is an admin."""
    if not is_admin(user, admins):
        raise NotAdmin


def require_moderator(user: User, admins: str) -> None:
    """Raise NotModerator unless the user is a moderator or an admin."""
    if not is_moderator(user, admins):
        raise NotModerator


def check_change(changes: Mapping[str, Any], viewer: User, user: User, admins: str) -> None:
    """Refuse a change of an account that the viewer may not make; ``changes`` are by field.

    A field that this horde does not use is refused, not ignored. Raises NoUserModSelected,
    UserChangeRefused, AnonForbiddenUserMod, NotAdmin, NotModerator, NotOwner or TooLongUserName.
    """
    if not changes:
        raise NoUserModSelected
    fields = set(changes)
    unknown = sorted(fields - BY_OWNER - BY_MODERATOR - BY_ADMIN)
    if unknown:
        message = f"This horde does not support {', '.join(unknown)}; nothing was changed."
        raise UserChangeRefused(message)
    if user.anonymous:
        raise AnonForbiddenUserMod
    if BY_ADMIN & fields:
        require_admin(viewer, admins)
    if BY_MODERATOR & fields:
        check_moderates(viewer, user, admins)
    check_owner(viewer, user, admins)
    if len(changes.get("username", "")) > MAX_NAME:
        message = f"A user name has at most {MAX_NAME} characters."
        raise TooLongUserName(message)


def check_owner(viewer: User, user: User, admins: str) -> None:
    """Refuse a viewer who neither owns an account nor moderates it; raises NotOwner or NotAdmin."""
    if viewer.id == user.id and not viewer.anonymous:
        return
    if not is_moderator(viewer, admins):
        raise NotOwner
    check_moderates(viewer, user, admins)


def check_moderates(viewer: User, user: User, admins: str) -> None:
    """Refuse a viewer who may not do to an account what is for moderators.

    Raises NotModerator, or NotAdmin if the account is a moderator's or an admin's: nobody acts on
    his peers or raises himself.
    """
    require_moderator(viewer, admins)
    if is_moderator(user, admins):
        require_admin(viewer, admins)

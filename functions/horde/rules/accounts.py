"""Who may see and change which fields of an account, and who moderates.

Rights come from the account's own flags and from the operator's setting ``admins``.
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
"""Characters of a user name."""
BY_OWNER = frozenset({"username", "contact"})
BY_MODERATOR = frozenset({"concurrency", "trusted", "flagged", "admin_comment", "undelete"})
BY_ADMIN = frozenset({"kudos", "moderator", "monthly_kudos"})
USER_DIGITS = 18
"""Digits of an account's number, at most: what the table stores."""


def anonymous() -> User:
    """Return the account of everybody without one, at its place in the order of the queue."""
    floor = ruleset.IN_FORCE.floor_anonymous
    return User(id=ANONYMOUS_ID, alias="Anonymous", kudos=floor, floor=floor, created_at=0)


def user_number(text: str) -> int | None:
    """Return the account number that a text is, None if it is not one."""
    if text.isascii() and text.isdecimal() and len(text) <= USER_DIGITS:
        return int(text)
    return None


class Privilege(IntEnum):
    """How much of an account somebody may see."""

    PUBLIC = 0
    OWNER = 1
    MODERATOR = 2


def privilege(viewer: User | None, user: User, admins: str) -> Privilege:
    """Return how much of ``user`` the viewer may see; None is somebody without a key."""
    if viewer is None or viewer.anonymous:
        return Privilege.PUBLIC
    if is_moderator(viewer, admins):
        return Privilege.MODERATOR
    return Privilege.OWNER if viewer.id == user.id else Privilege.PUBLIC


def is_admin(user: User, admins: str) -> bool:
    """Say whether the operator named this account (``admins``: ids, comma-separated)."""
    return not user.anonymous and str(user.id) in {part.strip() for part in admins.split(",")}


def is_moderator(user: User, admins: str) -> bool:
    """Say whether an account may do what moderators may; admins may too."""
    return user.moderator or is_admin(user, admins)


def require_admin(user: User, admins: str) -> None:
    """Raise NotAdmin for everybody else."""
    if not is_admin(user, admins):
        raise NotAdmin


def require_moderator(user: User, admins: str) -> None:
    """Raise NotModerator for everybody else."""
    if not is_moderator(user, admins):
        raise NotModerator


def check_change(changes: Mapping[str, Any], viewer: User, user: User, admins: str) -> None:
    """Refuse a change of an account that the viewer may not make; ``changes`` are by field.

    A field that has no meaning here is refused rather than accepted and ignored.
    """
    if not changes:
        raise NoUserModSelected
    fields = set(changes)
    unknown = sorted(fields - BY_OWNER - BY_MODERATOR - BY_ADMIN)
    if unknown:
        message = f"This horde has no use for {', '.join(unknown)}; nothing was changed."
        raise UserChangeRefused(message)
    if user.anonymous:
        raise AnonForbiddenUserMod
    if BY_ADMIN & fields:
        require_admin(viewer, admins)
    if BY_MODERATOR & fields:
        require_moderator(viewer, admins)
    check_owner(viewer, user, admins)
    if len(changes.get("username", "")) > MAX_NAME:
        message = f"A user name has at most {MAX_NAME} characters."
        raise TooLongUserName(message)


def check_owner(viewer: User, user: User, admins: str) -> None:
    """Refuse those who are neither the owner of an account nor a moderator; raises NotOwner."""
    if privilege(viewer, user, admins) is Privilege.PUBLIC:
        raise NotOwner

"""What of an account whom is shown, and who may change what of it. Pure."""

from enum import IntEnum
from typing import Any

from horde import auth, clock, limits
from horde.answers import (
    ActiveGenerations,
    AmountRecords,
    Contributions,
    KudosDetails,
    MonthlyKudos,
    ThingRecords,
    Usage,
    UserDetails,
    UserRecords,
)
from horde.errors import (
    AnonForbiddenUserMod,
    NotOwner,
    NoUserModSelected,
    TooLongUserName,
    UserChangeRefused,
)
from horde.model import SharedKey, User
from horde.schema import UserChange

LONGEST_NAME = 30
BY_OWNER = frozenset({"username", "contact"})
BY_MODERATOR = frozenset({"concurrency", "trusted", "flagged", "admin_comment", "undelete"})
BY_ADMIN = frozenset({"kudos", "moderator", "monthly_kudos"})


class Privilege(IntEnum):
    """How much of an account somebody may see."""

    PUBLIC = 0
    OWNER = 1
    MODERATOR = 2


def privilege(viewer: User | None, user: User, admins: str) -> Privilege:
    """Return how much of ``user`` the viewer may see; None is somebody without a key."""
    if viewer is None or viewer.anonymous:
        return Privilege.PUBLIC
    if auth.is_moderator(viewer, admins):
        return Privilege.MODERATOR
    return Privilege.OWNER if viewer.id == user.id else Privilege.PUBLIC


def details(
    user: User, rank: Privilege, *, now: int, admins: str, key: SharedKey | None = None
) -> UserDetails:
    """Return what is shown of an account; ``now`` is in seconds.

    ``key`` is the shared key by which it was found: its holder is told whose it is, no more.
    """
    shown = UserDetails(
        username=f"{user.alias} (Shared Key: {key.name})" if key else user.username,
        id=user.id,
        kudos=user.kudos,
        pseudonymous=not user.anonymous,
        moderator=auth.is_moderator(user, admins),
        trusted=user.trusted,
        flagged=user.flagged,
        deleted=user.deleted,
        concurrency=limits.concurrency(user),
        sharedkey_ids=sorted(user.sharedkey_ids) if rank >= Privilege.OWNER else None,
        contact=user.contact if rank >= Privilege.OWNER else None,
        admin_comment=user.admin_comment if rank >= Privilege.MODERATOR else None,
    )
    return shown if user.anonymous else shown.model_copy(update=_counts(user, now))


def alone(
    user: User, workers: list[str], requests: list[str], rank: Privilege, *, allowed: int
) -> dict[str, Any]:
    """Return what is shown of an account only by itself: ``allowed`` is what it gets each month."""
    shown: dict[str, Any] = {"worker_count": len(workers)}
    if rank >= Privilege.OWNER:
        at = user.allowed_at
        shown |= {
            "worker_ids": workers,
            "active_generations": ActiveGenerations(image=requests),
            "monthly_kudos": MonthlyKudos(
                amount=allowed, last_received=None if at is None else clock.iso(at * 1000)
            ),
        }
    return shown


def _counts(user: User, now: int) -> dict[str, Any]:
    used, contributed = _mega(user.used), _mega(user.contributed)
    return {
        "kudos_details": KudosDetails(
            accumulated=user.accumulated,
            gifted=user.gifted,
            received=user.received,
            admin=user.admin,
            awarded=user.awarded,
            recurring=user.recurring,
        ),
        "account_age": max(0, now - user.created_at),
        "usage": Usage(megapixelsteps=used, requests=user.requested),
        "contributions": Contributions(megapixelsteps=contributed, fulfillments=user.fulfilled),
        "records": UserRecords(
            usage=ThingRecords(megapixelsteps=used),
            contribution=ThingRecords(megapixelsteps=contributed),
            request=AmountRecords(image=user.requested),
            fulfillment=AmountRecords(image=user.fulfilled),
            style=AmountRecords(image=0),
        ),
    }


def _mega(pixelsteps: int) -> float:
    return round(pixelsteps / 1_000_000, 2)


def check_change(wish: UserChange, viewer: User, user: User, admins: str) -> dict[str, Any]:
    """Return what a change sets, by its field; raises what is wrong with it.

    What has no meaning here is refused rather than taken and forgotten.
    """
    wanted = {
        name: value for name in wish.model_fields_set if (value := getattr(wish, name)) is not None
    }
    if not wanted:
        raise NoUserModSelected
    unknown = sorted(set(wanted) - BY_OWNER - BY_MODERATOR - BY_ADMIN)
    if unknown:
        message = f"This horde has no use for {', '.join(unknown)}; nothing was changed."
        raise UserChangeRefused(message)
    if user.anonymous:
        raise AnonForbiddenUserMod
    if BY_ADMIN & set(wanted):
        auth.require_admin(viewer, admins)
    if BY_MODERATOR & set(wanted):
        auth.require_moderator(viewer, admins)
    check_owner(viewer, user, admins)
    if len(wanted.get("username", "")) > LONGEST_NAME:
        message = f"A user name has at most {LONGEST_NAME} characters."
        raise TooLongUserName(message)
    return wanted


def check_owner(viewer: User, user: User, admins: str) -> None:
    """Refuse those who are neither the owner of an account nor a moderator."""
    if privilege(viewer, user, admins) is Privilege.PUBLIC:
        raise NotOwner

"""The fields of an account that the public, its owner and moderators see."""

from typing import Any

from horde.edge.other_responses import (
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
from horde.records import SharedKey, User
from horde.rules import admission
from horde.rules.accounts import Privilege, is_moderator
from horde.rules.dates import iso


def details(
    user: User, rank: Privilege, *, now: int, admins: str, key: SharedKey | None = None
) -> UserDetails:
    """Return the fields of an account that a list shows; ``now`` is in seconds.

    ``key`` is the shared key that the account was looked up by. Its holder learns only who owns it.
    """
    shown = UserDetails(
        username=f"{user.alias} (Shared Key: {key.name})" if key else user.username,
        id=user.id,
        kudos=user.kudos,
        pseudonymous=not user.anonymous,
        moderator=is_moderator(user, admins),
        trusted=user.trusted,
        flagged=user.flagged,
        deleted=user.deleted,
        concurrency=admission.concurrency(user),
        sharedkey_ids=sorted(user.sharedkey_ids) if rank >= Privilege.OWNER else None,
        contact=user.contact if rank >= Privilege.OWNER else None,
        admin_comment=user.admin_comment if rank >= Privilege.MODERATOR else None,
    )
    return shown if user.anonymous else shown.model_copy(update=_counts(user, now))


def detail_fields(
    user: User, workers: list[str], requests: list[str], rank: Privilege, *, allowance: int
) -> dict[str, Any]:
    """Return the fields that a list leaves out; ``allowance`` is in kudos per month."""
    shown: dict[str, Any] = {"worker_count": len(workers)}
    if rank >= Privilege.OWNER:
        at = user.allowed_at
        shown |= {
            "worker_ids": workers,
            "active_generations": ActiveGenerations(image=requests),
            "monthly_kudos": MonthlyKudos(
                amount=allowance, last_received=None if at is None else iso(at * 1000)
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
            styled=user.styled,
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

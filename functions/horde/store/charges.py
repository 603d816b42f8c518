"""The charge of a request, and the condition it is held by.

``requests.accept`` writes it with the request, both or neither. A charge is computed from the
account as it was read. Its condition is that enough kudos are above the floor, or, if part of the
charge is waived, that the balance is exactly the one that was read; and that the account is not
deleted, so that nothing is added to what its deletion cancels. The account's set of open images
grows in the same update, within its limit, and so does its count of requests in this second.
Of a request that needs its kudos upfront no part is waived.
"""

from collections.abc import Mapping
from dataclasses import replace

from horde import clock
from horde.records import Request, SharedKey, User
from horde.rules import admission, kudos
from horde.store import sharedkeys
from horde.store.counts import no_places, open_key, opened, room_for
from horde.store.items import Item, encode_all
from horde.store.ledger import (
    NOT_DELETED,
    Condition,
    balance_at_least,
    balance_is,
    needs_place,
    post,
)
from horde.store.transaction import sets, update


class TooManyPosts(Exception):  # noqa: N818 - an expected result, not an error
    """The account has posted as many requests in this second as it may."""


def charge(
    request: Request,
    user: User,
    shared: SharedKey | None,
    *,
    drawn: frozenset[str] = frozenset(),
    upfront: str | None = None,
    posts_per_s: int | None = None,
) -> tuple[Request, list[Item]]:
    """Return the request as charged, and the parts of the transaction that charge it.

    An anonymous request charges nobody; its images and its post are counted by the part of the
    anonymous account that ``user`` is. A request with a shared key is also charged to that key's
    budget. ``drawn`` are open images that do not wait (``counts.no_places``). ``upfront`` is why
    the request needs its kudos upfront (``admission.upfront_reason``), if it does; raises
    KudosUpfront if ``user`` lacks them. ``posts_per_s`` is the number of requests that the account
    may post in a second, by whatever key, or None without a limit; raises TooManyPosts.
    """
    total = (request.price + request.tax) * request.n
    admission.check_upfront(upfront, total=total, available=user.kudos - user.floor)
    counts: dict[str, int | frozenset[str]] = {**opened(request.generations)}
    changes = {"opened_at": clock.now()}
    conditions = [room_for(request.n, admission.concurrency(user), no_places(user, drawn))]
    if posts_per_s is not None:
        conditions.append(_one_more_post(user, posts_per_s, counts, changes))
    if request.anonymous:
        return request, [_counted(user, conditions, counts, changes)]
    entry = kudos.accept(
        user.id,
        balance=user.kudos,
        floor=user.floor,
        price=request.price,
        tax=request.tax,
        n=request.n,
    )
    can_pay = (
        balance_is(user.kudos) if entry.waived else balance_at_least(user.floor - entry.amount)
    )
    counts |= {"requested": request.n, "used": request.n * request.pixelsteps}
    paid_by = shared.id if shared else None
    parts = post(
        entry,
        can_pay,
        *conditions,
        NOT_DELETED,
        reference=request.id,
        place=needs_place(user),
        counts=counts,
        changes=changes,
        sharedkey_id=paid_by,
    )
    if shared is not None:
        total = (request.price + request.tax) * request.n
        parts.append(sharedkeys.spend(shared, paid=-entry.amount, total=total))
        request = replace(request, sharedkey_id=shared.id, sharedkey_revision=shared.revision)
    return replace(request, waived=entry.waived), parts


def _counted(
    part: User,
    conditions: list[Condition],
    counts: Mapping[str, int | frozenset[str]],
    changes: Mapping[str, int],
) -> Item:
    """Return the part that counts an anonymous request; ``counts`` are added, ``changes`` set."""
    setting, names, values = sets(changes)
    for condition in conditions:
        values |= encode_all(condition.values)
    added = ", ".join(f"{name} :{name}" for name in counts)
    return update(
        open_key(part.id, part.part),
        f"{setting} ADD {added}",
        " AND ".join(condition.expression for condition in conditions),
        values | encode_all(counts),
        names,
    )


def _one_more_post(
    user: User, limit: int, counts: dict[str, int | frozenset[str]], changes: dict[str, int]
) -> Condition:
    """Return the condition that an account may post again, and count the post.

    The second is that of the account if it is ahead: clocks of processes differ. Raises
    TooManyPosts.
    """
    second = max(clock.now(), user.posted_at)
    if user.posted_at < second:
        changes |= {"posted_at": second, "posted": 1}
        first = "(attribute_not_exists(posted_at) OR posted_at < :second)"
        return Condition(first, {"second": second})
    if user.posted >= limit:
        raise TooManyPosts
    counts["posted"] = 1
    return Condition("posted_at = :second AND posted < :posts", {"second": second, "posts": limit})

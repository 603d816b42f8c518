"""The charge of a request, and the condition it is held by.

``requests.accept`` writes it with the request, both or neither. A charge is computed from the
account as it was read. Its condition is that enough kudos are above the floor, or, if part of the
charge is waived, that the balance is exactly the one that was read. Of a request that needs its
kudos upfront no part is waived.
"""

from dataclasses import replace

from horde.records import Request, SharedKey, User
from horde.rules import admission, kudos
from horde.store import sharedkeys
from horde.store.items import Item
from horde.store.ledger import balance_at_least, balance_is, post


def charge(
    request: Request, user: User, shared: SharedKey | None, *, upfront: str | None = None
) -> tuple[Request, list[Item]]:
    """Return the request as charged, and the parts of the transaction that charge it.

    An anonymous request charges nobody, since one account for all would be a hot key. A request
    with a shared key is also charged to that key's budget. ``upfront`` is why the request needs its
    kudos upfront (``admission.upfront_reason``), if it does; raises KudosUpfront if ``user`` lacks
    them.
    """
    total = (request.price + request.tax) * request.n
    admission.check_upfront(upfront, total=total, available=user.kudos - user.floor)
    if request.anonymous:
        return request, []
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
    counts = {"requested": request.n, "used": request.n * request.pixelsteps}
    paid_by = shared.id if shared else None
    parts = post(entry, can_pay, reference=request.id, counts=counts, sharedkey_id=paid_by)
    if shared is not None:
        parts.append(sharedkeys.spend(shared, paid=-entry.amount, total=total))
    return replace(request, waived=entry.waived, sharedkey_id=paid_by), parts

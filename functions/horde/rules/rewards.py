"""The reward of a delivered image.

A worker normally earns the request's reward, whoever pays: the horde creates the kudos of anonymous
requests and of waived charges. If drawer and requester chose each other, that would create kudos at
will. So such a worker earns at most what was really paid for the image.

No reward may exceed what was paid, in any order of settlements and refunds. Let ``n`` images cost
``p`` and ``t`` (price and tax) each, with ``w`` kudos of the charge waived. Refunds deduct waived
kudos first, so ``w`` only falls, to ``v`` in the end. With ``m`` images delivered and not censored,
the requester has then paid at least ``m * (p + t) - v``. A settlement reads some ``w >= v`` and
pays at most ``max(0, p - w)``, which is no more than ``max(0, p - v)``. If ``v < p`` and ``m > 0``,
the sum is at most ``m * p - m * v <= m * p - v``; else it is 0. So a settlement needs no condition
on ``waived``: what it has read may be too high if a refund came between, and then pays less.
"""

from horde.records import Generation, Request, State

UNLISTED = ""
"""The ``baseline`` of a model that is not in the operator's settings."""


def chose_each_other(request: Request, generation: Generation) -> bool:
    """Return whether a requester and the worker of its image chose each other.

    They did if the worker's owner made the request, if the request names workers, wanted or not, if
    the worker preferred the account that made it, or if it asks for a model that the operator does
    not list: whoever makes a name up is the only one to offer it.
    """
    return (
        generation.worker_user == request.user_id
        or bool(generation.workers)
        or generation.preferred
        or request.baseline == UNLISTED
    )


def reward(request: Request, generation: Generation, state: State) -> int:
    """Return what a worker earns for an image that it delivers in ``state``, in kudos.

    ``request.waived`` may be as it was at any time before.
    """
    if not chose_each_other(request, generation):
        return request.reward
    if request.anonymous or state is State.CENSORED:
        return 0  # nothing was paid, or the price is refunded
    return min(request.reward, max(0, request.price - request.waived))


def style_owner(request: Request, generation: Generation, state: State) -> int | None:
    """Return the author of the style who is rewarded for an image delivered in ``state``, or None.

    The reward comes out of the tax, so the tax must have been paid: by another account, whose
    request nothing was waived of. A censored image is taxed too, but nobody got it.
    """
    return request.style_owner if generation.paid and state is State.OK else None

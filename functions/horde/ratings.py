"""What a rating is worth and which ratings are taken. Pure; horde-api.md 1.4."""

from horde.errors import AestheticsError
from horde.model import Generation, Request, State, consumed, progress
from horde.schema import RateRequest

PER_RATING = 5
PER_ARTIFACTS = 5
"""More for a rating that also says how many artifacts an image has."""
BEST_ALONE = 15
"""For choosing the best image and rating none."""
BEST_OF_ONE = 15
"""More for rating one image, lower than LOW, and naming the best."""
LOW = 7
FEWEST_FOR_BEST = 2


def check(wish: RateRequest, request: Request, generations: list[Generation]) -> None:
    """Refuse what cannot be rated; raises AestheticsError with the Horde's rc."""
    if wish.best is None and not wish.ratings:
        message = "Send ratings, the best image, or both."
        raise AestheticsError(message, rc="AestheticsMissing")
    if not request.shared:
        message = "Only requests that are shared publicly can be rated."
        raise AestheticsError(message, rc="AestheticsNotPublic")
    if not progress(request, generations).done:
        message = "Only finished requests can be rated."
        raise AestheticsError(message, rc="AestheticsNotCompleted")
    shown = {generation.id for generation in generations if generation.state is State.OK}
    rated = [rating.id.lower() for rating in wish.ratings]
    for one in [*rated, *([wish.best.lower()] if wish.best else [])]:
        if one not in shown:
            message = f"Image {one[:100]} is not one of this request's shared images."
            raise AestheticsError(message, rc="ProcGenNotFound")
    if len(set(rated)) != len(rated):
        message = "An image can be rated once only."
        raise AestheticsError(message, rc="AestheticsDuplicate")
    if wish.best and not wish.ratings and len(shown) < FEWEST_FOR_BEST:
        message = "There is no best among fewer than two images."
        raise AestheticsError(message, rc="AestheticsSolo")
    if wish.best and wish.ratings:
        highest = max(rating.rating for rating in wish.ratings)
        given = {rating.id.lower(): rating.rating for rating in wish.ratings}
        if given.get(wish.best.lower(), highest) < highest:
            message = "The best image is rated lower than another one."
            raise AestheticsError(message, rc="AestheticsConfused")


def reward(wish: RateRequest, request: Request, generations: list[Generation]) -> int:
    """Return the owner's kudos: never as much as the request cost, and none for anonymous."""
    if request.anonymous:
        return 0
    if wish.ratings:
        earned = sum(
            PER_RATING + (PER_ARTIFACTS if rating.artifacts is not None else 0)
            for rating in wish.ratings
        )
        if wish.best and len(wish.ratings) == 1 and wish.ratings[0].rating < LOW:
            earned += BEST_OF_ONE
    else:
        earned = BEST_ALONE
    cost = sum(consumed(request, generation) for generation in generations) - request.forgiven
    return max(0, min(earned, cost - 1))

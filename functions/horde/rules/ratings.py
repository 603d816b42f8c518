"""Which ratings are accepted, and the kudos they earn (horde-api.md 1.4)."""

from collections.abc import Sequence

from horde.records import DELIVERED, Generation, Rating, Request, State
from horde.rules import ruleset
from horde.rules.lifecycle import consumed, progress
from horde.rules.refusals import AestheticsError

LOW_RATING = 7
"""A rating below this is low."""
MIN_FOR_BEST = 2
"""A best image can be chosen among this many images or more."""


def check(
    ratings: Sequence[Rating],
    best: str | None,
    request: Request,
    generations: list[Generation],
) -> None:
    """Refuse ratings that are not allowed; raises AestheticsError with the Horde's ``rc``."""
    if best is None and not ratings:
        message = "Send ratings, the best image, or both."
        raise AestheticsError(message, rc="AestheticsMissing")
    if not request.shared or request.csam:
        message = "Only requests that are shared publicly can be rated."
        raise AestheticsError(message, rc="AestheticsNotPublic")
    if not progress(request, generations).done:
        message = "Only finished requests can be rated."
        raise AestheticsError(message, rc="AestheticsNotCompleted")
    shown = {generation.id for generation in generations if generation.state is State.OK}
    rated = [rating.generation_id for rating in ratings]
    for one in [*rated, *([best] if best else [])]:
        if one not in shown:
            message = f"Image {one[:100]} is not one of this request's shared images."
            raise AestheticsError(message, rc="ProcGenNotFound")
    if len(set(rated)) != len(rated):
        message = "An image can be rated only once."
        raise AestheticsError(message, rc="AestheticsDuplicate")
    if best and not ratings and len(shown) < MIN_FOR_BEST:
        message = "A best image needs at least two images to choose from."
        raise AestheticsError(message, rc="AestheticsSolo")
    if best and ratings:
        highest = max(rating.rating for rating in ratings)
        by_image = {rating.generation_id: rating.rating for rating in ratings}
        if by_image.get(best, highest) < highest:
            message = "The best image has a lower rating than another image."
            raise AestheticsError(message, rc="AestheticsConfused")


def max_reward(request: Request) -> int:
    """Return the most kudos that a request's ratings can earn, by the request's own ruleset."""
    rules = ruleset.of(request.ruleset)
    rated = request.n * (rules.per_rating + rules.per_artifacts) + rules.best_with_low_rating
    return max(rules.best_alone, rated)


def reward(
    ratings: Sequence[Rating],
    best: str | None,
    request: Request,
    generations: list[Generation],
) -> int:
    """Return the kudos that the ratings earn for the request's owner.

    ``generations``, like what was rated, leave out images that were withdrawn. The ratings earn at
    most what was paid for these images without their tax, so no script gets its taxes back by
    rating its own images. An anonymous request earns none.
    """
    rules = ruleset.of(request.ruleset)
    if request.anonymous:
        return 0
    if ratings:
        earned = sum(
            rules.per_rating + (rules.per_artifacts if rating.artifacts is not None else 0)
            for rating in ratings
        )
        if best and len(ratings) == 1 and ratings[0].rating < LOW_RATING:
            earned += rules.best_with_low_rating
    else:
        earned = rules.best_alone if best else 0
    return max(0, min(earned, _most(request, generations)))


def _most(request: Request, generations: list[Generation]) -> int:
    """Return the most kudos that a request's ratings may earn, by what was paid for its images.

    A refund deducts waived kudos first. So all that are left were waived from what was consumed.
    """
    cost = sum(consumed(request, generation) for generation in generations) - request.waived
    if ruleset.of(request.ruleset).ratings_return_tax:
        return cost - 1
    delivered = sum(generation.state in DELIVERED for generation in generations)
    return cost - delivered * request.tax

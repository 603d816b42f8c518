"""Which ratings are accepted and what they earn, each rule at its boundary."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import Rating, State
from horde.rules import ratings, ruleset
from horde.rules.refusals import AestheticsError
from tests.support.records import IMAGE, REQUEST

RULES = ruleset.of(REQUEST.ruleset)
DEAR = replace(REQUEST, shared=True, price=1000, tax=1)
A, B = (replace(IMAGE, id=name, state=State.OK) for name in ("a", "b"))
C = replace(IMAGE, id="c", state=State.CENSORED)
LOW, HIGH = (
    Rating(generation_id="a", rating=ratings.LOW_RATING - 1),
    Rating(generation_id="a", rating=ratings.LOW_RATING),
)


def refusal(given: list[Rating], best: str | None, images: list[Any], **request: Any) -> str | None:
    """Return the code of the refusal, or None."""
    try:
        ratings.check(given, best, replace(DEAR, **request), images)
    except AestheticsError as error:
        return str(error.body()["rc"])
    return None


@pytest.mark.parametrize(
    ("given", "best", "images", "request_is", "code"),
    [
        ([LOW], None, [A, B], {}, None),
        ([], "a", [A, B], {}, None),
        ([LOW], "a", [A], {}, None),
        ([LOW], "b", [A, B], {}, None),
        ([], None, [A, B], {}, "AestheticsMissing"),
        ([LOW], None, [A], {"shared": False}, "AestheticsNotPublic"),
        ([LOW], None, [A, replace(B, state=State.WAITING)], {}, "AestheticsNotCompleted"),
        ([replace(LOW, generation_id="c")], None, [A, C], {}, "ProcGenNotFound"),
        ([], "c", [A, B, C], {}, "ProcGenNotFound"),
        ([LOW, HIGH], None, [A, B], {}, "AestheticsDuplicate"),
        ([], "a", [A], {}, "AestheticsSolo"),
        ([], "a", [A, C], {}, "AestheticsSolo"),
        ([LOW, replace(HIGH, generation_id="b")], "a", [A, B], {}, "AestheticsConfused"),
        ([HIGH, replace(HIGH, generation_id="b")], "a", [A, B], {}, None),
    ],
)
def test_ratings_are_accepted_or_refused_with_the_hordes_code(
    given: list[Rating], best: str | None, images: list[Any], request_is: Any, code: str | None
) -> None:
    assert refusal(given, best, images, **request_is) == code


@pytest.mark.parametrize(
    ("given", "best", "kudos"),
    [
        ([HIGH], None, RULES.per_rating),
        ([replace(HIGH, artifacts=0)], None, RULES.per_rating + RULES.per_artifacts),
        ([HIGH, replace(HIGH, generation_id="b")], None, 2 * RULES.per_rating),
        ([LOW], None, RULES.per_rating),
        ([LOW], "a", RULES.per_rating + RULES.best_with_low_rating),
        ([HIGH], "a", RULES.per_rating),
        ([LOW, replace(LOW, generation_id="b")], "a", 2 * RULES.per_rating),
        ([], "a", RULES.best_alone),
    ],
)
def test_ratings_earn_their_reward(given: list[Rating], best: str | None, kudos: int) -> None:
    assert ratings.reward(given, best, DEAR, [A, B]) == kudos
    assert ratings.reward(given, best, replace(DEAR, user_id=0), [A, B]) == 0


def test_a_request_without_a_rating_and_a_best_image_earns_nothing() -> None:
    assert ratings.reward([], None, DEAR, [A, B]) == 0


def test_under_the_first_rules_ratings_earned_all_but_one_of_the_kudos_that_images_cost() -> None:
    cheap = replace(DEAR, price=2, tax=1, ruleset="2026-11")
    assert ruleset.of(cheap.ruleset).ratings_return_tax
    assert ratings.reward([HIGH], None, cheap, [A]) == 2
    assert ratings.reward([HIGH], None, replace(cheap, waived=1), [A]) == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_most_that_ratings_can_earn_is_all_rated_with_artifacts_and_a_low_best(n: int) -> None:
    each = RULES.per_rating + RULES.per_artifacts
    assert ratings.max_reward(replace(DEAR, n=n)) == n * each + RULES.best_with_low_rating

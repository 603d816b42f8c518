"""Who is believed, what a rating does, and where an image is in the pool."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.records import PoolImage, Rater
from horde.rules import raters
from horde.rules.dates import DAY_S
from horde.rules.ruleset import IN_FORCE

IMAGE = PoolImage(id="a", model="m", user_id=1, worker_user=2, offered_at=0)
RATER = Rater(user_id=9, given="a")
PROVEN = replace(RATER, gold_right=raters.MIN_RIGHT)
NOW = 100 * DAY_S


def voted(*ratings: int) -> PoolImage:
    votes = [f"{10 + number}:{rating}" for number, rating in enumerate(ratings)]
    return replace(IMAGE, ratings=len(votes), rating_sum=sum(ratings), votes=votes)


def decide(image: PoolImage, rater: Rater, rating: int, **more: object) -> raters.Decision:
    given_ = {"artifacts": None, "paid": True, "now": NOW, **more}
    return raters.decide(image, rater, rating, **given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("right", "wrong", "distrusted", "good"),
    [
        (0, 0, False, True),
        (0, 2, False, False),
        (0, 3, True, False),
        (5, 3, True, False),
        (6, 3, False, True),
        (7, 3, False, True),
        (2, 1, False, True),
        (100, 51, True, False),
    ],
)
def test_more_than_a_third_wrong_is_too_many(
    right: int, wrong: int, *, distrusted: bool, good: bool
) -> None:
    checks = raters.Checks(right, wrong)
    assert (checks.distrusted, checks.good) == (distrusted, good)


@pytest.mark.parametrize(
    ("checked", "proven", "distrusted"),
    [
        ({}, False, False),
        ({"gold_right": 2}, False, False),
        ({"gold_right": 3}, True, False),
        ({"gold_right": 3, "gold_wrong": 1}, True, False),
        ({"gold_right": 3, "gold_wrong": 2}, False, False),
        ({"gold_right": 5, "gold_wrong": 3}, False, True),
        ({"agreed": 50}, False, False),
        ({"agreed": 50, "gold_wrong": 3}, False, True),
        ({"agreed": 50, "gold_right": 3, "gold_wrong": 2}, False, False),
        ({"gold_right": 3, "diverged": 2}, False, False),
        ({"gold_right": 3, "diverged": 3}, False, True),
        ({"gold_right": 6, "diverged": 3}, True, False),
    ],
)
def test_gold_proves_and_both_checks_can_ruin(
    checked: dict[str, int], *, proven: bool, distrusted: bool
) -> None:
    rater = replace(RATER, **checked)  # type: ignore[arg-type]
    assert (raters.proven(rater), raters.distrusted(rater)) == (proven, distrusted)


@pytest.mark.parametrize("constant", range(1, 11))
def test_no_constant_answer_is_right_for_both_sorts_of_gold(constant: int) -> None:
    for low in range(1, raters.GOLD_LOW + 1):
        for high in range(raters.GOLD_HIGH, 11):
            good, bad = replace(IMAGE, gold=high), replace(IMAGE, gold=low)
            right = [raters.right_gold(image, constant, None) for image in (good, bad)]
            assert right.count(True) <= 1


@given(st.integers(1, 10), st.integers(0, 1), st.integers(1, 60))
def test_no_constant_answer_is_ever_paid(constant: int, user_id: int, images: int) -> None:
    rater = replace(RATER, user_id=user_id)
    for _ in range(images):
        good = raters.gold_is_good(rater)
        gold = replace(IMAGE, gold=raters.GOLD_HIGH if good else raters.GOLD_LOW)
        decision = decide(gold, rater, constant)
        assert decision.kudos == 0
        rater = decision.rater


@pytest.mark.parametrize(
    ("known", "said", "right"),
    [((9, 0), (7, 2), True), ((9, 0), (6, 0), False), ((9, 0), (9, 3), False),
     ((9, None), (9, 5), True), ((1, 5), (3, None), True), ((1, 5), (4, 5), False)],
)  # fmt: skip
def test_gold_is_right_within_its_distance(
    known: tuple[int, int | None], said: tuple[int, int | None], *, right: bool
) -> None:
    image = replace(IMAGE, gold=known[0], gold_artifacts=known[1])
    assert raters.right_gold(image, *said) is right


@pytest.mark.parametrize(
    ("rating", "others", "diverges"),
    [
        (5, [8, 8, 8, 8], False),
        (4, [8, 8, 8, 8], True),
        (10, [7, 7, 7, 7], False),
        (10, [6, 6, 6, 6], True),
        (3, [10, 10, 3, 3], False),
        (10, [10, 3, 3, 3], True),
        (1, [1, 5, 9], True),
        (2, [1, 5, 9], False),
    ],
)
def test_a_rating_far_from_the_middle_of_the_others_diverges(
    rating: int, others: list[int], *, diverges: bool
) -> None:
    assert raters.diverges(rating, others) is diverges


@given(st.lists(st.integers(1, 10), min_size=5, max_size=5))
def test_of_five_at_most_two_diverge(ratings: list[int]) -> None:
    *votes, last = ratings
    verdicts = raters.judged(voted(*votes), RATER.user_id, last)
    assert set(verdicts) == {10, 11, 12, 13, RATER.user_id}
    if ratings.count(sorted(ratings)[2]) >= 3:  # three agree
        assert sum(verdicts.values()) <= 2


def users(decision: raters.Decision) -> Iterable[int]:
    return decision.others


def test_the_fifth_rating_compares_all_five_and_no_other_does() -> None:
    for number in range(raters.ENOUGH - 1):
        assert not users(decide(voted(*[8] * number), RATER, 8))
    decision = decide(voted(8, 8, 8, 2), RATER, 8)
    assert decision.others == {10: False, 11: False, 12: False, 13: True}
    assert (decision.rater.agreed, decision.rater.diverged) == (1, 0)


def test_who_is_not_believed_compares_nobody_else() -> None:
    hater = replace(RATER, diverged=2)
    decision = decide(voted(8, 8, 8, 8), hater, 1)
    assert (decision.counted, dict(decision.others)) == (False, {})
    assert decision.rater.diverged == 3
    assert decision.rater.owed == frozenset()


def test_what_was_owed_is_paid_with_the_first_rating_of_a_proven_rater() -> None:
    decision = decide(IMAGE, replace(PROVEN, owed=frozenset({"b", "c"})), 7)
    assert decision.pays == {"a", "b", "c"}
    assert decision.kudos == 3 * IN_FORCE.per_pool_rating
    assert decision.rater.owed == frozenset()


def test_an_unproven_rater_is_owed_so_much_and_no_more() -> None:
    full = frozenset(map(str, range(raters.MAX_OWED)))
    almost = frozenset(map(str, range(raters.MAX_OWED - 1)))
    assert decide(IMAGE, replace(RATER, owed=almost), 7).rater.owed == almost | {"a"}
    assert decide(IMAGE, replace(RATER, owed=full), 7).rater.owed == full
    assert decide(IMAGE, RATER, 7).kudos == 0


def test_what_is_owed_to_who_is_distrusted_is_lost() -> None:
    rater = replace(RATER, owed=frozenset({"b"}), gold_wrong=2)
    assert decide(replace(IMAGE, gold=9), rater, 1).rater.owed == frozenset()


def test_an_account_not_in_good_standing_neither_earns_nor_counts() -> None:
    decision = decide(voted(8, 8, 8, 8), PROVEN, 8, paid=False)
    assert (decision.kudos, decision.counted, dict(decision.others)) == (0, False, {})


def test_a_rating_moves_the_counts_of_its_rater() -> None:
    minute, day = NOW // 60, NOW // DAY_S
    rater = replace(RATER, ratings=4, minute=minute, in_minute=3, day=day, in_day=7, given_at=5)
    after = decide(IMAGE, rater, 7).rater
    assert (after.ratings, after.in_minute, after.in_day) == (5, 4, 8)
    assert (after.given, after.given_at, after.revision) == (None, 0, 1)
    later = decide(IMAGE, rater, 7, now=NOW + DAY_S).rater
    assert (later.minute, later.in_minute) == (minute + DAY_S // 60, 1)
    assert (later.day, later.in_day) == (day + 1, 1)


def test_the_next_rating_waits_for_the_minute_or_the_day() -> None:
    minute, day = NOW // 60, NOW // DAY_S
    busy = replace(RATER, minute=minute, in_minute=raters.PER_MINUTE, day=day, in_day=9)
    assert raters.too_fast(busy, NOW) == 60
    assert raters.too_fast(busy, NOW + 59) == 1
    assert raters.too_fast(busy, NOW + 60) is None
    assert raters.too_fast(replace(busy, in_minute=raters.PER_MINUTE - 1), NOW) is None
    full = replace(busy, in_minute=0, in_day=raters.PER_DAY)
    assert raters.too_fast(full, NOW + 10) == DAY_S - 10
    assert raters.too_fast(replace(full, in_day=raters.PER_DAY - 1), NOW) is None
    assert raters.too_fast(full, NOW + DAY_S) is None


@given(st.text(max_size=40), st.integers(0, 4))
def test_images_with_fewer_ratings_come_first_whatever_their_ids(name: str, ratings: int) -> None:
    place = raters.place(name, ratings)
    assert ratings * raters.SPREAD <= place < (ratings + 1) * raters.SPREAD
    assert raters.place(name, ratings + 1) - place == raters.SPREAD


def test_an_image_is_open_until_its_time_is_up() -> None:
    assert raters.is_open(IMAGE, raters.POOL_S - 1)
    assert not raters.is_open(IMAGE, raters.POOL_S)


def test_an_image_is_its_authors_and_its_drawers_own() -> None:
    assert [raters.is_own(IMAGE, user) for user in (1, 2, 3)] == [True, True, False]


def test_a_cleared_rater_starts_anew() -> None:
    rater = replace(RATER, gold_wrong=5, diverged=3, agreed=2, gold_right=1, cleared=1)
    after = replace(rater, **raters.cleared(rater))  # type: ignore[arg-type]
    assert raters.checks(after) == raters.Checks(0, 0)
    assert after.cleared == 2

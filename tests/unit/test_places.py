"""Places in a queue: exact at its head, estimated further back, from a sample."""

import pytest

from horde.rules.places import (
    EXACT,
    LIFE_PER_IMAGE_MS,
    MAX_PLACE,
    MAX_SAMPLED,
    MIN_LIFE_MS,
    STEP,
    Sample,
    ahead,
    life_ms,
    sample,
)


def queue(length: int, *, read: int = MAX_SAMPLED, each: int = 5) -> tuple[list[int], Sample]:
    """The priorities of images that came at the same pace, and the sample of their queue."""
    priorities = [10**9 - each * number for number in range(length)]
    return priorities, sample(priorities[:read], whole=length <= read)


@pytest.mark.parametrize("length", [1, EXACT, EXACT + STEP - 1, EXACT + STEP, MAX_SAMPLED])
def test_places_are_exact_at_the_head_and_nearly_so_behind_it(length: int) -> None:
    priorities, found = queue(length)
    for place, priority in enumerate(priorities):
        told = ahead([found], priority)
        assert told == place if place < EXACT else abs(told - place) < STEP
    assert ahead([found], -1) == length


@pytest.mark.parametrize("place", [MAX_SAMPLED, 10_000, 100_000])
def test_a_place_beyond_what_was_read_follows_from_the_pace_before(place: int) -> None:
    priorities, found = queue(place + 1)
    assert ahead([found], priorities[-1]) == pytest.approx(place, rel=0.05)


def test_a_place_far_back_is_bounded_and_equal_priorities_are_no_further_back() -> None:
    _, found = queue(MAX_SAMPLED + 1)
    assert ahead([found], -(10**15)) == MAX_PLACE
    same = sample([7] * MAX_SAMPLED, whole=False)
    assert ahead([same], 7) == 0
    assert ahead([same], 6) == MAX_SAMPLED


def test_the_queues_of_a_model_count_together() -> None:
    assert ahead([sample([5, 3], whole=True), sample([4], whole=True)], 3) == 2
    assert ahead([sample([], whole=True)], 3) == 0
    assert ahead([], 3) == 0


def test_a_sample_lasts_the_longer_the_more_was_read() -> None:
    assert life_ms([]) == life_ms([sample([1], whole=True)]) == MIN_LIFE_MS
    full = sample([1] * MAX_SAMPLED, whole=False)
    assert life_ms([full, full]) == 2 * MAX_SAMPLED * LIFE_PER_IMAGE_MS

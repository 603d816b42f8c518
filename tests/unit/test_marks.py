"""Marks of queues: raised before an image waits, removed long after nothing was seen."""

import pytest

from horde.rules.marks import FRESH_MS, GRACE_S, LAPSE_S, Mark, corrected, raised

NOW = 1000
MARK = Mark(top=5, marked_at=NOW - GRACE_S)
EMPTY = Mark(top=5, marked_at=0, empty_at=NOW)


@pytest.mark.parametrize(
    ("mark", "priority", "after"),
    [
        (None, -3, Mark(-3, NOW)),
        (MARK, 5, None),
        (MARK, 6, Mark(6, NOW)),
        (EMPTY, 4, Mark(5, NOW)),
        (EMPTY, 7, Mark(7, NOW)),
    ],
)
def test_an_image_raises_the_mark_of_its_queue_if_it_must(
    mark: Mark | None, priority: int, after: Mark | None
) -> None:
    assert raised(mark, priority, NOW) == after


@pytest.mark.parametrize(
    ("mark", "head", "at", "after"),
    [
        (MARK, 5, NOW, MARK),
        (MARK, 3, NOW, Mark(3, MARK.marked_at)),
        (MARK, 9, NOW, MARK),  # the index shows what the mark does not know yet, or an older one
        (EMPTY, 4, NOW, Mark(4, 0)),
        (MARK, None, NOW, Mark(5, MARK.marked_at, NOW)),
        (MARK, None, NOW - 1, MARK),
        (EMPTY, None, NOW + LAPSE_S - 1, EMPTY),
        (EMPTY, None, NOW + LAPSE_S, None),
    ],
)
def test_a_look_into_a_queue_corrects_its_mark(
    mark: Mark, head: int | None, at: int, after: Mark | None
) -> None:
    assert corrected(mark, head, at) == after


def test_a_young_mark_is_called_empty_only_if_there_are_many() -> None:
    young = Mark(5, NOW)
    assert corrected(young, None, NOW) == young
    assert corrected(young, None, NOW, at_once=True) == Mark(5, NOW, NOW)


def test_an_empty_queue_rests_after_a_while() -> None:
    assert not MARK.resting(NOW)
    assert not EMPTY.resting(NOW + GRACE_S - 1)
    assert EMPTY.resting(NOW + GRACE_S)


def test_a_mark_outlives_what_its_last_reader_may_still_do() -> None:
    function_s, index_lag_s = 30, 60
    assert function_s + index_lag_s + FRESH_MS / 1000 < LAPSE_S

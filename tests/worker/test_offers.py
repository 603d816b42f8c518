"""Which models a worker with several offers, and how often it swaps them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from gpu_worker.offers import MAX_TURN_S, SHARE, Offers, turn_s

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

USABLE = ("a", "b", "c")
SWAP_S = 3.0


def offered(
    offers: Offers,
    *resident: str,
    now: float,
    in_vain: Collection[str] = (),
    swap_s: float = SWAP_S,
) -> list[str]:
    return offers.next(USABLE, resident, set(in_vain), swap_s=swap_s, now=now)


def test_the_models_in_memory_are_offered_alone_while_they_have_work() -> None:
    assert offered(Offers(), "b", now=1) == ["b"]
    assert offered(Offers(), "c", "a", now=1) == ["a", "c"]


def test_all_are_offered_if_none_is_in_memory_or_all_are() -> None:
    assert offered(Offers(), now=1) == list(USABLE)
    assert offered(Offers(), *USABLE, now=1e9) == list(USABLE)


def test_all_are_offered_once_nothing_waits_for_those_in_memory() -> None:
    assert offered(Offers(), "b", in_vain=["b"], now=1) == ["b", "a", "c"]


def test_nothing_is_offered_once_nothing_waits_for_any() -> None:
    assert offered(Offers(), "b", in_vain=USABLE, now=1) == []
    assert Offers().next([], [], set(), swap_s=1, now=1) == []


def test_a_turn_lasts_as_long_as_makes_a_swap_cheap_but_never_too_long() -> None:
    assert turn_s(SWAP_S) == pytest.approx(SWAP_S / SHARE)
    assert turn_s(1000) == MAX_TURN_S
    assert offered(Offers(), "a", now=turn_s(SWAP_S) - 0.1) == ["a"]
    assert offered(Offers(), "a", now=turn_s(SWAP_S)) == ["b", "c"]


def test_a_turn_begins_anew_if_nothing_waits_for_the_others() -> None:
    offers, in_vain = Offers(), set[str]()
    now = turn_s(SWAP_S)
    assert offers.next(USABLE, ["a"], in_vain, swap_s=SWAP_S, now=now) == ["b", "c"]
    offers.answered(["b", "c"], [], ["a"], in_vain, now=now)
    assert offers.next(USABLE, ["a"], in_vain, swap_s=SWAP_S, now=now) == ["a"]
    assert offers.next(USABLE, ["a"], in_vain, swap_s=SWAP_S, now=2 * now - 0.1) == ["a"]
    assert offers.next(USABLE, ["a"], in_vain, swap_s=SWAP_S, now=2 * now) == ["b", "c"]


def simulated(waiting: Mapping[str, int], *, draw_s: float, swap_s: float) -> tuple[list[str], int]:
    """Draw what waits on one GPU that holds one model; the horde prefers the first of the models.

    Returns the models in the order in which they were drawn, and the number of pops.
    """
    left, offers, in_vain, resident = dict(waiting), Offers(), set[str](), ["a"]
    drawn, pops, now = list[str](), 0, 0.0
    usable = list(waiting)
    while names := offers.next(usable, resident, in_vain, swap_s=swap_s, now=now):
        pops += 1
        given = [name for name in left if left[name] and name in names][:1]
        offers.answered(names, given, resident, in_vain, now=now)
        for name in given:
            now += draw_s + (0 if name in resident else swap_s)
            left[name] -= 1
            resident = [name]
            drawn.append(name)
    assert not any(left.values())
    return drawn, pops


def swaps(drawn: list[str]) -> int:
    return sum(before != after for before, after in pairwise(drawn))


def test_swaps_take_no_more_than_their_share_while_images_wait_for_all() -> None:
    drawn, _ = simulated(dict.fromkeys("ab", 500), draw_s=1, swap_s=5)
    busy = swaps(drawn) * 5
    assert 0 < busy <= SHARE * (1000 + busy) * 1.1


def test_no_model_starves_however_much_waits_for_those_of_higher_priority() -> None:
    waiting = {"a": 900, "b": 900, "c": 900, "z": 3}
    drawn, _ = simulated(waiting, draw_s=1, swap_s=5)
    # Each of the other three has one turn, with its swap, before it.
    assert drawn.index("z") <= 3 * (turn_s(5) + 5) + 3


def test_a_queue_that_runs_dry_gives_way_at_once() -> None:
    drawn, pops = simulated({"a": 3, "b": 3}, draw_s=1, swap_s=100)
    assert drawn == list("aaabbb")
    assert pops == 3 + 1 + 3 + 2

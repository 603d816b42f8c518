"""How the demo model's pictures are judged: which things they show, where, and how many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from gpu_worker.train import measure
from gpu_worker.train.data import SIZE
from gpu_worker.train.groups import CENTRES
from gpu_worker.train.nouns import Noun

APPLE, BERRY, CANDLE = (Noun(name[0], (name,)) for name in ("apple", "berry", "candle"))
Rgba = npt.NDArray[np.uint8]


def disc(red: int, blue: int) -> Rgba:
    y, x = np.mgrid[0:SIZE, 0:SIZE] - SIZE / 2
    rgba = np.zeros((SIZE, SIZE, 4), np.uint8)
    rgba[..., 0], rgba[..., 2] = red, blue
    rgba[..., 3] = 255 * (np.hypot(x, y) < 0.4 * SIZE)
    return rgba


def pillar() -> Rgba:
    rgba = np.zeros((SIZE, SIZE, 4), np.uint8)
    rgba[:, 20:44] = (220, 0, 20, 255)
    return rgba


CUTOUTS = {("a", "3d"): disc(220, 20), ("b", "3d"): disc(20, 220), ("c", "3d"): pillar()}


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> measure.Judge:
    monkeypatch.setattr(measure, "THINGS", [APPLE, BERRY, CANDLE])
    return measure.Judge(CUTOUTS)


def picture(*nouns: Noun, seed: int = 1) -> Rgba:
    return measure.ideal(CUTOUTS, measure.Question("", nouns), seed)


def verdict(judge: measure.Judge, shown: Rgba, *asked: Noun) -> dict[str, bool]:
    return judge.verdict(measure.Question("", asked), shown)


@pytest.mark.parametrize("nouns", [(APPLE,), (CANDLE, BERRY), (APPLE,) * 3, (BERRY,) * 4])
def test_a_picture_of_what_was_asked_for_is_right_in_every_way(
    judge: measure.Judge, nouns: tuple[Noun, ...]
) -> None:
    for seed in range(4):
        found = verdict(judge, picture(*nouns, seed=seed), *nouns)
        assert found
        assert all(found.values()), found


def test_two_things_in_the_other_order_are_right_in_any_order_alone(judge: measure.Judge) -> None:
    found = verdict(judge, picture(BERRY, APPLE), APPLE, BERRY)
    assert found == {
        "first": False, "second": False, "both": False, "any order": True, "number": True,
    }  # fmt: skip


def test_a_shape_tells_things_of_one_colour_apart(judge: measure.Judge) -> None:
    assert verdict(judge, picture(CANDLE), CANDLE) == {"noun": True}
    assert verdict(judge, picture(CANDLE), APPLE) == {"noun": False}


def test_the_same_thing_twice_is_no_pair(judge: measure.Judge) -> None:
    found = verdict(judge, picture(APPLE, APPLE), APPLE, BERRY)
    assert (found["first"], found["both"], found["any order"]) == (True, False, False)


def test_one_large_thing_is_neither_a_pair_nor_two(judge: measure.Judge) -> None:
    assert not verdict(judge, picture(APPLE), APPLE, BERRY)["number"]
    assert not verdict(judge, picture(APPLE), APPLE, APPLE)["number"]


@pytest.mark.parametrize("number", [2, 3, 4])
def test_things_that_nearly_touch_are_counted_apart(number: int) -> None:
    shown = np.full((SIZE, SIZE, 3), 255, np.uint8)
    for x, y in CENTRES[number]:
        down, across = np.mgrid[0:SIZE, 0:SIZE]
        shown[np.hypot(down - y, across - x) < 14.2] = (200, 30, 30)
    assert measure.count(shown) == number
    assert measure.count(picture(*[APPLE] * (6 - number))) == 6 - number


def test_the_mottle_of_a_white_ground_is_no_thing() -> None:
    mottled = 255 - np.random.default_rng(1).integers(0, 30, (SIZE, SIZE, 3)).astype(np.uint8)
    assert measure.count(mottled) == 0


def test_the_prompts_are_the_same_each_time_and_name_two_different_things() -> None:
    asked = measure.questions(60, 5)
    assert asked == measure.questions(60, 5)
    assert len(asked["single"]) == 5
    assert all(len({noun.code for noun in one.nouns}) == 2 for one in asked["pair"])
    assert {len(one.nouns) for one in asked["many"]} == {2, 3, 4}


def test_pictures_that_do_not_depend_on_the_seed_have_no_variety() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert measure.variety([black, black, white, white], 2) == 0
    assert measure.variety([black, white, white, white], 2) == 127.5

"""A worker with two models: both queues are served with few swaps; a broken one stops no other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from gpu_worker import offers
from gpu_worker.horde_client import BadJobError, Horde, Job
from gpu_worker.model_files import ModelError
from gpu_worker.pop_timing import MAX_AHEAD
from gpu_worker.shifts import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import FakeHorde

pytestmark = pytest.mark.slow  # turns of seconds

SWAP_S = 0.02
DRAW_S = 0.01


class Models:
    """Stands in for the cache of a GPU that holds one model."""

    def __init__(self, *usable: str, broken: str = "") -> None:
        self.usable = usable
        self.loaded: tuple[str, ...] = ()
        self.swap_s = SWAP_S
        self.broken = broken
        self.drawn: list[str] = []
        """The model of each batch."""

    def prefer(self, name: str) -> None:
        for one in (name, *self.usable):
            if one in self.usable and one != self.broken:
                self.loaded = (one,)
                return
        message = "no model can be loaded"
        raise ModelError(message)

    def draw(
        self, jobs: Sequence[Job], _sources: Sequence[Image.Image | None]
    ) -> list[Image.Image]:
        (model,) = {job.model for job in jobs}
        if model == self.broken or model not in self.usable:
            self.usable = tuple(one for one in self.usable if one != model)
            raise BadJobError(model)
        time.sleep(DRAW_S if model in self.loaded else DRAW_S + SWAP_S)
        self.loaded = (model,)
        self.drawn.append(model)
        return [Image.effect_noise((64, 64), 60).convert("RGB") for _ in jobs]

    def swaps(self) -> int:
        return sum(before != after for before, after in pairwise(self.drawn))


def ticket(model: str) -> dict[str, Any]:
    return {"id": model, "input": {"v": 1, "model": model}}


def shift(settings: Settings, models: Models, *tickets: str) -> list[dict[str, Any]]:
    async def work() -> list[dict[str, Any]]:
        detector = lambda _file, _image: (0.0, "stand-in 1")  # noqa: E731
        worker = Worker(settings, Horde(settings), models.draw, detector, models)
        return await asyncio.gather(*(worker.work(ticket(model)) for model in tickets))

    return asyncio.run(work())


def test_two_models_that_wait_in_turns_are_both_drawn_with_few_swaps(
    horde: FakeHorde, settings: Settings
) -> None:
    for number in range(80):
        horde.add(model="ab"[number % 2])
    models = Models("a", "b")
    results = shift(replace(settings, max_batch=2), models, "a", "b")
    assert sum(result["images"] for result in results) == 80
    # Who offered both each time would swap 40 times.
    assert len(models.drawn) == 40
    assert 1 <= models.swaps() <= 8


def test_images_of_another_model_wait_no_longer_than_a_turn(
    horde: FakeHorde, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "MAX_TURN_S", 5 * DRAW_S)
    for number in range(40):
        horde.add(model="b" if number == 39 else "a")
    models = Models("a", "b")
    (result,) = shift(replace(settings, max_batch=1), models, "a")
    assert result["images"] == 40
    assert models.drawn.index("b") < 25


def test_a_ticket_ends_only_when_nothing_waits_for_any_model(
    horde: FakeHorde, settings: Settings
) -> None:
    for model in "abbb":
        horde.add(model=model)
    (result,) = shift(settings, Models("a", "b"), "a")
    assert result == {"images": 4, "faulted": 0, "pops": 5}
    asked = [pop["models"] for pop in horde.pops]
    assert asked == [["a"], ["a"], ["a", "b"], ["b"], ["b", "a"]]


def test_the_ticket_says_what_is_loaded_first(horde: FakeHorde, settings: Settings) -> None:
    horde.add(model="a")
    horde.add(model="b")
    models = Models("a", "b")
    shift(settings, models, "b")
    assert models.drawn == ["b", "a"]


def test_a_model_that_cannot_be_loaded_is_offered_no_more_and_the_others_go_on(
    horde: FakeHorde, settings: Settings
) -> None:
    for model in "bbbb" * 10 + "a":
        horde.add(model=model)
    models = Models("a", "b", broken="b")
    (result,) = shift(replace(settings, max_batch=2), models, "b")
    assert "error" not in result
    assert models.drawn == ["a"]
    # The first batch of the other, and what was popped ahead of it; the rest waits for others.
    assert 2 <= result["faulted"] <= 2 * (1 + MAX_AHEAD)
    assert len(horde.waiting) == 40 - result["faulted"]
    assert horde.pops[-1]["models"] == ["a"]


def test_a_worker_with_no_model_left_pops_nothing_and_asks_to_be_replaced(
    horde: FakeHorde, settings: Settings
) -> None:
    horde.add(model="b")
    (result,) = shift(settings, Models("b", broken="b"), "b")
    assert result["error"] == "no model can be loaded"
    assert result["refresh_worker"]
    assert not horde.pops


def test_a_worker_whose_last_model_fails_while_drawing_asks_to_be_replaced(
    horde: FakeHorde, settings: Settings
) -> None:
    models = Models("a")
    models.loaded = ("a",)
    models.broken = "a"
    horde.add(model="a")
    (result,) = shift(settings, models, "a")
    assert result["faulted"] == 1
    assert result["refresh_worker"]

"""What is offered of several models that do not do the same, and what is remembered of each."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from gpu_worker.abilities import MAX_SKIPPED, MIN_PIXELS, Abilities, Ability
from gpu_worker.horde_client import Horde
from gpu_worker.shifts import Worker
from tests.worker.test_two_models import Models, ticket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpu_worker.horde_client import Job
    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import FakeHorde

LORAS, PLAIN = Ability(lora=True, controls=("canny",)), Ability(lora=False, controls=())


def test_models_that_do_the_same_are_offered_together() -> None:
    able = Abilities({"a": LORAS, "b": PLAIN, "c": replace(LORAS, xl=True)})
    assert able.alike(["a", "b", "c"], set()) == ["a", "c"]
    assert able.fields(["a", "c"]) == {
        "allow_lora": True,
        "allow_controlnet": True,
        "allow_sdxl_controlnet": True,
        "controls": ["canny"],
    }
    assert not able.fields(["a"])["allow_sdxl_controlnet"]
    assert able.fields(["b"]) == {
        "allow_lora": False,
        "allow_controlnet": False,
        "allow_sdxl_controlnet": False,
        "controls": [],
    }


def test_a_model_of_which_nothing_is_known_does_what_the_worker_does() -> None:
    able = Abilities()
    assert able.alike(["a", "b"], set()) == ["a", "b"]
    assert able.fields(["a", "b"]) == {}
    assert able.alike([], set()) == []


def test_groups_take_turns_while_images_wait_for_both() -> None:
    able = Abilities({"a": LORAS, "b": PLAIN})
    offered = []
    for _ in range(6):
        names = able.alike(["a", "b"], set())
        able.answered(names, given=True)
        offered += names
    assert offered == ["a", "b"] * 3


def test_a_group_for_which_nothing_waits_is_asked_for_seldom_but_never_forgotten() -> None:
    able = Abilities({"a": LORAS, "b": PLAIN})
    offered = []
    for _ in range(100):
        names = able.alike(["a", "b"], set())
        able.answered(names, given=names == ["a"])
        offered += names
    assert 100 / (MAX_SKIPPED + 3) <= offered.count("b") <= 100 / MAX_SKIPPED
    gap = max(len(run) for run in "".join(offered).split("b"))
    assert gap <= MAX_SKIPPED + 1


def test_a_group_for_which_nothing_waits_comes_last() -> None:
    able = Abilities({"a": LORAS, "b": PLAIN})
    assert able.alike(["a", "b"], {"a"}) == ["b"]
    assert able.alike(["a", "b"], {"a", "b"}) == ["a"]


def test_what_does_not_fit_is_remembered_of_its_model_alone() -> None:
    able = Abilities({"a": LORAS, "b": LORAS})
    able.shrink("b", 1000 * 1000)
    able.shrink("b", 2000 * 1000)
    assert able.fields(["a"]).get("max_pixels") is None
    assert able.fields(["b"])["max_pixels"] == 1000 * 1000 - 1
    assert able.alike(["a", "b"], set()) == ["a"]
    able.shrink("b", MIN_PIXELS)
    assert able.fields(["b"])["max_pixels"] == MIN_PIXELS
    able.lose("b", "canny")
    assert not able.fields(["b"])["allow_controlnet"]
    assert able.fields(["a"])["controls"] == ["canny"]


def test_a_measured_size_is_less_only_than_what_did_fit() -> None:
    able = Abilities({"a": LORAS})
    able.limit("a", 512 * 512)
    assert able.fields(["a"])["max_pixels"] == 512 * 512
    able.shrink("a", 256 * 256)
    able.limit("a", 512 * 512)
    assert able.fields(["a"])["max_pixels"] == 256 * 256 - 1


# --- in shifts -----------------------------------------------------------------------------------


class Small(Models):
    """Stands in for a cache of models, both in memory; some images do not fit."""

    def __init__(self, most: Mapping[str, int]) -> None:
        super().__init__(*most)
        self.loaded = self.usable
        self.most = most

    def draw(
        self, jobs: Sequence[Job], _sources: Sequence[Image.Image | None]
    ) -> list[Image.Image]:
        for job in jobs:
            pixels = job.payload["width"] * job.payload["height"]
            guided = job.payload.get("control_type")
            if pixels * (2 if guided else 1) > self.most[job.model]:
                raise MemoryError
        self.drawn += [job.model for job in jobs]
        return [Image.effect_noise((64, 64), 60).convert("RGB") for _ in jobs]


def shift(settings: Settings, models: Models, able: Abilities | None) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        detector = lambda _file, _image: (0.0, "stand-in 1")  # noqa: E731
        worker = Worker(settings, Horde(settings), models.draw, detector, models, abilities=able)
        return await worker.work(ticket("a"))

    return asyncio.run(work())


@pytest.fixture
def one_by_one(settings: Settings) -> Settings:
    return replace(settings, max_batch=1)


@pytest.mark.lengthy
def test_a_size_that_does_not_fit_for_one_model_is_popped_for_the_others(
    horde: FakeHorde, one_by_one: Settings
) -> None:
    for model in ("b", "a", "b", "a"):
        horde.add(model=model, width=128, height=128)
    models = Small({"a": 128 * 128, "b": 64 * 64})
    result = shift(one_by_one, models, None)
    assert result["images"] == 2
    assert models.drawn == ["a", "a"]
    last = {tuple(pop["models"]): pop["max_pixels"] for pop in horde.pops}
    assert last["a",] == one_by_one.max_pixels
    assert last["b",] == 128 * 128 - 1


def test_a_controlnet_that_does_not_fit_is_offered_no_more_and_its_model_is(
    horde: FakeHorde, one_by_one: Settings
) -> None:
    horde.files["p.png"] = png()
    guided = {"control_type": "canny", "source": "p.png"}
    horde.add(model="a", **guided)
    horde.add(model="a")
    models = Small({"a": 64 * 64})
    result = shift(one_by_one, models, Abilities({"a": LORAS}))
    assert (result["images"], result["faulted"]) == (1, 1)
    assert horde.pops[0]["controls"] == ["canny"]
    assert horde.pops[-1]["controls"] == []
    assert {pop["max_pixels"] for pop in horde.pops} == {one_by_one.max_pixels}


@pytest.mark.lengthy
def test_models_of_two_groups_are_both_drawn_and_the_ticket_ends(
    horde: FakeHorde, one_by_one: Settings
) -> None:
    for number in range(20):
        horde.add(model="ab"[number % 2])
    models = Small({"a": 64 * 64, "b": 64 * 64})
    result = shift(one_by_one, models, Abilities({"a": LORAS, "b": PLAIN}))
    assert result["images"] == 20
    assert all(pop["models"] in (["a"], ["b"]) for pop in horde.pops)
    assert {pop["models"][0]: pop["allow_lora"] for pop in horde.pops} == {"a": True, "b": False}
    assert result["pops"] <= 20 + 2 + 2, "an empty answer of each ends it"
    assert abs(models.drawn[:10].count("a") - 5) <= 1


def png(image: Image.Image | None = None) -> bytes:
    """Return the file of a picture."""
    buffer = io.BytesIO()
    (image or Image.radial_gradient("L")).resize((64, 64)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()

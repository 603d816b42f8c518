"""What is kept in memory: as many models as fit, and those that cannot be loaded stop no others."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from gpu_worker.capacity import GRAIN, Capacity, Learnt
from gpu_worker.horde_client import BadJobError, Job
from gpu_worker.model_cache import DRAWING_GB, ModelCache
from gpu_worker.model_files import ModelError
from gpu_worker.model_table import Model
from tests.worker.test_model_files import PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

GB = 1_000_000_000


class Device:
    """Stands in for a GPU: it knows what is loaded and refuses more than it has."""

    parameter = 2

    def __init__(self, size: float) -> None:
        self.size = int(size * GB)
        self.holds: dict[str, int] = {}
        self.kernels = self.taken = 0
        """Bytes that the first drawing takes for good, and that it has taken."""

    def total(self) -> int:
        return self.size

    def free(self) -> int:
        return self.size - self.taken - sum(self.holds.values())

    def collect(self) -> None:
        pass


class Parts:
    """Stands in for what a pipeline loads beside its model: ControlNets, originals of weights."""

    def __init__(self, device: Device, name: str) -> None:
        self.device, self.name = device, name
        self.reserve: Callable[[int], None] = lambda _count: None
        self.originals = 0

    def load(self, gb: float) -> None:
        self.reserve(int(gb * GB / self.device.parameter))
        if self.device.free() < gb * GB:
            raise MemoryError
        self.device.holds[f"{self.name}'s {gb}"] = int(gb * GB)

    def forget(self, but: str | None = None) -> bool:
        assert but is None
        mine = [one for one in self.device.holds if one.startswith(f"{self.name}'s ")]
        for one in mine:
            del self.device.holds[one]
        return bool(mine)

    def put_back(self) -> None:
        self.originals = 0


class Loaded:
    """Stands in for a pipeline; it holds its weights as long as somebody holds it."""

    def __init__(
        self, device: Device, name: str, draws: list[str], fails: BaseException | None = None
    ) -> None:
        self.device, self.name, self.draws, self.fails = device, name, draws, fails
        self.make_room: Callable[[], bool] = lambda: False
        self.extra: list[int] = []
        self.controls = self.adapters = Parts(device, name)
        self.nets: list[float] = []
        self.originals = 0
        self.learnt = Learnt()

    def __del__(self) -> None:
        self.controls.forget()
        self.device.holds.pop(self.name, None)

    def warm_up(self) -> None:
        if self.fails:
            raise self.fails
        self.device.taken = self.device.kernels
        free = self.device.free()
        self.learnt.capacity = Capacity(free=free, denoising=8500, decoding=8500)

    def draw(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | None] | None = None
    ) -> list[Image.Image]:
        for wanted in self.extra:
            while self.device.free() < wanted:
                if not self.make_room():
                    raise MemoryError
        for gb in self.nets:
            self.controls.load(gb)
        self.adapters.originals = self.originals
        self.draws.append(self.name)
        return [Image.new("RGB", (1, 1), (len(job.model), 0, 0)) for job in jobs]


def header(count: int) -> bytes:
    """A safetensors file of `count` half precision numbers, of which only the head is written."""
    head = json.dumps(
        {"w": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}}
    ).encode()
    return len(head).to_bytes(8, "little") + head


class Shop:
    """Models on a disk, and a cache of them."""

    def __init__(self, folder: Path, device: Device) -> None:
        self.folder, self.device = folder, device
        self.models: list[Model] = []
        self.loads: list[str] = []
        self.draws: list[str] = []
        self.broken: dict[str, BaseException] = {}
        self.extra: dict[str, int] = {}
        self.nets: dict[str, list[float]] = {}
        self.originals: dict[str, int] = {}
        self.made: dict[str, Parts] = {}

    def add(self, name: str, gb: float = 1.0, **more: float) -> None:
        directory = self.folder / name
        for part, content in PARTS.items():
            (directory / part).parent.mkdir(parents=True, exist_ok=True)
            (directory / part).write_text(json.dumps(content))
        for part in ("unet", "vae", "text_encoder"):
            file = directory / part / "model.safetensors"
            count = int(gb * GB / 2) if part == "unet" else 0
            file.write_bytes(header(count))
            with file.open("r+b") as opened:  # sparse: as long as its head says
                opened.truncate(len(header(count)) + 2 * count)
        memory = more.get("memory_gb", 0.0)
        self.models.append(Model(name=name, source=str(directory), memory_gb=memory))

    def load(self, model: Model, directory: Path) -> Loaded:
        self.loads.append(model.name)
        size = (directory / "unet" / "model.safetensors").stat().st_size
        if self.device.free() < size:
            raise MemoryError
        self.device.holds[model.name] = size
        made = Loaded(self.device, model.name, self.draws, self.broken.get(model.name))
        made.extra = [self.extra[model.name]] if model.name in self.extra else []
        made.nets = self.nets.get(model.name, [])
        made.originals = self.originals.get(model.name, 0)
        self.made[model.name] = made.controls
        return made

    def cache(self, most: int = 0, originals: int = 0) -> ModelCache:
        return ModelCache(self.models, self.load, self.device, most=most, most_originals=originals)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, Device(24))


def job(model: str) -> Job:
    return Job(id=model, payload={}, deadline=0, model=model)


def test_models_stay_in_memory_as_long_as_they_fit(shop: Shop) -> None:
    for name in ("a", "b", "c"):
        shop.add(name)
    cache = shop.cache()
    for name in ("a", "b", "c", "a", "c", "b"):
        cache.draw([job(name)])
    assert shop.loads == ["a", "b", "c"]
    assert set(cache.loaded) == {"a", "b", "c"}


def test_the_least_recently_drawn_one_goes_first(shop: Shop) -> None:
    for name in ("a", "b", "c"):
        shop.add(name, 10 - DRAWING_GB / 2)
    cache = shop.cache()
    for name in ("a", "b", "a", "c", "a"):
        cache.draw([job(name)])
    assert shop.loads == ["a", "b", "c"]
    assert cache.loaded == ("c", "a")


def test_what_a_model_is_said_to_need_counts_if_it_is_more_than_its_weights(shop: Shop) -> None:
    shop.add("a", 1)
    shop.add("b", 1, memory_gb=23.5)
    cache = shop.cache()
    cache.draw([job("a")])
    cache.draw([job("b")])
    assert cache.loaded == ("b",)


def test_at_most_as_many_are_loaded_as_the_setting_says(shop: Shop) -> None:
    shop.add("a")
    shop.add("b")
    cache = shop.cache(most=1)
    for name in ("a", "b", "a"):
        cache.draw([job(name)])
    assert shop.loads == ["a", "b", "a"]
    assert cache.loaded == ("a",)


def test_a_batch_of_two_models_is_drawn_with_one_swap_and_in_its_own_order(shop: Shop) -> None:
    shop.add("a")
    shop.add("bb")
    cache = shop.cache(most=1)
    cache.draw([job("bb")])
    images = cache.draw([job("a"), job("bb"), job("a"), job("")])
    assert shop.draws == ["bb", "bb", "a"]
    assert [image.getpixel((0, 0)) for image in images[:3]] == [(1, 0, 0), (2, 0, 0), (1, 0, 0)]


def test_memory_that_is_short_while_drawing_is_taken_from_other_models(shop: Shop) -> None:
    shop.extra["b"] = int(22.5 * GB)
    shop.add("a")
    shop.add("b")
    cache = shop.cache()
    cache.draw([job("a")])
    cache.draw([job("b")])
    assert cache.loaded == ("b",)


def test_a_model_that_is_larger_than_it_said_is_loaded_alone(shop: Shop) -> None:
    shop.device.size = int(6.5 * GB)
    shop.add("a", 1)
    shop.add("b", 5.8)
    cache = shop.cache()
    cache.draw([job("a")])
    cache.draw([job("b")])
    assert cache.loaded == ("b",)


@pytest.mark.parametrize(
    "error", [ModelError("the model in MODEL_DIR draws a single colour"), RuntimeError("boom")]
)
def test_a_model_that_cannot_be_loaded_is_neither_offered_nor_tried_again(
    shop: Shop, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    shop.broken["b"] = error
    shop.add("a")
    shop.add("b")
    cache = shop.cache()
    cache.prefer("a")
    for _ in range(2):
        with pytest.raises(BadJobError):
            cache.draw([job("b")])
    assert shop.loads.count("b") == 1
    assert cache.usable == ("a",)
    assert len(cache.draw([job("a")])) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the model 'b' is not drawn: ")
    assert "MODEL_DIR" not in line


def test_one_that_cannot_be_read_or_is_too_large_is_left_out_from_the_start(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.add("a")
    shop.add("b", memory_gb=48)
    shop.models.append(Model(name="c", source=str(shop.folder / "c")))
    shop.models.append(Model(name="d", source="no/such"))
    cache = shop.cache()
    assert cache.usable == ("a",)
    assert "'b' needs 48 GB, and the device has 24.0" in caplog.text
    assert f"{shop.folder / 'c'} holds no diffusers model" in caplog.text
    assert "of no/such there is none" in caplog.text
    with pytest.raises(BadJobError):
        cache.draw([job("b")])


def test_a_worker_without_any_usable_model_says_so_in_one_sentence(shop: Shop) -> None:
    shop.models.append(Model(name="c", source=str(shop.folder / "c")))
    with pytest.raises(ModelError, match=r"^the model 'c' is not drawn: .*c holds no diffusers"):
        shop.cache()
    shop.models.clear()
    shop.broken["a"] = RuntimeError()
    shop.add("a")
    with pytest.raises(ModelError, match="no model can be loaded"):
        shop.cache().prefer("a")


def test_the_first_ticket_says_which_is_loaded_first(shop: Shop) -> None:
    shop.broken["c"] = RuntimeError()
    for name in ("a", "b", "c"):
        shop.add(name)
    wishes = {"b": ["b"], "unknown": ["a"], "": ["a"], "c": ["c", "a"]}
    for wanted, loads in wishes.items():
        shop.loads.clear()
        cache = shop.cache()
        cache.prefer(wanted)
        cache.prefer("a")
        assert shop.loads == loads


def test_the_largest_image_is_that_of_a_model_alone_in_memory_whatever_was_loaded_beside_it(
    shop: Shop,
) -> None:
    shop.device.kernels = GB
    shop.nets["a"] = [3.0]
    for name, gb in {"a": 4, "b": 6, "c": 2}.items():
        shop.add(name, gb)
    told: dict[str, int] = {}
    cache = shop.cache()
    cache.measured = told.__setitem__
    for name in ("a", "b", "c", "a", "b"):
        cache.draw([job(name)])
    assert set(cache.loaded) == {"a", "b", "c"}
    # Of 24 GB with 1 GB of kernels.
    alone = {"a": 19, "b": 17, "c": 21}
    assert told == {name: pytest.approx(gb * GB // 10_000, abs=GRAIN) for name, gb in alone.items()}
    for name, gb in alone.items():
        known = cache._loaded[name].learnt.capacity
        assert known
        assert known.free == pytest.approx(gb * GB, abs=1000)


# --- what is loaded beside a model ---------------------------------------------------------------


def test_a_controlnet_takes_the_place_of_those_that_are_not_drawn_with_and_then_of_models(
    shop: Shop,
) -> None:
    shop.nets = {"a": [4.0], "b": [8.0]}
    for name in ("a", "b"):
        shop.add(name, 5)
    cache = shop.cache()
    cache.draw([job("a")])
    assert set(shop.device.holds) == {"a", "a's 4.0"}
    cache.draw([job("b")])
    assert set(shop.device.holds) == {"a", "b", "b's 8.0"}, "a's is loaded again in no time"
    shop.nets["b"][:] = [12.0]
    cache.draw([job("b")])
    assert set(shop.device.holds) == {"b", "b's 12.0"}


def test_another_model_takes_the_place_of_controlnets_before_that_of_models(shop: Shop) -> None:
    shop.nets = {"a": [8.0]}
    shop.add("a", 6)
    shop.add("b", 8)
    cache = shop.cache()
    cache.draw([job("a")])
    cache.draw([job("b")])
    assert set(shop.device.holds) == {"a", "b"}
    assert shop.loads == ["a", "b"]


def test_a_model_that_goes_takes_its_controlnets_along(shop: Shop) -> None:
    shop.nets = {"a": [1.0]}
    shop.add("a")
    shop.add("b")
    cache = shop.cache(most=1)
    for name in ("a", "b"):
        cache.draw([job(name)])
    assert set(shop.device.holds) == {"b"}


def test_originals_of_models_that_were_not_drawn_last_are_bounded(shop: Shop) -> None:
    shop.originals = {"a": 3 * GB, "b": 2 * GB, "c": 4 * GB}
    for name in shop.originals:
        shop.add(name)
    cache = shop.cache(originals=6 * GB)
    left = []
    for name in ("a", "b", "c", "a"):
        cache.draw([job(name)])
        left.append({name: parts.originals // GB for name, parts in shop.made.items()})
    assert left == [
        {"a": 3},
        {"a": 3, "b": 2},
        {"a": 0, "b": 2, "c": 4},
        {"a": 3, "b": 0, "c": 0},
    ]

"""The models that are loaded: as many as the memory holds, the least recently drawn goes first.

This module imports no torch: what it must know of a device is `Memory`, which `device` asks torch.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, Protocol

from gpu_worker import model_files, tensor_files
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from gpu_worker.upscale import UpscalerMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from PIL import Image

    from gpu_worker.capacity import Learnt
    from gpu_worker.horde_client import Job
    from gpu_worker.model_files import ModelFiles
    from gpu_worker.model_table import Model

log = logging.getLogger(__name__)

DRAWING_GB = 3.0
"""Memory left for drawing beside the weights, in 10^9 bytes, until a model says otherwise."""


class Drawer(Protocol):
    """A model that is loaded: `pipeline.Pipeline`."""

    make_room: Callable[[], bool]

    learnt: Learnt

    @property
    def controls(self) -> Controls:
        """Return its ControlNets."""

    @property
    def adapters(self) -> Adapters:
        """Return what changes its weights."""

    def draw(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | None] | None = None
    ) -> list[Image.Image]:
        """Draw jobs of this model."""

    def warm_up(self) -> None:
        """Draw one image; raises ModelError if the model cannot."""


class Controls(Protocol):
    """The ControlNets of a model that is loaded: `families.guided.Controls`."""

    reserve: Callable[[int], None]

    def forget(self, but: str | None = None) -> bool:
        """Let go of all that are loaded but one; returns whether there were any."""


class Adapters(Protocol):
    """What LoRAs do to a model that is loaded: `addons.adapters.Adapters`."""

    @property
    def originals(self) -> int:
        """Return the bytes of the CPU's memory that hold weights as they were before LoRAs."""

    def put_back(self) -> None:
        """Take LoRAs out of the weights, and let go of the originals."""


class Memory(Protocol):
    """The memory of the device that draws, in bytes."""

    parameter: int
    """Bytes of a number of the weights there."""

    def total(self) -> int:
        """Return all of it."""

    def free(self) -> int:
        """Return what is free now."""

    def collect(self) -> None:
        """Give back what no object holds any more."""


class ModelCache:
    """The models of a worker, loaded when jobs ask for them. One thread at a time draws.

    A model that cannot be loaded is named in the log, and neither offered nor tried again.
    """

    def __init__(
        self,
        models: Sequence[Model],
        load: Callable[[Model, Path], Drawer],
        memory: Memory,
        *,
        most: int = 0,
        most_originals: int = 0,
    ) -> None:
        """Look for the files of all models; raises ModelError if none can be used.

        `load` loads a model from its directory. `most` models are loaded at a time; 0 for as many
        as the memory holds. Originals of weights that LoRAs have changed take `most_originals`
        bytes, or more for the one model that was drawn last.
        """
        self._load, self._memory, self._most = load, memory, most
        self._most_originals = most_originals
        self._loaded: OrderedDict[str, Drawer] = OrderedDict()
        self.directories: dict[str, Path] = {}
        """Where the files are of each model that was found."""
        self.files: dict[str, ModelFiles] = {}
        """What the configuration of each says."""
        self._models = {model.name: model for model in models}
        self._alone = 0
        """Bytes that a model, alone in memory, and its drawing can have together."""
        self._tried: set[str] = set()
        """Names of those that have drawn one image."""
        self.usable: tuple[str, ...] = ()
        """Names of the models that may be offered."""
        self.loaded: tuple[str, ...] = ()
        """Names of those in memory, the last drawn one at the end; read by other threads."""
        self.measured: Callable[[str, int], None] = lambda _name, _pixels: None
        """Called with the pixels of the largest image that a model can draw, alone in memory."""
        self.swap_s = 0.0
        """Seconds that the last load took."""
        problems = [problem for model in models if (problem := self._find(model))]
        for problem in problems:
            log.error("%s", problem)
        self.usable = tuple(self.directories)
        if not self.usable:
            raise ModelError(problems[0] if len(problems) == 1 else "; ".join(problems))

    def _find(self, model: Model) -> str | None:
        """Note a model's directory; returns why it cannot be used, or None."""
        total, wanted = self._memory.total(), model.memory_gb
        if total < wanted * 1e9:
            return f"{model.name!r} needs {wanted:g} GB, and the device has {total / 1e9:.1f}"
        try:
            directory = model.directory()
            self.files[model.name] = model_files.read(directory)
        except ModelError as error:
            where = model.source
            return _named(model.name, str(error).replace("MODEL_DIR", where))
        self.directories[model.name] = directory
        return None

    def prefer(self, name: str) -> None:
        """Load a model, if it may be used and none is loaded yet; else the first that can be.

        Raises ModelError if none can.
        """
        first = [name] if name in self.usable else []
        for one in (*first, *self.usable):
            if self.loaded:
                return
            try:
                self._drawer(one)
            except BadJobError:
                continue
        if not self.loaded:
            message = "no model can be loaded; the log says why for each"
            raise ModelError(message)

    def draw(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | None] | None = None
    ) -> list[Image.Image]:
        """Draw jobs, those of loaded models first, and return the images in the jobs' order.

        Raises BadJobError if a model cannot be loaded, or what `Drawer.draw` does.
        """
        names = [job.model or next(reversed(self._loaded), self.usable[0]) for job in jobs]
        images: dict[int, Image.Image] = {}
        for name in sorted(dict.fromkeys(names), key=lambda name: name not in self._loaded):
            numbers = [number for number, one in enumerate(names) if one == name]
            drawn = self._drawer(name).draw(
                [jobs[number] for number in numbers],
                [sources[number] if sources else None for number in numbers],
            )
            images.update(zip(numbers, drawn, strict=True))
            self._bound_originals()
        return [images[number] for number in range(len(jobs))]

    def _drawer(self, name: str) -> Drawer:
        """Return a model, loaded now if it was not; raises BadJobError."""
        if name in self._loaded:
            self._loaded.move_to_end(name)
            self.loaded = tuple(self._loaded)
            return self._loaded[name]
        if name not in self.usable:
            message = f"{name!r} is no model of this worker"
            raise BadJobError(message)
        self._make_room_for(name)
        started = time.monotonic()
        drawer = self._loaded_anew(name)
        self.swap_s = time.monotonic() - started
        drawer.make_room = lambda: self._forget(one for one in self.loaded if one != name)
        drawer.controls.reserve = lambda count: self._reserve(count, name)
        self._loaded[name] = drawer
        self.loaded = tuple(self._loaded)
        log.info("%r is loaded after %.1f s", name, self.swap_s)
        return drawer

    def _loaded_anew(self, name: str) -> Drawer:
        """Load a model, alone if the memory is too small for another; raises BadJobError."""
        while True:
            drawer, why = self._tried_to_load(name)
            if drawer:
                return drawer
            self._memory.collect()  # only now does no traceback hold what was loaded in part
            if why or not self._forget(self.loaded):
                self._give_up(name, why or "it does not fit into the device's memory")

    def _tried_to_load(self, name: str) -> tuple[Drawer | None, str]:
        """Return a model, or None and why it cannot be loaded; '' if the memory is too small."""
        first = name not in self._tried
        before = loaded = self._memory.free()
        try:
            drawer = self._load(self._models[name], self.directories[name])
            if first:
                loaded = self._memory.free()
                drawer.warm_up()
        except MemoryError:
            return None, ""
        except (ModelError, UpscalerMissingError) as error:
            if self._loaded and isinstance(error.__context__, MemoryError):
                return None, ""  # of the warm-up
            return None, str(error).replace("MODEL_DIR", str(self.directories[name]))
        except Exception as error:  # noqa: BLE001 - the other models go on
            return None, f"it cannot be loaded ({type(error).__name__})"
        if first:
            self._tried.add(name)
            self._learn(name, drawer.learnt, before, loaded)
        return drawer, ""

    def _learn(self, name: str, learnt: Learnt, before: int, loaded: int) -> None:
        """Tell how large an image a model can draw alone in memory, after its first one.

        `before` bytes were free before it was loaded, and `loaded` after that. What an image needs
        is the same beside other models. What a model can have is what one that was alone and its
        drawing had together, less what this one takes. What a first image leaves, such as kernels,
        is never counted as free.
        """
        now = self._memory.free()
        if not self._loaded:
            self._alone = now + before - loaded
        elif learnt.capacity:
            learnt.capacity = replace(learnt.capacity, free=self._alone - (before - now))
        if (pixels := learnt.max_pixels) is not None:
            self.measured(name, pixels)

    def _give_up(self, name: str, why: str) -> NoReturn:
        self.usable = tuple(one for one in self.usable if one != name)
        message = _named(name, why)
        log.error("%s", message)
        raise BadJobError(message)

    def _make_room_for(self, name: str) -> None:
        """Forget models, the least recently drawn first, until another one probably fits."""
        weights = tensor_files.parameters(self.directories[name]) * self._memory.parameter
        wanted = weights + DRAWING_GB * 1e9
        while self._most and len(self._loaded) >= self._most:
            self._forget([next(iter(self._loaded))])
        self._free(max(wanted, self._models[name].memory_gb * 1e9), self.loaded)

    def _reserve(self, count: int, name: str) -> None:
        """Make room for a ControlNet of `count` numbers beside the model that draws with it."""
        wanted = count * self._memory.parameter + DRAWING_GB * 1e9
        if self._memory.free() < wanted and self._loaded[name].controls.forget():
            self._memory.collect()
        self._free(wanted, [one for one in self.loaded if one != name])

    def _free(self, wanted: float, names: Sequence[str]) -> None:
        """Free so many bytes if models can: first their ControlNets, which load fast, then all."""
        for name in names:
            if self._memory.free() >= wanted:
                return
            if self._loaded[name].controls.forget():
                self._memory.collect()
        for name in names:
            if self._memory.free() >= wanted:
                return
            self._forget([name])

    def _bound_originals(self) -> None:
        """Put LoRAs of models that were not drawn last back, until the originals are few enough."""
        *others, _ = self._loaded.values()
        left = self._most_originals - sum(one.adapters.originals for one in self._loaded.values())
        for one in others:
            if left >= 0:
                return
            left += one.adapters.originals
            one.adapters.put_back()

    def _forget(self, names: Iterable[str]) -> bool:
        """Forget loaded models; returns whether there were any."""
        gone = [name for name in list(names) if self._loaded.pop(name, None)]
        self.loaded = tuple(self._loaded)
        if gone:
            self._memory.collect()
            log.info("no longer in memory: %s", ", ".join(map(repr, gone)))
        return bool(gone)


def _named(name: str, why: str) -> str:
    return f"the model {name!r} is not drawn: {why}"

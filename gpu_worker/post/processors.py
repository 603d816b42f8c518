"""What a worker does to its drawings: face fixers, upscalers, and `strip_background`.

This module imports no torch; `load` does, if there is an upscaler to load. Nothing is downloaded.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from gpu_worker import face_weights, safety, weights
from gpu_worker.horde_client import MIN_TTL_S, BadJobError
from gpu_worker.model_files import ModelError
from gpu_worker.post import cutout, kinds
from gpu_worker.post.kinds import FACE_FIXERS, NON_COMMERCIAL, STRIP, UPSCALERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gpu_worker.horde_client import Job, Payload
    from gpu_worker.post.kinds import Run
    from gpu_worker.settings import Settings


class Upscaler(Protocol):
    """A network that enlarges pictures: `engine.Engine`."""

    def enlarged(self, image: Image.Image, check: Callable[[], None]) -> Image.Image:
        """Return a picture enlarged; `check` is called now and then, and may raise."""


class Fixer(Protocol):
    """What draws the faces of pictures anew: `faces.FaceFixer`."""

    def fixed(
        self, image: Image.Image, strength: float, check: Callable[[], None], run: Run
    ) -> tuple[Image.Image, str]:
        """Return a picture with other faces, and a remark about it if there is one."""


SHIPPED: Mapping[str, tuple[str, int]] = {
    "RealESRGAN_x4plus": ("realesrgan-x4plus", 23),
    "RealESRGAN_x4plus_anime_6B": ("realesrgan-x4plus-anime", 6),
    "RealESRGAN_x2plus": ("realesrgan-x4plus", 23),
}
"""The upscalers whose weights `gpu_worker.weights` fetches: their file and the blocks of the
network. x2plus is x4plus, made smaller."""
MAX_SECONDS = MIN_TTL_S / 2
"""Most seconds that the upscaler may take for a batch of the largest images; in the other half of
the shortest lease they are drawn, encoded and submitted."""
PICKLES = {".pth", ".pt", ".ckpt", ".bin"}

log = logging.getLogger(__name__)


class PostProcessors:
    """The post-processors of a worker. Thread-safe."""

    def __init__(
        self,
        upscalers: Mapping[str, Upscaler] | None = None,
        cut: Callable[[Image.Image], Image.Image] | None = None,
        *,
        fixers: Mapping[str, Fixer] | None = None,
        on_gpu: bool = False,
    ) -> None:
        """Take what is loaded; by default nothing. `on_gpu` says where networks of torch run."""
        self._upscalers, self._cut, self._on_gpu = dict(upscalers or {}), cut, on_gpu
        self._fixers = dict(fixers or {})
        self._one = threading.Lock()
        # Large images are held in memory by these alone.
        self.turns = threading.BoundedSemaphore(2 * (os.cpu_count() or 1))
        """Held by whoever runs them and encodes what they return, since that is large."""
        here = {*self._fixers, *self._upscalers, *([STRIP] if cut else ())}
        self.offered = tuple(name for name in kinds.ORDER if name in here)
        """The names that the worker offers."""

    @property
    def offer(self) -> Payload:
        """The fields of a pop that say what is offered; `post_processors` is our extension."""
        return {
            "allow_post_processing": bool(self.offered),
            "post_processors": list(self.offered),
        }

    def asked(self, job: Job) -> list[str]:
        """Return what a job asks for, in the order in which it is run; raises BadJobError."""
        return kinds.asked(job.payload, self.offered)

    def run(
        self, job: Job, image: Image.Image, on_gpu: Run, remarks: list[Payload] | None = None
    ) -> Image.Image:
        """Return a job's drawing, processed as asked; RGBA after `strip_background`.

        `on_gpu` is used for networks on a GPU, which so take turns with drawing. What its client
        should know is added to `remarks`, for `gen_metadata`. Raises BadJobError, also if the job's
        lease ends meanwhile, or MemoryError.
        """

        def check() -> None:
            if time.monotonic() > job.deadline:
                message = "its ttl ended in post-processing"
                raise BadJobError(message)

        for name in self.asked(job):
            if name == STRIP and self._cut:
                check()
                image = self._cut(image)
            elif name in self._fixers:
                image, said = self._fixed(name, job, image, check, on_gpu)
                if said and remarks is not None:
                    remarks.append(safety.remark(f"{name} {said}"))
            else:
                image = self._enlarged(name, image, check, on_gpu)
        return image

    def _fixed(
        self, name: str, job: Job, image: Image.Image, check: Callable[[], None], on_gpu: Run
    ) -> tuple[Image.Image, str]:
        fixer, strength = self._fixers[name], kinds.strength(job.payload)
        if self._on_gpu:
            return fixer.fixed(image, strength, check, on_gpu)
        with self._one:  # it uses all CPUs
            return fixer.fixed(image, strength, check, lambda call: call())

    def _enlarged(
        self, name: str, image: Image.Image, check: Callable[[], None], on_gpu: Run
    ) -> Image.Image:
        engine, factor = self._upscalers[name], UPSCALERS[name]
        if self._on_gpu:
            found = on_gpu(lambda: engine.enlarged(image, check))
        else:
            with self._one:  # it uses all CPUs
                found = engine.enlarged(image, check)
        size = image.width * factor, image.height * factor
        # BOX averages whole pixels, so halving adds neither blur nor ringing.
        return found if found.size == size else found.resize(size, Image.Resampling.BOX)


def load(settings: Settings) -> PostProcessors:
    """Load the post-processors whose weights are there, and that are fast enough here.

    An upscaler is offered if a batch of the largest images of the settings takes at most
    `MAX_SECONDS`, a face fixer if it does so together with the others that are offered. The log
    names each that is too slow. Raises ModelError for a file of POST_PROCESSOR_DIR that cannot be
    used.
    """
    files, cuts = _given(settings.post_processor_dir)
    cut = None
    try:
        if cuts:
            cut = cutout.Cutout(cuts[0], at_once=os.cpu_count() or 1)
        engine: Any = import_module("gpu_worker.post.engine")
        loader = engine.Loader(settings)
        upscalers, seconds = _upscalers(settings, loader, files)
        slowest = max((seconds[name] for name in upscalers), default=0.0)
        fixers, more = _fixers(settings, loader, files, slowest)
    except (cutout.CutoutError, OSError, ValueError) as error:
        message = f"POST_PROCESSOR_DIR: {error}"
        raise ModelError(message) from None
    seconds |= more
    if slow := [
        f"{name} {taken:.0f} s"
        for name, taken in seconds.items()
        if name not in upscalers and name not in fixers
    ]:
        log.info(
            "not offered, since MAX_BATCH images of MAX_PIXELS may take %.0f s at most: %s",
            MAX_SECONDS,
            ", ".join(slow),
        )
    return PostProcessors(upscalers, cut, fixers=fixers, on_gpu=loader.on_gpu)


def _upscalers(
    settings: Settings, loader: Any, files: Mapping[str, Path]
) -> tuple[dict[str, Upscaler], dict[str, float]]:
    """Return the upscalers that are fast enough, and the seconds of each that was looked at."""
    upscalers: dict[str, Upscaler] = {}
    seconds: dict[str, float] = {}
    for name in UPSCALERS:
        if name in files:
            found = loader.given(name, files[name])
        elif name in SHIPPED:
            file, blocks = SHIPPED[name]
            seconds[name] = loader.expected(blocks, settings.max_pixels) * settings.max_batch
            if seconds[name] > MAX_SECONDS:
                continue
            try:
                found = loader.shipped(file)
            except weights.WeightsError as error:
                log.warning("%s is not offered: %s", name, error)
                del seconds[name]
                continue
        else:
            continue
        seconds[name] = found.seconds(settings.max_pixels) * settings.max_batch
        if seconds[name] <= MAX_SECONDS:
            upscalers[name] = found
    return upscalers, seconds


def _fixers(
    settings: Settings, loader: Any, files: Mapping[str, Path], taken: float
) -> tuple[dict[str, Fixer], dict[str, float]]:
    """Return the same of face fixers; `taken` are seconds that others of a job may take.

    An image may ask for all of them.
    """
    fixers: dict[str, Fixer] = {}
    seconds: dict[str, float] = {}
    for name in FACE_FIXERS:
        if name not in files:
            continue
        try:
            found = loader.fixer(files[name])
        except face_weights.FaceWeightsError as error:
            log.warning("%s is not offered: %s", name, error)
            continue
        seconds[name] = found.seconds() * settings.max_batch
        if taken + seconds[name] <= MAX_SECONDS:
            fixers[name] = found
            taken += seconds[name]
    return fixers, seconds


def _given(directory: Path | None) -> tuple[dict[str, Path], list[Path]]:
    """Return the files of networks, by name, and those of `strip_background`."""
    if directory is None:
        return {}, []
    try:
        files = sorted(one for one in directory.iterdir() if one.is_file())
    except OSError as error:
        message = f"POST_PROCESSOR_DIR cannot be read: {error.strerror}"
        raise ModelError(message) from None
    for file in files:
        if why := _unusable(file):
            message = f"POST_PROCESSOR_DIR: {file.name} {why}"
            raise ModelError(message)
    networks = {file.stem: file for file in files if file.suffix == ".safetensors"}
    cuts = [file for file in files if file.suffix == ".onnx"]
    if len(cuts) > 1:
        message = "POST_PROCESSOR_DIR has more than one network of strip_background"
        raise ModelError(message)
    return networks, cuts


def _unusable(file: Path) -> str:
    """Return why a file cannot be used by its name, or nothing."""
    if file.stem in NON_COMMERCIAL:
        return "is refused: its licence (S-Lab 1.0) forbids commercial use"
    if file.suffix in PICKLES:
        return (
            "is refused, since loading it runs code; convert it: "
            f"python -m gpu_worker.post.from_pth {file.name} {file.stem}.safetensors"
        )
    known = [name for name in (*FACE_FIXERS, *UPSCALERS) if name not in NON_COMMERCIAL]
    if file.suffix == ".safetensors" and file.stem not in known:
        return f"is no face fixer or upscaler of the Horde's: {', '.join(known)}"
    if file.suffix == ".onnx" and file.stem not in cutout.NETWORKS:
        return f"is no network of strip_background: {', '.join(cutout.NETWORKS)}"
    return ""

"""The ways of drawing that are compared: diffusers used plainly, and this worker's."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_worker import image_codec, safety
from gpu_worker.horde_client import Horde, Job
from gpu_worker.shifts import Worker
from gpu_worker.tiny import libraries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from PIL import Image

    from gpu_worker.bench.architectures import Architecture
    from gpu_worker.pipeline import Pipeline
    from gpu_worker.settings import Settings

CALL_S, UPLOAD_S = 0.15, 0.25
"""Seconds that an answer of the Horde's API and the upload of an image take."""
PROMPT = "a lighthouse at dusk, oil painting"


@dataclass(slots=True)
class Found:
    """What a way of drawing brought."""

    images: int
    seconds: float
    idle: float | None = None
    """The share of the time in which nothing was drawn, 0 to 1; None if that is not measured."""

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class Stock:
    """diffusers as its documentation uses it, in half precision on a GPU."""

    def __init__(
        self, directory: Path, shape: Architecture, device: str, half: torch.dtype
    ) -> None:
        """Load the model."""
        dtype = half if device.startswith("cuda") else torch.float32
        pipeline = libraries().DiffusionPipeline.from_pretrained(
            directory, dtype=dtype, local_files_only=True
        )
        self._pipeline = pipeline.to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        self._shape = shape

    def draw(self, count: int, steps: int = 0) -> list[Image.Image]:
        """Draw images of one prompt; `steps` replaces those of the architecture."""
        shape = self._shape
        with torch.inference_mode():
            return list(
                self._pipeline(
                    prompt=PROMPT,
                    num_images_per_prompt=count,
                    num_inference_steps=steps or shape.steps,
                    guidance_scale=shape.guidance,
                    width=shape.side,
                    height=shape.side,
                ).images
            )

    def work(self) -> float:
        """Return the floating point operations of an image, counted by torch."""
        one, two = (self._counted(steps) for steps in (1, 2))
        return one + (self._shape.steps - 1) * (two - one)

    def _counted(self, steps: int) -> float:
        with FlopCounterMode(display=False) as counter:
            self.draw(1, steps)
        return float(counter.get_total_flops())


def job(shape: Architecture, number: int) -> Job:
    """Return a job as the Horde sends one; each has a prompt and a seed of its own."""
    payload = {
        "prompt": f"{PROMPT}, number {number}",
        "seed": str(number),
        "width": shape.side,
        "height": shape.side,
        "ddim_steps": shape.steps,
        "sampler_name": "k_euler",
        "karras": False,
        "cfg_scale": shape.guidance,
    }
    return Job(id=str(number), payload=payload, deadline=time.monotonic() + 3600)


def timed(draw: Callable[[], int], device: str, seconds: float) -> Found:
    """Draw again and again for a time, at least once, and take the median of these times.

    `draw` returns how many images it drew, always the same.
    """
    count = draw()  # this time it also does what is only done once
    _wait(device)
    times: list[float] = []
    while not times or sum(times) < seconds:
        began = time.perf_counter()
        draw()
        _wait(device)
        times.append(time.perf_counter() - began)
    return Found(count, statistics.median(times))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def one_job_at_a_time(stock: Stock, detector: safety.Detector, seconds: float) -> Found:
    """Work as a worker without batches does: pop, draw, encode, score, upload, submit."""
    drawing, found, began = 0.0, Found(0, 0.0), time.perf_counter()
    while not found.images or found.seconds < seconds:
        time.sleep(CALL_S)
        before = time.perf_counter()
        (image,) = stock.draw(1)
        drawing += time.perf_counter() - before
        file = image_codec.encode_webp(image)
        safety.score(detector, file, image)
        time.sleep(UPLOAD_S + CALL_S)
        found.images += 1
        found.seconds = time.perf_counter() - began
    found.idle = 1 - drawing / found.seconds
    return found


class StillHorde(Horde):
    """A horde without a network, whose answers take as long as a real one's."""

    def __init__(self, settings: Settings, shape: Architecture, ends: float) -> None:
        """Create it; nothing waits any more after the `time.monotonic()` `ends`."""
        super().__init__(settings)
        self._batch, self._shape, self._ends = settings.max_batch, shape, ends
        self._numbers = itertools.count()

    def pop(
        self,
        models: Sequence[str] = (),  # noqa: ARG002 - one model
        offer: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> list[Job]:
        """Return as many jobs as a batch has."""
        time.sleep(CALL_S)
        jobs = [job(self._shape, next(self._numbers)) for _ in range(self._batch)]
        return jobs if jobs[0].id == "0" or time.monotonic() < self._ends else []

    def deliver(self, *_: Any, **__: Any) -> None:
        """Take an image."""
        time.sleep(UPLOAD_S + CALL_S)


def worker(
    pipeline: Pipeline,
    settings: Settings,
    shape: Architecture,
    detector: safety.Detector,
    seconds: float,
) -> Found:
    """Work shifts of this worker; the idle share counts from its first batch to its last."""
    spans: deque[tuple[float, float]] = deque()

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        began = time.perf_counter()
        images = pipeline.draw(jobs, sources)
        spans.append((began, time.perf_counter()))
        return images

    horde = StillHorde(settings, shape, time.monotonic() + seconds)
    busy = Worker(settings, horde, draw, detector)

    async def shifts() -> list[dict[str, Any]]:
        return await asyncio.gather(*(busy.work({"id": str(one)}) for one in range(2)))

    results = asyncio.run(shifts())
    images = sum(result["images"] for result in results)
    total = spans[-1][1] - spans[0][0]
    drawing = sum(end - start for start, end in spans)
    return Found(images, total, 1 - drawing / total)

"""`python -m tests.bench.idle`: how long a GPU waits for the worker, beside the fake horde.

The drawing is a sleep, the horde a process of its own that answers as slowly as a real one does.
The idle share is the time between the first and the last drawing in which nothing was drawn. With
``--asleep`` a thread sleeps as long as it would encode and score an image: so a machine that others
use shows what a worker with CPUs of its own would do.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from PIL import Image, ImageFilter

from gpu_worker import image_codec, safety
from gpu_worker.horde_client import Horde, Job
from gpu_worker.settings import Settings
from gpu_worker.shifts import CONCURRENCY, Worker
from tests.worker.fake_horde import KEY, fake_horde

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

API_S, UPLOAD_S = 0.15, 0.25
"""How long a call of the API and an upload take, measured from a worker's distance."""
BATCH = 4
SIDES = (512, 1024)


def _serve(line: Connection, images: int, side: int) -> None:
    with fake_horde() as horde:
        horde.seconds = {"pop": API_S, "submit": API_S, "upload": UPLOAD_S}
        for _ in range(images):
            horde.add(width=side, height=side)
        line.send(horde.url)
        line.recv()
        line.send(horde.done())


@contextmanager
def _horde(images: int, side: int) -> Iterator[tuple[str, Connection]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, images, side))
    process.start()
    try:
        yield str(here.recv()), here
    finally:
        process.join()


def picture(side: int) -> Image.Image:
    """Return a picture that costs a WebP encoder about what a drawing does."""
    noise = Image.effect_noise((side, side), 90).filter(ImageFilter.GaussianBlur(0.9))
    colours = Image.linear_gradient("L").resize((side, side))
    return Image.merge("RGB", (noise, colours, noise.transpose(Image.Transpose.ROTATE_90)))


@dataclass(frozen=True)
class Finish:
    """What an image costs the CPU."""

    encode_s: float
    score_s: float
    encode: Callable[[Image.Image], bytes]
    detector: safety.Detector

    def asleep(self, file: bytes) -> Finish:
        """Return the same costs without the work."""

        def encode(_: Image.Image) -> bytes:
            time.sleep(self.encode_s)
            return file

        def score(_file: bytes, _image: Image.Image) -> tuple[float, str]:
            time.sleep(self.score_s)
            return 0.0, "asleep"

        return replace(self, encode=encode, detector=score)


def measured(drawn: Image.Image, encode: Callable[[Image.Image], bytes]) -> Finish:
    """Return what encoding and scoring an image take alone on this machine: the best of five."""
    encoding, scoring = [], []
    detector = safety.load(safety.OPENNSFW)
    for _ in range(5):
        started = time.perf_counter()
        file = encode(drawn)
        middle = time.perf_counter()
        safety.score(detector, file, drawn)
        encoding.append(middle - started)
        scoring.append(time.perf_counter() - middle)
    return Finish(min(encoding), min(scoring), encode, detector)


def idle_share(
    side: int, batches: int, draw_s: float, tickets: int, finish: Finish
) -> tuple[float, float]:
    """Return the idle share, and images a second, of a worker that draws ``batches``."""
    drawn = picture(side)
    passes: list[float] = []

    def draw(jobs: Sequence[Job], _: Sequence[Image.Image | None]) -> list[Image.Image]:
        passes.append(time.perf_counter())
        time.sleep(draw_s)
        passes.append(time.perf_counter())
        return [drawn] * len(jobs)

    async def work(worker: Worker) -> int:
        results = await asyncio.gather(*(worker.work({"id": str(n)}) for n in range(tickets)))
        return sum(result["images"] for result in results)

    with _horde(batches * BATCH, side) as (url, line):
        settings = Settings(
            horde_url=f"{url}/api",
            horde_api_key=KEY,
            worker_name="idle",
            model_dir=Path(),
            max_batch=BATCH,
        )
        worker = Worker(settings, Horde(settings), draw, finish.detector)
        with patch.object(image_codec, "encode_webp", finish.encode):
            images = asyncio.run(work(worker))
        line.send("done")
        assert images == line.recv() == batches * BATCH
    span = passes[-1] - passes[0]
    busy = sum(end - start for start, end in zip(passes[::2], passes[1::2], strict=True))
    return 1 - busy / span, images / span


def main() -> None:
    """Print a table for both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--draw", type=float, default=0.5, help="seconds a batch")
    parser.add_argument("--asleep", action="store_true", help="encode and score by sleeping")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} CPUs, load {load:.1f}; a batch of {BATCH} is {options.draw} s")
    print("| size | encode, score | tickets | idle | images/s |")
    print("|---|---|---|---|---|")
    encode = image_codec.encode_webp
    for side in SIDES:
        finish = measured(picture(side), encode)
        costs = f"{1000 * finish.encode_s:.0f} ms, {1000 * finish.score_s:.0f} ms"
        if options.asleep:
            finish = finish.asleep(encode(picture(side)))
        for tickets in range(1, CONCURRENCY + 1):
            idle, speed = idle_share(side, options.batches, options.draw, tickets, finish)
            print(f"| {side} | {costs} | {tickets} | {idle:.1%} | {speed:.2f} |", flush=True)


if __name__ == "__main__":
    main()

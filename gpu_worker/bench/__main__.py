"""`python -m gpu_worker.bench`: images a second, beside diffusers used plainly, on this device.

It writes models with random weights in the shapes of Stable Diffusion 1.5, XL and FLUX, and draws
with each: diffusers one image at a time and in batches of one prompt; this worker's batches of
different prompts, as they are and compiled; and both as workers, with the waits of a real horde.
On a CPU the models are tiny: their ratios say that everything runs, and nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gpu_worker import safety
from gpu_worker.bench import chart, ways
from gpu_worker.bench.architectures import FULL, TINY, Architecture
from gpu_worker.pipeline import FAMILIES, Pipeline, diffusers, transformers
from gpu_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Measure, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = [one.name for one in FULL]
    parser.add_argument("only", nargs="*", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=20, help="for each row, at least")
    parser.add_argument("--batch", type=int, help="images of a batch")
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled code")
    parser.add_argument("--tiny", action="store_true", help="tiny models on a GPU, too")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--plot", type=Path, help="write bars as SVG")
    options = parser.parse_args()
    if unknown := set(options.only) - set(names):
        parser.error(f"no such architecture: {', '.join(sorted(unknown))}")
    if options.batch is not None and options.batch not in (1, 2, 4, 8, 16):
        parser.error("a batch has 1, 2, 4, 8 or 16 images")
    logging.basicConfig(level=logging.WARNING)
    for library in (diffusers, transformers):
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()

    cuda = options.device.startswith("cuda")
    card, memory = _card(options.device)
    small = options.tiny or not cuda
    peak = _peak(options.device)
    title = f"{card}, torch {torch.__version__}, {datetime.now(tz=UTC):%Y-%m-%d}"
    _say(f"{title}; a matrix product reaches {peak / 1e12:.3g} TFLOPS")
    if not cuda:
        _say("No GPU: tiny models are drawn, whose figures say nothing of a GPU.")
    found: dict[str, list[chart.Row]] = {}
    for shape in TINY if small else FULL:
        if options.only and shape.name not in options.only:
            continue
        if shape.gigabytes > memory:
            _say(f"left out: {shape.what} wants {shape.gigabytes:g} GB, here are {memory:.0f}")
            continue
        found[shape.what] = _compared(shape, options, peak)
        _say("\n" + chart.table(shape.what, found[shape.what]))
    figures = {"card": title, "peak_flops": peak, "rows": found}
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot:
        options.plot.write_text(chart.plot(title, found))


def _compared(shape: Architecture, options: argparse.Namespace, peak: float) -> list[chart.Row]:
    """Return the rows of one architecture."""
    device, seconds = options.device, options.seconds
    batch = options.batch or shape.batch
    rows: list[chart.Row] = []
    detector = safety.load("opennsfw")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        directory = Path(folder) / shape.name
        began = time.perf_counter()
        shape.write(directory, device)
        _say(f"{shape.what}: written in {time.perf_counter() - began:.0f} s")

        def add(way: str, kind: str, found: ways.Found) -> None:
            times = found.rate / rows[0]["rate"] if rows else 1.0
            share = found.rate * work / peak if found.idle is None else None
            rows.append({"way": way, "kind": kind, "rate": found.rate, "times": times,
                         "peak": share, "idle": found.idle})  # fmt: skip
            _say(f"  {way}: {found.rate:.3g} images/s, {times:.2f} times")

        stock = ways.Stock(directory, shape, device, FAMILIES[_kind(directory)].half)
        work = stock.work()
        add("diffusers, one image", "stock", _timed(stock.draw, 1, device, seconds))
        add(f"diffusers, {batch} of a prompt", "stock", _timed(stock.draw, batch, device, seconds))
        alone = ways.one_job_at_a_time(stock, detector, seconds)
        del stock
        settings = Settings(
            horde_url="", horde_api_key="", worker_name="bench", model_dir=directory,
            max_batch=batch, max_pixels=shape.side**2, device=device, shift_seconds=3600,
        )  # fmt: skip
        shapes = ((shape.side, shape.side, batch),)
        kinds = [("", settings)]
        if not options.no_compile:
            kinds.append((", compiled", replace(settings, compiled=shapes)))
        pipeline: Any = None
        for more, chosen in kinds:
            pipeline = None  # frees the one before
            pipeline = Pipeline(chosen)
            began = time.perf_counter()
            pipeline.warm_up()
            _say(f"  warmed up in {time.perf_counter() - began:.0f} s")
            way = f"this worker, {batch} prompts{more}"
            add(way, "ours", ways.timed(_drawing(pipeline, shape, batch), device, seconds))
        add("a worker, one job at a time", "stock", alone)
        served = ways.worker(pipeline, kinds[-1][1], shape, detector, seconds)
        add(f"this worker, as a worker{kinds[-1][0]}", "ours", served)
    return rows


def _drawing(pipeline: Pipeline, shape: Architecture, batch: int) -> Callable[[], int]:
    jobs = [ways.job(shape, number) for number in range(batch)]
    return lambda: len(pipeline.draw(jobs))


def _timed(draw: Callable[[int], list[Any]], count: int, device: str, seconds: float) -> ways.Found:
    return ways.timed(lambda: len(draw(count)), device, seconds)


def _kind(directory: Path) -> str:
    return str(json.loads((directory / "model_index.json").read_text("utf-8"))["_class_name"])


def _card(device: str) -> tuple[str, float]:
    """Return a device's name, and its memory in 10^9 bytes."""
    if not device.startswith("cuda"):
        return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)", 0.0
    about = torch.cuda.get_device_properties(device)
    return str(about.name), about.total_memory / 1e9


def _peak(device: str) -> float:
    """Return the operations a second of the fastest of some products of large matrices."""
    cuda = device.startswith("cuda")
    side, dtype = (8192, torch.float16) if cuda else (1024, torch.float32)
    one = torch.randn(side, side, dtype=dtype, device=device)
    best = ways.timed(lambda: len(one @ one) // side, device, 2.0)
    return best.rate * 2 * side**3


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

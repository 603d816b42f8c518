"""`python -m gpu_worker.grid MODEL_DIR OUT.png`: a grid of prompts, drawn by the worker's pipeline.

Prompts after the two paths replace the default 24, which the project's README shows.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from gpu_worker import model_files
from gpu_worker.addons.library import Library
from gpu_worker.addons.loader import Loader
from gpu_worker.horde_client import Job
from gpu_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_worker.pipeline import Pipeline

PROMPTS = (
    "a red apple", "a green apple", "a blue car", "a purple heart", "a yellow star",
    "a red balloon",
    "a cat", "a dog", "a fox", "a lion", "a penguin on a blue background", "a butterfly",
    "a strawberry", "a lemon", "cherries", "a hamburger", "a piece of cake", "a tomato",
    "a sunflower", "a palm tree", "a castle", "a rocket", "a sailboat in the sea", "a teddy bear",
)  # fmt: skip
COLUMNS = 6
GAP, TEXT = 12, 26


def job(prompt: str, seed: int, size: int, steps: int) -> Job:
    """Return the job that a client's request for the prompt becomes; ``size`` is in pixels."""
    payload = {
        "prompt": prompt,
        "seed": str(seed),
        "width": size,
        "height": size,
        "ddim_steps": steps,
        "sampler_name": "k_euler_a",
        "karras": True,
        "cfg_scale": 5.0,
    }
    return Job(id=prompt, payload=payload, deadline=0)


def sheet(pictures: list[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Return a page with the pictures in rows of ``columns``, each above its caption."""
    side = pictures[0][1].width
    rows = -(-len(pictures) // columns)
    page = Image.new(
        "RGB", (columns * (side + GAP) + GAP, rows * (side + TEXT + GAP) + GAP), "white"
    )
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(14 if side >= 150 else 10)  # noqa: PLR2004
    for number, (caption, picture) in enumerate(pictures):
        x = GAP + number % columns * (side + GAP)
        y = GAP + number // columns * (side + TEXT + GAP)
        page.paste(picture, (x, y))
        pen.rectangle((x - 1, y - 1, x + side, y + side), outline=(222, 222, 222))
        pen.text((x + side / 2, y + side + TEXT / 2 + 2), caption, (70, 70, 70), font, anchor="mm")
    return page


def with_lora(name: str, jobs: Sequence[Job], settings: Settings, pipeline: Pipeline) -> list[Job]:
    """Return jobs as they are, and then with a LoRA of the model's folder and its trigger."""
    library = Library.of(settings, model_files.read(settings.model_dir).baseline)
    if library is None:
        message = f"{settings.model_dir} has no folder of LoRAs"
        raise SystemExit(message)
    load = Loader(library, pipeline.adapters, settings.lora_memory_mb * 1024 * 1024)
    asked = {"loras": [{"name": name, "inject_trigger": "any"}]}
    signed = [replace(job, payload={**job.payload, **asked}, deadline=math.inf) for job in jobs]
    return [*jobs, *map(load, signed)]


def main() -> None:
    """Draw the grid that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--size", type=int, default=512, help="side of the drawn images, in pixels")
    parser.add_argument("--shown", type=int, default=200, help="side on the sheet, in pixels")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=1, help="images per prompt")
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lora", help="draw each prompt without and with a LoRA of the model's")
    args = parser.parse_args()

    from gpu_worker.pipeline import Pipeline  # noqa: PLC0415

    settings = Settings(
        horde_url="",
        horde_api_key="",
        worker_name="",
        model_dir=args.model_dir,
        torch_threads=args.threads,
        max_batch=8,
        lora_dir=args.model_dir / "loras",
    )
    pipeline = Pipeline(settings)
    jobs = [
        job(prompt, args.seed + number, args.size, args.steps)
        for prompt in args.prompts
        for number in range(args.seeds)
    ]
    if args.lora:
        jobs = with_lora(args.lora, jobs, settings, pipeline)
    started = time.monotonic()
    shown = (args.shown, args.shown)
    pictures = [
        (str(job.payload["prompt"]), image.resize(shown, Image.Resampling.LANCZOS))
        for job, image in zip(jobs, pipeline.draw(jobs), strict=True)
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(pictures, args.columns).save(args.out, optimize=True)
    print(f"{len(jobs)} images in {time.monotonic() - started:.1f} s: {args.out}")


if __name__ == "__main__":
    main()

"""`python -m gpu_worker.train.measure MODEL_DIR`: how often a model draws what a prompt names.

A thing is recognised by the training emoji that is most like it, out of all nouns, so a picture
that people would still recognise can count as wrong. Things are counted as connected regions that
differ from the white ground, and those that touch are counted as one. `--ceiling` measures training
pictures instead of the model's own.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gpu_worker.grid import job, sheet
from gpu_worker.settings import Settings
from gpu_worker.train.data import SIZE, load, paste, plain
from gpu_worker.train.groups import CENTRES, plural
from gpu_worker.train.nouns import CORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_worker.train.data import Bytes, Floats
    from gpu_worker.train.nouns import Noun

ndimage: Any = import_module("scipy.ndimage")

Ink = npt.NDArray[np.float32]

WORDS = {2: "two", 3: "three", 4: "four"}
STEPS = 12
CELL = 32
"""Side in pixels of the part that shows one thing of a group."""
SHIFTS = 3
"""A thing is looked for up to so many pixels from its usual place."""
DARK, THIN, LEAST = 40, 3, 30
"""What is darker than white by so many levels is a thing, if it has so many pixels left without
those so near to its edge, where it may touch another."""
THINGS = [noun for noun in CORE if not noun.is_scene]


def ink(picture: Bytes) -> Ink:
    """Return what a picture has on white, slightly blurred: (height, width, 3), 0 to 1."""
    dark = 1 - picture.astype(np.float32) / 255
    blurred: Ink = ndimage.gaussian_filter(dark, (0.8, 0.8, 0))
    return blurred


def count(picture: Bytes) -> int:
    """Return how many separate things are on a white picture."""
    dark = ndimage.binary_erosion(255 * ink(picture).max(-1) > DARK, iterations=THIN)
    regions, found = ndimage.label(dark)
    return int((np.bincount(regions.ravel(), minlength=found + 1)[1:] >= LEAST).sum())


class Recogniser:
    """Names the noun whose emoji is most like a part of a picture."""

    def __init__(
        self, cutouts: dict[tuple[str, str], Bytes], side: int, sizes: Sequence[int]
    ) -> None:
        """Look in squares of `side` pixels for emoji of `sizes` pixels."""
        self._side = side
        rows, self._nouns = [], []
        for noun in THINGS:
            for cutout in (cutouts[key] for key in cutouts if key[0] == noun.code):
                for turned in (cutout, cutout[:, ::-1]):
                    for size in sizes:
                        ground = plain("white")[:side, :side]
                        paste(ground, turned, size, (side - size) // 2, (side - size) // 2)
                        rows.append(self._unit(ink(ground.astype(np.uint8)).ravel()))
                        self._nouns.append(noun)
        self._templates = np.stack(rows)

    @staticmethod
    def _unit(vector: Ink) -> Ink:
        return vector / max(1e-6, float(np.linalg.norm(vector)))

    def name(self, picture: Bytes, x: int, y: int) -> Noun:
        """Return the noun in the square around (x, y), in pixels."""
        margin = SHIFTS + self._side
        wide = np.pad(ink(picture), ((margin, margin), (margin, margin), (0, 0)))
        left, top = (at + margin - self._side // 2 for at in (x, y))
        crops = [
            self._unit(wide[top + dy :, left + dx :][: self._side, : self._side].ravel())
            for dy in range(-SHIFTS, SHIFTS + 1)
            for dx in range(-SHIFTS, SHIFTS + 1)
        ]
        likeness = (self._templates @ np.stack(crops).T).max(1)
        return self._nouns[int(likeness.argmax())]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the nouns that its picture should show, in order."""

    prompt: str
    nouns: tuple[Noun, ...]


def _with_article(noun: Noun) -> str:
    word = noun.words[0]
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def questions(groups: int, singles: int) -> dict[str, list[Question]]:
    """Return prompts of single things, and `groups` of each kind of group."""
    random = np.random.default_rng(2026)
    asked = {
        "single": [Question(_with_article(noun), (noun,)) for noun in THINGS[:singles]],
        "pair": [],
        "many": [],
    }
    for number in range(groups):
        one, other = (THINGS[int(at)] for at in random.choice(len(THINGS), 2, replace=False))
        text = f"{_with_article(one)} and {_with_article(other)}"
        asked["pair"].append(Question(text, (one, other)))
        copies = 2 + number % 3
        text = f"{WORDS[copies]} {plural(one.words[0])}"
        asked["many"].append(Question(text, (one,) * copies))
    return asked


class Judge:
    """Compares pictures with what their prompts name."""

    def __init__(self, cutouts: dict[tuple[str, str], Bytes]) -> None:
        self._large = Recogniser(cutouts, SIZE, (54, 58))
        self._small = Recogniser(cutouts, CELL, (26, 28, 30))

    def verdict(self, question: Question, picture: Bytes) -> dict[str, bool]:
        """Return what is right in a picture, by the name of the figure."""
        wanted = question.nouns
        if len(wanted) == 1:
            return {"noun": self._large.name(picture, SIZE // 2, SIZE // 2) == wanted[0]}
        found = [self._small.name(picture, x, y) for x, y in CENTRES[len(wanted)]]
        right = [one == other for one, other in zip(found, wanted, strict=True)]
        number = count(picture) == len(wanted)
        if len({noun.code for noun in wanted}) == 1:
            return {
                "number": number,
                "nouns": all(right),
                "most nouns": sum(right) * 2 > len(right),
            }
        either = {noun.code for noun in found} == {noun.code for noun in wanted}
        return {
            "first": right[0], "second": right[1], "both": all(right), "any order": either,
            "number": number,
        }  # fmt: skip


def drawn(model: Path, prompts: list[str], seeds: range, threads: int) -> list[Bytes]:
    """Return a model's pictures, all seeds of the first prompt first."""
    from gpu_worker.pipeline import Pipeline  # noqa: PLC0415

    pipeline = Pipeline(
        Settings(
            horde_url="",
            horde_api_key="",
            worker_name="",
            model_dir=model,
            device="cpu",
            torch_threads=threads,
            max_batch=8,
        )
    )
    jobs = [job(prompt, seed, SIZE, STEPS) for prompt in prompts for seed in seeds]
    return [np.asarray(image.convert("RGB")) for image in pipeline.draw(jobs)]


def ideal(cutouts: dict[tuple[str, str], Bytes], question: Question, seed: int) -> Bytes:
    """Return a training picture for a prompt."""
    random = np.random.default_rng(seed)
    many = len(question.nouns) > 1
    side = int(random.integers(27, 32) if many else random.integers(56, 60))
    ground: Floats = plain("white")
    for noun, (x, y) in zip(
        question.nouns, CENTRES[len(question.nouns)] if many else [(32, 32)], strict=True
    ):
        left, top = (int(np.clip(at - side // 2, 0, SIZE - side)) for at in (x, y))
        paste(ground, cutouts[noun.code, "3d"], side, left, top)
    return np.clip(ground, 0, 255).astype(np.uint8)


def variety(pictures: list[Bytes], seeds: int) -> float:
    """Return the mean difference between two seeds of a prompt, in levels of 255."""
    apart = [
        np.abs(pictures[start + one].astype(float) - pictures[start + other]).mean()
        for start in range(0, len(pictures), seeds)
        for one in range(seeds)
        for other in range(one)
    ]
    return float(np.mean(apart))


def main() -> None:
    """Print the figures of a model."""
    from gpu_worker.train.export import SHIPPED  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--groups", type=int, default=48, help="prompts of each kind of group")
    parser.add_argument("--singles", type=int, default=len(THINGS), help="prompts of one thing")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ceiling", action="store_true", help="measure training pictures")
    parser.add_argument("--sheet", type=Path, help="prefix of contact sheets to write")
    args = parser.parse_args()
    cutouts = load(args.work / "data")
    judge = Judge(cutouts)
    seeds = range(args.seed, args.seed + args.seeds)
    for kind, asked in questions(args.groups, args.singles).items():
        each = [question for question in asked for _ in seeds]
        if args.ceiling:
            pictures = [ideal(cutouts, one, number) for number, one in enumerate(each)]
        else:
            pictures = drawn(args.model, [one.prompt for one in asked], seeds, args.threads)
        verdicts = [judge.verdict(*pair) for pair in zip(each, pictures, strict=True)]
        names = list(verdicts[0])
        figures = [f"{name} {np.mean([one[name] for one in verdicts]):.0%}" for name in names]
        print(
            f"{kind}: {', '.join(figures)} of {len(each)}; "
            f"variety {variety(pictures, args.seeds) if args.seeds > 1 else 0:.1f}",
            flush=True,
        )
        if args.sheet:
            marks = ["".join("+-"[not right] for right in one.values()) for one in verdicts]
            shown = [
                (f"{one.prompt} {mark}", Image.fromarray(picture).resize((96, 96)))
                for one, mark, picture in zip(each, marks, pictures, strict=True)
            ]
            sheet(shown, 12).save(f"{args.sheet}-{kind}.png")


if __name__ == "__main__":
    main()

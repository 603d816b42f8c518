"""Fitting an aesthetic scorer to the images and ratings of a copy, and measuring it.

The scorer is what the report measures: it has seen no image that is held out. Everything follows
from the copy, the options and the seed, so a second run writes the same bytes.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from horde_dataset import (
    embeddings,
    figures,
    files,
    graph,
    pictures,
    plain,
    ratings,
    ridge,
    split,
    tables,
    vision,
)
from horde_dataset.card import card
from horde_dataset.embeddings import Task
from horde_dataset.errors import DatasetError, shown
from horde_dataset.figures import Floats, Interval, Ints
from horde_dataset.graph import Embedder
from horde_dataset.manifest import Manifest
from horde_dataset.pictures import PLACE, Place
from horde_dataset.ratings import Rated, Ratings

LEAST = 50
"""Fewest rated images that anything is learned from."""
SCORER, CARD, REPORT, PLOT = "scorer.onnx", "scorer.md", "report.json", "held-out.png"


@dataclass(frozen=True)
class Options:
    """How a scorer is fitted."""

    embedder: str = "plain"
    """``plain``, or ``onnx:FILE[:SIZE]``: a vision model, and pixels of a side."""
    held_out: float = 0.2
    """Which share of the images is held out, in whole groups."""
    seed: int = 0
    least: int = 3
    """Fewest ratings of an image."""
    own: bool = False
    """Whether authors' ratings of their own images count."""
    tables: tuple[Path, ...] = ()
    """Further tables of ratings."""
    mean: vision.Triple = vision.CLIP_MEAN
    std: vision.Triple = vision.CLIP_STD


@dataclass(frozen=True)
class Report:
    """What was fitted, and what it is worth on the images that are held out."""

    release: str
    version: str
    embedder: str
    dimension: int
    images: int
    held_out: int
    groups: int
    ratings: int
    least: int
    seed: int
    strength: float
    correlation: Interval
    cross_validated: float
    """Rank correlation on a fifth of the other images, of a head that had not seen it; the mean."""
    ceiling: float | None
    error: float
    """Mean distance of scores from mean ratings."""
    baseline_error: float
    """The same of the one score that fits the other images best: their mean."""
    left_out: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as it is written."""
        found: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        interval = self.correlation
        return {
            **found,
            "correlation": {"value": interval.value, "low": interval.low, "high": interval.high},
        }

    def summary(self) -> str:
        """Return what is printed."""
        lines = [
            ("release", self.release),
            ("scorer", self.version),
            ("images", f"{self.images:,}, {self.held_out:,} of them held out"),
            ("ratings", f"{self.ratings:,}"),
            *(
                (f"  left out: {shown(why)}", f"{number:,}")
                for why, number in self.left_out.items()
            ),
            ("rank correlation", f"{self.correlation} on the held-out images"),
            ("highest possible", "unknown" if self.ceiling is None else f"{self.ceiling:.2f}"),
            ("mean error", f"{self.error:.2f}; the mean alone has {self.baseline_error:.2f}"),
        ]
        wide = max(len(name) for name, _ in lines) + 2
        return "\n".join(f"{name:<{wide}}{value}" for name, value in lines)


@dataclass(frozen=True)
class _Data:
    """Rated images with their embeddings, in the order of their ids."""

    rated: list[Rated]
    keys: list[tuple[str, str, str]]
    """Request, prompt and SHA-256 of each."""
    embeddings: Floats

    @property
    def means(self) -> Floats:
        return np.array([one.mean for one in self.rated])

    @property
    def numbers(self) -> Ints:
        return np.array([one.number for one in self.rated], np.int64)

    @property
    def spreads(self) -> Floats:
        return np.array([np.nan if one.spread is None else one.spread for one in self.rated])


def train(folder: Path, target: Path, options: Options) -> Report:
    """Fit a scorer; write it, its card, the plot and the figures to a folder. Raises DatasetError.

    Embeddings are kept there too, so that an interrupted run goes on.
    """
    copy = pictures.opened(folder)
    found = ratings.read(folder, copy, options.tables, least=options.least, own=options.own)
    _enough(found.images, found.left_out)
    embedder = embedder_of(options)
    data, left_out = _embedded(folder, target, copy, found, embedder)
    _enough(data.rated, left_out)
    if np.ptp(data.means) == 0:
        raise DatasetError("all images have the same rating: there is nothing to learn")
    group, names = split.groups(data.keys)
    out = split.held_out(group, names, options.held_out, options.seed)
    _measurable(group, out)
    folds = split.folds(group[~out], names, ridge.FOLDS, options.seed)
    fitted = ridge.fit(
        data.embeddings[~out], data.means[~out], data.numbers[~out].astype(float), folds
    )
    predicted, truth = fitted.head.predict(data.embeddings[out]), data.means[out]
    model = graph.scorer(embedder, fitted.head, copy.release)
    versions = {one.key: one.value for one in model.metadata_props}
    mean = float(np.average(data.means[~out], weights=data.numbers[~out]))
    _, own_groups = np.unique(group[out], return_inverse=True)
    report = Report(
        release=copy.release,
        version=versions["aesthetic_version"],
        embedder=embedder.about,
        dimension=data.embeddings.shape[1],
        images=len(data.rated),
        held_out=int(out.sum()),
        groups=len(names),
        ratings=int(data.numbers.sum()),
        least=options.least,
        seed=options.seed,
        strength=fitted.strength,
        correlation=figures.interval(predicted, truth, own_groups.astype(np.int64), options.seed),
        cross_validated=fitted.cross_validated,
        ceiling=figures.ceiling(
            data.means, data.numbers, data.spreads, data.numbers[out], options.seed
        ),
        error=float(np.abs(predicted - truth).mean()),
        baseline_error=float(np.abs(mean - truth).mean()),
        left_out=left_out,
    )
    _write(target, graph.packed(model), report, predicted, truth)
    return report


def embedder_of(options: Options) -> Embedder:
    """Return the embedder that a command line names. Raises DatasetError."""
    if options.embedder == "plain":
        return plain.embedder()
    kind, _, rest = options.embedder.partition(":")
    if kind != "onnx" or not rest:
        raise DatasetError(f"{shown(options.embedder)!r} is neither plain nor onnx:FILE[:SIZE]")
    sized = re.fullmatch(r"(.+):(\d{1,5})", rest)
    path, size = (sized[1], int(sized[2])) if sized else (rest, None)
    if size is not None and not 8 <= size <= vision.MAX_SIZE:  # noqa: PLR2004
        raise DatasetError(f"{size} pixels are not between 8 and {vision.MAX_SIZE}")
    return vision.embedder(vision.Vision(Path(path), size, options.mean, options.std))


def _enough(rated: Sequence[Rated], left_out: dict[str, int]) -> None:
    if len(rated) < LEAST:
        lost = "; ".join(f"left out: {number:,} {why}" for why, number in left_out.items())
        raise DatasetError(
            f"{len(rated)} images have enough ratings, and fewer than {LEAST} teach nothing"
            + (f" ({shown(lost)})" if lost else "")
        )


def _measurable(group: Ints, out: "np.ndarray[Any, np.dtype[np.bool_]]") -> None:
    sizes = [len(np.unique(group[half])) for half in (out, ~out)]
    if min(sizes) < split.LEAST:
        raise DatasetError(
            f"{int(out.sum())} images of {sizes[0]} groups would be held out, and {sizes[1]} "
            f"groups be left: both need {split.LEAST} (a request or prompt is one group)"
        )


def _embedded(
    folder: Path, target: Path, copy: Manifest, found: Ratings, embedder: Embedder
) -> tuple[_Data, dict[str, int]]:
    model = embeddings.Model(graph.packed(embedder.model), graph.EMBEDDING, embedder.name)
    dimension, key = embeddings.dimension_of(model), embedder.key()
    cache = embeddings.Cache(target / f"embeddings-{key.hex()[:12]}.cache", key, dimension)
    places, keys = _places(folder, [one.image for one in found.images])
    problems: Counter[str] = Counter()
    rows = {}
    try:
        for task, row in embeddings.each(
            model, cache, folder, copy.layout, places, problems, total=len(places), what="train"
        ):
            if row is not None:
                rows[task.place.image] = row
    finally:
        cache.close()
    rated = [one for one in found.images if one.image in rows]
    matrix = np.array([rows[one.image] for one in rated], float).reshape(len(rated), -1)
    lost = {f"images: {why}": number for why, number in sorted(problems.items())}
    return _Data(rated, [keys[one.image] for one in rated], matrix), {**found.left_out, **lost}


def _places(folder: Path, ids: Sequence[str]) -> tuple[list[Task], dict[str, tuple[str, str, str]]]:
    """Return the images with some ids in the order of the tars, and what groups them."""
    columns = f"{PLACE}, coalesce(sha256::VARCHAR, ''), coalesce(set::VARCHAR, ''), {_PROMPT}"
    tasks, keys = [], {}
    for image, shard, offset, size, sha256, request, prompt in tables.select(
        folder / "metadata.parquet", ids, columns
    ):
        if image not in keys:
            tasks.append(Task(Place(image, shard, offset, size), sha256))
            keys[image] = (request, prompt, sha256)
    return tasks, keys


_PROMPT = "CASE WHEN trim(prompt) <> '' THEN md5(lower(trim(prompt))) ELSE '' END"


def _write(target: Path, scorer: bytes, report: Report, predicted: Floats, truth: Floats) -> None:
    from horde_dataset import plots  # noqa: PLC0415 - matplotlib takes half a second

    title = f"Held-out images: rank correlation {report.correlation}"
    drawn = target / PLOT
    plots.predictions(files.unfinished(drawn), title, predicted.tolist(), truth.tolist())
    files.finish(drawn)
    files.write(target / SCORER, scorer)
    files.write(target / CARD, card(report).encode())
    text = json.dumps(report.as_json(), ensure_ascii=False, indent=1, sort_keys=True)
    files.write(target / REPORT, f"{text}\n".encode())

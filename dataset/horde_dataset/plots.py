"""The plots of a copy's numbers, one PNG each."""

import datetime as dt
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from horde_dataset.errors import shown

Rows = list[tuple[Any, ...]]
SIZE_IN = (8.0, 4.5)
DPI = 150
COLOUR, QUIET, INK, ACCENT = "#2f6f9f", "#e6e6e6", "#333333", "#c8553d"
TOP = 15
LONGEST_NAME = 40
MAX_DAYS = 7
"""Most days that are named."""
FEW = 31
"""Up to so many days are bars, more are a line."""


@contextmanager
def figure(path: Path, title: str, x: str, y: str) -> Iterator[Axes]:
    """Make a figure of one plot, and save it."""
    made = Figure(figsize=SIZE_IN, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
    FigureCanvasAgg(made)
    axes = made.add_subplot()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=12)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(length=0, colors=INK)
    axes.grid(axis="y", color=QUIET)
    axes.set_axisbelow(True)
    yield axes
    made.savefig(path, format="png")


def _whole_numbers(axis: Any) -> None:
    axis.set_major_locator(ticker.MaxNLocator(integer=True))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _plain(text: object) -> str:
    """Return a name that matplotlib takes for no formula."""
    name = shown(text)
    name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return name.replace("$", r"\$")


def days(path: Path, rows: Rows) -> None:
    """Draw the images of each day; days without images are zero."""
    counts = {dt.date.fromisoformat(day): number for day, number in rows}
    first, last = min(counts), max(counts)
    every = [first + dt.timedelta(n) for n in range((last - first).days + 1)]
    heights = [counts.get(day, 0) for day in every]
    x = [(day - dt.date(1970, 1, 1)).days for day in every]  # matplotlib counts so
    with figure(path, "Images a day", "day of delivery (UTC)", "images") as axes:
        if len(every) <= FEW:
            axes.bar(x, heights, color=COLOUR, width=min(0.8, 0.12 * len(every)))
            axes.set_xlim(x[0] - 0.7, x[-1] + 0.7)
        else:
            axes.plot(x, heights, color=COLOUR, linewidth=1.8)
            axes.fill_between(x, heights, color=COLOUR, alpha=0.15)
        axes.set_ylim(bottom=0)
        apart = math.ceil(len(x) / MAX_DAYS)
        axes.set_xticks(x[::apart], [str(day) for day in every[::apart]])
        _whole_numbers(axes.yaxis)


def _histogram(axes: Axes, rows: Rows, low: float, high: float, bins: int) -> None:
    """Draw weighted counts; what lies outside counts at the edge."""
    values = [min(max(float(value), low), high) for value, _ in rows]
    weights = [number for _, number in rows]
    axes.hist(
        values, bins=bins, range=(low, high), weights=weights, color=COLOUR, edgecolor="white"
    )
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    _whole_numbers(axes.yaxis)


def prompt_lengths(path: Path, rows: Rows) -> None:
    """Draw how long prompts are, up to what all but one in a hundred have."""
    total, so_far, high = sum(number for _, number in rows), 0, 10
    for length, number in rows:
        so_far += number
        high = max(10, int(length))
        if so_far >= 0.99 * total:
            break
    bins = min(40, high)
    with figure(path, "Prompt lengths", "characters", "images") as axes:
        _histogram(axes, rows, 0, high, bins)


def _bars(path: Path, title: str, named: list[tuple[str, int]]) -> None:
    """Draw horizontal bars with their numbers, most at the top."""
    with figure(path, title, "images", "") as axes:
        names = [name for name, _ in named][::-1]
        numbers = [number for _, number in named][::-1]
        places = list(range(len(names)))
        bars = axes.barh(places, numbers, color=COLOUR, height=min(0.75, 0.2 * len(names)))
        axes.set_yticks(places, names)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.bar_label(bars, [f"{number:,}" for number in numbers], padding=4, color=INK)
        axes.margins(x=0.12)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.set_xlabel("")


def _top(named: list[tuple[str, int]]) -> list[tuple[str, int]]:
    rest = sum(number for _, number in named[TOP:])
    return [*named[:TOP], *([(f"{len(named) - TOP} others", rest)] if rest else [])]


def models(path: Path, rows: Rows) -> None:
    """Draw the images of each model."""
    _bars(path, "Images by model", _top([(_plain(model), number) for model, number in rows]))


def sizes(path: Path, rows: Rows) -> None:
    """Draw the images of each size."""
    named = [
        (f"{width} \N{MULTIPLICATION SIGN} {height}", number) for width, height, number in rows
    ]
    _bars(path, "Images by size in pixels", _top(named))


def nsfw_scores(path: Path, rows: Rows) -> None:
    """Draw the scores of the nsfw filter, from 0 to 1."""
    with figure(path, "NSFW scores", "score of the filter: 0 safe, 1 nsfw", "images") as axes:
        _histogram(axes, rows, 0, 1, 40)


def aesthetic_scores(path: Path, rows: Rows) -> None:
    """Draw the aesthetic scores, from 0 to 10."""
    with figure(path, "Aesthetic scores", "score: 10 is best", "images") as axes:
        _histogram(axes, rows, 0, 10, 40)


def ratings(path: Path, rows: Rows) -> None:
    """Draw how often each rating was given."""
    with figure(path, "Ratings by people", "rating", "ratings") as axes:
        axes.bar([value for value, _ in rows], [number for _, number in rows], color=COLOUR)
        _whole_numbers(axes.xaxis)
        _whole_numbers(axes.yaxis)


def predictions(path: Path, title: str, predicted: list[float], truth: list[float]) -> None:
    """Draw what a scorer says of images against what people said, and the mean of each fifth."""
    both = sorted(zip(predicted, truth, strict=True))
    low, high = min(*predicted, *truth), max(*predicted, *truth)
    room = max(0.2, (high - low) * 0.05)
    with figure(path, title, "score", "mean rating") as axes:
        axes.grid(axis="x", color=QUIET)
        axes.plot([1, 10], [1, 10], color=INK, linewidth=1, linestyle=(0, (4, 4)), alpha=0.5)
        alpha = min(0.6, max(0.08, 60 / len(both)))
        axes.scatter(predicted, truth, s=22, color=COLOUR, alpha=alpha, linewidths=0)
        fifths = [both[n * len(both) // 5 : (n + 1) * len(both) // 5] for n in range(5)]
        means = [
            tuple(sum(side) / len(some) for side in zip(*some, strict=True)) for some in fifths
        ]
        axes.plot(
            [x for x, _ in means], [y for _, y in means], color=ACCENT, marker="o", linewidth=1.8,
            label="mean of each fifth of the scores",
        )  # fmt: skip
        axes.set_xlim(min(predicted) - room, max(predicted) + room)
        axes.set_ylim(min(truth) - room, max(truth) + room)
        axes.legend(loc="upper left", frameon=False, labelcolor=INK)

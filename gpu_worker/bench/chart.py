"""The table and the plot of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpu_worker.bench import svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, LEFT, BAR, RIGHT = 760, 250, 16, 110
COLOURS = {"stock": "#b0b0b0", "ours": "#2a7f62"}

Row = dict[str, Any]
"""`way`, `kind` (stock or ours), `rate` in images/s, `times`, `peak`, `idle`; or None."""


def table(name: str, rows: Sequence[Row]) -> str:
    """Return an architecture's rows as a table of Markdown."""
    lines = [
        f"| {name} | images/s | times | share of peak | idle |",
        "|---|---|---|---|---|",
        *(
            f"| {row['way']} | {row['rate']:.3g} | {row['times']:.2f} | {_share(row['peak'])} "
            f"| {_share(row['idle'])} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def plot(title: str, found: Mapping[str, Sequence[Row]]) -> str:
    """Return bars of images/s, each architecture by its own scale."""
    parts, y = [svg.text(10, 20, title)], 40.0
    for name, rows in found.items():
        most = max(row["rate"] for row in rows)
        parts.append(svg.text(10, y + 12, name))
        y += 22
        for row in rows:
            length = (WIDTH - LEFT - RIGHT) * row["rate"] / most
            parts.append(svg.text(LEFT - 8, y + 12, row["way"], "end"))
            parts.append(svg.bar(LEFT, y, length, BAR - 3, COLOURS[row["kind"]]))
            label = f"{row['rate']:.3g}/s, {row['times']:.2f}x"
            parts.append(svg.text(LEFT + length + 5, y + 11, label))
            y += BAR
        y += 14
    return svg.picture(WIDTH, y, parts)

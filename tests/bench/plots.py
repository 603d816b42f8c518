"""Two plots as SVG, by hand: a library for them would be the largest of all dependencies."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from tests.bench.cost import monthly
from tests.bench.goals import GOALS

MONTHS = (0, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
WIDTH, ROW, LEFT, RIGHT = 720, 22, 130, 70
SCALE = 4.0
"""Times the goal at the right end; a longer bar is cut there."""
GOOD, BAD, INK = "#2a7f62", "#c0504d", "#333333"


def _svg(width: int, height: int, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, style: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" {style}/>'


def goals(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return each row as a bar, in multiples of its goal; the line is the goal."""
    span = WIDTH - LEFT - RIGHT
    parts, y = [_text(LEFT, 16, "multiples of the goal; the line is the goal")], 30
    for goal in GOALS:
        value = rows.get(goal.name, {}).get("value")
        parts.append(_text(LEFT - 8, y + 14, goal.name, "end"))
        if value is not None:
            times = value / goal.most if goal.most else float(value > 0)
            length = span * min(times, SCALE) / SCALE
            colour = GOOD if value <= goal.most + 1e-9 else BAD
            shape = f'x="{LEFT}" y="{y + 3}" width="{max(length, 1):.1f}" height="{ROW - 6}"'
            parts.append(f'<rect {shape} fill="{colour}"/>')
            parts.append(_text(LEFT + length + 5, y + 14, f"{times:.2f}"))
        y += ROW
    at = LEFT + span / SCALE
    parts.append(_line(at, 24, at, y + 4, f'stroke="{INK}" stroke-dasharray="4 3"'))
    return _svg(WIDTH, y + 12, parts)


def dollars(at_rest: float, a_life: float) -> str:
    """Return dollars a month against images a month, both in powers of ten."""
    height, top, bottom = 360, 20, 44
    powers = range(3, 9)
    most = math.ceil(math.log10(monthly(at_rest, a_life, 10 ** powers[-1])))

    def x(images: float) -> float:
        share = (math.log10(images) - powers[0]) / (powers[-1] - powers[0])
        return 70 + share * (WIDTH - 100)

    def y(spent: float) -> float:
        return height - bottom - math.log10(max(spent, 1)) / most * (height - top - bottom)

    grid = 'stroke="#dddddd"'
    parts = []
    for power in powers:
        parts.append(_line(x(10**power), top, x(10**power), height - bottom, grid))
        parts.append(_text(x(10**power), height - bottom + 16, f"{10**power:,}", "middle"))
    for power in range(most + 1):
        parts.append(_line(70, y(10**power), WIDTH - 30, y(10**power), grid))
        parts.append(_text(64, y(10**power) + 4, f"${10**power:,}", "end"))
    steps = [10 ** (powers[0] + step / 10) for step in range(10 * (powers[-1] - powers[0]) + 1)]
    points = " ".join(f"{x(n):.1f},{y(monthly(at_rest, a_life, n)):.1f}" for n in steps)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{GOOD}" stroke-width="2.5"/>')
    parts.append(_text(WIDTH / 2, height - 8, "shared images a month", "middle"))
    return _svg(WIDTH, height, parts)

"""Two plots as SVG."""

import math
from collections.abc import Mapping
from typing import Any

from gpu_worker.bench import svg
from tests.bench.cost import monthly
from tests.bench.goals import GOALS

MONTHS = (0, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
WIDTH, ROW, LEFT, RIGHT = 720, 22, 130, 70
SCALE = 4.0
"""Times the goal at the right end; a longer bar is cut there."""
GOOD, BAD = "#2a7f62", "#c0504d"


def goals(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return each row as a bar, in multiples of its goal; the line is the goal."""
    span = WIDTH - LEFT - RIGHT
    parts, y = [svg.text(LEFT, 16, "multiples of the goal; the line is the goal")], 30
    for goal in GOALS:
        value = rows.get(goal.name, {}).get("value")
        parts.append(svg.text(LEFT - 8, y + 14, goal.name, "end"))
        if value is not None:
            times = value / goal.most if goal.most else float(value > 0)
            length = span * min(times, SCALE) / SCALE
            colour = GOOD if value <= goal.most + 1e-9 else BAD
            parts.append(svg.bar(LEFT, y + 3, length, ROW - 6, colour))
            parts.append(svg.text(LEFT + length + 5, y + 14, f"{times:.2f}"))
        y += ROW
    at = LEFT + span / SCALE
    parts.append(svg.line(at, 24, at, y + 4, f'stroke="{svg.INK}" stroke-dasharray="4 3"'))
    return svg.picture(WIDTH, y + 12, parts)


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
        parts.append(svg.line(x(10**power), top, x(10**power), height - bottom, grid))
        parts.append(svg.text(x(10**power), height - bottom + 16, f"{10**power:,}", "middle"))
    for power in range(most + 1):
        parts.append(svg.line(70, y(10**power), WIDTH - 30, y(10**power), grid))
        parts.append(svg.text(64, y(10**power) + 4, f"${10**power:,}", "end"))
    steps = [10 ** (powers[0] + step / 10) for step in range(10 * (powers[-1] - powers[0]) + 1)]
    points = " ".join(f"{x(n):.1f},{y(monthly(at_rest, a_life, n)):.1f}" for n in steps)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{GOOD}" stroke-width="2.5"/>')
    parts.append(svg.text(WIDTH / 2, height - 8, "shared images a month", "middle"))
    return svg.picture(WIDTH, height, parts)

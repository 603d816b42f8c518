"""The plot of the comparison as SVG, by hand, as those of ``tests/bench/plots.py``."""

from collections.abc import Callable, Mapping
from html import escape

from infra.simulate.fleet import Result

WIDTH, LEFT, GAP, BAR = 760, 120, 60, 14
SPAN = (WIDTH - LEFT - 2 * GAP) / 2
COLOURS = ("#b0b0b0", "#d99a4e", "#2a7f62")
INK = "#333333"
PANELS: tuple[tuple[str, Callable[[Result], float]], ...] = (
    ("GPU seconds", lambda found: found.gpu_s),
    ("seconds that 95 % of images wait at most", lambda found: found.wait(0.95)),
)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(x: float, y: float, width: float, colour: str) -> str:
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{BAR - 2}"'
    return f'<rect {shape} fill="{colour}"/>'


def svg(results: Mapping[str, Mapping[str, Result]]) -> str:
    """Return bars of each load and way, in two panels, each by its own scale."""
    parts, ways = list[str](), list(next(iter(results.values())))
    for number, way in enumerate(ways):
        x = LEFT + number * 200.0
        parts += [_bar(x, 10, BAR, COLOURS[number]), _text(x + BAR + 5, 21, way)]
    height = 64.0
    for panel, (title, value) in enumerate(PANELS):
        left = LEFT + panel * (SPAN + GAP)
        most = max(value(found) for load in results.values() for found in load.values())
        parts.append(_text(left, 48, title))
        y = 64.0
        for load, found in results.items():
            if not panel:
                parts.append(_text(LEFT - 8, y + 1.5 * BAR + 4, load.split(":")[0], "end"))
            for colour, way in zip(COLOURS, ways, strict=True):
                length = SPAN * value(found[way]) / most
                parts.append(_bar(left, y, length, colour))
                parts.append(_text(left + length + 4, y + BAR - 3, f"{value(found[way]):,.0f}"))
                y += BAR
            y += BAR
        height = y
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    ground = f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>"]) + "\n"

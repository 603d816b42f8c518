"""The plot of the comparison as SVG."""

from collections.abc import Callable, Mapping

from gpu_worker.bench import svg
from infra.simulate.fleet import Result

WIDTH, LEFT, GAP, BAR = 760, 120, 60, 14
SPAN = (WIDTH - LEFT - 2 * GAP) / 2
COLOURS = ("#b0b0b0", "#d99a4e", "#2a7f62")
PANELS: tuple[tuple[str, Callable[[Result], float]], ...] = (
    ("GPU seconds", lambda found: found.gpu_s),
    ("seconds that 95 % of images wait at most", lambda found: found.wait(0.95)),
)


def plotted(results: Mapping[str, Mapping[str, Result]]) -> str:
    """Return bars of each load and way, in two panels, each by its own scale."""
    parts, ways = list[str](), list(next(iter(results.values())))
    for number, way in enumerate(ways):
        x = LEFT + number * 200.0
        parts += [svg.bar(x, 10, BAR, BAR - 2, COLOURS[number]), svg.text(x + BAR + 5, 21, way)]
    height = 64.0
    for panel, (title, value) in enumerate(PANELS):
        left = LEFT + panel * (SPAN + GAP)
        most = max(value(found) for load in results.values() for found in load.values())
        parts.append(svg.text(left, 48, title))
        y = 64.0
        for load, found in results.items():
            if not panel:
                parts.append(svg.text(LEFT - 8, y + 1.5 * BAR + 4, load.split(":")[0], "end"))
            for colour, way in zip(COLOURS, ways, strict=True):
                length = SPAN * value(found[way]) / most
                parts.append(svg.bar(left, y, length, BAR - 2, colour))
                parts.append(svg.text(left + length + 4, y + BAR - 3, f"{value(found[way]):,.0f}"))
                y += BAR
            y += BAR
        height = y
    return svg.picture(WIDTH, height, parts)

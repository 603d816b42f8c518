"""The shapes of a plot as SVG, by hand: a library for them would be our largest dependency.

Lengths and places are in pixels, from the upper left corner.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

INK = "#333333"
"""The colour of texts."""


def picture(width: int, height: float, shapes: Iterable[str]) -> str:
    """Return a whole file: the shapes on a white ground."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    ground = f'<rect width="{width}" height="{height:.0f}" fill="white"/>'
    return "\n".join([head, ground, *shapes, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Return a line of text on the base line `y`; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return a filled rectangle, at least a pixel wide."""
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}"'
    return f'<rect {shape} fill="{colour}"/>'


def line(x: float, y: float, to_x: float, to_y: float, style: str) -> str:
    """Return a line; `style` has its attributes."""
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" {style}/>'

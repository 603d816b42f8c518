"""The contact sheet of a release: some of its images, to look at."""

import io
from collections.abc import Sequence

from PIL import Image

CELL, ACROSS, MOST = 160, 10, 60
"""Pixels of a side of a cell, cells in a row, and most images."""
GAP = 4


def spread(count: int, most: int = MOST) -> list[int]:
    """Return up to ``most`` numbers below ``count``, evenly spread."""
    if count <= most:
        return list(range(count))
    return [number * count // most for number in range(most)]


def sheet(files: Sequence[bytes]) -> bytes:
    """Return a WebP image with the given ones as thumbnails, in rows; one that is broken is grey.

    Raises ValueError for no image.
    """
    if not files:
        raise ValueError("a contact sheet needs an image")
    across = min(ACROSS, len(files))
    down = -(-len(files) // across)
    step = CELL + GAP
    page = Image.new("RGB", (across * step + GAP, down * step + GAP), "white")
    for number, file in enumerate(files):
        left, top = GAP + number % across * step, GAP + number // across * step
        page.paste(_thumbnail(file), (left, top))
    out = io.BytesIO()
    page.save(out, "WEBP", quality=80)
    return out.getvalue()


def _thumbnail(file: bytes) -> Image.Image:
    cell = Image.new("RGB", (CELL, CELL), "lightgrey")
    try:
        with Image.open(io.BytesIO(file), formats=("WEBP",)) as picture:
            picture.thumbnail((CELL, CELL))
            shown = picture.convert("RGB")
    except OSError:
        return cell
    cell.paste(shown, ((CELL - shown.width) // 2, (CELL - shown.height) // 2))
    return cell

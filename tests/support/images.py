"""Images that nobody had to draw: what workers upload, and what clients send.

Real files, as Pillow writes them: an upload has the asked size and is never of one colour.
"""

import base64
import io
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

SIDE = 512
"""Width and height of a usual image in pixels."""


@cache
def webp(
    colour: str = "red", width: int = SIDE, height: int | None = None, **options: Any
) -> bytes:
    """Return a WebP file as workers upload them: a disc on a coloured ground.

    ``options`` are the encoder's, such as ``lossless``. Without ``height`` it is square.
    """
    out = io.BytesIO()
    drawn(colour, width, height or width).save(
        out, "WEBP", **{"quality": 95, "method": 0, **options}
    )
    return out.getvalue()


def drawn(colour: str = "red", width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Return a picture with more than one colour, which codes to few bytes."""
    image = Image.new("RGB", (width, height), colour)
    box = (width // 4, height // 4, width // 4 * 3, height // 4 * 3)
    ImageDraw.Draw(image).ellipse(box, fill="gray")
    return image


def png_base64(size: tuple[int, int] = (64, 64), colour: str = "blue") -> str:
    """Return a PNG of one colour, as clients send source images."""
    return encoded(Image.new("RGB", size, colour))


def encoded(image: Image.Image) -> str:
    """Return an image as a PNG in base64."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()

"""Images that nobody had to draw: what workers upload, and what clients send.

Real files, as Pillow writes them; a GPU worker's are larger and never of one colour.
"""

import base64
import io

from PIL import Image


def webp(colour: str = "red", side: int = 64) -> bytes:
    """Return a WebP file, as workers upload them; ``side`` is in pixels."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "WEBP")
    return out.getvalue()


def png_base64(size: tuple[int, int] = (64, 64), colour: str = "blue") -> str:
    """Return a PNG of one colour, as clients send source images."""
    return encoded(Image.new("RGB", size, colour))


def encoded(image: Image.Image) -> str:
    """Return an image as a PNG in base64."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()

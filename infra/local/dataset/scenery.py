"""Pictures that no model had to draw: landscapes, another one for each number."""

import base64
import colorsys
import io
import math
import random

from PIL import Image, ImageDraw

SIZES = ((256, 256), (320, 192), (192, 320), (256, 192), (192, 256))
"""Width and height in pixels; multiples of 64, as requests must have them."""
QUALITY = 95
LISTED_QUALITY = 80
"""Of a second encoding of the same picture."""
HILLS = 4


def landscape(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a sky, a sun and some hills."""
    chance = random.Random(number)  # noqa: S311 - pictures
    width, height = size
    hue = chance.random()
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    for y in range(height):
        draw.line((0, y, width, y), _colour(hue + 0.12 * y / height, 0.5, 1 - 0.35 * y / height))
    radius, x = chance.randint(width // 16, width // 6), chance.randint(0, width)
    y = chance.randint(height // 8, height // 2)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), _colour(hue + 0.5, 0.25, 1))
    for hill in range(HILLS):
        top = height * (0.45 + 0.13 * hill)
        bend, phase = chance.uniform(1, 4), chance.uniform(0, 6)
        line = [
            (x, top + height / 10 * math.sin(phase + bend * x / width * math.pi))
            for x in range(0, width + 4, 4)
        ]
        shade = _colour(hue + 0.3 + 0.05 * hill, 0.55, 0.75 - 0.15 * hill)
        draw.polygon([(0, height), *line, (width, height)], shade)
    return image


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def chequers(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a pattern of coarse random fields, which looks like no other."""
    chance = random.Random(number)  # noqa: S311 - pictures
    fields = Image.frombytes("L", (9, 8), chance.randbytes(72))
    return fields.resize(size, Image.Resampling.BICUBIC).convert("RGB")


def webp(image: Image.Image, quality: int = QUALITY) -> bytes:
    """Return a picture as workers upload it."""
    out = io.BytesIO()
    image.save(out, "WEBP", quality=quality, method=0)
    return out.getvalue()


def png_base64(image: Image.Image) -> str:
    """Return a picture as clients send it."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()

"""Pixels in and out, without torch: source images, the WebP that is uploaded, the placeholder."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from gpu_worker.horde_client import BadJobError

SOURCE_PIXELS = 3072 * 3072
"""Largest source image that is decoded: the Horde's own limit."""
SOURCE_FORMATS = ("WEBP", "PNG", "JPEG")
"""Pillow's other decoders are never given a stranger's bytes."""
WEBP_QUALITY = 95
"""What every horde worker uploads."""


def decode_source(data: bytes, width: int, height: int) -> Image.Image:
    """Read the source image as RGB in the size of the drawing. Raises BadJobError."""
    return _decode(data).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def decode_painting(data: bytes, mask: bytes | None, width: int, height: int) -> Image.Image:
    """Read a source image that is painted anew in part: RGBA, opaque where it is kept.

    `mask` is white where it is painted; without one the image's own transparency says so. Raises
    BadJobError.
    """
    source = _decode(data).convert("RGBA")
    keep = ImageOps.invert(_decode(mask).convert("L")) if mask else source.getchannel("A")
    # Colour and mask apart: resizing RGBA would mix hidden colours in at the edges.
    image = source.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    image.putalpha(keep.resize((width, height), Image.Resampling.BILINEAR))
    return image


def _decode(data: bytes) -> Image.Image:
    try:
        # The header alone is read here, so a bomb is refused before it is unpacked.
        with Image.open(io.BytesIO(data), formats=SOURCE_FORMATS) as image:
            if image.width * image.height > SOURCE_PIXELS:
                message = f"the source image is larger than {SOURCE_PIXELS} pixels"
                raise BadJobError(message)
            image.load()
            return image
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        message = "the source image is unreadable"
        raise BadJobError(message) from error


def encode_webp(image: Image.Image) -> bytes:
    """Encode the image for its upload: no EXIF, no prompt, nothing but pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def is_blank(image: Image.Image) -> bool:
    """One colour all over: what NaN in the latents ends as. No decoder draws that by intent."""
    return all(
        low == high for low, high in (band.getextrema() for band in image.convert("RGB").split())
    )


def censored(width: int, height: int) -> Image.Image:
    """Make what is delivered instead of an image that the client asked not to see."""
    image = Image.new("RGB", (width, height), (24, 24, 24))
    ImageDraw.Draw(image).text(
        (width / 2, height / 2), "censored", fill=(200, 200, 200), anchor="mm", font_size=12
    )
    return image

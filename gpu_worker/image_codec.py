"""Decode source images, encode WebP and make the placeholder of censored images; without torch."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from gpu_worker.horde_client import BadJobError

MAX_SOURCE_PIXELS = 3072 * 3072
"""Largest source image that is decoded, which is the Horde's limit (horde-api.md 3.7)."""
SOURCE_FORMATS = ("WEBP", "PNG", "JPEG")
"""Pillow's other decoders never get untrusted data."""
WEBP_QUALITY = 95
"""The quality that the Horde's workers use (horde-clients.md 1.1)."""


def decode_source(data: bytes, width: int, height: int) -> Image.Image:
    """Return a source image as RGB, resized to `width` x `height` pixels; raises BadJobError."""
    return _decode(data).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def decode_painting(data: bytes, mask: bytes | None, width: int, height: int) -> Image.Image:
    """Return a source image for painting, as RGBA that is opaque where the image is kept.

    The result is resized to `width` x `height` pixels. `mask` is white where the image is
    repainted; without a mask, its transparent part is. Raises BadJobError.
    """
    source = _decode(data).convert("RGBA")
    keep = ImageOps.invert(_decode(mask).convert("L")) if mask else source.getchannel("A")
    # Resize colour and mask separately: RGBA would mix hidden colours into the edges.
    image = source.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    image.putalpha(keep.resize((width, height), Image.Resampling.BILINEAR))
    return image


def _decode(data: bytes) -> Image.Image:
    try:
        # This reads only the header, so a decompression bomb is refused before it is decoded.
        with Image.open(io.BytesIO(data), formats=SOURCE_FORMATS) as image:
            if image.width * image.height > MAX_SOURCE_PIXELS:
                message = f"the source image is larger than {MAX_SOURCE_PIXELS} pixels"
                raise BadJobError(message)
            image.load()
            return image
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        message = "the source image is unreadable"
        raise BadJobError(message) from error


def encode_webp(image: Image.Image) -> bytes:
    """Return the image as a WebP file with pixels only: no EXIF and no prompt."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def is_blank(image: Image.Image) -> bool:
    """Return whether an image has a single colour, which is how NaN in the latents decodes."""
    return all(
        low == high for low, high in (band.getextrema() for band in image.convert("RGB").split())
    )


def censored(width: int, height: int) -> Image.Image:
    """Return the placeholder that is delivered instead of a censored image."""
    image = Image.new("RGB", (width, height), (24, 24, 24))
    ImageDraw.Draw(image).text(
        (width / 2, height / 2), "censored", fill=(200, 200, 200), anchor="mm", font_size=12
    )
    return image

"""Images in the private buckets: source images, what workers upload, and what is delivered.

A worker uploads to ``uploads/`` in the outputs bucket, by a presigned URL that stays usable after
its submit. So nothing but the submit reads an upload: it checks the file (``checked``) and stores
what it accepts under a key that names its content, in ``shared/`` or ``private/``. Requester and
data set get that copy. The sources bucket holds ``<request>_src.webp`` and ``<request>_msk.webp``.
Objects in both buckets expire after a day, but for a file in ``shared/`` whose copy into the data
set was lost: ``recover`` has that one copied.
"""

import base64
import binascii
import hashlib
import io
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from horde import outbound, webp
from horde.rules.refusals import ImageRefused, ImageValidationFailed
from horde.wire.seam import AwsError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from PIL.Image import Image

    from horde.webp import Still

URL_SECONDS = 1800
"""Lifetime of every presigned URL, in seconds (horde-api.md 1.3 and 2)."""
MAX_SOURCE_BYTES = 5 * 1024 * 1024
MAX_SOURCE_SIDE = 3072
MAX_SOURCE_PIXELS = MAX_SOURCE_SIDE**2
MAX_OUTPUT_BYTES = 20 * 1024 * 1024
"""Most bytes of a submitted image, whatever its size in pixels."""
MAX_PIXEL_BYTES = 4
"""Bytes of a pixel that no compression helps: red, green, blue and alpha."""
MAX_EXTRA_BYTES = 256 * 1024
"""Bytes that a submitted image may have beside its pixels: metadata, which is then dropped."""
MIN_OUTPUT_SIDE, MAX_OUTPUT_SIDE = 64, 3072
"""The Horde's limits of width and height, in pixels (horde-api.md 1.1)."""
CODING_ERROR = 8
"""Levels of 256 that the pixels of one colour differ by after lossy coding at quality 75."""
TAIL_BYTES = 64
"""More bytes at the end of coded pixels than an encoder ever leaves unused."""
SOURCE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_JPEG_SCANS = 50
"""Most scans of a JPEG; an ordinary progressive one has ten.

A scan may have 23 bytes and take 6 ms to decode, so that 79 KB took 6 s.
"""
MAX_WEBP_SIDE = 16383
"""The WebP format's own limit, in pixels."""


def _decode_base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    text = "".join(text.split())
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=None, validate=True)


@dataclass(frozen=True, slots=True)
class Source:
    """A source image as a WebP file without metadata, and the mask of the part to repaint."""

    image: bytes
    mask: bytes | None = None
    """White is repainted, black is kept."""


def source_of(image: str, mask: str | None, *, painting: bool) -> Source:
    """Return a client's source image and mask, which it sends as base64 or URLs.

    Without a mask, the transparent part of the image is repainted. The length of the data and the
    size in its header are checked before any pixel is decoded. Two URLs share one deadline. Raises
    ImageValidationFailed with the Horde's rc.
    """
    from PIL import ImageOps  # noqa: PLC0415 - most requests have no source

    deadline = outbound.Deadline()
    source = _decoded(image, "source image", deadline)
    if not painting:
        return Source(_webp(source.convert("RGB")))
    if mask is not None:
        painted = _decoded(mask, "source mask", deadline).convert("L")
    else:
        painted = ImageOps.invert(source.convert("RGBA").getchannel("A"))
    if painted.getextrema() == (0, 0):
        message = (
            "No part of the source image is marked for repainting. Send a source_mask that is "
            "white there, or make that part transparent."
        )
        raise ImageValidationFailed(message, rc="InpaintingMissingMask")
    return Source(_webp(source.convert("RGB")), _webp(painted.convert("RGB")))


def _decoded(text: str, what: str, deadline: outbound.Deadline) -> "Image":
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - most requests have no source

    try:
        data = _bytes_of(text, what, deadline)
        if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
            raise ValueError  # noqa: TRY301 - as unreadable as a broken one
        image = Image.open(io.BytesIO(data), formats=SOURCE_FORMATS)
        if image.width * image.height > MAX_SOURCE_PIXELS or max(image.size) > MAX_WEBP_SIDE:
            message = f"The {what} is larger than {MAX_SOURCE_SIDE}x{MAX_SOURCE_SIDE} pixels."
            raise ImageValidationFailed(message, rc="SourceImageResolutionExceeded")
        image.load()
    except (
        binascii.Error,
        ValueError,
        OSError,
        SyntaxError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ):
        message = f"The {what} is neither a readable PNG, JPEG or WebP image in base64 nor its URL."
        raise ImageValidationFailed(message, rc="SourceImageUnreadable") from None
    return image


def _bytes_of(text: str, what: str, deadline: outbound.Deadline) -> bytes:
    if text.startswith(("http://", "https://")):
        try:
            return outbound.fetch(text, MAX_SOURCE_BYTES, deadline)
        except outbound.OutboundError as error:
            message = f"The URL of the {what} cannot be used: {error}."
            raise ImageValidationFailed(message, rc="SourceImageUrlInvalid") from None
    if len(text) * 3 // 4 > MAX_SOURCE_BYTES:
        message = f"The {what} is larger than {MAX_SOURCE_BYTES // 2**20} MB."
        raise ImageValidationFailed(message, rc="SourceImageSizeExceeded")
    return _decode_base64(text)


def _webp(image: "Image") -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=95, method=0)
    return out.getvalue()


# --- the gate -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """A submitted image that was accepted: the file to deliver, and its SHA-256 in hexadecimal."""

    file: bytes
    sha256: str


Size = tuple[int, int]
"""Width and height in pixels."""


def most_bytes(size: Size | None) -> int:
    """Return the most bytes that a submitted image of this size may have; None for any size."""
    width, height = size or (MAX_OUTPUT_SIDE, MAX_OUTPUT_SIDE)
    return min(MAX_OUTPUT_BYTES, width * height * MAX_PIXEL_BYTES + MAX_EXTRA_BYTES)


def checked(file: bytes, size: Size | None) -> Picture:
    """Return a submitted image without anything but its pixels, or raise ImageRefused.

    The image must be a WebP file with one frame of ``size`` that can be decoded and is not blank.
    A censored image may have any size (None), since workers send a placeholder of their own. No
    pixel is decoded before the length and the size in the header are known to be right. The pixels
    stay coded as they are. What hides behind the last one in the coded data is refused.
    """
    if len(file) > most_bytes(size):
        raise _too_long(size)
    try:
        still = webp.still(file)
    except webp.WebpError as error:
        message = f"it {error}"
        raise ImageRefused(message) from None
    sides = (still.width, still.height)
    if size is None and not MIN_OUTPUT_SIDE <= min(sides) <= max(sides) <= MAX_OUTPUT_SIDE:
        message = f"its sides are not from {MIN_OUTPUT_SIDE} to {MAX_OUTPUT_SIDE} pixels"
        raise ImageRefused(message)
    if size is not None and sides != size:
        message = f"it is {sides[0]}x{sides[1]} pixels, not {size[0]}x{size[1]}"
        raise ImageRefused(message)
    clean = still.file
    image = _pixels(clean)
    if image is None:
        message = "it cannot be decoded"
        raise ImageRefused(message)
    if _is_blank(image):
        message = "it has a single colour"
        raise ImageRefused(message)
    del image
    if any(_pixels(cut.file) is not None for cut in _cut(still)):
        message = "its pixels end before its data does"
        raise ImageRefused(message)
    return Picture(clean, hashlib.sha256(clean).hexdigest())


def _too_long(size: Size | None) -> ImageRefused:
    return ImageRefused(f"it is longer than {most_bytes(size)} bytes")


def _pixels(file: bytes) -> "Image | None":
    """Return a decoded WebP file, or None if it cannot be decoded."""
    from PIL import Image  # noqa: PLC0415 - a pop needs none

    try:
        image = Image.open(io.BytesIO(file), formats=("WEBP",))
        image.load()
    except (ValueError, OSError, SyntaxError, EOFError):
        return None
    return image


def _is_blank(image: "Image") -> bool:
    """Return whether an image has one colour, or nothing that can be seen."""
    extrema: Any = image.getextrema()
    invisible = image.mode == "RGBA" and extrema[-1] == (0, 0)
    return invisible or all(high - low <= CODING_ERROR for low, high in extrema)


def _cut(still: "Still") -> list["Still"]:
    """Return the image without the end of its coded data, which then cannot be decoded.

    If it can, its last bytes code no pixel: a place for another file, such as a ZIP archive.
    """
    found = []
    if len(still.pixels) > TAIL_BYTES:
        found.append(replace(still, pixels=still.pixels[:-TAIL_BYTES]))
    if still.alpha is not None and len(still.alpha) > TAIL_BYTES:
        found.append(replace(still, alpha=still.alpha[:-TAIL_BYTES]))
    return found


def inline(text: str, size: Size | None) -> bytes:
    """Return the file that a submit carries in base64; raises ImageRefused."""
    if len(text) * 3 // 4 > most_bytes(size):
        raise _too_long(size)
    try:
        return _decode_base64(text)
    except (binascii.Error, ValueError):
        message = "it is neither uploaded (R2) nor base64"
        raise ImageRefused(message) from None


# --- the buckets --------------------------------------------------------------------------------


def put_webp(client: "S3Client", bucket: str, key: str, body: bytes) -> None:
    """Store a WebP file."""
    client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="image/webp")


def upload_url(client: "S3Client", bucket: str, key: str) -> str:
    """Return a URL for one PUT. Only the host is signed, since workers send no content type.

    S3 cannot bound the length of such a PUT. ``upload_form`` can.
    """
    return client.generate_presigned_url(
        "put_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=URL_SECONDS
    )


def upload_form(client: "S3Client", bucket: str, key: str, size: Size) -> dict[str, Any]:
    """Return the ``url`` and ``fields`` of an upload by POST.

    They are signed for this key, the type ``image/webp`` and the lengths of an image of this size:
    S3 refuses any other.
    """
    kind = {"Content-Type": "image/webp"}
    return client.generate_presigned_post(
        bucket,
        key,
        Fields=dict(kind),
        Conditions=[kind, ["content-length-range", 1, most_bytes(size)]],
        ExpiresIn=URL_SECONDS,
    )


def download_url(client: "S3Client", bucket: str, key: str) -> str:
    """Return a URL that serves ``image/webp``, whatever content type the object was stored with."""
    return client.generate_presigned_url(
        "get_object",
        Params={"Bucket": bucket, "Key": key, "ResponseContentType": "image/webp"},
        ExpiresIn=URL_SECONDS,
    )


GONE = frozenset({"NoSuchKey", "404"})
"""What S3 says of a missing key to who may list the bucket."""
MISSING = GONE | {"AccessDenied"}
"""What it says to who may not."""


def read(
    client: "S3Client", bucket: str, key: str, missing: AbstractSet[str] = MISSING
) -> bytes | None:
    """Return an image file, or None if there is none; ``missing`` are the codes that say so."""
    try:
        return client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except AwsError as error:
        if error.code in missing:
            return None
        raise


def delete(client: "S3Client", bucket: str, key: str) -> None:
    """Delete an image file, if there is one."""
    client.delete_object(Bucket=bucket, Key=key)


def uploaded(client: "S3Client", bucket: str, key: str, size: Size | None) -> bytes | None:
    """Return what a worker uploaded for an image of this size, or None if there is nothing.

    S3 sends at most one byte too many of what lies there. Raises ImageRefused if it is too long.
    """
    most = most_bytes(size)
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{most}")
    except AwsError as error:
        if error.code in MISSING:
            return None
        if error.code == "InvalidRange":  # of a file without a byte
            return b""
        raise
    file = answer["Body"].read()
    if len(file) > most:
        raise _too_long(size)
    return file

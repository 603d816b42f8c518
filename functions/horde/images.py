"""Images in the private buckets: source images and finished images.

A worker uploads ``<generation>/<attempt>.webp`` to the outputs bucket by a presigned URL. The
sources bucket holds ``<request>_src.webp`` and ``<request>_msk.webp``. Objects in both buckets
expire after a day.
"""

import base64
import binascii
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from horde import outbound
from horde.rules.refusals import ImageValidationFailed, NotUploaded, Unsupported

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from PIL.Image import Image

URL_SECONDS = 1800
"""Lifetime of every presigned URL, in seconds (horde-api.md 1.3 and 2)."""
MAX_SOURCE_BYTES = 5 * 1024 * 1024
MAX_SOURCE_SIDE = 3072
MAX_SOURCE_PIXELS = MAX_SOURCE_SIDE**2
MAX_OUTPUT_BYTES = 20 * 1024 * 1024
SOURCE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_JPEG_SCANS = 50
"""Most scans of a JPEG; an ordinary progressive one has ten.

A scan may have 23 bytes and take 6 ms to decode, so that 79 KB took 6 s.
"""
WEBP_HEADER_BYTES = 12
MAX_WEBP_SIDE = 16383
"""The WebP format's own limit, in pixels."""


def is_webp(head: bytes) -> bool:
    """Return whether a file starts like a WebP image; its first 12 bytes are enough."""
    return head[:4] == b"RIFF" and head[8:WEBP_HEADER_BYTES] == b"WEBP"


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


def put_webp(client: "S3Client", bucket: str, key: str, body: bytes) -> None:
    """Store a WebP file."""
    client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="image/webp")


def upload_url(client: "S3Client", bucket: str, key: str) -> str:
    """Return a URL for one PUT. Only the host is signed, since workers send no content type."""
    return client.generate_presigned_url(
        "put_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=URL_SECONDS
    )


def download_url(client: "S3Client", bucket: str, key: str) -> str:
    """Return a URL that serves ``image/webp``, whatever content type the object was stored with."""
    return client.generate_presigned_url(
        "get_object",
        Params={"Bucket": bucket, "Key": key, "ResponseContentType": "image/webp"},
        ExpiresIn=URL_SECONDS,
    )


def read(client: "S3Client", bucket: str, key: str) -> bytes | None:
    """Return an image file, or None if there is none."""
    try:
        return client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "404", "AccessDenied"}:
            return None  # without s3:ListBucket a missing key is AccessDenied
        raise


def check_uploaded(client: "S3Client", bucket: str, key: str, generation_id: str) -> None:
    """Raise NotUploaded unless a worker has uploaded a WebP file. Reads its first bytes only."""
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{WEBP_HEADER_BYTES - 1}")
        head = answer["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] not in {
            "NoSuchKey",
            "404",
            "AccessDenied",
            "InvalidRange",
        }:
            raise
        head = b""
    if not is_webp(head):
        raise NotUploaded(generation_id)


def submitted_webp(text: str, generation_id: str) -> bytes:
    """Return the WebP file that a submit carries in base64; raises NotUploaded or Unsupported."""
    if len(text) * 3 // 4 > MAX_OUTPUT_BYTES:
        message = "The submitted image is too large."
        raise Unsupported(message)
    try:
        body = _decode_base64(text)
    except (binascii.Error, ValueError):
        body = b""
    if not is_webp(body):
        raise NotUploaded(generation_id)
    return body

"""Images in the private buckets: source images in, finished images out.

Layout: ``<generation>/<attempt>.webp`` in the outputs bucket (put there by the worker with a
presigned URL), ``<request>_src.webp`` and ``<request>_msk.webp`` in the sources bucket. Both
buckets forget after a day.
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
"""Life of every presigned URL (horde-api.md 1.3 and 2)."""
MAX_SOURCE_BYTES = 5 * 1024 * 1024
MAX_SOURCE_SIDE = 3072
MAX_SOURCE_PIXELS = MAX_SOURCE_SIDE**2
MAX_OUTPUT_BYTES = 20 * 1024 * 1024
SOURCE_FORMATS = ("PNG", "JPEG", "WEBP")
WEBP_HEADER = 12
WEBP_SIDE = 16383
"""The format's own limit, in pixels."""


def is_webp(head: bytes) -> bool:
    """Say whether a file's first bytes are those of a WebP image."""
    return head[:4] == b"RIFF" and head[8:WEBP_HEADER] == b"WEBP"


def _unbase64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    text = "".join(text.split())
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=None, validate=True)


@dataclass(frozen=True, slots=True)
class Source:
    """A source image as a WebP file without its metadata, and the mask of what is painted anew."""

    image: bytes
    mask: bytes | None = None
    """White is painted, black is kept."""


def source_of(image: str, mask: str | None, *, paints: bool) -> Source:
    """Read a client's source image and mask: base64 or URLs.

    Without a mask the image's own transparency says what is painted. Bounded by its length, then
    by the size its header claims, before a pixel is decoded. Raises ImageValidationFailed with the
    Horde's rc.
    """
    from PIL import ImageOps  # noqa: PLC0415 - most requests have no source

    source = _decoded(image, "source image")
    if not paints:
        return Source(_webp(source.convert("RGB")))
    if mask is not None:
        painted = _decoded(mask, "source mask").convert("L")
    else:
        painted = ImageOps.invert(source.convert("RGBA").getchannel("A"))
    if painted.getextrema() == (0, 0):
        message = (
            "Nothing of the source image is to be painted: send a source_mask that is white there, "
            "or make it transparent."
        )
        raise ImageValidationFailed(message, rc="InpaintingMissingMask")
    return Source(_webp(source.convert("RGB")), _webp(painted.convert("RGB")))


def _decoded(text: str, what: str) -> "Image":
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - most requests have no source

    try:
        data = _bytes_of(text, what)
        image = Image.open(io.BytesIO(data), formats=SOURCE_FORMATS)
        if image.width * image.height > MAX_SOURCE_PIXELS or max(image.size) > WEBP_SIDE:
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
        message = f"The {what} is no readable PNG, JPEG or WebP image in base64, and no URL of one."
        raise ImageValidationFailed(message, rc="SourceImageUnreadable") from None
    return image


def _bytes_of(text: str, what: str) -> bytes:
    if text.startswith(("http://", "https://")):
        try:
            return outbound.fetch(text, MAX_SOURCE_BYTES)
        except outbound.OutboundError as error:
            message = f"The URL of the {what} cannot be used: {error}."
            raise ImageValidationFailed(message, rc="SourceImageUrlInvalid") from None
    if len(text) * 3 // 4 > MAX_SOURCE_BYTES:
        message = f"The {what} is larger than {MAX_SOURCE_BYTES // 2**20} MB."
        raise ImageValidationFailed(message, rc="SourceImageSizeExceeded")
    return _unbase64(text)


def _webp(image: "Image") -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=95, method=0)
    return out.getvalue()


def put_webp(client: "S3Client", bucket: str, key: str, body: bytes) -> None:
    """Store a WebP file."""
    client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="image/webp")


def upload_url(client: "S3Client", bucket: str, key: str) -> str:
    """Return a URL that takes one PUT. Only the host is signed: workers send no content type."""
    return client.generate_presigned_url(
        "put_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=URL_SECONDS
    )


def download_url(client: "S3Client", bucket: str, key: str) -> str:
    """Return a URL that answers ``image/webp``, whatever content type the object was put with."""
    return client.generate_presigned_url(
        "get_object",
        Params={"Bucket": bucket, "Key": key, "ResponseContentType": "image/webp"},
        ExpiresIn=URL_SECONDS,
    )


def read(client: "S3Client", bucket: str, key: str) -> bytes | None:
    """Return a whole image, or None if it is not there."""
    try:
        return client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "404", "AccessDenied"}:
            return None  # without s3:ListBucket a missing key is AccessDenied
        raise


def check_uploaded(client: "S3Client", bucket: str, key: str, generation_id: str) -> None:
    """Make sure that what a worker says it uploaded is there and a WebP file.

    Reads the first bytes only; raises NotUploaded.
    """
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{WEBP_HEADER - 1}")
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
    """Return the file of a submit that carries its image in base64; raises NotUploaded."""
    if len(text) * 3 // 4 > MAX_OUTPUT_BYTES:
        message = "The submitted image is too large."
        raise Unsupported(message)
    try:
        body = _unbase64(text)
    except (binascii.Error, ValueError):
        body = b""
    if not is_webp(body):
        raise NotUploaded(generation_id)
    return body

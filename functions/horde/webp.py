"""The WebP container: reads a still image's coded pixels and writes them with nothing beside them.

A WebP file is a RIFF file: chunks with a name, a length and data (RFC 9649). An image's pixels are
in one ``VP8`` or ``VP8L`` chunk, the transparency of a ``VP8`` image in an ``ALPH`` chunk. All
other chunks are dropped without decoding a pixel: EXIF, XMP, unknown ones, and what follows the
container. The colour profile (``ICCP``) is dropped too: workers draw in sRGB, which is what a file
without a profile means, and a profile has room for any text.
"""

import struct
from dataclasses import dataclass

MAX_CHUNKS = 32
"""A still image has at most seven chunks that the format knows."""
FILE_HEADER_BYTES = 12
CHUNK_HEADER_BYTES = 8
EXTENDED_BYTES = 10
"""Length of a ``VP8X`` chunk's data."""
VP8_HEADER_BYTES = 10
VP8_START = b"\x9d\x01\x2a"
VP8_VERSIONS = 4
VP8L_HEADER_BYTES = 5
VP8L_START = 0x2F
HAS_ALPHA, HAS_ANIMATION = 0x10, 0x02
"""Flags of a ``VP8X`` chunk."""
SIDE_BITS = 0x3FFF
ANIMATION = frozenset({b"ANIM", b"ANMF"})


class WebpError(ValueError):
    """The file is not a still WebP image; the message says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Still:
    """A still image: its size in pixels, and its coded pixels."""

    width: int
    height: int
    pixels: bytes
    """The data of its ``VP8`` or ``VP8L`` chunk."""
    lossless: bool
    alpha: bytes | None = None
    """The data of its ``ALPH`` chunk. A lossless image has its transparency in ``pixels``."""

    @property
    def file(self) -> bytes:
        """The image as a WebP file that holds nothing else."""
        if self.lossless:
            return _container(_chunk(b"VP8L", self.pixels))
        if self.alpha is None:
            return _container(_chunk(b"VP8 ", self.pixels))
        canvas = (self.width - 1).to_bytes(3, "little") + (self.height - 1).to_bytes(3, "little")
        extended = _chunk(b"VP8X", bytes([HAS_ALPHA, 0, 0, 0]) + canvas)
        return _container(extended + _chunk(b"ALPH", self.alpha) + _chunk(b"VP8 ", self.pixels))


def is_webp(head: bytes) -> bool:
    """Return whether a file starts like a WebP image; its first 12 bytes are enough."""
    return head[:4] == b"RIFF" and head[8:FILE_HEADER_BYTES] == b"WEBP"


def still(file: bytes) -> Still:
    """Return the still image in a WebP file; decodes no pixel. Raises WebpError."""
    if not is_webp(file):
        message = "is not a WebP file"
        raise WebpError(message)
    chunks = _chunks(file)
    name, data = chunks[0]
    if name != b"VP8X":
        return _simple(name, data)  # readers ignore whatever follows
    if len(data) < EXTENDED_BYTES:
        message = "has a broken header"
        raise WebpError(message)
    if data[0] & HAS_ANIMATION or ANIMATION.intersection(name for name, _ in chunks):
        message = "is animated"
        raise WebpError(message)
    images = [chunk for chunk in chunks if chunk[0] in {b"VP8 ", b"VP8L"}]
    alphas = [chunk[1] for chunk in chunks if chunk[0] == b"ALPH"]
    if len(images) != 1 or len(alphas) > 1:
        message = "does not hold exactly one image"
        raise WebpError(message)
    found = _simple(*images[0])
    canvas = tuple(int.from_bytes(data[at : at + 3], "little") + 1 for at in (4, 7))
    if canvas != (found.width, found.height):
        message = "says another size than its image has"
        raise WebpError(message)
    if found.lossless or not alphas:
        return found
    return Still(found.width, found.height, found.pixels, lossless=False, alpha=alphas[0])


def _chunks(file: bytes) -> list[tuple[bytes, bytes]]:
    end = CHUNK_HEADER_BYTES + int.from_bytes(file[4:8], "little")
    cut = "is cut off"
    if end > len(file):
        raise WebpError(cut)
    at, found = FILE_HEADER_BYTES, list[tuple[bytes, bytes]]()
    while at < end:
        name, length = file[at : at + 4], int.from_bytes(file[at + 4 : at + 8], "little")
        at += CHUNK_HEADER_BYTES
        if at + length > end:
            raise WebpError(cut)
        found.append((name, file[at : at + length]))
        at += length + length % 2
        if len(found) > MAX_CHUNKS:
            message = f"has more than {MAX_CHUNKS} chunks"
            raise WebpError(message)
    if not found:
        raise WebpError(cut)
    return found


def _simple(name: bytes, data: bytes) -> Still:
    """Return the image of one chunk."""
    if name == b"VP8 " and len(data) >= VP8_HEADER_BYTES and data[3:6] == VP8_START:
        tag = int.from_bytes(data[:3], "little")
        key_frame, version, shown = not tag & 1, tag >> 1 & 7, tag >> 4 & 1
        sides = (side & SIDE_BITS for side in struct.unpack_from("<HH", data, 6))
        width, height = sides
        if key_frame and shown and version < VP8_VERSIONS and width and height:
            return Still(width, height, data, lossless=False)
    if name == b"VP8L" and len(data) >= VP8L_HEADER_BYTES and data[0] == VP8L_START:
        bits = int.from_bytes(data[1:5], "little")
        if not bits >> 29:  # the version
            width, height = (bits & SIDE_BITS) + 1, (bits >> 14 & SIDE_BITS) + 1
            return Still(width, height, data, lossless=True)
    message = "has no image, or a broken one"
    raise WebpError(message)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2)


def _container(chunks: bytes) -> bytes:
    return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks

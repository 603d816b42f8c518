"""The gate alone: how an upload is read, and what it costs to refuse one."""

import hashlib
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde import images, webp
from horde.records import Generation, Request, State, delivered_key, parse_shared_key
from horde.rules.refusals import ImageRefused
from horde.rules.sharing import ACCEPTED, Verdict, judge, shareable
from tests.support.images import webp as picture
from tests.support.records import DELIVERY, IMAGE, REQUEST

SIZE = (64, 64)
FILE = picture(width=64)
LOSSLESS = picture(width=64, lossless=True)
SHA256 = str(DELIVERY["sha256"])


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def container(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@st.composite
def spoilt(draw: Any) -> bytes:
    """A real file with some bytes changed, cut, put in or taken out."""
    file = bytearray(draw(st.sampled_from([FILE, LOSSLESS])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(file) - 1, 0)))
        new = draw(st.binary(max_size=8))
        file[at : at + draw(st.integers(0, 8))] = new
    return bytes(file)


@given(st.binary(max_size=300) | spoilt() | st.binary(max_size=60).map(lambda b: FILE[:20] + b))
def test_whatever_is_uploaded_is_accepted_or_refused_and_what_is_accepted_stays(
    file: bytes,
) -> None:
    try:
        found = images.checked(file, SIZE)
    except ImageRefused:
        return
    assert images.checked(found.file, SIZE) == found
    assert found.sha256 == hashlib.sha256(found.file).hexdigest()
    still = webp.still(found.file)
    assert (still.width, still.height) == SIZE


BOMBS = [
    container(chunk(b"VP8L", b"\x2f" + struct.pack("<I", 0x3FFF | 0x3FFF << 14))),
    container(chunk(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383))),
    container(chunk(b"VP8X", bytes(4) + b"\xff" * 6), FILE[12:]),
]
TOO_MUCH = [picture(width=128), FILE + b"\0" * images.most_bytes(SIZE)]


@pytest.mark.parametrize(
    ("file", "size"),
    [
        *[(file, SIZE) for file in [*BOMBS, *TOO_MUCH]],
        *[(file, None) for file in [*BOMBS, FILE + b"\0" * images.most_bytes(None)]],
    ],
)
def test_no_pixel_is_decoded_before_the_size_is_known_to_be_right(
    file: bytes, size: images.Size | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = list[bytes]()
    monkeypatch.setattr(images, "_pixels", decoded.append)
    with pytest.raises(ImageRefused):
        images.checked(file, size)
    assert decoded == []


def test_a_container_of_a_million_chunks_is_not_read_to_its_end() -> None:
    nothing = chunk(b"JUNK", b"")
    with pytest.raises(webp.WebpError, match="chunks"):
        webp.still(container(FILE[12:], nothing * 100_000))


def extended(*chunks: bytes, flags: int = 0, side: int = 64) -> bytes:
    canvas = (side - 1).to_bytes(3, "little") * 2
    return container(chunk(b"VP8X", bytes([flags, 0, 0, 0]) + canvas), *chunks)


PIXELS = FILE[20:]


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (extended(chunk(b"VP8 ", PIXELS), side=128), "another size"),
        (extended(chunk(b"VP8 ", PIXELS), flags=0x02), "animated"),
        (extended(chunk(b"ANIM", bytes(6)), chunk(b"VP8 ", PIXELS)), "animated"),
        (extended(chunk(b"EXIF", b"x")), "one image"),
        (extended(*[chunk(b"ALPH", b"\0" * 4097)] * 2, chunk(b"VP8 ", PIXELS)), "one image"),
        (extended(chunk(b"VP8 ", PIXELS), chunk(b"VP8L", LOSSLESS[20:])), "one image"),
        (container(chunk(b"VP8X", b"\0\0")), "broken"),
        (container(chunk(b"EXIF", b"x"), chunk(b"VP8 ", PIXELS)), "no image"),
        (container(chunk(b"VP8 ", b"\x01" + PIXELS[1:])), "no image"),
        (container(chunk(b"VP8L", b"\x2f\0\0\0\xff")), "no image"),
        (container(), "cut off"),
        (FILE[:-1], "cut off"),
        (container(FILE[12:16] + b"\xff\xff\xff\x7f" + PIXELS), "cut off"),
    ],
)
def test_a_container_that_readers_could_understand_differently_is_refused(
    file: bytes, why: str
) -> None:
    with pytest.raises(webp.WebpError, match=why):
        webp.still(file)


def test_every_chunk_but_the_pixels_is_dropped_wherever_it_stands() -> None:
    junk = [chunk(name, b"odd") for name in (b"EXIF", b"XMP ", b"ICCP", b"????")]
    assert webp.still(extended(*junk, chunk(b"VP8 ", PIXELS), *junk, flags=0x2C)).file == FILE
    assert webp.still(extended(*junk, LOSSLESS[12:], *junk)).file == LOSSLESS
    assert webp.still(container(FILE[12:], *junk)).file == FILE


def test_a_submitted_image_may_be_as_long_as_its_pixels_and_no_longer_than_20_mb() -> None:
    assert images.most_bytes((64, 64)) == 64 * 64 * 4 + 256 * 1024
    assert images.most_bytes((3072, 3072)) == images.most_bytes(None) == 20 * 1024 * 1024


def test_a_delivered_file_is_found_by_its_content() -> None:
    shared = delivered_key("g", SHA256, shareable=True)
    private = delivered_key("g", SHA256, shareable=False)
    assert (shared, private) == (f"shared/g/{SHA256}.webp", f"private/g/{SHA256}.webp")
    assert parse_shared_key(shared) == ("g", SHA256)
    for key in (private, f"uploads/g/{SHA256}.webp", "g/1.webp", "shared/g", "shared/a/b/c.webp"):
        assert parse_shared_key(key) is None


OPEN_REQUEST = replace(REQUEST, shared=True)
OK = replace(IMAGE, state=State.OK, sha256=SHA256, screened=ACCEPTED)


@pytest.mark.parametrize(
    ("request_", "image", "sha256", "verdict"),
    [
        (OPEN_REQUEST, OK, SHA256, Verdict.SHARE),
        (OPEN_REQUEST, OK, "1" * 64, Verdict.NEVER),
        (OPEN_REQUEST, replace(OK, screened=None), SHA256, Verdict.NEVER),
        (OPEN_REQUEST, replace(OK, screened="held"), SHA256, Verdict.NEVER),
        (OPEN_REQUEST, replace(OK, state=State.CENSORED), SHA256, Verdict.NEVER),
        (OPEN_REQUEST, replace(IMAGE, state=State.PROCESSING), SHA256, Verdict.LATER),
        (OPEN_REQUEST, IMAGE, SHA256, Verdict.NEVER),
        (REQUEST, OK, SHA256, Verdict.NEVER),
        (None, OK, SHA256, Verdict.NEVER),
        (OPEN_REQUEST, None, SHA256, Verdict.NEVER),
    ],
)
def test_the_verdict_on_a_delivered_file(
    request_: Request | None, image: Generation | None, sha256: str, verdict: Verdict
) -> None:
    assert judge(request_, image, sha256) is verdict


def test_only_an_uncensored_image_of_a_shared_request_may_be_shared() -> None:
    for state in State:
        assert shareable(OPEN_REQUEST, state) is (state is State.OK)
        assert shareable(REQUEST, state) is False

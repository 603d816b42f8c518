from __future__ import annotations

import io

import pytest
from PIL import Image, ImageOps

from gpu_worker import image_codec
from gpu_worker.horde_client import BadJobError


def a_file(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, mode) for kind in ("PNG", "WEBP") for mode in ("RGB", "L", "RGBA", "P")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    ],
)
def test_a_source_image_becomes_rgb_in_the_size_of_the_drawing(kind: str, mode: str) -> None:
    data = a_file(Image.new(mode, (100, 50)), kind)
    image = image_codec.decode_source(data, 128, 64)
    assert (image.mode, image.size) == ("RGB", (128, 64))


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = a_file(Image.new("1", (3072, 3073)))
    assert len(bomb) < 10_000
    with pytest.raises(BadJobError, match="larger"):
        image_codec.decode_source(bomb, 64, 64)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        a_file(Image.effect_noise((64, 64), 9))[:500],
        a_file(Image.new("RGB", (9, 9)), "TIFF"),
    ],
    ids=["empty", "postscript", "truncated", "another format"],
)
def test_what_is_not_a_whole_web_image_is_unreadable(data: bytes) -> None:
    with pytest.raises(BadJobError, match="unreadable"):
        image_codec.decode_source(data, 64, 64)


def test_only_an_image_of_one_colour_is_blank() -> None:
    plain = Image.new("RGB", (64, 64), (9, 9, 9))
    assert image_codec.is_blank(plain)
    assert not image_codec.is_blank(ImageOps.expand(plain, 1, (9, 9, 10)))


def test_the_placeholder_has_the_size_of_the_image_and_says_so() -> None:
    placeholder = image_codec.censored(64, 128)
    assert placeholder.size == (64, 128)
    assert not image_codec.is_blank(placeholder)

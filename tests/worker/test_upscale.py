"""The upscaler and what declares that a model needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gpu_worker import upscale, weights
from gpu_worker.upscale import Upscaler, UpscalerMissingError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(threads=1)


@pytest.fixture
def drawing() -> Image.Image:
    """A red disc on a sky that gets lighter from top to bottom."""
    levels = np.linspace(100, 220, 64)[:, None].repeat(64, 1)
    image = Image.fromarray(np.stack([levels, levels, levels * 0 + 250], -1).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((12, 12, 51, 51), (220, 30, 30))
    return image


def test_a_model_declares_its_only_size_in_a_file_of_its_own(tmp_path: Path) -> None:
    assert upscale.native_size(tmp_path) is None
    (tmp_path / "horde.json").write_text('{"native_size": 64}')
    assert upscale.native_size(tmp_path) == 64


@pytest.mark.parametrize("declared", ['{"native_size": "64"}', '{"native_size": 8}', "{}"])
def test_a_declaration_that_makes_no_sense_is_an_error(tmp_path: Path, declared: str) -> None:
    (tmp_path / "horde.json").write_text(declared)
    with pytest.raises(ValueError, match="native_size must be"):
        upscale.native_size(tmp_path)


def test_without_its_package_the_upscaler_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upscale, "find_spec", lambda _: None)
    with pytest.raises(UpscalerMissingError, match="the package ncnn is not installed"):
        Upscaler()


def test_without_its_weights_the_upscaler_says_how_to_fetch_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(UpscalerMissingError, match=r"python -m gpu_worker\.weights"):
        Upscaler()


@pytest.mark.lengthy
def test_damaged_weights_are_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in weights.FILES:
        (tmp_path / name).write_bytes(weights.path(name).read_bytes())
    with (tmp_path / "realesr-animevideov3-x2.bin").open("r+b") as file:
        file.write(b"\0")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(UpscalerMissingError, match=r"x2\.bin are not those of"):
        Upscaler()


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("width", "height"),
    [
        (64, 64),
        (128, 128),
        pytest.param(256, 192, marks=pytest.mark.slow),
        pytest.param(64, 320, marks=pytest.mark.slow),
        pytest.param(512, 512, marks=pytest.mark.slow),
    ],
)
def test_the_picture_is_whole_undistorted_and_in_the_size_asked_for(
    upscaler: Upscaler, drawing: Image.Image, width: int, height: int
) -> None:
    image = upscaler.fit(drawing, width, height)
    assert image.size == (width, height)
    pixels = np.asarray(image).astype(int)
    disc = np.argwhere((pixels[..., 0] > 150) & (pixels[..., 1] < 90))
    high, wide = np.ptp(disc, axis=0) + 1
    assert high == pytest.approx(wide, rel=0.05)
    assert high == pytest.approx(min(width, height) * 40 / 64, rel=0.08)
    assert disc.mean(axis=0) == pytest.approx(
        (height / 2, width / 2), abs=0.02 * max(width, height)
    )


@pytest.mark.slow
def test_what_is_missing_at_the_sides_continues_the_drawing(
    upscaler: Upscaler, drawing: Image.Image
) -> None:
    wide = np.asarray(upscaler.fit(drawing, 384, 128)).astype(int)
    # Each row goes on in its own colour, so no seam is seen where the drawing ends.
    assert np.abs(wide[:, 10] - wide[:, 130]).max() < 16
    assert np.abs(wide[:, 127] - wide[:, 129]).max() < 12
    tall = np.asarray(upscaler.fit(drawing, 128, 384)).astype(int)
    assert np.abs(tall[5] - tall[130]).max() < 12
    assert np.abs(tall[-5] - tall[-130]).max() < 12


@pytest.mark.slow
def test_a_squeezed_source_is_pulled_out_again(upscaler: Upscaler, drawing: Image.Image) -> None:
    pixels = np.asarray(upscaler.stretch(drawing, 256, 128)).astype(int)
    disc = np.argwhere((pixels[..., 0] > 150) & (pixels[..., 1] < 90))
    high, wide = np.ptp(disc, axis=0) + 1
    assert wide / high == pytest.approx(2, rel=0.1)


@pytest.mark.slow
def test_it_enlarges_edges_and_keeps_colours(upscaler: Upscaler, drawing: Image.Image) -> None:
    large = upscaler.fit(drawing, 256, 256)
    soft = drawing.resize((256, 256), Image.Resampling.BICUBIC)
    edges = [np.abs(np.diff(np.asarray(i.convert("L")).astype(int), axis=1)) for i in (large, soft)]
    assert edges[0].max() > 1.3 * edges[1].max()
    small = np.asarray(large.resize((64, 64), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - np.asarray(drawing)).mean() < 5
    # Nothing odd in the corners.
    assert np.abs(small - np.asarray(drawing))[:6, :6].max() < 12


@pytest.mark.slow
def test_the_same_drawing_gives_the_same_bytes_with_any_number_of_threads(
    upscaler: Upscaler, drawing: Image.Image
) -> None:
    first = upscaler.fit(drawing, 512, 512).tobytes()
    assert upscaler.fit(drawing, 512, 512).tobytes() == first
    assert Upscaler(threads=2).fit(drawing, 512, 512).tobytes() == first

"""ControlNet without torch: edges, what is refused, and the shifts around it."""

from __future__ import annotations

import asyncio
import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gpu_worker import control
from gpu_worker.horde_client import BadJobError, Job
from gpu_worker.shifts import Worker
from tests.worker.test_shifts import Draw, noise, remarks, scoring, states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_worker.horde_client import Horde
    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import FakeHorde


def edges(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(np.asarray(control.canny(image)) == 255)


def square(level: int = 255) -> Image.Image:
    image = Image.new("RGB", (64, 48))
    ImageDraw.Draw(image).rectangle((20, 12, 43, 35), fill=(level,) * 3)
    return image


# --- edges --------------------------------------------------------------------------------------


def test_a_square_has_a_closed_thin_outline_where_its_border_is() -> None:
    found = edges(square())
    near = np.zeros_like(found)
    near[11:37, 19:45] = True
    near[14:34, 22:42] = False
    assert not found[~near].any()
    for row in found[16:32]:
        assert np.flatnonzero(row).tolist() in ([19, 43], [20, 44], [20, 43], [19, 44])
    for column in found[:, 24:40].T:
        assert column.sum() == 2
    # Nothing leaks out: from the middle, the corner of the picture cannot be reached.
    filled = Image.fromarray((found * 255).astype(np.uint8))
    ImageDraw.floodfill(filled, (32, 24), 128)
    assert filled.getpixel((0, 0)) == 0


@pytest.mark.parametrize("turn", [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT])
def test_edges_turn_with_the_picture_up_to_a_pixel(turn: Image.Transpose) -> None:
    turned = edges(square().transpose(turn))
    wanted = np.asarray(control.canny(square()).transpose(turn)) == 255
    for one, other in ((turned, wanted), (wanted, turned)):
        assert (one <= control.ndimage.binary_dilation(other, np.ones((3, 3)))).all()


@pytest.mark.parametrize(
    ("level", "kept"), [(25, False), (26, False), (50, False), (51, True), (255, True)]
)
def test_an_edge_needs_a_part_above_the_upper_threshold(level: int, kept: bool) -> None:
    """A step of one level is a gradient of four."""
    image = Image.new("RGB", (64, 64))
    image.paste((level,) * 3, (32, 0, 64, 64))
    assert edges(image).any() == kept


def test_a_weak_edge_is_kept_as_far_as_it_hangs_together_with_a_strong_one() -> None:
    image = Image.new("RGB", (96, 32))
    draw = ImageDraw.Draw(image)
    for x in range(48):
        draw.line((x, 16, x, 31), fill=(30 + x,) * 3)  # its left end is weak, its right end strong
    draw.line((60, 16, 95, 16), fill=(30,) * 3)  # as weak, and alone
    found = edges(image)
    assert found[14:18, 4:44].any(axis=0).all()
    assert not found[:, 56:].any()


def test_soft_gradients_and_flat_pictures_have_no_edges() -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    assert not edges(Image.fromarray(ramp)).any()
    assert not edges(Image.new("RGB", (64, 64), "red")).any()


def test_colours_of_the_same_brightness_have_an_edge() -> None:
    image = Image.new("RGB", (64, 64), (200, 0, 0))
    image.paste((0, 102, 0), (32, 0, 64, 64))
    assert edges(image)[:, 30:34].any(axis=1).all()


# --- jobs ---------------------------------------------------------------------------------------


def a_job(*, source: str | None = "url", processing: str = "img2img", **payload: Any) -> Job:
    return Job(
        id="j",
        payload=payload,
        deadline=time.monotonic() + 100,
        source_image=source,
        source_processing=processing,
    )


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (a_job(control_type="a secret"), "this control_type is unknown"),
        (a_job(control_type=["canny"]), "this control_type is unknown"),
        (a_job(control_type="canny", source=None), "needs a source image"),
        (a_job(control_type="canny", processing="inpainting"), "cannot be combined"),
        (a_job(control_type="depth"), "depth has no annotator here; its map must come with"),
        (a_job(control_type="depth", return_control_map=True), "depth has no annotator here"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(job: Job, why: str) -> None:
    with pytest.raises(BadJobError, match=why):
        control.asked(job)


def test_a_map_that_is_given_stays_as_it_is() -> None:
    job = a_job(control_type="openpose", image_is_control=True)
    assert control.prepared(job, square()) == square()
    assert control.prepared(a_job(), square()) == square()


def test_a_picture_goes_with_its_map() -> None:
    found = control.prepared(a_job(control_type="canny"), square())
    assert found.convert("RGB").tobytes() == square().tobytes()
    assert control.map_of(found) == control.canny(square()).convert("RGB")


def shift(settings: Settings, client: Horde, draw: Draw) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        return await Worker(settings, client, draw, scoring(0)).work({"id": "t"})

    return asyncio.run(work())


def test_a_map_is_returned_without_drawing_and_bad_jobs_are_faulted_alone(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    buffer = io.BytesIO()
    square().resize((64, 64)).save(buffer, "PNG")
    horde.files["square.png"] = buffer.getvalue()
    drawn: list[Image.Image | None] = []

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        drawn.extend(sources)
        return noise(jobs, sources)

    wanted = {"source": "square.png", "control_type": "canny"}
    map_, guided, bad, plain = (
        horde.add(**wanted, return_control_map=True),
        horde.add(**wanted),
        horde.add(source="square.png", control_type="hed"),
        horde.add(),
    )
    shift(settings, client, draw)
    assert states(horde) == {map_: "ok", guided: "ok", bad: "faulted", plain: "ok"}
    assert [one is not None and control.MAP in one.info for one in drawn] == [True, False]
    found = Image.open(io.BytesIO(horde.uploads[map_])).convert("L")
    white = np.asarray(found) > 127
    assert (white == edges(square().resize((64, 64)).convert("RGB"))).mean() > 0.97


@pytest.mark.parametrize("given", [True, False])
def test_a_client_is_told_that_the_map_of_its_image_shows_nothing(
    horde: FakeHorde, settings: Settings, client: Horde, *, given: bool
) -> None:
    for name, picture in (("flat", Image.new("RGB", (64, 64), "grey")), ("square", square())):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        horde.files[f"{name}.png"] = buffer.getvalue()
    wanted = {"control_type": "canny", "image_is_control": given}
    flat, shown, plain = (
        horde.add(**wanted, source="flat.png"),
        horde.add(**wanted, source="square.png"),
        horde.add(source="flat.png"),
    )
    shift(settings, client, noise)
    said = "the map of canny shows nothing"
    assert [said in remarks(horde, one) for one in (flat, shown, plain)] == [True, False, False]


def test_without_controlnets_pops_do_not_offer_them(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    shift(settings, client, noise)
    assert not horde.pops[0]["allow_controlnet"]
    assert control.offer({}, xl=True) == {
        "allow_controlnet": False,
        "allow_sdxl_controlnet": False,
        "controls": [],
    }
    assert control.offer({"depth": 1, "canny": 2}, xl=True) == {
        "allow_controlnet": True,
        "allow_sdxl_controlnet": True,
        "controls": ["canny", "depth"],
    }
    assert not control.offer({"canny": 1}, xl=False)["allow_sdxl_controlnet"]

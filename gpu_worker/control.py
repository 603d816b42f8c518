"""ControlNet: what a job asks for, and the map of a source image that guides its drawing.

Canny's edges are made here (Canny 1986, "A Computational Approach to Edge Detection"), with the
thresholds, the norm and the 3x3 gradients of the usual preprocessor. `annotators` has the others.
Maps of types without one come from the client, who sets `image_is_control`. No torch here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gpu_worker import control_files
from gpu_worker.horde_client import BadJobError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from gpu_worker.horde_client import Job, Payload

    Levels = npt.NDArray[np.int32]
    Flags = npt.NDArray[np.bool_]
    Annotator = Callable[[Image.Image], Image.Image]
    """Makes a map of an RGB image, in its size; raises BadJobError."""

# It lacks type hints.
ndimage: Any = import_module("scipy.ndimage")

TYPES = control_files.TYPES
LOW, HIGH = 100, 200
"""Canny's thresholds, of the sum of both gradients in levels: an edge has a part above HIGH, and
all of it is above LOW."""
MAP = "control_map"
"""Where a prepared source image carries its map: in `info`, as an image, which no file can."""
STEEP = np.tan(np.deg2rad(67.5)), np.tan(np.deg2rad(22.5))


def asked(job: Job, made: Collection[str] = ("canny",)) -> str | None:
    """Return the control type of a job, or None; raises BadJobError for what cannot work.

    `made` are the types whose maps can be made of a picture.
    """
    found = job.payload.get("control_type")
    if not found:
        return None
    if found not in TYPES:
        _refuse("this control_type is unknown")
    if not job.source_image:
        _refuse("a control_type needs a source image")
    if job.painting:
        _refuse("a control_type cannot be combined with inpainting or outpainting")
    if not is_given(job.payload) and found not in made:
        _refuse(f"{found} has no annotator here; its map must come with image_is_control")
    return str(found)


def is_given(payload: Payload) -> bool:
    """Return whether the source image is the map itself."""
    return bool(payload.get("image_is_control"))


def is_returned(job: Job) -> bool:
    """Return whether the map itself is what is asked for, and no drawing."""
    return bool(job.payload.get("control_type") and job.payload.get("return_control_map"))


def prepared(
    job: Job, image: Image.Image, annotators: Mapping[str, Annotator] | None = None
) -> Image.Image:
    """Return a source image with its map, as the pipeline takes it; raises BadJobError.

    If it is the map itself, or there is no control type, it stays as it is. `annotators` are by
    type; by default, there is Canny's alone.
    """
    makers = {"canny": canny} if annotators is None else annotators
    kind = asked(job, makers)
    if kind is None or is_given(job.payload):
        return image
    found = image.convert("RGB").copy()
    found.info[MAP] = makers[kind](found).convert("RGB")
    return found


def map_of(source: Image.Image) -> Image.Image:
    """Return the map of a prepared source image, as RGB."""
    found = source.info.get(MAP)
    return found if isinstance(found, Image.Image) else source.convert("RGB")


def told(job: Job, source: Image.Image) -> str | None:
    """Return what a client should know of the map that its image is drawn with, or None.

    `source` is as `prepared` returns it.
    """
    if not job.payload.get("control_type") or is_returned(job):
        return None
    is_flat = len(map_of(source).getcolors(1) or ()) == 1
    return f"the map of {job.payload['control_type']} shows nothing" if is_flat else None


def canny(image: Image.Image) -> Image.Image:
    """Return the edges of an RGB image, white on black, as a grey image of its size."""
    pixels = np.asarray(image, np.int32)
    across, down = (_gradient(pixels, axis) for axis in (1, 0))
    # The colour that changes most decides.
    strongest = (np.abs(across) + np.abs(down)).argmax(2)[..., None]
    across, down = (np.take_along_axis(one, strongest, 2)[..., 0] for one in (across, down))
    size = np.abs(across) + np.abs(down)
    edges = _thin(size, across, down) & (size > LOW)
    # An edge is kept whole if any part of it is strong.
    parts, _ = ndimage.label(edges, np.ones((3, 3)))
    strong = np.unique(parts[edges & (size > HIGH)])
    kept = np.isin(parts, strong[strong > 0])
    return Image.fromarray(kept.astype(np.uint8) * 255)


def _gradient(pixels: Levels, axis: int) -> Levels:
    """Return Sobel's gradient along an axis, of each colour."""
    steep = ndimage.correlate1d(pixels, [-1, 0, 1], axis, mode="nearest")
    return np.asarray(ndimage.correlate1d(steep, [1, 2, 1], 1 - axis, mode="nearest"))


def _thin(size: Levels, across: Levels, down: Levels) -> Flags:
    """Return where the gradient is largest along its own direction, of four."""
    flat = np.abs(down) < STEEP[1] * np.abs(across)
    upright = np.abs(down) > STEEP[0] * np.abs(across)
    same = (across >= 0) == (down >= 0)
    found = np.zeros(size.shape, bool)
    around: Levels = np.pad(size, 1)
    height, width = size.shape

    def at(y: int, x: int) -> Levels:
        return around[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    slanted = ~flat & ~upright
    for which, (y, x) in (
        (flat, (0, 1)),
        (upright, (1, 0)),
        (slanted & same, (1, 1)),
        (slanted & ~same, (1, -1)),
    ):
        # Greater than one neighbour and not less than the other, so a plateau has one edge.
        found |= which & (size > at(-y, -x)) & (size >= at(y, x))
    return found


def offer(types: Iterable[str], *, xl: bool) -> Payload:
    """Return the fields of a pop that say which types are offered; `controls` is our extension."""
    names = sorted(types)
    return {
        "allow_controlnet": bool(names),
        "allow_sdxl_controlnet": bool(names) and xl,
        "controls": names,
    }


def _refuse(message: str) -> None:
    raise BadJobError(message)

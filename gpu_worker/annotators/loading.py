"""Which annotators a worker has: those without weights, and those of `ANNOTATOR_DIR`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpu_worker.annotators.without_weights import WITHOUT_WEIGHTS
from gpu_worker.model_files import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gpu_worker.control import Annotator

HED, DEPTH, SEG, OPENPOSE = "hed.safetensors", "depth", "seg", "openpose"
"""What the folder may hold: a file and folders."""


def load(directory: Path | None) -> Mapping[str, Annotator]:
    """Return annotators by control type; raises ModelError for a folder that cannot be used."""
    if directory is None:
        return WITHOUT_WEIGHTS
    try:
        names = {one.name for one in directory.iterdir()}
    except OSError as error:
        message = f"ANNOTATOR_DIR cannot be read: {error.strerror}"
        raise ModelError(message) from None
    if unknown := sorted(names - {HED, DEPTH, SEG, OPENPOSE}):
        message = f"ANNOTATOR_DIR: {unknown[0]!r} is none of {HED}, {DEPTH}/, {SEG}/, {OPENPOSE}/"
        raise ModelError(message)
    # These need torch.
    from gpu_worker.annotators.depth import Depth  # noqa: PLC0415
    from gpu_worker.annotators.hed import Hed  # noqa: PLC0415
    from gpu_worker.annotators.openpose import OpenPose  # noqa: PLC0415
    from gpu_worker.annotators.seg import Seg  # noqa: PLC0415

    found = dict(WITHOUT_WEIGHTS)
    if HED in names:
        hed = Hed(directory / HED)
        found |= {"hed": hed.edges, "fakescribbles": hed.scribbles}
    if DEPTH in names:
        depth = Depth(directory / DEPTH)
        found |= {"depth": depth.map, "normal": depth.normals}
    if SEG in names:
        found["seg"] = Seg(directory / SEG).map
    if OPENPOSE in names:
        found["openpose"] = OpenPose(directory / OPENPOSE).map
    return found

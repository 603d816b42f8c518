"""The Horde's post-processors: which there are, what they do to the size, and their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpu_worker.horde_client import BadJobError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from PIL import Image

    Run = Callable[[Callable[[], Image.Image]], Image.Image]
    """Runs a function on the thread that owns the GPU, and returns what it returns."""

FACE_FIXERS = ("GFPGAN", "GFPGANv1.3", "CodeFormers", "RestoreFormer")
NON_COMMERCIAL = ("CodeFormers",)
"""Never offered: its licence, S-Lab 1.0, forbids commercial use of its code and weights, and images
of a horde are earned with."""
UPSCALERS: Mapping[str, int] = {
    "RealESRGAN_x4plus": 4,
    "RealESRGAN_x2plus": 2,
    "RealESRGAN_x4plus_anime_6B": 4,
    "NMKD_Siax": 4,
    "4x_AnimeSharp": 4,
    "4xNomos8kSC": 4,
    "4xLSDIRplus": 4,
    "4xNomosWebPhoto_RealPLKSR": 4,
    "4xNomos2_realplksr_dysample": 4,
    "4xNomos2_hq_dat2": 4,
    "2xModernSpanimationV1": 2,
}
"""By the factor of an image's sides."""
STRIP = "strip_background"
ORDER = (*FACE_FIXERS, *UPSCALERS, STRIP)
"""The order in which they run, whatever the order that a job names them in: the reference's."""
MAX_DELIVERED_PIXELS = 4096 * 4096
"""Pixels of the largest image that our horde takes."""


def asked(payload: Mapping[str, Any], offered: Collection[str]) -> list[str]:
    """Return the post-processors that a job asks for, in their order.

    Raises BadJobError for one that is not offered, for two upscalers, or for a result that is too
    large.
    """
    found = payload.get("post_processing") or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        _refuse("post_processing is no list of names")
    names = set(found)
    if unknown := names.difference(ORDER):
        _refuse(f"{len(unknown)} of its post-processors are unknown here")
    if lacking := names.difference(offered):
        _refuse(f"it asks for {', '.join(sorted(lacking))}, which this worker does not offer")
    if len(names.intersection(UPSCALERS)) > 1:
        _refuse("it asks for more than one upscaler")
    if names.intersection(FACE_FIXERS):
        strength(payload)
    if names:
        width, height = delivered(payload)
        if width * height > MAX_DELIVERED_PIXELS:
            _refuse(f"it would be {width}x{height} pixels, more than {MAX_DELIVERED_PIXELS}")
    return sorted(names, key=ORDER.index)


def delivered(payload: Mapping[str, Any]) -> tuple[int, int]:
    """Return the width and height, in pixels, that an image is delivered in."""
    factor = 1
    for name in set(payload.get("post_processing") or []):
        factor *= UPSCALERS.get(name, 1)
    return int(payload["width"]) * factor, int(payload["height"]) * factor


def strength(payload: Mapping[str, Any]) -> float:
    """Return how much a job's face fixers change faces, from 0 to 1; raises BadJobError.

    Without `facefixer_strength` it is 1: what the network draws, as in the Horde.
    """
    found = payload.get("facefixer_strength")
    if found is None:
        return 1.0
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
        _refuse("facefixer_strength is no number from 0 to 1")
    return float(found)


def _refuse(message: str) -> None:
    raise BadJobError(message)

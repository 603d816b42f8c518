"""What images must agree in to be drawn in one pass, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpu_worker import control
from gpu_worker.horde_client import PAINTING, BadJobError, Job
from gpu_worker.samplers import SAMPLERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpu_worker.addons.parts import LoraPart

HIRES_STRENGTH = 0.65
"""The Horde's default for hires_fix_denoising_strength."""
IMG2IMG_STRENGTH = 0.75
"""The default denoising_strength, for hordes that send none."""
ADAPTIVE, ADAPTIVE_STEPS = "k_dpm_adaptive", 40
"""A sampler that chooses its steps itself; the Horde prices it as so many, whatever is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The parameters that all images of one pass share; prompt, seed and source may differ."""

    width: int
    height: int
    steps: int
    sampler: str
    karras: bool
    cfg_scale: float
    clip_skip: int
    tiling: bool
    strength: float | None
    """Fraction of the steps to run on the source image; None for text-to-image."""
    painting: bool
    """Whether only part of the source image is repainted."""
    hires_strength: float | None
    """Fraction of the steps to run in the second pass of hires_fix; None without hires_fix."""
    control: str | None = None
    """The type of the maps that guide the images; None without ControlNet."""
    loras: tuple[LoraPart, ...] = ()
    """What the model is changed by."""

    @property
    def is_alone(self) -> bool:
        """Whether each image has a pass of its own, since its steps depend on the picture."""
        return self.sampler == ADAPTIVE

    @classmethod
    def of(cls, job: Job) -> Pass:
        """Return the pass for a job; raises BadJobError for any unsupported parameter.

        Post-processors are not its matter: `post` runs or refuses them.
        """
        payload = job.payload
        if job.source_image and job.source_processing not in (None, "img2img", *PAINTING):
            refuse("this source_processing")
        for name in ("workflow", "transparent"):
            if payload.get(name):
                refuse(name)
        for name in ("loras", "tis"):
            if payload.get(name) and job.add_ons is None:
                refuse(name)
        guide = control.asked(job, control.TYPES)  # the map is made by now
        if control.is_returned(job):
            refuse("drawing an image of which only the map is asked for")
        sampler = str(payload.get("sampler_name") or "k_euler_a").lower()
        if sampler not in SAMPLERS:
            refuse("this sampler_name")
        try:
            # A source image that is the map itself is no picture to start from.
            is_img2img = bool(job.source_image) and not (guide and control.is_given(payload))
            hires = bool(payload.get("hires_fix")) and not job.source_image
            return cls(
                width=int(payload["width"]),
                height=int(payload["height"]),
                steps=ADAPTIVE_STEPS if sampler == ADAPTIVE else max(1, int(payload["ddim_steps"])),
                sampler=sampler,
                karras=bool(payload.get("karras", True)),
                cfg_scale=float(payload.get("cfg_scale", 5.0)),
                clip_skip=int(payload.get("clip_skip") or 1),
                tiling=bool(payload.get("tiling")),
                painting=job.painting,
                strength=_strength(payload, "denoising_strength", IMG2IMG_STRENGTH)
                if is_img2img
                else None,
                hires_strength=_strength(payload, "hires_fix_denoising_strength", HIRES_STRENGTH)
                if hires
                else None,
                control=guide,
                loras=job.add_ons.loras if job.add_ons else (),
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"the payload is unreadable ({type(error).__name__})"
            raise BadJobError(message) from error


def refuse(what: str) -> None:
    """Refuse a job for what it asks for; raises BadJobError."""
    message = f"{what} is not supported"
    raise BadJobError(message)


def _strength(payload: Mapping[str, Any], name: str, default: float) -> float:
    value = payload.get(name)
    return min(1.0, max(0.0, float(default if value is None else value)))


def first_pass_size(width: int, height: int, native: int) -> tuple[int, int]:
    """Return the size of the first pass of hires_fix, whose short side is the native one."""
    shrink = native / min(width, height)
    return (
        max(64, round(width * shrink / 64) * 64),
        max(64, round(height * shrink / 64) * 64),
    )


def bucket(count: int, max_batch: int) -> int:
    """Return the size to which a batch of `count` is padded: 1, 2, 4 and so on to `max_batch`."""
    return min(max_batch, 1 << (count - 1).bit_length())

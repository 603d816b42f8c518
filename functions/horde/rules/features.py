"""What an image may ask for that not every worker does: LoRAs, ControlNet, post-processors.

The names are the Horde's (horde-api.md 1.1). One vocabulary serves requests, workers' offers and
the operator's settings: ``lora`` for LoRAs and textual inversions, which the Horde's ``allow_lora``
covers too; a control type; or a post-processor.
"""

from collections.abc import Iterable, Mapping, Sized
from string import ascii_uppercase
from typing import Any, Literal, get_args

from horde.rules.refusals import Unsupported

PostProcessor = Literal[
    "GFPGAN",
    "RealESRGAN_x4plus",
    "RealESRGAN_x2plus",
    "RealESRGAN_x4plus_anime_6B",
    "NMKD_Siax",
    "4x_AnimeSharp",
    "CodeFormers",
    "strip_background",
    "4xNomos8kSC",
    "4xLSDIRplus",
    "4xNomosWebPhoto_RealPLKSR",
    "4xNomos2_realplksr_dysample",
    "4xNomos2_hq_dat2",
    "2xModernSpanimationV1",
    "GFPGANv1.3",
    "RestoreFormer",
]
ControlType = Literal[
    "canny", "hed", "depth", "normal", "openpose", "seg", "scribble", "fakescribbles", "hough"
]
LORA = "lora"
SDXL_CONTROL = "sdxl_controlnet"
"""Beside the control type of an image that only models of Stable Diffusion XL may draw."""
POST_PROCESSORS: tuple[str, ...] = get_args(PostProcessor)
CONTROLS: tuple[str, ...] = get_args(ControlType)
FEATURES = (LORA, *CONTROLS, *POST_PROCESSORS)
"""What the operator may say that a model's endpoint does."""
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
"""The post-processors that enlarge an image, by the factor of its sides."""
LETTERS: Mapping[str, str] = dict(zip((*POST_PROCESSORS, *CONTROLS), ascii_uppercase, strict=False))
"""A letter for each control type and post-processor, beside those of ``rules.needs``."""
SDXL = "stable_diffusion_xl"
CONTROLLED = frozenset(
    {
        "",
        "stable_diffusion_1",
        "stable_diffusion_2",
        "stable_diffusion_2_512",
        "stable_diffusion_2_768",
        SDXL,
    }
)
"""The families with ControlNets; a model of an unknown family may have one."""
UNINVERTED = frozenset({"flux_1", "qwen_image", "z_image_turbo"})
"""The families whose text encoders take no textual inversion: none of them is CLIP's alone."""
MAX_DELIVERED_PIXELS = 4096 * 4096
"""Pixels of the largest image that is delivered: what the functions decode in their memory."""


def of_payload(payload: Mapping[str, Any], *, baseline: str = "") -> list[str]:
    """Return the features that a payload asks for; ``baseline`` is the family of its models."""
    control = payload.get("control_type")
    lora = payload.get("loras") or payload.get("tis")
    return [
        *([LORA] if lora else []),
        *([control] if control else []),
        *([SDXL_CONTROL] if control and baseline == SDXL else []),
        *(payload.get("post_processing") or ()),
    ]


def scale_of(post_processing: Iterable[str]) -> int:
    """Return the factor by which post-processors enlarge the sides of an image."""
    factor = 1
    for name in post_processing:
        factor *= UPSCALERS.get(name, 1)
    return factor


def delivered_size(payload: Mapping[str, Any]) -> tuple[int, int]:
    """Return the width and height, in pixels, of a request's images as they are delivered."""
    factor = scale_of(payload.get("post_processing") or ())
    return payload["width"] * factor, payload["height"] * factor


def others(listed: Iterable[str] | None, known: Iterable[str]) -> list[str]:
    """Return the known names that a list lacks; none without a list."""
    return [] if listed is None else sorted({*known} - {*listed})


def letters(features: Iterable[str]) -> str:
    """Return the letters of these features, as far as they have one."""
    return "".join(LETTERS.get(name, "") for name in features)


def check_post_processing(asked: Iterable[str], *, width: int, height: int) -> None:
    """Refuse more than one upscaler, or an image that it makes too large; raises Unsupported.

    ``width`` and ``height`` are those before it, in pixels.
    """
    upscalers = [name for name in asked if name in UPSCALERS]
    if len(upscalers) > 1:
        message = f"An image can be upscaled once; you asked for {', '.join(upscalers)}."
        raise Unsupported(message, rc="TooManyUpscalers")
    factor = scale_of(upscalers)
    if width * height * factor**2 > MAX_DELIVERED_PIXELS and upscalers:
        side = int(MAX_DELIVERED_PIXELS**0.5)
        message = (
            f"{upscalers[0]} would make this image {width * factor}x{height * factor} pixels; at "
            f"most {side}x{side} are delivered. Please ask for a smaller image."
        )
        raise Unsupported(message, rc="UpscaledTooLarge")


def check_inversions(asked: Sized, *, baseline: str) -> None:
    """Refuse textual inversions that models of this family cannot take; raises Unsupported."""
    if asked and baseline in UNINVERTED:
        message = f"There is no textual inversion for models of the family {baseline}."
        raise Unsupported(message, rc="TextualInversionUnsupported")


def check_control(
    control_type: str | None,
    *,
    baseline: str,
    source: bool,
    painting: bool,
    given: bool,
    returned: bool,
) -> None:
    """Refuse a ControlNet that cannot work; raises Unsupported.

    ``source`` says whether there is a source image, ``painting`` whether only part of it is
    repainted. ``given`` and ``returned`` are ``image_is_control`` and ``return_control_map``.
    """
    if control_type is None:
        if given or returned:
            message = "image_is_control and return_control_map need a control_type."
            raise Unsupported(message, rc="ControlTypeMissing")
        return
    if not source:
        message = "A control_type needs a source_image."
        raise Unsupported(message, rc="ControlNetSourceMissing")
    if given and returned:
        message = "You asked for the control map of an image that is the control map itself."
        raise Unsupported(message, rc="ControlNetInvalidPayload")
    if painting:
        message = "A control_type cannot be combined with inpainting or outpainting."
        raise Unsupported(message, rc="ControlNetInpaintingMismatch")
    if baseline not in CONTROLLED:
        message = f"There is no ControlNet for models of the family {baseline}."
        raise Unsupported(message, rc="ControlNetUnsupported")

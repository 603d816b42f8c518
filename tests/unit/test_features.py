"""The vocabulary of what not every worker does, and what is refused of it."""

from typing import Any

import pytest

from horde.rules import features
from horde.rules.refusals import Unsupported


def test_every_control_type_and_post_processor_has_a_letter_of_its_own() -> None:
    names = (*features.POST_PROCESSORS, *features.CONTROLS)
    assert len(features.LETTERS) == len(names) == len(set(features.LETTERS.values()))


def test_a_payload_asks_for_what_it_has() -> None:
    asked = {
        "loras": [{"name": "ink"}],
        "tis": [],
        "control_type": "hed",
        "post_processing": ["GFPGAN"],
    }
    assert features.of_payload(asked) == ["lora", "hed", "GFPGAN"]
    assert features.of_payload({"tis": [{"name": "x"}]}) == ["lora"]
    assert features.of_payload({}, baseline=features.SDXL) == []
    xl = features.of_payload({"control_type": "hed"}, baseline=features.SDXL)
    assert xl == ["hed", "sdxl_controlnet"]


@pytest.mark.parametrize(
    ("names", "size"),
    [
        ([], (512, 256)),
        (["GFPGAN", "strip_background"], (512, 256)),
        (["GFPGAN", "RealESRGAN_x2plus"], (1024, 512)),
        (["4x_AnimeSharp"], (2048, 1024)),
    ],
)
def test_an_upscaler_enlarges_what_is_delivered(names: list[str], size: tuple[int, int]) -> None:
    payload = {"width": 512, "height": 256, "post_processing": names}
    assert features.delivered_size(payload) == size


@pytest.mark.parametrize(
    ("names", "side", "rc"),
    [
        (["RealESRGAN_x4plus"], 1024, None),
        (["RealESRGAN_x4plus"], 1088, "UpscaledTooLarge"),
        (["RealESRGAN_x2plus"], 2048, None),
        (["GFPGAN", "strip_background"], 3072, None),
        (["RealESRGAN_x2plus", "2xModernSpanimationV1"], 64, "TooManyUpscalers"),
    ],
)
def test_an_image_is_upscaled_once_and_to_no_more_than_is_delivered(
    names: list[str], side: int, rc: str | None
) -> None:
    assert refusal(lambda: features.check_post_processing(names, width=side, height=side)) == rc


CONTROLLED = {
    "control_type": "canny",
    "baseline": "stable_diffusion_1",
    "source": True,
    "painting": False,
    "given": False,
    "returned": False,
}


@pytest.mark.parametrize(
    ("change", "rc"),
    [
        ({}, None),
        ({"given": True}, None),
        ({"returned": True}, None),
        ({"baseline": features.SDXL}, None),
        ({"baseline": ""}, None),
        ({"baseline": "flux_1"}, "ControlNetUnsupported"),
        ({"baseline": "z_image_turbo"}, "ControlNetUnsupported"),
        ({"source": False}, "ControlNetSourceMissing"),
        ({"painting": True}, "ControlNetInpaintingMismatch"),
        ({"given": True, "returned": True}, "ControlNetInvalidPayload"),
        ({"control_type": None}, None),
        ({"control_type": None, "baseline": "flux_1", "source": False}, None),
        ({"control_type": None, "given": True}, "ControlTypeMissing"),
        ({"control_type": None, "returned": True}, "ControlTypeMissing"),
    ],
)
def test_a_controlnet_that_cannot_work_is_refused(change: dict[str, Any], rc: str | None) -> None:
    asked: dict[str, Any] = {**CONTROLLED, **change}
    assert refusal(lambda: features.check_control(asked.pop("control_type"), **asked)) == rc


@pytest.mark.parametrize(
    ("baseline", "asked", "rc"),
    [
        ("flux_1", [{}], "TextualInversionUnsupported"),
        ("qwen_image", [{}], "TextualInversionUnsupported"),
        ("z_image_turbo", [{}], "TextualInversionUnsupported"),
        ("flux_1", [], None),
        ("stable_diffusion_xl", [{}], None),
        ("", [{}], None),
    ],
)
def test_textual_inversions_that_no_model_of_a_family_takes_are_refused(
    baseline: str, asked: list[Any], rc: str | None
) -> None:
    assert refusal(lambda: features.check_inversions(asked, baseline=baseline)) == rc


def refusal(check: Any) -> str | None:
    try:
        check()
    except Unsupported as refused:
        return str(refused.body()["rc"])
    return None

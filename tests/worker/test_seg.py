"""Maps of what a picture shows where, in ADE20K's colours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from gpu_worker.annotators.loading import load
from gpu_worker.annotators.seg import PALETTE
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from tests.worker.annotator_models import HARMS, a_seg, spoil

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # networks


@pytest.fixture
def seg(tmp_path: Path) -> Path:
    return a_seg(tmp_path / "seg").parent


def noise(size: tuple[int, int]) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(levels)


def test_the_palette_is_ade20ks() -> None:
    known = {0: (120, 120, 120), 2: (6, 230, 230), 4: (4, 200, 3), 12: (150, 5, 61)}
    known |= {20: (0, 102, 200), 127: (255, 245, 0), 149: (92, 0, 255)}
    assert {number: tuple(PALETTE[number].tolist()) for number in known} == known
    assert len({tuple(one) for one in PALETTE.tolist()}) == 149, "two are the same, as published"


def test_each_place_has_the_colour_of_what_the_network_says(seg: Path) -> None:
    image = noise((128, 64))
    network: Any = transformers.UperNetForSemanticSegmentation.from_pretrained(seg / "seg")
    pixels = torch.tensor(np.asarray(image, np.float32)).permute(2, 0, 1)[None] / 255
    mean, deviation = (
        torch.tensor(three).view(1, 3, 1, 1)
        for three in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    with torch.no_grad():
        said = network((pixels - mean) / deviation).logits[0].argmax(0).numpy()
    assert len(np.unique(said)) > 1
    assert (np.asarray(load(seg)["seg"](image)) == PALETTE[said]).all()


def test_any_picture_costs_a_bounded_network_and_has_no_other_colours(seg: Path) -> None:
    found: Any = load(seg)["seg"]
    network = found.__self__._network
    assert network.auxiliary_head is None, "its answer has the size of the map's, for nothing"
    seen: list[tuple[int, ...]] = []
    network.register_forward_pre_hook(
        lambda _one, _none, more: seen.append(tuple(more["pixel_values"].shape)), with_kwargs=True
    )
    known = {tuple(one) for one in PALETTE.tolist()}
    for size in ((3072, 3072), (64, 3072), (3072, 64), (65, 67)):
        made = found(noise(size))
        assert (made.size, made.mode) == (size, "RGB")
        assert {colour for _, colour in made.getcolors()} <= known
    assert {shape[2] * shape[3] for shape in seen} <= {64 * 64, 64 * 128}


def test_a_side_that_its_files_say_is_heeded_up_to_that_of_the_training(seg: Path) -> None:
    said = seg / "seg" / "preprocessor_config.json"
    for text, side in (('{"size": {"height": 96}}', 96), ('{"size": {"height": 9999}}', 512)):
        said.write_text(text)
        maker: Any = load(seg)["seg"]
        assert maker.__self__._side == side


def test_older_files_lack_what_only_training_counts(seg: Path) -> None:
    spoil(seg / "seg", "part", "num_batches_tracked")
    assert "seg" in load(seg)


def test_what_overflows_faults_its_job(seg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Said:
        logits = torch.full((1, 150, 64, 64), math.nan)

    found: Any = load(seg)["seg"]
    monkeypatch.setattr(found.__self__, "_network", lambda **_seen: Said())
    with pytest.raises(BadJobError, match="the segmentation of its source image is no finite"):
        found(noise((64, 64)))


@pytest.mark.parametrize("harm", [*HARMS, "few", "names"])
def test_a_network_that_cannot_be_used_ends_the_worker_with_the_reason(
    tmp_path: Path, harm: str
) -> None:
    folder, why = tmp_path / "seg", "does not tell ADE20K's 150 classes apart"
    if harm == "few":
        a_seg(folder, classes=19)
    elif harm == "names":
        a_seg(folder, first="road")
    else:
        spoil(a_seg(folder), harm, "decode_head.classifier")
        why = HARMS[harm].format("UperNet")
    with pytest.raises(ModelError, match=f"ANNOTATOR_DIR: seg {why}"):
        load(tmp_path)

"""The shipped configurations are those of the published models, to the last parameter."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gpu_worker import layouts, vocabulary
from gpu_worker.layouts import LARGE, REPAINTING, SD1, SD2, SDXL
from gpu_worker.model_files import DRAWN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.slow  # importing torch takes seconds

SIZES = {
    SD1: {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    f"{SD2}_512": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    SDXL: {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}
"""Parameters of the published models."""


@pytest.fixture(scope="module")
def words() -> None:
    if not vocabulary.FILE.exists():  # `make setup` brings it
        pytest.fail("CLIP's vocabulary is missing: python -m gpu_worker.vocabulary")


@pytest.fixture
def written(words: None, tmp_path: Path) -> Path:
    return tmp_path / "config"


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


@pytest.mark.parametrize("baseline", SIZES)
def test_a_family_has_the_size_of_its_published_model(written: Path, baseline: str) -> None:

    layouts.write(written, baseline)
    assert read(written, "model_index.json")["_class_name"] in DRAWN
    for part, size in SIZES[baseline].items():
        assert sum(one.numel() for one in built(written, part).parameters()) == size, part


def built(folder: Path, part: str) -> Any:
    """Return a model of a configuration without its weights."""
    import diffusers
    import transformers

    library, kind = read(folder, "model_index.json")[part]
    config = read(folder, f"{part}/config.json")
    with torch.device("meta"):
        if library == "diffusers":
            return getattr(diffusers, kind).from_config(config)
        return getattr(transformers, kind)(transformers.CLIPTextConfig(**config))


@pytest.mark.parametrize("baseline", SIZES)
def test_every_weight_of_a_model_of_full_size_finds_its_place(written: Path, baseline: str) -> None:
    """Without a byte of them: the tensors are only shapes."""
    from gpu_worker.convert import _text_weights
    from tests.worker import single_files

    mapping: Any = import_module("diffusers.loaders.single_file_utils")
    layouts.write(written, baseline)
    family = SD2 if baseline.startswith(SD2) else baseline
    unet, vae = built(written, "unet"), built(written, "vae")
    single = single_files.unet(unet.state_dict(), unet.config)
    found = mapping.convert_ldm_unet_checkpoint(single, unet.config)
    assert shapes(found) == shapes(unet.state_dict())
    single = single_files.autoencoder(vae.state_dict(), vae.config)
    assert shapes(mapping.convert_ldm_vae_checkpoint(single, vae.config)) == shapes(
        vae.state_dict()
    )
    for encoder in layouts.ENCODERS[family]:
        model = built(written, encoder.part)
        if encoder.open_clip:
            single = single_files.open_clip(model.state_dict(), encoder.prefix)
            found = mapping.convert_open_clip_checkpoint(model, single, prefix=encoder.prefix)
        else:
            single = single_files.clip(model.state_dict(), encoder.prefix)
            found = mapping.convert_ldm_clip_checkpoint(single)
        assert shapes(_text_weights(model, found)) == shapes(model.state_dict())


def shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def test_an_inpainting_checkpoint_takes_more_channels_and_is_named_so(written: Path) -> None:
    layouts.write(written, SDXL, channels=REPAINTING)
    assert read(written, "unet/config.json")["in_channels"] == REPAINTING
    kind = read(written, "model_index.json")["_class_name"]
    assert kind == "StableDiffusionXLInpaintPipeline"


@pytest.mark.parametrize(
    ("baseline", "velocity", "predicts", "side"),
    [
        (SD1, False, "epsilon", 64),
        (f"{SD2}_512", False, "epsilon", 64),
        (LARGE, False, "v_prediction", 96),
        (SDXL, False, "epsilon", 128),
        (SDXL, True, "v_prediction", 128),
    ],
)
def test_what_a_model_predicts_follows_from_its_family_or_its_mark(
    written: Path, baseline: str, velocity: bool, predicts: str, side: int
) -> None:
    layouts.write(written, baseline, velocity=velocity)
    assert read(written, "scheduler/scheduler_config.json")["prediction_type"] == predicts
    assert read(written, "unet/config.json")["sample_size"] == side


def test_the_tokens_are_those_of_clip(written: Path) -> None:
    from transformers import CLIPTokenizer

    layouts.write(written, SDXL)
    first, second = (
        CLIPTokenizer.from_pretrained(written / part) for part in ("tokenizer", "tokenizer_2")
    )
    assert len(first) == 49_408
    # The published tokenizer's own, and what is not plain ASCII.
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert first.decode(first("Ünïcode, 東京!", add_special_tokens=False).input_ids) == (
        "ünïcode , 東京 !"
    )
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0)


def test_a_vocabulary_that_was_changed_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vocabulary, "FILE", tmp_path / "words.gz")
    with pytest.raises(vocabulary.VocabularyError, match="fetch it"):
        vocabulary.tokenizer()
    (tmp_path / "words.gz").write_bytes(b"other words")
    with pytest.raises(vocabulary.VocabularyError, match="SHA-256 differs"):
        vocabulary.tokenizer()

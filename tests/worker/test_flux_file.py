"""FLUX in one file becomes a directory that draws the same pictures; anything else is refused."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpu_worker import flux_file, flux_layouts, tiny
from gpu_worker.convert import convert
from gpu_worker.tensor_files import Tensor
from tests.worker import single_files
from tests.worker.test_convert import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytestmark = pytest.mark.slow  # importing torch takes seconds

NETWORK, T5 = "model.diffusion_model.", "text_encoders.t5xxl.transformer."
CLIP = "text_encoders.clip_l.transformer."
SIZES = {
    True: {
        "transformer": 11_901_408_320,
        "vae": 83_819_683,
        "text_encoder": 123_060_480,
        "text_encoder_2": 4_762_310_656,
    },
    False: {"transformer": 11_891_178_560},
}
"""Parameters of [dev] and [schnell] as published."""
PUBLISHED = 1442, 16_871_188_965
"""Tensors and numbers of flux1-dev-fp8.safetensors of Comfy-Org, all parts in one file."""
EIGHTHS = 16_663_718_976
"""Those of its numbers that are float8."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of T5's size and special tokens; the published one is not here."""
    from transformers import T5Tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    pieces = ["<pad>", "</s>", "<unk>", *(f"\u2581w{number}" for number in range(31_997))]
    pieces += [f"<extra_id_{number}>" for number in reversed(range(100))]
    T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX whose weights are numbers of the types that the file has."""
    folder = tiny.build(tmp_path_factory.mktemp("models") / "flux", flux=True)
    for part in ("transformer", "text_encoder_2", "text_encoder", "vae"):
        (file,) = (folder / part).glob("*.safetensors")
        kind = torch.float16 if part == "text_encoder" else torch.float32
        kind = torch.float8_e4m3fn if part in ("transformer", "text_encoder_2") else kind
        rounded = {name: one.to(kind).bfloat16().float() for name, one in load_file(file).items()}
        save_file(rounded, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def checkpoint(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return single_files.write_flux(model, tmp_path_factory.mktemp("files") / "flux.safetensors")


def changed(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> Path:
    found = load_file(checkpoint)
    change(found)
    file = tmp_path / "m.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, file)
    return file


def same_weights(model: Path, made: Path) -> None:
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        before = single_files.weights(model, part)
        after: dict[str, torch.Tensor] = {}
        for file in (made / part).glob("*.safetensors"):
            after |= load_file(file)
        assert before.keys() == after.keys()
        assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
        assert all(torch.equal(before[name], after[name].float()) for name in before), part


# --- full size, without a byte of weights --------------------------------------------------------


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def guided(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def written(guided: bool, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    flux_layouts.write(folder, tokenizer, guided=guided)
    return folder


@pytest.fixture(scope="module")
def built(written: Path) -> dict[str, Any]:
    import transformers

    diffusers: Any = import_module("diffusers")

    def settings(part: str) -> Any:
        return json.loads((written / part / "config.json").read_text())

    with torch.device("meta"):
        return {
            "transformer": diffusers.FluxTransformer2DModel.from_config(settings("transformer")),
            "vae": diffusers.AutoencoderKL.from_config(settings("vae")),
            "text_encoder": transformers.CLIPTextModel(
                transformers.CLIPTextConfig(**settings("text_encoder"))
            ),
            "text_encoder_2": transformers.T5EncoderModel(
                transformers.T5Config(**settings("text_encoder_2"))
            ),
        }


def of_full_size(built: dict[str, Any]) -> dict[str, torch.Tensor]:
    parts = {name: dict(part.state_dict()) for name, part in built.items()}
    del parts["text_encoder_2"]["encoder.embed_tokens.weight"]  # the same as shared.weight
    return single_files.all_of_flux(parts, built["vae"].config)


def test_the_configuration_has_the_size_of_the_published_model(
    guided: bool, written: Path, built: dict[str, Any]
) -> None:
    for part, size in SIZES[guided].items():
        assert sum(one.numel() for one in built[part].parameters()) == size, part
    schedule = json.loads((written / "scheduler" / "scheduler_config.json").read_text())
    assert (schedule["shift"], schedule["use_dynamic_shifting"]) == ((1.0, 3.0)[guided], guided)


def test_every_tensor_of_full_size_finds_its_place(guided: bool, built: dict[str, Any]) -> None:
    single = of_full_size(built)
    eighths = [one.numel() for name, one in single.items() if name.startswith((NETWORK, T5))]
    if guided:
        assert (len(single), sum(one.numel() for one in single.values())) == PUBLISHED
        assert sum(eighths) == EIGHTHS
    heads = {name: Tensor("F8_E4M3", tuple(one.shape)) for name, one in single.items()}
    assert flux_layouts.family_of(heads) == (flux_layouts.FLUX, flux_layouts.CHANNELS)
    for part in flux_file.parts(built["transformer"], built["text_encoder_2"], heads):
        flux_file.compare(part, heads)
        tied = {"encoder.embed_tokens.weight"} if part.what == "T5" else set()
        assert part.shapes.keys() - part.sources.keys() == tied
    mapping: Any = import_module("diffusers.loaders.single_file_utils")
    own = {name: one for name, one in single.items() if name.startswith("vae.")}
    found = mapping.convert_ldm_vae_checkpoint(own, built["vae"].config)
    shapes = {name: one.shape for name, one in built["vae"].state_dict().items()}
    assert {name: one.shape for name, one in found.items()} == shapes


def test_rows_are_those_of_diffusers_own_conversion(built: dict[str, Any], tmp_path: Path) -> None:
    """In full height, as that one asks for, with a single column and a block of each kind."""
    mapping: Any = import_module("diffusers.loaders.single_file_utils")
    shapes = {
        name: (one.shape[0], *[1] * (one.dim() - 1))
        for name, one in built["transformer"].state_dict().items()
        if "transformer_blocks." not in name or "transformer_blocks.0." in name
    }
    sources = flux_file.transformer_sources(shapes)
    numbers = torch.Generator().manual_seed(1)
    plain = {name: torch.randn(shape, generator=numbers) for name, shape in shapes.items()}
    single = {name: one.bfloat16() for name, one in single_files.flux(plain).items()}
    save_file(single, tmp_path / "m.safetensors")
    (tmp_path / "made").mkdir()
    part = flux_file.Part("transformer", NETWORK, "made", "weights", shapes, sources)
    flux_file.write(part, tmp_path / "m.safetensors", tmp_path)
    made = load_file(tmp_path / "made" / "weights.safetensors")
    expected = mapping.convert_flux_transformer_checkpoint_to_diffusers(single)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in expected)


# --- a tiny one ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
def test_what_was_made_draws_the_same_picture_to_the_bit(
    model: Path, checkpoint: Path, tmp_path: Path
) -> None:
    made = convert(checkpoint, tmp_path / "made", config=model)
    assert (made.baseline, made.native_size) == ("flux_1", tiny.NATIVE_SIZE)
    same_weights(model, tmp_path / "made")
    count = [
        one.numel() for name in SIZES[True] for one in single_files.weights(model, name).values()
    ]
    assert made.parameters == sum(count)
    before, after = (single_files.drawn(one) for one in (model, tmp_path / "made"))
    assert before.tobytes() == after.tobytes()


def test_schnell_has_no_guidance(model: Path, checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "config"
    shutil.copytree(model, own)
    settings = single_files.config(model, "transformer") | {"guidance_embeds": False}
    (own / "transformer" / "config.json").write_text(json.dumps(settings))

    def schnell(found: dict[str, torch.Tensor]) -> None:
        for name in [name for name in found if "guidance_in" in name]:
            del found[name]

    file = changed(checkpoint, tmp_path, schnell)
    assert "the transformer lacks guidance_in.in_layer.bias" in refusal(file, model)
    convert(file, tmp_path / "made", config=own)
    assert not single_files.config(tmp_path / "made", "transformer")["guidance_embeds"]


def test_large_parts_are_several_files_with_an_index(
    model: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers: Any = import_module("diffusers")
    monkeypatch.setattr(flux_file, "SHARD", 40_000)
    convert(checkpoint, tmp_path / "made", config=model)
    shards = sorted((tmp_path / "made" / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"diffusion_pytorch_model-00001-of-{len(shards):05}.safetensors"
    assert all(shard.stat().st_size < 40_000 + 10_000 for shard in shards)
    same_weights(model, tmp_path / "made")
    one, other = (
        diffusers.FluxPipeline.from_pretrained(folder, local_files_only=True)
        for folder in (model, tmp_path / "made")
    )
    for part in ("transformer", "text_encoder_2"):
        before, after = (getattr(pipe, part).state_dict() for pipe in (one, other))
        assert all(torch.equal(before[name], after[name].float()) for name in before)


def put(name: str, value: Any) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda found: found.update({name: value(found) if callable(value) else value})


def gone(*names: str) -> Callable[[dict[str, torch.Tensor]], object]:
    def take(found: dict[str, torch.Tensor]) -> None:
        for name in [one for one in found if one.startswith(names)]:
            del found[name]

    return take


NAN = torch.tensor(float("nan"))
IMAGES, WORDS = f"{NETWORK}img_in.bias", f"{T5}shared.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (gone(IMAGES), "the transformer lacks img_in.bias"),
        (gone(f"{NETWORK}double_blocks.0.img_attn.qkv.bias"), "lacks double_blocks.0.img_attn.qkv"),
        (gone(f"{T5}encoder.final_layer_norm.weight"), "the T5 lacks encoder.final_layer_norm"),
        (gone(WORDS), "the T5 lacks shared.weight"),
        (gone(f"{CLIP}text_model.final_layer_norm.bias"), "the text_encoder lacks final_layer_nor"),
        (gone("vae.decoder.conv_out.bias"), "the autoencoder lacks decoder.conv_out.bias"),
        (gone("vae."), "lacks its autoencoder (vae.): take one"),
        (gone(T5, CLIP), f"lacks its text encoder CLIP ({CLIP}) and text encoder T5 ({T5}): take"),
        (put(f"{NETWORK}new.weight", NAN), "the transformer has more than its family: new.weight"),
        (put(f"{T5}decoder.weight", NAN), "the T5 has more than its family: decoder.weight"),
        (put(f"{CLIP}text_model.new", NAN), "the text_encoder has more than its family: new"),
        (put("vae.encoder.new", NAN), "the autoencoder has more than its family: vae.encoder.new"),
        (put("text_encoders.clip_g.x", NAN), "has more than FLUX.1 has: text_encoders.clip_g.x"),
        (
            put(IMAGES, torch.zeros(31)),
            "the transformer has other shapes than its family: img_in.b",
        ),
        (
            put(f"{NETWORK}single_blocks.0.linear1.bias", torch.zeros(223)),
            "single_blocks.0.linear1",
        ),
        (put(WORDS, torch.zeros(63, 32)), "the T5 has other shapes than its family: shared.weight"),
        (put(IMAGES, NAN.repeat(32)), "the transformer is damaged: img_in.bias is not finite"),
        (
            put(IMAGES, NAN.repeat(32).to(torch.float8_e4m3fn)),
            "the transformer is damaged: img_in.bias is not finite in half precision",
        ),
        (put(IMAGES, torch.full((32,), 3.4e38)), "damaged: img_in.bias is not finite in half"),
        (put(WORDS, NAN.repeat(64, 32)), "the T5 is damaged: shared.weight is not finite"),
        (
            put("vae.decoder.conv_out.bias", NAN.repeat(3)),
            "autoencoder is damaged: decoder.conv_out",
        ),
        (put(f"{NETWORK}img_in.scale_weight", NAN), f"scales ({NETWORK}img_in.scale_weight): take"),
        (put(f"{NETWORK}scaled_fp8", torch.zeros(0)), f"scales ({NETWORK}scaled_fp8): take"),
        (put(f"{T5}encoder.x.weight_scale", NAN), "its weights have scales"),
        (put(f"{NETWORK}img_in.comfy_quant", torch.zeros(4)), "its weights have scales"),
        (
            put(IMAGES, torch.zeros(32, dtype=torch.uint8)),
            "it is quantized: model.diffusion_model.img_in.bias has numbers of the type U8",
        ),
        (
            put(f"{NETWORK}img_in.weight", torch.zeros(32, 384)),
            "takes 384 channels, as Fill's does",
        ),
        (put(f"{NETWORK}double_stream_modulation_img.lin.weight", NAN), "is a FLUX.2 model"),
        (
            put("double_blocks.0.img_mod.lin.bias", NAN),
            "FLUX's transformer alone, without autoencoder and text encoders (CLIP, T5): take a",
        ),
        (
            put(f"{T5}encoder.embed_tokens.weight", torch.zeros(64, 32)),
            "two matrices of T5's tokens, shared.weight and encoder.embed_tokens.weight, which",
        ),
    ],
)
def test_what_is_no_whole_flux_is_refused_by_name(
    model: Path,
    checkpoint: Path,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], object],
    said: str,
) -> None:
    assert said in refusal(changed(checkpoint, tmp_path, change), model)


def test_t5s_matrix_of_tokens_may_have_either_name_or_both(
    model: Path, checkpoint: Path, tmp_path: Path
) -> None:
    other = f"{T5}encoder.embed_tokens.weight"

    def twice(found: dict[str, torch.Tensor]) -> None:
        found[other] = found[WORDS].clone()

    for names, change in (("both", twice), ("other", gone(WORDS))):
        file = changed(changed(checkpoint, tmp_path, twice), tmp_path, change)
        convert(file, tmp_path / names, config=model)
        same_weights(model, tmp_path / names)


def test_a_file_that_is_cut_off_is_refused(model: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(checkpoint.read_bytes()[:-10])
    assert "is cut off" in refusal(file, model)


# --- the tokenizer -------------------------------------------------------------------------------


def test_without_t5s_tokenizer_it_says_where_one_is(checkpoint: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(checkpoint, tmp_path / "m.safetensors"))
    assert "name the directory tokenizer_2 of FLUX.1 [schnell]" in refusal(file, None)


def test_another_tokenizer_is_refused(
    model: Path, checkpoint: Path, tokenizer: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copy(checkpoint, tmp_path / "m.safetensors"))
    empty, broken, bare = (tmp_path / name for name in ("empty", "broken", "bare"))
    for folder in (empty, broken):
        folder.mkdir()
    (broken / "tokenizer.json").write_text("{}")
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("tokenizer_2"))
    for folder, said in (
        (empty, "has no tokenizer of T5 (no tokenizer.json)"),
        (broken, "is no tokenizer of T5 (KeyError)"),
        (model / "tokenizer_2", "is no tokenizer of T5: its 43 tokens are others"),
        (model / "tokenizer", "is no tokenizer of T5"),
    ):
        assert said in refusal(file, None, tokenizer=folder)
    assert "bare has no tokenizer of T5 (tokenizer_2/tokenizer.json)" in refusal(file, bare)
    # With the right one the tiny file is compared with the published model.
    assert "the autoencoder lacks decoder.up_blocks.0.resnets.2" in refusal(
        file, None, tokenizer=tokenizer
    )


def test_the_tokenizers_are_those_of_the_model(written: Path, tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    copied: Mapping[str, bytes] = {
        file.name: file.read_bytes() for file in (written / "tokenizer_2").iterdir()
    }
    assert copied == {file.name: file.read_bytes() for file in tokenizer.iterdir()}
    first = AutoTokenizer.from_pretrained(written / "tokenizer")
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]

"""LoRAs of FLUX: the names of their layers, and what they do to a tiny random model's drawings."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpu_worker.addons import layers, lora
from gpu_worker.addons.asked import UnusableError
from gpu_worker.settings import Settings
from tests.worker import flux_loras, tiny_addons
from tests.worker.studio import Studio
from tests.worker.test_families import loaded
from tests.worker.test_pipeline import difference, pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from gpu_worker.addons.layers import Place

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def flux(models: Path) -> Iterator[Studio]:
    from gpu_worker.tiny import build

    files = models / "loras"
    for name, write in flux_loras.FORMS.items():
        write(files / f"{name}.safetensors")
    flux_loras.kohya(files / "other.safetensors", seed=2)
    flux_loras.xlabs(files / "xlabs.safetensors")
    flux_loras.xlabs(files / "xlabs, prefixed.safetensors", "diffusion_model.")
    with loaded(build(models / "flux", flux=True)) as pipeline:
        yield Studio(pipeline, files, baseline="flux_1")


def weights(studio: Studio) -> dict[str, Any]:
    model = studio.pipeline._model.text2img
    parts = {
        "transformer": model.transformer,
        "text_encoder": model.text_encoder,
        "text_encoder_2": model.text_encoder_2,
    }
    return {
        f"{part}.{name.removeprefix('text_model.')}": weight.detach().clone()
        for part, module in parts.items()
        for name, weight in module.named_parameters()
    }


def untouched(studio: Studio) -> dict[str, Any]:
    studio.pipeline.adapters.use([])
    return weights(studio)


def used(studio: Studio, *loras: Any) -> dict[str, Any]:
    studio.pipeline.adapters.use(studio.job(*loras).add_ons.loras)  # type: ignore[union-attr]
    after = weights(studio)
    studio.pipeline.adapters.use([])
    return after


def test_a_lora_acts_and_leaves_no_trace(flux: Studio) -> None:
    before, plain = untouched(flux), flux.one()
    drawn = flux.drawn("kohya")
    assert difference(pixels(plain), drawn) > 1
    assert difference(drawn, flux.drawn("other")) > 1
    assert flux.one().tobytes() == plain.tobytes()
    assert all(torch.equal(weights(flux)[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("form", flux_loras.FORMS)
def test_every_form_changes_the_same_rows_by_up_times_down(flux: Studio, form: str) -> None:
    before, after = untouched(flux), used(flux, {"name": form, "model": 0.7, "clip": 0.3})
    made = flux_loras.matrices()
    wanted = {"text_encoder.encoder.layers.1.self_attn.q_proj": (flux_loras.CLIP, (0, 32), 0.3)}
    for name, (_, pieces) in flux_loras.LAYERS.items():
        wanted |= {f"transformer.{piece}": (name, rows, 0.7) for piece, rows in pieces.items()}
    for name, weight in after.items():
        change = (weight - before[name]).numpy()
        if entry := wanted.pop(name.removesuffix(".weight"), None):
            (down, up), (start, stop) = made[entry[0]], entry[1]
            assert np.allclose(change, entry[2] * up[start:stop] @ down, atol=2e-6), name
        else:
            assert not change.any(), name
    assert not wanted


@pytest.mark.parametrize("name", ["xlabs", "xlabs, prefixed"])
def test_xlabs_names_are_those_of_attention(flux: Studio, name: str) -> None:
    mine, whole = used(flux, name), used(flux, "kohya")
    for layer, before in untouched(flux).items():
        is_attention = any(
            one in layer
            for one in (".attn.to_", ".attn.add_", "single_transformer_blocks.0.proj_out.weight")
        )
        wanted = whole[layer] if is_attention else before
        assert torch.equal(mine[layer], wanted), layer


def test_the_strength_of_clip_is_that_of_both_text_encoders_and_of_kept_embeddings(
    flux: Studio,
) -> None:
    flux_loras.kohya(flux.folder / "t5.safetensors", t5="lora_te3")
    flux_loras.kohya(flux.folder / "t5 of OneTrainer.safetensors", t5="lora_te2")
    plain = flux.drawn()
    clip = {"name": "kohya", "model": 0}
    with_clip, both = flux.drawn(clip), flux.drawn({"name": "t5", "model": 0})
    assert difference(plain, with_clip) > 0
    assert difference(with_clip, both) > 0
    assert difference(with_clip, flux.drawn(clip)) == 0
    assert difference(plain, flux.drawn({**clip, "clip": 0})) == 0
    assert difference(with_clip, flux.drawn({**clip, "clip": 0.5})) > 0
    changed = {
        name.split(".")[0]
        for name, weight in used(flux, {"name": "t5", "model": 0}).items()
        if not torch.equal(weight, weights(flux)[name])
    }
    assert changed == {"text_encoder", "text_encoder_2"}
    assert difference(both, flux.drawn({"name": "t5 of OneTrainer", "model": 0})) == 0


def test_mates_with_other_loras_change_no_image(flux: Studio) -> None:
    sets: list[tuple[Any, ...]] = [(), ("kohya",), ({"name": "kohya", "model": 0.5},), ("other",)]
    jobs = [flux.job(*one, seed=str(n)) for n, one in enumerate(sets)]
    together, turned = flux.pipeline.draw(jobs), flux.pipeline.draw(jobs[::-1])[::-1]
    for job, one, other in zip(jobs, together, turned, strict=True):
        assert one.tobytes() == other.tobytes() == flux.pipeline.draw([job])[0].tobytes()


FUSED: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "lokr": {"lokr_w1": (7, 2), "lokr_w2_a": (32, 3), "lokr_w2_b": (3, 16)},
    "lokr, rows across the layers": {"lokr_w1": (2, 2), "lokr_w2": (112, 16)},
    "loha": {
        "hada_w1_a": (224, 3), "hada_w1_b": (3, 32), "hada_w2_a": (224, 3), "hada_w2_b": (3, 32),
    },
    "dora": {"lora_up.weight": (224, 3), "lora_down.weight": (3, 32), "dora_scale": (224, 1)},
}  # fmt: skip


@pytest.mark.parametrize("form", FUSED)
def test_a_fused_change_of_any_form_is_split_by_its_rows(flux: Studio, form: str) -> None:
    random = np.random.default_rng(3)
    made = {key: random.uniform(0.1, 1, shape).astype(np.float32)
            for key, shape in FUSED[form].items()}  # fmt: skip
    tiny_addons.write(
        flux.folder / "fused.safetensors",
        {f"lora_unet_single_blocks_0_linear1.{key}": one for key, one in made.items()},
    )
    before, after = untouched(flux), used(flux, "fused")
    pieces = [f"transformer.{name}.weight" for name in
              flux_loras.LAYERS["single_blocks.0.linear1"][1]]  # fmt: skip
    original = np.concatenate([before[name].numpy() for name in pieces])
    if form == "dora":
        whole = original + made["lora_up.weight"] @ made["lora_down.weight"]
        whole *= made["dora_scale"] / np.linalg.norm(whole, axis=1, keepdims=True)
    elif form == "loha":
        whole = original + (made["hada_w1_a"] @ made["hada_w1_b"]) * (
            made["hada_w2_a"] @ made["hada_w2_b"]
        )
    else:
        second = made["lokr_w2"] if "lokr_w2" in made else made["lokr_w2_a"] @ made["lokr_w2_b"]
        whole = original + np.kron(made["lokr_w1"], second)
    assert np.allclose(np.concatenate([after[name].numpy() for name in pieces]), whole, atol=1e-5)
    assert all(torch.equal(after[name], one) for name, one in before.items() if name not in pieces)


def test_a_dora_by_input_of_fused_layers_is_refused(flux: Studio) -> None:
    tensors = {"lora_up.weight": (96, 2), "lora_down.weight": (2, 32), "dora_scale": (1, 32)}
    for prefix in ("lora_unet_double_blocks_0_img_attn_qkv", f"transformer.{flux_loras.SINGLE}"):
        tiny_addons.write(
            flux.folder / "dora.safetensors",
            {f"{prefix}.{name}": np.ones(shape, np.float32) for name, shape in tensors.items()},
        )
        assert flux.fault("dora").startswith(
            "parse_failed: a LoRA is a DoRA by input channel of layers that this model has apart"
            if "qkv" in prefix
            else "baseline_mismatch"
        )


def test_a_layer_whole_and_in_part_is_changed_twice_and_refused(flux: Studio) -> None:
    both = {
        **load_file(flux.folder / "xlabs.safetensors"),
        **load_file(flux.folder / "diffusers.safetensors"),
    }
    tiny_addons.write(
        flux.folder / "both.safetensors", {name: one.numpy() for name, one in both.items()}
    )
    assert "names a layer twice" in flux.fault("both")


def test_a_lora_of_another_architecture_is_refused_by_its_name(flux: Studio) -> None:
    tiny_addons.kohya(flux.folder / "foreign.safetensors")
    assert "those of Stable Diffusion 1 or 2, not of FLUX" in flux.fault("foreign")
    tiny_addons.kohya(flux.folder / "foreign.safetensors", xl=True)
    assert "those of Stable Diffusion XL, not of FLUX" in flux.fault("foreign")


def test_a_textual_inversion_is_refused_and_says_why(flux: Studio) -> None:
    tiny_addons.inversion(flux.folder / "fog.safetensors")
    assert flux.fault("fog", "tis") == (
        "baseline_mismatch: a textual inversion is not for this family of models, "
        "which takes LoRAs alone"
    )


@pytest.mark.parametrize("family", ["flux", "z_image"])
def test_loras_are_offered_for_flux_and_not_for_z_image(
    models: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker import handler
    from gpu_worker.tiny import build

    options: dict[str, Any] = {family: True}
    common: dict[str, Any] = {"horde_url": "http://h/api", "horde_api_key": "", "worker_name": ""}
    settings = Settings(
        **common,
        model_dir=build(models / family, **options),
        lora_dir=models,
        torch_threads=1,
        device="cpu",
    )
    worker = handler._with_one(settings, lambda *_: (0.01, "stand-in"))
    assert worker._abilities.fields([settings.model_name])["allow_lora"] is (family == "flux")
    assert (worker._add_ons is not None) is (family == "flux")


# The names at full size, against diffusers' own conversions


@pytest.fixture(scope="module")
def known() -> dict[str, Place]:
    diffusers: Any = import_module("diffusers")
    with torch.device("meta"):  # which has no memory
        transformer = diffusers.FluxTransformer2DModel(guidance_embeds=True)
    return layers.places({"transformer": transformer})


WIDTH = 3072
_DOUBLE = {
    "attn.qkv": (3 * WIDTH, WIDTH),
    "attn.proj": (WIDTH, WIDTH),
    "mlp.0": (4 * WIDTH, WIDTH),
    "mlp.2": (WIDTH, 4 * WIDTH),
    "mod.lin": (6 * WIDTH, WIDTH),
}
FULL: Mapping[str, tuple[int, int]] = {
    **{
        f"double_blocks.{n}.{side}_{name}": shape
        for n in range(19)
        for side in ("img", "txt")
        for name, shape in _DOUBLE.items()
    },
    **{f"single_blocks.{n}.linear1": (7 * WIDTH, WIDTH) for n in range(38)},
    **{f"single_blocks.{n}.linear2": (WIDTH, 5 * WIDTH) for n in range(38)},
    **{f"single_blocks.{n}.modulation.lin": (3 * WIDTH, WIDTH) for n in range(38)},
    "img_in": (WIDTH, 64),
    "txt_in": (WIDTH, 4096),
    "time_in.in_layer": (WIDTH, 256),
    "time_in.out_layer": (WIDTH, WIDTH),
    "vector_in.in_layer": (WIDTH, 768),
    "vector_in.out_layer": (WIDTH, WIDTH),
    "guidance_in.in_layer": (WIDTH, 256),
    "guidance_in.out_layer": (WIDTH, WIDTH),
    "final_layer.linear": (64, WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}
"""All layers of FLUX.1 [dev] as Black Forest Labs name them, and their shapes."""
ATTENTION = {
    **{f"double_blocks.{n}.processor.{kind}_lora{side}": (rows, WIDTH)
       for n in range(19) for side in (1, 2)
       for kind, rows in (("qkv", 3 * WIDTH), ("proj", WIDTH))},
    **{f"single_blocks.{n}.processor.{kind}_lora": shape for n in range(38)
       for kind, shape in (("qkv", (3 * WIDTH, WIDTH)), ("proj", (WIDTH, 5 * WIDTH)))},
}  # fmt: skip
WAYS: Mapping[str, tuple[Mapping[str, tuple[int, int]], Callable[[str, str], str]]] = {
    "_convert_kohya_flux_lora_to_diffusers": (
        FULL,
        lambda name, side: f"lora_unet_{name.replace('.', '_')}.lora_{side}.weight",
    ),
    "_convert_fal_kontext_lora_to_diffusers": (
        {
            name: shape
            for name, shape in FULL.items()
            if name.startswith(("double", "single")) or name == "final_layer.linear"
        },
        lambda name, side: f"base_model.model.{name}.lora_{'A' if side == 'down' else 'B'}.weight",
    ),
    "_convert_xlabs_flux_lora_to_diffusers": (
        ATTENTION,
        lambda name, side: f"{name}.{side}.weight",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_names_and_rows_are_those_of_diffusers_conversion(
    known: Mapping[str, Place], way: str, tmp_path: Path
) -> None:
    from diffusers.loaders import lora_conversion_utils

    shapes, named = WAYS[way]
    random = np.random.default_rng(1)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        for side, shape in (("down", (1, columns)), ("up", (rows, 1))):
            tensors[named(name, side)] = random.normal(size=shape).astype(np.float32)
    path = tiny_addons.write(tmp_path / "full.safetensors", tensors)
    ours: dict[str, list[Any]] = {}
    for place, change in lora.read(path, known).changes:
        for piece in place:
            empty = torch.zeros(piece.target.shape[0], 1)
            both = ours.setdefault(piece.target.name, [change.first.down, empty])
            mine = change.first.up[piece.first : piece.first + piece.count]
            both[1][piece.at : piece.at + piece.count] = mine
    convert: Callable[[Any], Any] = getattr(lora_conversion_utils, way)
    theirs = {
        name.removeprefix("transformer."): one for name, one in convert(load_file(path)).items()
    }
    for name, (down, up) in ours.items():
        assert torch.equal(down, theirs.pop(f"{name}.lora_A.weight")), name
        assert torch.equal(up, theirs.pop(f"{name}.lora_B.weight")), name
    assert not theirs


def test_a_block_that_flux_does_not_have_is_refused(
    known: Mapping[str, Place], tmp_path: Path
) -> None:
    pair = {"lora_A": np.ones((1, WIDTH)), "lora_B": np.ones((WIDTH, 1))}
    for number in (18, 19):  # 19 is of a model with more of them, such as Qwen-Image
        path = tiny_addons.write(
            tmp_path / "a.safetensors",
            {f"transformer.transformer_blocks.{number}.attn.to_q.{side}.weight": one.astype("f4")
             for side, one in pair.items()},
        )  # fmt: skip
        if number == 18:
            assert lora.read(path, known).parts == {"transformer"}
        else:
            with pytest.raises(UnusableError, match="a layer that this model does not have"):
                lora.read(path, known)

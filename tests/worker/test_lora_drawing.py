"""What LoRAs do to the drawings of tiny random models of both families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.worker import flux_loras, tiny_addons
from tests.worker.test_pipeline import difference, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.worker.studio import Studio

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


def weights(studio: Studio) -> dict[str, Any]:
    model = studio.pipeline._model.text2img
    parts = {"unet": model.unet, "text_encoder": model.text_encoder}
    return {
        f"{part}.{name}": weight.detach().clone()
        for part, module in parts.items()
        for name, weight in module.named_parameters()
    }


def test_a_lora_acts_and_leaves_no_trace(studio: Studio) -> None:
    import torch

    before, plain = weights(studio), studio.one()
    drawn = studio.drawn("kohya")
    assert difference(pixels(plain), drawn) > 1
    assert difference(drawn, studio.drawn("other")) > 1
    assert studio.one().tobytes() == plain.tobytes()
    after = weights(studio)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_both_formats_of_a_lora_draw_the_same(studio: Studio) -> None:
    assert difference(studio.drawn("kohya"), studio.drawn("peft")) == 0


def test_older_names_of_diffusers_are_read(studio: Studio) -> None:
    if studio.xl:
        pytest.skip("they are of a time before XL")
    tiny_addons.older(studio.folder / "older.safetensors")
    assert difference(studio.drawn("kohya"), studio.drawn("older")) == 0


def test_an_alpha_scales_a_lora_in_either_place(studio: Studio) -> None:
    rank = tiny_addons.RANK
    tiny_addons.kohya(studio.folder / "half.safetensors", xl=studio.xl, alpha=rank / 2)
    tiny_addons.peft(studio.folder / "half-peft.safetensors", xl=studio.xl, alpha=rank / 2)
    half = studio.drawn({"name": "kohya", "model": 0.5, "clip": 0.5})
    assert difference(half, studio.drawn("half")) == 0
    assert difference(half, studio.drawn("half-peft")) == 0
    assert difference(half, studio.drawn("kohya")) > 0


def test_it_changes_the_weights_by_up_times_down(studio: Studio) -> None:
    layer = f"unet.{tiny_addons.ATTENTION}.to_q"
    studio.drawn()
    before = weights(studio)[f"{layer}.weight"]
    studio.drawn({"name": "kohya", "model": 0.7, "clip": 0})
    down, up = tiny_addons.matrices(xl=studio.xl)[layer]
    wanted = before.numpy() + 0.7 * (up @ down)
    assert np.abs(weights(studio)[f"{layer}.weight"].numpy() - wanted).max() < 1e-6


def test_the_strengths_of_model_and_clip_are_two(studio: Studio) -> None:
    plain = studio.drawn()
    model = studio.drawn({"name": "kohya", "clip": 0})
    clip = studio.drawn({"name": "kohya", "model": 0})
    assert difference(plain, model) > 0
    assert difference(plain, clip) > 0
    assert difference(model, clip) > 0
    assert difference(plain, studio.drawn({"name": "kohya", "model": 0, "clip": 0})) == 0
    assert difference(plain, studio.drawn({"name": "kohya", "model": -1, "clip": -1})) > 0


def other_forms(studio: Studio) -> None:
    """Write a file with LoHa, LoKr and DoRA, in the UNet and in a text encoder."""
    random = np.random.default_rng(1)
    unet = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2" if studio.xl else (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2"
    )  # fmt: skip
    conv = "lora_unet_middle_block_2_in_layers_2" if studio.xl else (
        "lora_unet_mid_block_resnets_1_conv1"
    )  # fmt: skip
    text = f"lora_te{'1' if studio.xl else ''}_text_model_encoder_layers_1_self_attn"
    shapes = {
        **{f"{conv}.hada_w{n}_{side}": (4, 64) for n in (1, 2) for side in "ab"},
        **{f"{conv}.hada_t{n}": (4, 4, 3, 3) for n in (1, 2)},
        f"{unet}_to_q.lokr_w1": (4, 4),
        f"{unet}_to_q.lokr_w2": (8, 8),
        f"{text}_q_proj.lora_down.weight": (4, 32),
        f"{text}_q_proj.lora_up.weight": (32, 4),
        f"{text}_q_proj.dora_scale": (32, 1),
        f"{text}_v_proj.lokr_w1": (2, 2),
        f"{text}_v_proj.lokr_w2_a": (16, 4),
        f"{text}_v_proj.lokr_w2_b": (4, 16),
    }
    tiny_addons.write(
        studio.folder / "forms.safetensors",
        {key: random.normal(0, 0.5, shape).astype("f4") for key, shape in shapes.items()},
    )


def test_other_forms_act_by_both_strengths_and_leave_no_trace(studio: Studio) -> None:
    import torch

    other_forms(studio)
    plain = studio.one()
    before = weights(studio)
    model = studio.drawn({"name": "forms", "clip": 0})
    clip = studio.drawn({"name": "forms", "model": 0})
    assert difference(pixels(plain), model) > 0
    assert difference(pixels(plain), clip) > 0
    assert difference(model, studio.drawn("forms")) > 0
    assert difference(clip, studio.drawn("forms")) > 0
    assert difference(clip, studio.drawn({"name": "forms", "model": 0, "clip": 0.5})) > 0
    assert studio.one().tobytes() == plain.tobytes()
    assert all(torch.equal(weights(studio)[name], weight) for name, weight in before.items())


def test_an_embedding_that_is_kept_is_that_of_the_same_loras(studio: Studio) -> None:
    both = {"name": "kohya", "model": 0}, {"name": "other", "model": 0}
    fresh = []
    for one in both:
        for encoder in studio.pipeline._model.encoders:
            encoder._kept.clear()
        fresh.append(studio.drawn(one))
    for one, wanted in zip(both, fresh, strict=True):
        assert difference(studio.drawn(one), wanted) == 0


def test_several_loras_add_up_in_any_order(studio: Studio) -> None:
    both = studio.one("kohya", "other")
    assert studio.one("other", "kohya").tobytes() == both.tobytes()
    assert difference(pixels(both), studio.drawn("kohya")) > 0


def test_mates_with_other_loras_change_no_image(studio: Studio) -> None:
    sets: list[tuple[Any, ...]] = [(), ("kohya",), ({"name": "kohya", "model": 0.5},), ("other",)]
    jobs = [studio.job(*one, seed=str(n)) for n, one in enumerate(sets)]
    together, turned = studio.pipeline.draw(jobs), studio.pipeline.draw(jobs[::-1])[::-1]
    for job, one, other in zip(jobs, together, turned, strict=True):
        assert one.tobytes() == other.tobytes() == studio.pipeline.draw([job])[0].tobytes()


def test_mates_with_the_same_loras_share_a_pass(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    pipeline = studio.pipeline
    real = pipeline._run

    def counted(common: Any, jobs: Any, sources: Any) -> Any:
        sizes.append(len(jobs))
        return real(common, jobs, sources)

    monkeypatch.setattr(pipeline, "_run", counted)
    pipeline.draw([studio.job("kohya", seed=str(n), tis=[{"name": "fog"}] * n) for n in range(2)])
    assert sizes == [2]
    pipeline.draw([studio.job("kohya"), studio.job()])
    assert sizes == [2, 1, 1]


def test_loras_that_failed_half_way_are_put_right(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    plain, wanted = studio.one(), studio.one("other")
    merged = studio.pipeline.adapters._merged
    real, calls = merged._add, 0

    def broken(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # some of the UNet, too
            raise torch.OutOfMemoryError
        real(*arguments)

    studio.one()
    monkeypatch.setattr(merged, "_add", broken)
    with pytest.raises(MemoryError):
        studio.one("kohya")
    monkeypatch.undo()
    assert studio.one().tobytes() == plain.tobytes()
    assert studio.one("other").tobytes() == wanted.tobytes()


def broken_lora(change: Callable[[dict[str, Any]], None], studio: Studio) -> str:
    from safetensors.numpy import load_file

    tensors = load_file(studio.folder / "kohya.safetensors")
    change(tensors)
    tiny_addons.write(studio.folder / "broken.safetensors", tensors)
    return studio.fault("broken")


def test_a_lora_that_does_not_fit_faults_its_job(studio: Studio) -> None:
    up = next(
        name for name in tiny_addons_names(studio) if "to_q" in name and name.endswith("up.weight")
    )
    down, alpha = up.replace("lora_up", "lora_down"), up.replace("lora_up.weight", "alpha")
    half = np.ones((32, 2), np.float32)

    def faulted(**changes: Any) -> str:
        names = {"up": up, "down": down, "alpha": alpha, "more": "lora_unet_x.oft_blocks"}
        names["elsewhere"] = "lora_unet_elsewhere.lora_up.weight"

        def change(tensors: dict[str, Any]) -> None:
            for key, value in changes.items():
                if value is None:
                    del tensors[names[key]]
                else:
                    tensors[names[key]] = value

        return broken_lora(change, studio)

    assert faulted(up=half).startswith("baseline_mismatch")
    assert faulted(up=np.ones((64, 4), np.float32)).startswith("baseline_mismatch")
    assert faulted(down=np.ones((0, 32), np.float32), up=np.ones((32, 0), np.float32)).startswith(
        "parse_failed"
    )
    assert "no finite numbers" in faulted(up=np.full((32, 4), np.nan, np.float32))
    assert "no finite numbers" in faulted(down=np.full((4, 32), np.inf, np.float32))
    assert "no finite numbers" in faulted(alpha=np.array([np.nan], np.float32))
    assert "an alpha that is no number" in faulted(alpha=np.ones(2, np.float32))
    assert "without its other half" in faulted(up=None)
    assert "of a kind that is not read" in faulted(more=half)
    both = "lora_unet_elsewhere.lora_down.weight"
    assert broken_lora(
        lambda tensors: tensors.update({both: half, both.replace("down", "up"): half}), studio
    ).startswith("baseline_mismatch")
    deep = np.ones((2000, 32), np.float32)
    assert "rank" in faulted(down=deep, up=deep.T.copy())


def tiny_addons_names(studio: Studio) -> list[str]:
    from safetensors.numpy import load_file

    return [*load_file(studio.folder / "kohya.safetensors")]


def test_a_lora_of_another_family_faults_its_job(studio: Studio) -> None:
    if studio.xl:
        pytest.skip("a tiny LoRA of Stable Diffusion 1 has the names and shapes of XL's UNet")
    tiny_addons.kohya(studio.folder / "foreign.safetensors", xl=True)
    said = studio.fault("foreign")
    assert said.startswith("baseline_mismatch")
    assert "those of Stable Diffusion XL, not of Stable Diffusion 1 or 2" in said


@pytest.mark.parametrize("form", flux_loras.FORMS)
def test_a_lora_of_flux_is_refused_by_its_name(studio: Studio, form: str) -> None:
    flux_loras.FORMS[form](studio.folder / "flux.safetensors")
    ours = "XL" if studio.xl else "1 or 2"
    assert f"are those of FLUX, not of Stable Diffusion {ours})" in studio.fault("flux")


def test_the_layers_of_xl_have_the_names_of_stabilitys_code() -> None:
    from gpu_worker.addons.layers import originals

    # As in published files; XL has two blocks in a stage.
    for ours, theirs in {
        "conv_in": "input_blocks.0.0",
        "down_blocks.0.resnets.1.conv1": "input_blocks.2.0.in_layers.2",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
        "down_blocks.1.attentions.0.proj_in": "input_blocks.4.1.proj_in",
        "down_blocks.2.attentions.1.proj_out": "input_blocks.8.1.proj_out",
        "mid_block.resnets.0.conv2": "middle_block.0.out_layers.3",
        "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
        "up_blocks.0.attentions.2.proj_in": "output_blocks.2.1.proj_in",
        "up_blocks.0.resnets.0.time_emb_proj": "output_blocks.0.0.emb_layers.1",
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "up_blocks.2.resnets.2.conv1": "output_blocks.8.0.in_layers.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "conv_out": "out.2",
    }.items():
        assert theirs in originals(ours, 2), ours

"""Drawing with tiny random ControlNets."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gpu_worker import control
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from gpu_worker.settings import Settings
from tests.worker.test_pipeline import a_job, difference, pixels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpu_worker.pipeline import Pipeline
    from tests.worker.test_pipeline import Pixels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


def loaded(model: Path, controls: Path) -> Pipeline:
    from gpu_worker.pipeline import Pipeline

    common: dict[str, Any] = {"horde_url": "", "horde_api_key": "", "worker_name": ""}
    return Pipeline(
        Settings(**common, model_dir=model, controlnet_dir=controls, torch_threads=1, device="cpu")
    )


@pytest.fixture(scope="module", params=["sd", "xl"])
def pipeline(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    import torch

    from gpu_worker.tiny import build, build_control

    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("guided")
    model = build(folder / "model", xl=request.param == "xl")
    for seed, kind in enumerate(("canny", "depth")):
        build_control(folder / "controls" / kind, model, seed)
    yield loaded(model, folder / "controls")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lines() -> Image.Image:
    image = Image.new("RGB", (64, 64))
    ImageDraw.Draw(image).ellipse((8, 8, 55, 55), outline="white", width=3)
    return image


def guided(pipeline: Pipeline, source: Image.Image, kind: str = "canny", **more: Any) -> Pixels:
    job = a_job(source="url", control_type=kind, **more)
    (image,) = pipeline.draw([job], [control.prepared(job, source)])
    return pixels(image)


def test_a_pop_offers_the_types_whose_weights_are_there(pipeline: Pipeline) -> None:
    from gpu_worker.families.stable_diffusion_xl import StableDiffusionXL

    assert control.offer(pipeline.controls, xl=pipeline.files.is_xl) == {
        "allow_controlnet": True,
        "allow_sdxl_controlnet": isinstance(pipeline._model, StableDiffusionXL),
        "controls": ["canny", "depth"],
    }


def test_a_drawing_follows_its_map_its_type_and_its_source(
    pipeline: Pipeline, source: Image.Image, lines: Image.Image
) -> None:
    given: dict[str, Any] = {"image_is_control": True}
    (plain,) = pipeline.draw([a_job()])
    one = guided(pipeline, lines, **given)
    blank = guided(pipeline, Image.new("RGB", (64, 64)), **given)
    assert difference(one, pixels(plain)) > 0.5
    assert difference(one, blank) > 0.1
    assert difference(one, guided(pipeline, lines, "depth", **given)) > 0.5
    weak, strong = (
        guided(pipeline, source, denoising_strength=strength, ddim_steps=4)
        for strength in (0.25, 1.0)
    )
    assert difference(weak, strong) > 1
    assert difference(weak, pixels(source)) < difference(strong, pixels(source))


def test_a_map_that_is_given_is_no_picture_to_start_from(
    pipeline: Pipeline, lines: Image.Image
) -> None:
    weak, strong = (
        guided(pipeline, lines, image_is_control=True, denoising_strength=strength, ddim_steps=4)
        for strength in (0.1, 0.9)
    )
    assert (weak == strong).all()


def test_the_edges_of_the_source_guide_as_the_same_map_does(
    pipeline: Pipeline, lines: Image.Image
) -> None:
    """From noise alone: at full strength, what is left of the source is its edges."""
    job = a_job(source="url", control_type="canny", denoising_strength=1.0)
    edged = control.prepared(job, lines)
    unedged = edged.copy()
    unedged.info[control.MAP] = Image.new("RGB", lines.size)
    (one,), (other,) = (pipeline.draw([job], [each]) for each in (edged, unedged))
    assert difference(pixels(one), pixels(other)) > 0.1


@pytest.mark.parametrize("sampler", ["k_euler_a", "k_heun", "k_dpmpp_sde", "ddim", "lcm"])
def test_samplers_of_every_kind_draw_with_maps(
    pipeline: Pipeline, source: Image.Image, sampler: str
) -> None:
    options: dict[str, Any] = {"sampler_name": sampler, "ddim_steps": 3}
    assert guided(pipeline, source, **options).std() > 2
    assert guided(pipeline, source, image_is_control=True, **options).std() > 2


def test_an_image_is_the_same_alone_and_whatever_its_mates(
    pipeline: Pipeline, source: Image.Image, lines: Image.Image
) -> None:
    jobs = [
        a_job(source="url", control_type=kind, seed=str(n), image_is_control=given)
        for n, (kind, given) in enumerate(
            [("canny", True), ("canny", False), ("canny", True), ("depth", True)]
        )
    ] + [a_job(seed="9"), a_job(source="url", seed="8")]
    sources = [
        None if job.source_image is None else control.prepared(job, lines if n % 2 else source)
        for n, job in enumerate(jobs)
    ]
    together = pipeline.draw(jobs, sources)
    turned = pipeline.draw(jobs[::-1], sources[::-1])[::-1]
    assert [one.tobytes() for one in together] == [one.tobytes() for one in turned]
    for job, taken, image in zip(jobs, sources, together, strict=True):
        alone = pipeline.draw([job], [taken])[0]
        assert np.abs(pixels(alone) - pixels(image)).max() <= 1


def test_hires_fix_tiling_and_other_sizes_draw_with_maps(
    pipeline: Pipeline, lines: Image.Image
) -> None:
    size: dict[str, Any] = {"width": 128, "height": 64}
    others: list[dict[str, Any]] = [{}, {"tiling": True}, {"hires_fix": True}]
    for more in others:
        image = guided(pipeline, lines.resize((128, 64)), image_is_control=True, **size, **more)
        assert image.shape == (64, 128, 3)


def test_a_type_without_weights_is_refused(pipeline: Pipeline, lines: Image.Image) -> None:
    with pytest.raises(BadJobError, match="the control_type hough is not supported"):
        guided(pipeline, lines, "hough", image_is_control=True)


# --- files of the operator ----------------------------------------------------------------------


def changed(**fields: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return change


def pickled(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    file.rename(folder / "diffusion_pytorch_model.bin")


def cut(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed(cross_attention_dim=768), "does not fit the model: their cross_attention_dim"),
        (changed(block_out_channels=[32, 128]), "their block_out_channels differ"),
        (changed(addition_embed_type="text_time"), "their addition_embed_type differ"),
        (changed(in_channels=9), "it takes other channels"),
        (changed(conditioning_channels=1), "it takes other channels"),
        (changed(conditioning_embedding_out_channels=[16, 32, 96]), "in another scale"),
        (changed(_class_name="ControlNetUnionModel"), "is no ControlNetModel"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is no ControlNetModel"),
        (lambda folder: (folder / "config.json").write_text("{"), "has no readable config.json"),
        (pickled, "has no weights as safetensors; other formats run code"),
        (cut, "cannot be loaded"),
        (lambda folder: folder.rename(folder.parent / "tile"), "'tile' is no control type"),
    ],
)
def test_a_controlnet_that_does_not_fit_ends_the_worker_with_the_reason(
    change: Any, why: str, tiny_model: Path, tiny_controls: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_controls / "canny", tmp_path / "canny")
    change(tmp_path / "canny")
    with pytest.raises(ModelError, match=why):
        loaded(tiny_model, tmp_path)


def test_a_directory_that_is_not_there_ends_the_worker(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="CONTROLNET_DIR cannot be read: No such file"):
        loaded(tiny_model, tmp_path / "none")

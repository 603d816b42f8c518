"""What makes the maps of ControlNets, beside Canny's edges (`test_control`)."""

from __future__ import annotations

import asyncio
import io
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gpu_worker.abilities import Abilities
from gpu_worker.annotators import hough
from gpu_worker.annotators.loading import load
from gpu_worker.annotators.without_weights import WITHOUT_WEIGHTS, fakescribbles, scribble
from gpu_worker.control import TYPES
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from gpu_worker.shifts import Worker
from tests.worker.annotator_models import HARMS, a_depth, a_seg, an_openpose, spoil
from tests.worker.test_abilities import png
from tests.worker.test_control import square
from tests.worker.test_shifts import noise, scoring, states

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.horde_client import Horde
    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import FakeHorde

pytestmark = pytest.mark.slow  # networks and pictures of some size

Found = np.ndarray[Any, Any]


def white(image: Image.Image) -> Found:
    found = np.asarray(image)
    assert set(np.unique(found)) <= {0, 255}, "strokes are white on black"
    return np.asarray(found == 255)


def drawing(paper: str = "white", ink: str = "black") -> Image.Image:
    image = Image.new("RGB", (96, 64), paper)
    ImageDraw.Draw(image).line((10, 10, 80, 50), fill=ink, width=5)
    return image


@pytest.mark.parametrize("kind", WITHOUT_WEIGHTS)
def test_a_map_has_the_size_of_its_picture_and_one_of_nothing_is_black(kind: str) -> None:
    for size in ((64, 192), (200, 64)):
        for level in (0, 90, 255):
            found = WITHOUT_WEIGHTS[kind](Image.new("RGB", size, (level,) * 3))
            assert (found.size, found.mode) == (size, "L")
            assert not white(found).any(), level


# --- strokes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("paper", "ink"), [("white", "black"), ("#eee", "red"), ("black", "#ddd")])
def test_the_strokes_of_a_drawing_are_kept_whatever_its_paper(paper: str, ink: str) -> None:
    wanted = white(drawing("black", "white").convert("L"))
    assert (white(scribble(drawing(paper, ink))) == wanted).all()


def test_strokes_follow_what_is_darker_than_around_it() -> None:
    image = Image.new("RGB", (512, 512), (200, 180, 160))
    ImageDraw.Draw(image).ellipse((150, 150, 361, 361), fill=(90, 80, 70))
    found = white(fakescribbles(image))
    away = np.hypot(*(np.indices(found.shape) - 255.5))
    assert found[(away > 101) & (away < 105)].mean() > 0.9, "a closed outline"
    assert not found[away > 108].any()
    assert not found[away < 99].any(), "what is dark all over is no stroke"


def test_strokes_grow_with_the_picture() -> None:
    small = drawing().resize((768, 512))
    large = small.resize((1536, 1024))
    one, other = (white(fakescribbles(image)).mean() for image in (small, large))
    assert one == pytest.approx(other, rel=0.1)


def test_soft_shadows_are_no_strokes() -> None:
    ramp = np.linspace(60, 200, 256).astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    assert not white(fakescribbles(Image.fromarray(ramp))).any()


# --- straight lines ------------------------------------------------------------------------------

CORNERS = [(50, 80), (400, 60), (450, 400), (90, 440)]


def polygon(size: tuple[int, int] = (512, 512)) -> Image.Image:
    image = Image.new("RGB", size)
    ImageDraw.Draw(image).polygon(CORNERS, fill="white")
    return image


def test_the_sides_of_a_shape_are_its_lines() -> None:
    sides = {frozenset((CORNERS[n], CORNERS[n - 1])) for n in range(4)}
    for segment in hough.segments(polygon()):
        ends = [min(CORNERS, key=partial(math.dist, end)) for end in segment]
        assert max(map(math.dist, ends, segment)) < 12
        sides.remove(frozenset(ends))
    assert not sides


@pytest.mark.parametrize("size", [512, 1024, 2048])
def test_lines_are_found_at_any_size_and_through_noise(size: int) -> None:
    random = np.random.default_rng(0)
    image = Image.new("RGB", (size, size), (60, 60, 60))
    sides = [(x * size / 512, y * size / 512) for x, y in CORNERS]
    ImageDraw.Draw(image).polygon(sides, fill=(180, 180, 180))
    noisy = np.asarray(image) + random.normal(0, 6, (size, size, 1))
    found = white(hough.lines(Image.fromarray(noisy.clip(0, 255).astype(np.uint8))))
    near = Image.new("L", (size, size))
    draw = ImageDraw.Draw(near)
    for n in range(4):
        draw.line((*sides[n - 1], *sides[n]), fill=255, width=size // 50)
    assert not (found & ~white(near)).any()
    length = sum(math.dist(sides[n - 1], sides[n]) for n in range(4))
    assert found.sum() > 0.7 * length * max(1, size // 512)


def test_a_gap_parts_two_segments_and_round_things_have_no_long_ones() -> None:
    image = Image.new("RGB", (512, 512))
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 100, 200, 140), fill="white")
    draw.rectangle((300, 100, 470, 140), fill="white")
    draw.ellipse((200, 250, 420, 470), fill="white")
    lengths = sorted((math.dist(*ends) for ends in hough.segments(image)), reverse=True)
    assert all(150 < length < 175 for length in lengths[:4])
    assert all(length < 60 for length in lengths[4:])


def test_noise_has_no_lines_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = hough._Edges.runs

    def counted(edges: Any, *line: Any) -> Any:
        looked.append(1)
        return real(edges, *line)

    monkeypatch.setattr(hough._Edges, "runs", counted)
    image = Image.effect_noise((512, 512), 90).convert("RGB")
    assert len(hough.segments(image)) < 5
    assert len(looked) <= 5 * hough.MOST_MISSED


# --- networks of the operator's ------------------------------------------------------------------


@pytest.fixture
def hed(tmp_path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from gpu_worker.annotators.hed import HedNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = HedNetwork()
        network.norm.data.fill_(120)
    save_file(network.state_dict(), tmp_path / "hed.safetensors")
    return tmp_path


@pytest.fixture
def depth(tmp_path: Path) -> Path:
    return a_depth(tmp_path / "depth").parent


def test_soft_edges_are_those_of_the_papers_network(hed: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from torch.nn.functional import conv2d, interpolate, max_pool2d, relu

    weights = load_file(hed / "hed.safetensors")
    image = Image.radial_gradient("L").resize((512, 512)).convert("RGB")
    x = torch.tensor(np.asarray(image, np.float32)).permute(2, 0, 1)[None] - weights["norm"]
    logits = []
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        x = x if block == 1 else max_pool2d(x, 2, 2)
        for conv in range(count):
            name = f"block{block}.convs.{conv}"
            x = relu(conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1))
        name = f"block{block}.projection"
        side = conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        logits.append(interpolate(side, (512, 512), mode="bilinear", align_corners=False))
    wanted = 255 / (1 + np.exp(-torch.cat(logits).mean(0)[0].detach().numpy()))
    found = np.asarray(load(hed)["hed"](image), np.float64)
    assert np.abs(found - wanted).max() < 1.01
    assert found.std() > 0.1


def test_scribbles_are_thick_strokes_along_the_ridges_of_soft_edges(
    hed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker.annotators.hed import Hed

    soft = Image.new("L", (512, 512))
    ImageDraw.Draw(soft).line((100, 100, 400, 300), fill=255, width=9)
    monkeypatch.setattr(Hed, "edges", lambda _self, _image: soft)
    found = white(load(hed)["fakescribbles"](Image.new("RGB", (1024, 1024))))
    assert found.shape == (1024, 1024)
    assert found[400, 500]
    line = Image.new("L", (1024, 1024))
    ImageDraw.Draw(line).line((160, 173, 840, 627), fill=255, width=60)
    assert not (found & ~white(line)).any()
    assert 8 < found.sum() / math.dist((200, 200), (800, 600)) < 40


def test_nearness_is_what_the_network_says_over_its_whole_range(depth: Path) -> None:
    import torch
    from transformers import DepthAnythingForDepthEstimation

    image = Image.radial_gradient("L").resize((112, 56)).convert("RGB")
    network = DepthAnythingForDepthEstimation.from_pretrained(depth / "depth")
    pixels = torch.tensor(np.asarray(image, np.float32)).permute(2, 0, 1)[None] / 255
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        said = network((pixels - 0.5) / deviation).predicted_depth[0].numpy()
    wanted = (said - said.min()) / (said.max() - said.min()) * 255
    found = load(depth)["depth"](image)
    assert found.size == (112, 56)
    assert np.abs(np.asarray(found, np.float64) - wanted).max() <= 1
    tall = load(depth)["depth"](image.resize((64, 3072)))
    assert tall.size == (64, 3072)


# A surface that comes nearer toward one side faces the other one; blue is what faces the camera.
SIDES = {"left": (0, 0), "right": (0, 255), "top": (1, 0), "bottom": (1, 255)}


def facing(depth: Path, monkeypatch: pytest.MonkeyPatch, nearness: Found, size: int = 56) -> Found:
    """Return the normals, as vectors, of a picture of which the network says this."""
    import torch

    class Said:
        predicted_depth = torch.tensor(nearness[None], dtype=torch.float32)

    normals: Any = load(depth)["normal"]
    monkeypatch.setattr(normals.__self__, "_network", lambda **_seen: Said())
    found = normals(Image.new("RGB", (size, size)))
    assert (found.mode, found.size) == ("RGB", (size, size))
    return np.asarray(found, np.float64) / 127.5 - 1


@pytest.mark.parametrize("side", SIDES)
def test_red_faces_left_green_faces_up_and_blue_faces_the_camera(
    depth: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    axis, first = SIDES[side]
    across = np.linspace(1, 0, 56) if first else np.linspace(0, 1, 56)
    nearness = np.broadcast_to(across, (56, 56)) if axis == 0 else across[:, None].repeat(56, 1)
    found = facing(depth, monkeypatch, nearness.copy())[20:36, 20:36]
    toward = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[side]
    assert (found[..., toward[0]] * toward[1] > 0.5).all()
    assert np.abs(found[..., 1 - toward[0]]).max() < 0.02
    assert (found[..., 2] > 0.1).all()
    assert np.linalg.norm(found, axis=2) == pytest.approx(1, abs=0.02)


def test_the_steepness_of_normals_is_that_of_controlnets_formula(
    depth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both at MiDaS's resolution and at another one, of the same slope."""
    for size in (384, 56):
        slope = np.broadcast_to(np.linspace(0, 1, size), (size, size)).copy()
        # 3x3 Sobel of a slope is eight times its rise by a pixel, here at 384 pixels.
        wanted = np.array([8 * 1000 / (size - 1) * size / 384, 0, 2 * np.pi])
        found = facing(depth, monkeypatch, slope, size)[size // 2, size // 2]
        assert found == pytest.approx(wanted / np.linalg.norm(wanted), abs=0.01)


def test_normals_have_no_steps_of_a_grey_map_and_none_in_the_background(
    depth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slope = 0.5 + np.linspace(0, 0.02, 384)[None].repeat(384, 0)
    slope[:40], slope[40:80] = 0, np.linspace(0, 0.09, 384)
    slope[-40:] = 1
    found = facing(depth, monkeypatch, slope, 384)
    assert found[100:300, 10:-10].std((0, 1)).max() < 0.01, "five levels of grey would be steps"
    assert np.abs(found[5:70] - (0, 0, 1)).max() < 0.02


def test_the_depth_and_the_normals_of_any_picture_cost_a_bounded_network(depth: Path) -> None:
    seen: list[tuple[int, ...]] = []
    found: Any = load(depth)
    network = found["depth"].__self__._network
    network.register_forward_pre_hook(
        lambda _one, _none, more: seen.append(tuple(more["pixel_values"].shape)), with_kwargs=True
    )
    for size in ((3072, 3072), (64, 3072), (3072, 64)):
        for kind in ("depth", "normal"):
            assert found[kind](Image.effect_noise(size, 90).convert("RGB")).size == size
    assert {shape[2] * shape[3] for shape in seen} <= {56 * 56, 56 * 112}


def test_the_depth_of_a_picture_that_overflows_faults_its_job_alone(
    depth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadJobError, match="the depth of its source image is no finite number"):
        facing(depth, monkeypatch, np.full((56, 56), math.nan))
    # A picture that is everywhere as near has no slopes, and no division by nothing.
    assert np.abs(facing(depth, monkeypatch, np.ones((56, 56))) - (0, 0, 1)).max() < 0.01


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ("other", "'pose' is none of hed.safetensors, depth/, seg/, openpose/"),
        ("none", "cannot be read: No such file"),
        ("pickle", "hed.safetensors cannot be read"),
        ("network", "hed.safetensors is no HED network"),
        ("nan", "hed.safetensors has weights that are no finite numbers"),
    ],
)
def test_a_network_that_cannot_be_used_ends_the_worker_with_the_reason(
    hed: Path, harm: str, why: str
) -> None:
    from safetensors.torch import load_file, save_file

    file = hed / "hed.safetensors"
    if harm == "other":
        (hed / "pose").mkdir()
    elif harm == "pickle":
        file.write_bytes(b"\x80\x04\x95" + bytes(100))
    elif harm in ("network", "nan"):
        weights = load_file(file)
        weights["norm"] = weights["norm"][:, :2].clone() if harm == "network" else (
            weights["norm"] * math.nan
        )  # fmt: skip
        save_file(weights, file)
    with pytest.raises(ModelError, match=why):
        load(hed / "nowhere" if harm == "none" else hed)


@pytest.mark.parametrize("harm", [*HARMS, "metric"])
def test_a_depth_that_cannot_be_used_ends_the_worker_with_the_reason(
    tmp_path: Path, harm: str
) -> None:
    if harm == "metric":
        a_depth(tmp_path / "depth", depth_estimation_type="metric")
        why = "measures metres"
    else:
        spoil(a_depth(tmp_path / "depth"), harm, "head")
        why = HARMS[harm].format("Depth Anything")
    with pytest.raises(ModelError, match=f"ANNOTATOR_DIR: depth {why}"):
        load(tmp_path)


@pytest.fixture
def every(hed: Path) -> Path:
    """The networks of every type, of an `ANNOTATOR_DIR` in which nothing lacks."""
    a_depth(hed / "depth")
    a_seg(hed / "seg")
    an_openpose(hed / "openpose", found=2)
    return hed


def test_a_type_is_made_only_where_its_weights_are(every: Path, tmp_path: Path) -> None:
    more = {
        "hed.safetensors": {"hed"},
        "depth": {"depth", "normal"},
        "seg": {"seg"},
        "openpose": {"openpose"},
    }
    assert {one.name for one in every.iterdir()} == set(more)
    assert set(load(every)) == set(TYPES)
    assert load(None) is WITHOUT_WEIGHTS
    for name, kinds in more.items():
        folder = tmp_path / f"only {name}"
        folder.mkdir()
        (folder / name).symlink_to(every / name)
        assert set(load(folder)) - set(WITHOUT_WEIGHTS) == kinds


def test_networks_run_one_at_a_time_since_their_memory_adds_up(
    every: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker.annotators import trained

    makers: dict[str, Any] = {
        kind: one for kind, one in load(every).items() if kind not in ("canny", "scribble", "hough")
    }
    held: list[str] = []
    for kind, one in makers.items():
        for name in ("_network", "_finder", "_pose"):
            if network := getattr(one.__self__, name, None):
                network.register_forward_pre_hook(
                    lambda *_, kind=kind: held.append(kind) if trained.RUNNING.locked() else None
                )
        one(Image.effect_noise((64, 64), 90).convert("RGB"))
    assert set(held) == set(makers)
    assert not trained.RUNNING.locked()


# --- in shifts -----------------------------------------------------------------------------------


def test_with_all_weights_a_shift_makes_the_map_of_every_type(
    horde: FakeHorde,
    settings: Settings,
    client: Horde,
    every: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpu_worker.annotators import openpose

    monkeypatch.setattr(openpose, "SURE", -9.0)  # a random network is sure of nothing
    horde.files["p.png"] = png(square())
    wanted = {
        kind: horde.add(source="p.png", control_type=kind, return_control_map=True)
        for kind in ("depth", "normal", "seg", "openpose")
    }
    able = Abilities({}, load(every))

    async def work() -> None:
        worker = Worker(settings, client, noise, scoring(0), abilities=able)
        await worker.work({"id": "t"})

    asyncio.run(work())
    assert {kind: states(horde)[one] for kind, one in wanted.items()} == dict.fromkeys(wanted, "ok")
    bytes_ = {horde.uploads[one] for one in wanted.values()}
    assert len(bytes_) == len(wanted), "each its own"
    assert not horde.pops[0]["allow_controlnet"], "a map alone is no ControlNet's weights"


def test_maps_are_made_of_the_types_that_the_worker_has_annotators_for(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    horde.files["p.png"] = png(square())
    wanted = {
        kind: horde.add(source="p.png", control_type=kind, return_control_map=True)
        for kind in TYPES
    }
    halves = {"depth": lambda image: Image.linear_gradient("L").resize(image.size)}
    able = Abilities({}, {**WITHOUT_WEIGHTS, **halves})

    async def work() -> None:
        worker = Worker(settings, client, noise, scoring(0), abilities=able)
        await worker.work({"id": "t"})

    asyncio.run(work())
    for kind, one in wanted.items():
        assert states(horde)[one] == ("ok" if kind in able.annotators else "faulted"), kind
    found = Image.open(io.BytesIO(horde.uploads[wanted["depth"]])).convert("L")
    assert np.asarray(found)[:8].mean() < np.asarray(found)[-8:].mean() - 100

"""Skeletons of the persons in a picture, and how they are drawn."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from gpu_worker.annotators import openpose, stick_figure
from gpu_worker.annotators.loading import load
from gpu_worker.annotators.openpose import Cut, peaks
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from tests.worker.annotator_models import HARMS, a_finder, a_pose, an_openpose, spoil
from tests.worker.test_seg import noise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow  # networks and pictures of some size

ndimage: Any = import_module("scipy.ndimage")

COCO = {
    "nose": (256, 60), "left eye": (266, 50), "right eye": (246, 50), "left ear": (280, 56),
    "right ear": (232, 56), "left shoulder": (310, 120), "right shoulder": (202, 120),
    "left elbow": (340, 200), "right elbow": (172, 200), "left wrist": (350, 280),
    "right wrist": (162, 280), "left hip": (290, 280), "right hip": (222, 280),
    "left knee": (294, 380), "right knee": (218, 380), "left ankle": (298, 480),
    "right ankle": (214, 480),
}  # fmt: skip
"""The key points of somebody who faces us, in COCO's order; the right arm is at our left."""
STANDING = np.array(list(COCO.values()), float)


def colour(image: Image.Image, x: float, y: float) -> Any:
    return image.getpixel((round(x), round(y)))


# --- drawing -------------------------------------------------------------------------------------


def test_points_and_limbs_have_openposes_colours() -> None:
    found = stick_figure.drawn([stick_figure.of_coco(STANDING)], (512, 512))
    points = {
        "nose": (255, 0, 0), "right shoulder": (255, 170, 0), "right elbow": (255, 255, 0),
        "right wrist": (170, 255, 0), "left shoulder": (85, 255, 0), "left wrist": (0, 255, 85),
        "right hip": (0, 255, 170), "right ankle": (0, 170, 255), "left hip": (0, 85, 255),
        "left ankle": (85, 0, 255), "right eye": (170, 0, 255), "left eye": (255, 0, 255),
        "right ear": (255, 0, 170), "left ear": (255, 0, 85),
    }  # fmt: skip
    assert {name: colour(found, *COCO[name]) for name in points} == points
    assert colour(found, 256, 120) == (255, 85, 0), "the neck is between the shoulders"
    # Three fifths of a colour, in the middle of the limb.
    assert colour(found, 229, 120) == (153, 0, 0), "from the neck to the right shoulder"
    assert colour(found, 283, 120) == (153, 51, 0)
    assert colour(found, 187, 160) == (153, 102, 0), "the right upper arm"
    assert colour(found, 325, 160) == (102, 153, 0), "the left upper arm"
    assert colour(found, 256, 90) == (0, 0, 153), "from the neck to the nose"


def test_what_is_not_seen_is_not_drawn_and_a_neck_needs_both_shoulders() -> None:
    points = STANDING.copy()
    hidden = list(COCO).index("left shoulder")
    points[hidden] = np.nan
    found = stick_figure.drawn([stick_figure.of_coco(points)], (512, 512))
    assert colour(found, *COCO["left shoulder"]) == (0, 0, 0)
    assert colour(found, 256, 120) == colour(found, 229, 120) == (0, 0, 0)
    assert colour(found, *COCO["right shoulder"]) == (255, 170, 0)
    nobody = stick_figure.drawn([np.full((18, 2), np.nan)], (64, 96))
    assert (nobody.size, nobody.getextrema()) == ((64, 96), ((0, 0),) * 3)


def test_strokes_grow_with_the_picture_and_persons_may_leave_it() -> None:
    shares = []
    for side in (512, 1024):
        points = stick_figure.of_coco(STANDING * side / 512)
        found = np.asarray(stick_figure.drawn([points], (side, side)))
        shares.append(found.any(2).mean())
        assert np.asarray(stick_figure.drawn([points - 1e4, points * 9], (side, side))).size
    assert shares[0] == pytest.approx(shares[1], rel=0.1)
    together = stick_figure.drawn([np.zeros((18, 2))], (64, 64))
    assert together.size == (64, 64), "limbs of no length"


# --- reading -------------------------------------------------------------------------------------


def gaussians(places: Sequence[tuple[float, float]], size: tuple[int, int]) -> Any:
    """Return a heatmap of (height, width) for each place (x, y)."""
    y, x = np.indices(size)
    return np.stack([np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in places])


def test_a_peak_is_found_between_pixels() -> None:
    places = [(10.3, 20.7), (5.0, 8.5), (40.45, 60.1)]
    found, scores = peaks(gaussians(places, (64, 48)))
    assert found == pytest.approx(np.array(places), abs=0.01)
    assert (scores > 0.9).all()


@pytest.mark.parametrize("levels", [0.0, -1.0, 1.0])
def test_a_peak_of_nothing_stays_within_the_map(levels: float) -> None:
    for heatmaps in (
        np.full((17, 16, 12), levels),
        np.random.default_rng(0).normal(size=(17, 16, 12)),
    ):
        found, _ = peaks(heatmaps)
        assert np.isfinite(found).all()
        assert (found >= -0.5).all()
        assert (found <= (11.5, 15.5)).all()


def test_a_cut_takes_first_and_last_pixels_to_where_they_are_in_the_picture() -> None:
    """The positions of unbiased data processing, against SciPy."""
    pixels = np.asarray(Image.radial_gradient("L").resize((200, 150)), float)
    image = Image.fromarray(pixels.astype(np.uint8))
    for cut in (Cut(20.4, 10.8, 60, 80), Cut(100, 90, 150, 200), Cut(-30, -40, 90, 120)):
        y, x = np.indices((64, 48))
        places = [cut.top + y * cut.height / 63, cut.left + x * cut.width / 47]
        wanted = ndimage.map_coordinates(pixels, places, order=1, cval=0)
        found = np.asarray(cut.of(image, (48, 64)), float)
        inside = (places[0] > 0) & (places[0] < 149) & (places[1] > 0) & (places[1] < 199)
        assert np.abs(found - wanted)[inside].max() <= (1.5 if cut.width < 94 else 4), cut
        outside = (places[0] < -1) | (places[0] > 150) | (places[1] < -1) | (places[1] > 200)
        assert not found[outside].any()


def test_a_large_person_is_made_of_all_pixels() -> None:
    checks = np.indices((960, 720)).sum(0) % 2 * 255
    found = np.asarray(Cut(0, 0, 719, 959).of(Image.fromarray(checks.astype(np.uint8)), (48, 64)))
    assert np.abs(found[2:-2, 2:-2].astype(int) - 127).max() < 30


# --- networks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return an_openpose(tmp_path_factory.mktemp("nobody") / "openpose").parent


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return an_openpose(tmp_path_factory.mktemp("crowd") / "openpose", found=900).parent


def maker(folder: Path) -> tuple[Any, openpose.OpenPose]:
    found: Any = load(folder)["openpose"]
    return found, found.__self__


class Poses:
    """A ViTPose that sees each person in the same posture, at places of what it is shown."""

    def __init__(self, places: Any, score: float = 1.0) -> None:
        self.seen: list[tuple[int, ...]] = []
        self._maps = torch.tensor(gaussians(places, (16, 12)) * score, dtype=torch.float32)

    def __call__(self, pixel_values: Any) -> Any:
        self.seen.append(tuple(pixel_values.shape))
        self.heatmaps = self._maps[None].repeat(len(pixel_values), 1, 1, 1)
        return self


class Boxes:
    """An RT-DETR that finds some boxes (x, y, width, height of 1) with scores."""

    def __init__(self, boxes: Any, scores: Any) -> None:
        self.pred_boxes = torch.tensor([boxes], dtype=torch.float32)
        sure = torch.logit(torch.tensor(scores, dtype=torch.float64)).float()
        self.logits = torch.stack([torch.full_like(sure, -9), sure], 1)[None]

    def __call__(self, pixel_values: Any) -> Any:
        assert pixel_values.shape == (1, 3, 320, 320)
        assert 0 <= float(pixel_values.min()) <= float(pixel_values.max()) <= 1
        return self


PLACES = [(3 + n % 4 * 1.5, 2 + n // 4 * 2.5) for n in range(17)]


def test_joints_are_where_vitpose_says_in_the_box_of_rtdetr(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, network = maker(nobody)
    monkeypatch.setattr(network, "_finder", Boxes([[0.5, 0.5, 0.25, 0.5]], [0.9]))
    monkeypatch.setattr(network, "_pose", Poses(PLACES))
    shown: list[Any] = []
    real = stick_figure.drawn

    def seen(persons: Any, size: Any) -> Image.Image:
        shown.extend(persons)
        return real(shown, size)

    monkeypatch.setattr(stick_figure, "drawn", seen)
    made = found(noise((512, 640)))
    # The box has 128x320 pixels; in the shape 3:4 it has 240x320, and a quarter more of both.
    left, top, width, height = 256 - 150, 320 - 200, 300, 400
    wanted = np.array(PLACES) / (11, 15) * (width, height) + (left, top)
    assert shown[0] == pytest.approx(stick_figure.of_coco(wanted), abs=0.5)
    assert colour(made, *wanted[0]) == (255, 0, 0)


def test_only_what_is_sure_enough_is_drawn(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, network = maker(nobody)
    poses = Poses(PLACES, score=0.2)
    boxes = [[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1], [0.9, 0.9, 0.0, 0.1]]
    monkeypatch.setattr(network, "_finder", Boxes(boxes, [0.29, 0.31, 0.99]))
    monkeypatch.setattr(network, "_pose", poses)
    assert not np.asarray(found(noise((512, 512)))).any(), "joints that are not sure"
    assert poses.seen == [(1, 3, 64, 48)], "a sure person; neither an unsure one nor an empty box"


def test_the_pose_is_that_of_transformers_network(nobody: Path) -> None:
    _, network = maker(nobody)
    reference: Any = transformers.VitPoseForPoseEstimation.from_pretrained(
        nobody / "openpose" / "pose"
    )
    image = noise((48, 64))
    pixels = torch.tensor(np.asarray(image, np.float32)).permute(2, 0, 1)[None] / 255
    mean, deviation = (
        torch.tensor(three).view(1, 3, 1, 1)
        for three in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    with torch.no_grad():
        said = reference((pixels - mean) / deviation).heatmaps[0].double().numpy()
    places, scores = peaks(said)
    (found,) = network._joints(image, [Cut(0, 0, 47, 63)])
    wanted = places / (11, 15) * (47, 63)
    wanted[scores < openpose.SURE] = np.nan
    assert found == pytest.approx(wanted, abs=0.05, nan_ok=True)


def test_a_picture_of_nobody_has_a_black_map(nobody: Path) -> None:
    found, network = maker(nobody)
    assert network._boxes(noise((512, 512))) == []
    for size in ((3072, 3072), (64, 3072)):
        made = found(noise(size))
        assert (made.size, made.mode, made.getextrema()) == (size, "RGB", ((0, 0),) * 3)


def test_of_900_persons_the_surest_are_drawn_a_few_at_once(
    crowd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, network = maker(crowd)
    poses = Poses(PLACES)
    monkeypatch.setattr(network, "_pose", poses)
    made = found(noise((3072, 3072)))
    assert made.size == (3072, 3072)
    assert np.asarray(made.resize((256, 256))).any()
    assert [shape[0] for shape in poses.seen] == [4] * 5, "of 900"
    said = network._finder(
        pixel_values=network._pictures.values(noise((3072, 3072)).resize((320, 320)))
    )
    assert said.logits.shape[1] == 900
    boxes = [[0.1 + n / 50, 0.5, 0.05, 0.05] for n in range(40)]
    scores = [0.4 + n / 100 for n in range(40)]
    monkeypatch.setattr(network, "_finder", Boxes(boxes, scores))
    middles = [(box[0] + box[2]) / 2 for box in network._boxes(noise((100, 100)))]
    assert middles == pytest.approx([100 * (0.1 + n / 50) for n in range(39, 19, -1)])


@pytest.mark.parametrize("part", ["logits", "pred_boxes", "heatmaps"])
def test_what_overflows_faults_its_job(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    found, network = maker(nobody)
    finder, poses = Boxes([[0.5, 0.5, 0.2, 0.2]], [0.9]), Poses(PLACES)
    if part == "heatmaps":
        poses._maps[3] = math.nan
    else:
        getattr(finder, part)[0, 0, 1] = math.nan
    monkeypatch.setattr(network, "_finder", finder)
    monkeypatch.setattr(network, "_pose", poses)
    with pytest.raises(BadJobError, match="of its source image is no finite number"):
        found(noise((64, 64)))


def test_of_a_vitpose_with_experts_that_of_coco_is_asked(nobody: Path, tmp_path: Path) -> None:
    a_finder(tmp_path / "openpose" / "persons")
    a_pose(tmp_path / "openpose" / "pose", num_experts=3)
    _, network = maker(tmp_path)
    asked: list[list[int]] = []
    network._pose.register_forward_pre_hook(
        lambda _one, _none, more: asked.append(more["dataset_index"].tolist()), with_kwargs=True
    )
    cuts = [Cut(0, 0, 47, 63)] * 5
    assert len(list(network._joints(noise((64, 64)), cuts))) == 5
    assert asked == [[0] * 4, [0]]


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        *[(f"persons {harm}", f"persons {why.format('RT-DETR')}") for harm, why in HARMS.items()],
        *[(f"pose {harm}", f"pose {why.format('ViTPose')}") for harm, why in HARMS.items()],
        ("half", "openpose must hold persons/ and pose/, and nothing else"),
        ("file", "openpose must hold persons/ and pose/, and nothing else"),
        ("more", "openpose must hold persons/ and pose/, and nothing else"),
        ("dogs", "persons finds no persons"),
        ("hands", "pose does not find COCO's 17 key points"),
    ],
)
def test_networks_that_cannot_be_used_end_the_worker_with_the_reason(
    tmp_path: Path, harm: str, why: str
) -> None:
    folder = tmp_path / "openpose"
    if harm == "file":
        folder.write_text("")
    elif harm == "half":
        a_finder(folder / "persons")
    else:
        a_finder(folder / "persons", things=("dog", "cat") if harm == "dogs" else ("person",))
        a_pose(folder / "pose", joints=21 if harm == "hands" else 17)
    if harm == "more":
        (folder / "hands").mkdir()
    elif " " in harm:
        part, what = harm.split()
        spoil(folder / part, what, "class_embed" if part == "persons" else "head")
    with pytest.raises(ModelError, match=f"ANNOTATOR_DIR: {why}"):
        load(tmp_path)

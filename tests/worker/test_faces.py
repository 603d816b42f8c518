"""Face fixers: what finds faces, how they are cut out and put back, and what networks may do."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gpu_worker import face_weights
from gpu_worker.horde_client import BadJobError, Job
from gpu_worker.model_files import ModelError
from gpu_worker.post import align, kinds, processors

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_worker.post.face_detector import Detector
    from gpu_worker.post.faces import FaceFixer
    from gpu_worker.settings import Settings

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,  # networks of some size
]

torch = pytest.importorskip("torch")
detector = pytest.importorskip("gpu_worker.post.face_detector")
faces = pytest.importorskip("gpu_worker.post.faces")
networks = pytest.importorskip("gpu_worker.post.networks")


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    """Grace Hopper, 512x600: a photograph of the US Navy, in the public domain, of matplotlib's."""
    spec = find_spec("matplotlib")
    assert spec
    assert spec.origin
    file = Path(spec.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    return Image.open(file).convert("RGB")


@pytest.fixture(scope="module")
def find() -> Detector:
    return detector.Detector()  # type: ignore[no-any-return]


def small(image: Image.Image, width: int) -> Image.Image:
    return image.resize((width, width * image.height // image.width), Image.Resampling.LANCZOS)


def crowd(portrait: Image.Image, count: int) -> Image.Image:
    """So many portraits, each a little smaller than the one before it."""
    found = Image.new("RGB", (640, 600), "gray")
    for number in range(count):
        one = small(portrait, 158 - 12 * number)
        found.paste(one, (160 * (number % 4), 200 * (number // 4)))
    return found


# --- finding ------------------------------------------------------------------------------------


def test_a_face_is_where_the_weights_own_package_finds_it(
    portrait: Image.Image, find: Detector
) -> None:
    """The numbers are facenet-pytorch's 2.6.0, by its own code; ours differed by 0.0002."""
    (face,) = find(portrait)
    assert face.score > 0.99
    assert np.abs(face.box - [174.4, 119.6, 355.6, 340.5]).max() < 0.5
    places = [[221.7, 192.2], [309.8, 186.1], [269.4, 239.2], [232.7, 279.6], [306.6, 275.9]]
    assert np.abs(face.points - places).max() < 0.5
    (face,) = find(small(portrait, 128))
    places = [[55.4, 48.4], [78.5, 47.5], [67.9, 59.6], [58.1, 70.2], [77.5, 69.4]]
    assert np.abs(face.points - places).max() < 0.5


@pytest.mark.parametrize("scale", [0.35, 1, 3])
def test_a_face_is_found_in_pictures_of_every_size(
    scale: float, portrait: Image.Image, find: Detector
) -> None:
    (whole,) = find(portrait)
    (face,) = find(portrait.resize((int(512 * scale), int(600 * scale)), Image.Resampling.LANCZOS))
    assert np.abs(face.points / scale - whole.points).max() < 0.05 * 181


def test_the_eye_that_is_left_in_the_picture_is_first_in_a_mirrored_one_too(
    portrait: Image.Image, find: Detector
) -> None:
    (face,) = find(small(portrait, 256).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert face.points[0, 0] + 20 < face.points[1, 0]
    assert face.points[3, 0] + 20 < face.points[4, 0]


def test_all_faces_are_found_and_the_largest_is_first(
    portrait: Image.Image, find: Detector
) -> None:
    found = find(crowd(portrait, 6))
    assert len(found) == 6
    assert [one.area for one in found] == sorted((one.area for one in found), reverse=True)
    assert found[0].box[0] < 160
    assert found[0].box[1] < 200


def blank() -> Image.Image:
    return Image.new("RGB", (256, 256), "teal")


def rubbish(side: int = 256) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(levels)


@pytest.mark.parametrize("image", [blank(), rubbish(), Image.new("RGB", (3000, 8))])
def test_what_is_no_face_is_not_found(image: Image.Image, find: Detector) -> None:
    assert find(image) == []


def test_no_picture_makes_the_networks_look_at_more_than_so_many_places(
    find: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts, seen = detector._cuts, []

    def counted(picture: Any, boxes: Any, side: int) -> Any:
        seen.append(len(boxes))
        return cuts(picture, boxes, side)

    monkeypatch.setattr(detector, "_cuts", counted)
    monkeypatch.setattr(detector, "SURE", (0, 0, 0))
    monkeypatch.setattr(detector, "MAX_CANDIDATES", 40)
    find(rubbish())
    assert seen[0] == 40
    assert max(seen) <= 40


def test_a_box_within_a_larger_one_is_another_face_unless_it_is_mostly_the_same() -> None:
    boxes = np.array([[0, 0, 100, 100], [10, 10, 50, 50], [5, 0, 105, 100], [200, 0, 300, 100]])
    scores = np.array([0.99, 0.95, 0.97, 0.96])
    assert detector._apart(boxes, scores, 0.7).tolist() == [0, 3, 1]
    assert detector._apart(boxes, scores, 0.7, of_smaller=True).tolist() == [0, 3]


# --- cutting out and putting back ---------------------------------------------------------------

UPRIGHT = np.array([[one.real, one.imag] for one in align.PLACES])


def test_a_turned_and_scaled_face_is_brought_back_to_its_places() -> None:
    turn, shift = 0.3 * np.exp(0.7j), 40 + 90j
    seen = np.array(align.PLACES) * turn + shift
    place = align.Place.of(np.stack([seen.real, seen.imag], 1))
    assert abs(place.scale - 1 / turn) < 1e-9
    assert max(abs(place.scale * seen + place.shift - np.array(align.PLACES))) < 1e-9


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan), np.zeros((5, 2))])
def test_points_that_are_no_face_are_no_place(points: Any) -> None:
    with pytest.raises(ValueError, match="no face"):
        align.Place.of(points)


@pytest.mark.parametrize("size", [0.2, 1, 4])
def test_a_cut_shows_each_point_where_it_belongs(size: float) -> None:
    turn, shift = size * np.exp(-0.4j), 90 + 320j * size
    picture = Image.new("RGB", (int(700 * size) + 200, int(800 * size) + 200))
    draw, colours = ImageDraw.Draw(picture), ("red", "lime", "blue", "yellow", "cyan")
    points = []
    for place, colour in zip(align.PLACES, colours, strict=True):
        spot = place * turn + shift
        points.append([spot.real, spot.imag])
        reach = max(2, 14 * size)
        box = (spot.real - reach, spot.imag - reach, spot.real + reach, spot.imag + reach)
        draw.ellipse(box, colour)
    cut = align.Place.of(np.array(points)).cut(picture)
    assert cut.size == (512, 512)
    for place, colour in zip(align.PLACES, colours, strict=True):
        seen = np.array(cut.getpixel((round(place.real), round(place.imag))), int)
        wanted = np.array(Image.new("RGB", (1, 1), colour).getpixel((0, 0)), int)
        assert np.abs(seen - wanted).max() < 90, colour


def test_a_large_faces_fine_patterns_do_not_break_up() -> None:
    fine = np.indices((1600, 1600)).sum(0) % 2 * 255
    picture = Image.fromarray(fine.astype(np.uint8)).convert("RGB")
    levels = np.asarray(align.Place.of(UPRIGHT * 3.1 + 3).cut(picture), int)
    assert np.abs(levels - 127).max() < 24
    shown = Image.new("RGB", (160, 160))
    lines = Image.fromarray((np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8))
    align.Place.of(UPRIGHT / 3.3).put(shown, lines.convert("RGB"), 1.0)
    assert np.abs(np.asarray(shown, int)[40:110, 40:110] - 127).max() < 24


@pytest.mark.parametrize("width", [150, 512, 1600])
def test_a_face_that_was_not_changed_leaves_no_trace(
    width: int, portrait: Image.Image, find: Detector
) -> None:
    image = small(portrait, width).rotate(10, Image.Resampling.BICUBIC)
    place = align.Place.of(find(image)[0].points)
    found = image.copy()
    place.put(found, place.cut(image), 1.0)
    apart = np.abs(np.asarray(found, int) - np.asarray(image, int))
    assert apart.mean() < 1
    assert np.percentile(apart, 99) < 16


def test_a_new_face_fades_out_before_its_edges(portrait: Image.Image, find: Detector) -> None:
    place = align.Place.of(find(portrait)[0].points)
    found, black = Image.new("RGB", portrait.size, "white"), Image.new("RGB", (512, 512))
    place.put(found, black, 1.0)
    levels = np.asarray(found.convert("L"), int)
    nose = np.array([(256 + 256j - place.shift) / place.scale])
    assert levels[int(nose.imag[0]), int(nose.real[0])] == 0
    steps = max(np.abs(np.diff(levels, axis=axis)).max() for axis in (0, 1))
    assert steps < 16
    for corner in place.corners():
        x, y = int(corner.real), int(corner.imag)
        if 0 <= x < found.width and 0 <= y < found.height:
            assert levels[y, x] > 250


@pytest.mark.parametrize(("strength", "level"), [(0.0, 200), (0.5, 100), (1.0, 0)])
def test_strength_is_how_much_of_the_new_face_is_seen(strength: float, level: int) -> None:
    picture = Image.new("RGB", (512, 512), (200, 200, 200))
    align.Place.of(UPRIGHT).put(picture, Image.new("RGB", (512, 512)), strength)
    assert abs(picture.convert("L").getpixel((256, 256)) - level) <= 1  # type: ignore[operator]


@pytest.mark.parametrize("shift", [(-300, -300), (400, 0), (2000, 2000)])
def test_a_face_that_reaches_out_of_its_picture_is_put_into_what_is_there(
    shift: tuple[int, int],
) -> None:
    picture = Image.new("RGB", (256, 256), "white")
    place = align.Place.of(UPRIGHT + shift)
    assert place.cut(picture).size == (512, 512)
    place.put(picture, Image.new("RGB", (512, 512)), 1.0)
    inside = shift == (-300, -300)
    assert (picture.convert("L").getextrema()[0] == 0) is inside


# --- fixing -------------------------------------------------------------------------------------


class Negative(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Makes a negative of each face."""

    def forward(self, x: Any, *, return_rgb: bool, randomize_noise: bool) -> Any:
        assert not return_rgb
        assert not randomize_noise
        return (-x, [])


class Broken(Negative):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Any, **_: Any) -> Any:
        if self.how == "memory":
            raise torch.OutOfMemoryError
        return (x[..., :256] if self.how == "size" else x * float("nan"), [])


def fixer(find: Detector, module: Any = None) -> FaceFixer:
    return faces.FaceFixer(networks.Network(module or Negative()), find, "cpu")  # type: ignore[no-any-return]


def at_once(call: Callable[[], Image.Image]) -> Image.Image:
    return call()


def test_a_face_is_drawn_anew_and_the_rest_stays(portrait: Image.Image, find: Detector) -> None:
    before = portrait.tobytes()
    found, said = fixer(find).fixed(portrait, 1.0, lambda: None, at_once)
    assert portrait.tobytes() == before
    old, new = (np.asarray(one, int) for one in (portrait, found))
    assert said == ""
    assert np.abs(new[220:250, 250:280] - (255 - old[220:250, 250:280])).mean() < 6
    assert (new[500:] == old[500:]).all()
    half, _ = fixer(find).fixed(portrait, 0.5, lambda: None, at_once)
    assert np.abs(np.asarray(half, int)[220:250, 250:280] - 127).mean() < 4


def test_a_picture_without_a_face_stays_as_it_is_and_its_client_is_told(find: Detector) -> None:
    image = blank()
    found, said = fixer(find).fixed(image, 1.0, lambda: None, at_once)
    assert found.tobytes() == image.tobytes()
    assert said == "found no face"


def test_of_many_faces_the_largest_are_fixed_and_its_client_is_told(
    portrait: Image.Image, find: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "MAX_FACES", 2)
    runs: list[int] = []
    checks: list[int] = []

    def run(call: Callable[[], Image.Image]) -> Image.Image:
        runs.append(len(checks))
        return call()

    image = crowd(portrait, 3)
    found, said = fixer(find).fixed(image, 1.0, lambda: checks.append(1), run)
    assert said == "fixed the largest 2 of 3 faces"
    assert runs == [2, 3]  # a lease is looked at before each face
    apart = np.abs(np.asarray(found, int) - np.asarray(image, int)).sum(2)
    assert apart[60:90, 60:100].mean() > 50
    assert apart[60:90, 390:410].max() == 0


@pytest.mark.parametrize(
    ("how", "why"),
    [("size", "face of another size"), ("nan", "is no numbers"), ("memory", "does not fit into")],
)
def test_a_network_that_makes_no_face_is_refused_at_the_start(
    how: str, why: str, find: Detector
) -> None:
    with pytest.raises(networks.NetworkError, match=why):
        fixer(find, Broken(how))


def test_a_face_that_the_memory_cannot_hold_faults_its_image_alone(
    portrait: Image.Image, find: Detector
) -> None:
    one = fixer(find)
    one._net = Broken("memory")
    with pytest.raises(MemoryError):
        one.fixed(portrait, 1.0, lambda: None, at_once)


def test_gfpgan_makes_the_same_face_of_the_same_face(portrait: Image.Image, find: Detector) -> None:
    networks._spandrel()
    from spandrel.architectures.GFPGAN import GFPGAN

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = GFPGAN(narrow=0.0625, num_style_feat=8, num_mlp=1).eval()
        with torch.no_grad():
            for name, one in net.named_parameters():
                if name.endswith("conv1.weight") or "modulated_conv" not in name:
                    one.add_(torch.randn_like(one) * 0.01)
    one, cut = fixer(find, net), align.Place.of(find(portrait)[0].points).cut(portrait)
    first = np.asarray(one._fixed(cut), int)
    assert first.std() > 1
    assert (np.asarray(one._fixed(cut), int) == first).all()
    noisy = net(torch.zeros(1, 3, 512, 512))[0] - net(torch.zeros(1, 3, 512, 512))[0]
    assert noisy.abs().max() > 0  # by itself it adds noise


# --- jobs and files -----------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [-0.1, 1.01, "1", True, float("nan"), [1]])
def test_a_strength_that_is_no_part_of_one_is_refused(strength: Any) -> None:
    payload = {"width": 64, "height": 64, "post_processing": ["GFPGAN"]}
    payload["facefixer_strength"] = strength
    with pytest.raises(BadJobError, match="no number from 0 to 1"):
        kinds.asked(payload, ["GFPGAN"])


def test_a_job_may_say_how_strong_and_all_is_the_default() -> None:
    assert [kinds.strength({"facefixer_strength": one}) for one in (0, 0.75, 1, None)] == [
        0, 0.75, 1, 1,
    ]  # fmt: skip


def test_faces_are_fixed_before_a_picture_is_enlarged() -> None:
    calls: list[tuple[str, float, tuple[int, int]]] = []

    class Fixer:
        def fixed(self, image: Image.Image, strength: float, check: Any, run: Any) -> Any:
            calls.append(("fix", strength, image.size))
            return run(lambda: image), "found no face"

    class Larger:
        def enlarged(self, image: Image.Image, check: Any) -> Image.Image:
            calls.append(("enlarge", 0, image.size))
            return image.resize((image.width * 4, image.height * 4))

    post = processors.PostProcessors({"NMKD_Siax": Larger()}, fixers={"GFPGAN": Fixer()})
    assert post.offer["post_processors"] == ["GFPGAN", "NMKD_Siax"]
    payload = {"width": 64, "height": 64, "post_processing": ["NMKD_Siax", "GFPGAN"]}
    payload["facefixer_strength"] = 0.75
    job = Job(id="j", payload=payload, deadline=float("inf"))
    told: list[Any] = []
    assert post.run(job, Image.new("RGB", (64, 64)), at_once, told).size == (256, 256)
    assert calls == [("fix", 0.75, (64, 64)), ("enlarge", 0, (64, 64))]
    assert told == [{"type": "information", "value": "see_ref", "ref": "GFPGAN found no face"}]


def ready(monkeypatch: pytest.MonkeyPatch, seconds: float = 0) -> None:
    """Let files of face fixers load in no time, though they hold nothing."""
    from gpu_worker.post import engine

    class Quick:
        def seconds(self) -> float:
            return seconds

    monkeypatch.setattr(engine.Loader, "fixer", lambda *_: Quick())


def loaded(settings: Settings, folder: Path, *names: str) -> processors.PostProcessors:
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(b"")
    changed = replace(
        settings, device="cpu", torch_threads=1, post_processor_dir=folder, max_batch=2
    )
    return processors.load(changed)


def test_face_fixers_are_offered_as_far_as_all_of_them_are_fast_enough_together(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    ready(monkeypatch, 15)  # 30 s for two images, of 75
    found = loaded(settings, tmp_path, "RestoreFormer", "GFPGANv1.3", "GFPGAN")
    assert found.offered == ("GFPGAN", "GFPGANv1.3")
    assert "RestoreFormer 30 s" in caplog.text


def test_without_the_detectors_weights_no_face_fixer_is_offered_and_the_log_says_why(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(face_weights, "FOLDER", tmp_path / "none")
    assert loaded(settings, tmp_path, "GFPGAN").offered == ()
    assert "GFPGAN is not offered: the face detector's pnet.pt is not here" in caplog.text
    assert "python -m gpu_worker.face_weights" in caplog.text


def test_a_face_fixer_of_a_damaged_file_ends_the_worker_with_one_sentence(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"POST_PROCESSOR_DIR: GFPGAN\.safetensors is no safet"):
        loaded(settings, tmp_path, "GFPGAN")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GFPGAN", "RestoreFormer"])
def test_a_face_fixer_of_its_published_size_is_loaded_and_draws(
    name: str, settings: Settings, tmp_path: Path, portrait: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from importlib import import_module

    from safetensors.torch import save_file

    monkeypatch.setattr(processors, "MAX_SECONDS", 10_000)
    networks._spandrel()
    made: Any = import_module(f"spandrel.architectures.{name}")
    small_one: dict[str, Any] = {"ch": 32, "n_embed": 16, "embed_dim": 32, "z_channels": 32}
    small_one |= {"ch_mult": (1, 2, 2, 4, 4, 8), "head_size": 8}
    net = getattr(made, name)(**({} if name == "GFPGAN" else small_one))
    tensors = {key: one.contiguous() for key, one in net.state_dict().items()}
    save_file(tensors, tmp_path / f"{name}.safetensors")
    post = processors.load(
        replace(settings, device="cpu", torch_threads=1, post_processor_dir=tmp_path)
    )
    assert name in post.offered
    job = Job(
        id="j",
        payload={"width": 512, "height": 600, "post_processing": [name]},
        deadline=float("inf"),
    )
    told: list[Any] = []
    found = post.run(job, portrait, at_once, told)
    assert (found.size, told) == (portrait.size, [])
    apart = np.abs(np.asarray(found, int) - np.asarray(portrait, int))
    assert apart[200:280, 220:320].mean() > 10
    assert apart[500:].max() == 0

"""The upscalers' network: how it is read, and what it makes of pictures."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gpu_worker import upscale, weights
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from gpu_worker.post import processors, tiles

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.post.engine import Engine
    from gpu_worker.post.rrdb import RRDBNet
    from gpu_worker.settings import Settings

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,  # networks of some size
]

rrdb = pytest.importorskip("gpu_worker.post.rrdb")
engine = pytest.importorskip("gpu_worker.post.engine")
networks = pytest.importorskip("gpu_worker.post.networks")
torch = pytest.importorskip("torch")

ANIME = "realesrgan-x4plus-anime"


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Lines, discs and colours that go over into each other."""
    levels = np.linspace(30, 230, 96)[:, None].repeat(72, 1)
    image = Image.fromarray(np.stack([levels, levels[::-1], levels * 0 + 180], -1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for n in range(6):
        draw.line((n * 13, 0, 71 - n * 9, 95), (20 * n, 40, 220 - 30 * n), width=2)
        draw.ellipse((n * 11, n * 15, n * 11 + 14, n * 15 + 14), outline=(250, 20 * n, 20), width=2)
    return image


def a_net(factor: int = 4, blocks: int = 1) -> RRDBNet:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net: Any = rrdb.RRDBNet(blocks=blocks, width=8, factor=factor)
        with torch.no_grad():
            net.conv_last.bias.fill_(0.5)
            net.conv_last.weight.mul_(20)
    return net.eval()  # type: ignore[no-any-return]


def an_engine(factor: int = 4) -> Engine:
    return engine.Engine(engine._of_rrdb(a_net(factor)), "cpu", 1)  # type: ignore[no-any-return]


def enlarged(one: Engine, image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(one.enlarged(image, lambda: None)).astype(int)


# --- reading ------------------------------------------------------------------------------------


def saved(tensors: dict[str, Any], file: Path) -> Path:
    from safetensors.torch import save_file

    save_file({name: one.contiguous() for name, one in tensors.items()}, file)
    return file


def older(name: str) -> str:
    """A name as the first ESRGAN's trainer wrote it."""
    for ours, theirs in (
        ("conv_first", "model.0"), ("conv_body", "model.1.sub.2"), ("conv_up1", "model.3"),
        ("conv_up2", "model.6"), ("conv_hr", "model.8"), ("conv_last", "model.10"),
    ):  # fmt: skip
        name = name.replace(f"{ours}.", f"{theirs}.")
    if name.startswith("body."):
        name = name.replace("body.", "model.1.sub.").replace(".rdb", ".RDB")
        stem, _, end = name.rpartition(".")
        name = f"{stem}.0.{end}"
    return name


def middle(name: str) -> str:
    """A name as BasicSR wrote it before 2020."""
    for ours, theirs in (
        ("conv_body", "trunk_conv"), ("conv_up", "upconv"), ("conv_hr", "HRconv"),
        ("body.", "RRDB_trunk."), (".rdb", ".RDB"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def drawn(net: Any, pixels: Any) -> Any:
    with torch.inference_mode():
        return net(pixels)


@pytest.mark.parametrize("spelled", [str, older, middle])
@pytest.mark.parametrize("factor", [4, 2])
def test_the_names_of_all_three_implementations_load_the_same_network(
    spelled: Any, factor: int, tmp_path: Path
) -> None:
    net, pixels = a_net(factor, blocks=2), torch.rand(1, 3, 8, 8)
    file = saved({spelled(n): t for n, t in net.state_dict().items()}, tmp_path / "n.safetensors")
    found = networks.upscaler(file)
    assert (found.factor, 4 % found.multiple) == (factor, 0)
    ours, theirs = drawn(net, pixels), drawn(found.module, pixels)
    assert ours.std() > 0.01
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("lie", ["empty", "other", "lacks", "more", "shape", "nan", "blocks"])
def test_a_file_that_is_no_rrdbnet_is_one_sentence(
    lie: str, settings: Settings, tmp_path: Path
) -> None:
    tensors = dict(a_net().state_dict())
    file = tmp_path / "NMKD_Siax.safetensors"
    if lie == "other":
        tensors = {"upsampler.weight": torch.zeros(3, 3, 3, 3)}
    elif lie == "lacks":
        del tensors["conv_hr.bias"]
    elif lie == "more":
        tensors["attention.weight"] = torch.zeros(1)
    elif lie == "shape":
        tensors["conv_up1.weight"] = torch.zeros(8, 8, 1, 1)
    elif lie == "nan":
        tensors["conv_up1.bias"] = torch.full((8,), float("nan"))
    elif lie == "blocks":
        tensors["body.999999999.rdb1.conv1.weight"] = torch.zeros(32, 8, 3, 3)
    saved(tensors, file)
    if lie == "empty":
        file.write_bytes(b"")
    with pytest.raises(ModelError) as refused:
        processors.load(replace(settings, post_processor_dir=tmp_path, torch_threads=1))
    (line,) = str(refused.value).splitlines()
    assert line.startswith("POST_PROCESSOR_DIR: NMKD_Siax.safetensors ")


def test_a_file_that_enlarges_by_too_little_is_refused(settings: Settings, tmp_path: Path) -> None:
    saved(dict(a_net(2).state_dict()), tmp_path / "4x_AnimeSharp.safetensors")
    with pytest.raises(ModelError, match="enlarges by 2, not by 4"):
        processors.load(replace(settings, post_processor_dir=tmp_path, torch_threads=1))


def test_weights_in_half_precision_are_read(tmp_path: Path) -> None:
    half = {name: one.half() for name, one in a_net().state_dict().items()}
    found = networks.upscaler(saved(half, tmp_path / "n.safetensors"))
    assert {one.dtype for one in found.module.parameters()} == {torch.float32}


def test_a_checkpoint_is_converted_without_running_its_code(tmp_path: Path) -> None:
    from gpu_worker.post import from_pth

    net = a_net(blocks=2)
    source, target = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save({"params_ema": net.state_dict(), "params": {}}, source)
    from_pth.convert(source, target)
    found, pixels = networks.upscaler(target), torch.rand(1, 3, 8, 8)
    assert (drawn(net, pixels) - drawn(found.module, pixels)).abs().max() < 1e-5


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil-was-here",)


@pytest.mark.parametrize("content", ["code", "rubbish", "no network"])
def test_a_checkpoint_that_cannot_be_converted_leaves_nothing_behind(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker.post import from_pth

    monkeypatch.chdir(tmp_path)
    source, target = tmp_path / "in.pth", tmp_path / "out.safetensors"
    if content == "no network":
        torch.save({"params": {"a": torch.zeros(1)}}, source)
    else:
        source.write_bytes(pickle.dumps({"params": Evil()}) if content == "code" else b"rubbish")
    with pytest.raises(networks.NetworkError):
        from_pth.convert(source, target)
    assert [one.name for one in tmp_path.iterdir()] == ["in.pth"]


# --- pictures -----------------------------------------------------------------------------------


def test_torch_draws_with_the_shipped_weights_what_ncnn_draws(picture: Image.Image) -> None:
    small = picture.crop((0, 0, 24, 20))
    net = rrdb.of_ncnn(*(weights.path(f"{ANIME}{end}") for end in (".param", ".bin")))
    pixels = np.ascontiguousarray(np.asarray(small, np.float32).transpose(2, 0, 1)) / 255
    with torch.inference_mode():
        ours = net(torch.from_numpy(pixels)[None])[0].numpy()
    theirs = upscale.Upscaler(threads=1)
    extractor = theirs._nets[ANIME].create_extractor()
    extractor.input("data", theirs._ncnn.Mat(pixels).clone())
    assert np.abs(ours - np.array(extractor.extract("output")[1])).max() < 1e-4


@pytest.mark.parametrize("factor", [4, 2])
def test_tiles_make_the_picture_that_the_whole_makes(
    factor: int, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network with one block sees less than the margin, so the pictures are equal."""
    one = an_engine(factor)
    whole = enlarged(one, picture)
    assert whole.shape == (96 * factor, 72 * factor, 3)
    assert whole.std() > 5
    monkeypatch.setattr(engine, "SIDES", (32,))
    assert np.abs(enlarged(one, picture) - whole).max() <= 1


@pytest.mark.slow
def test_no_seam_is_seen_between_the_tiles_of_a_shipped_network(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = rrdb.of_ncnn(*(weights.path(f"{ANIME}{end}") for end in (".param", ".bin")))
    one, image = engine.Engine(engine._of_rrdb(net), "cpu", 1), picture.crop((0, 0, 64, 64))
    whole = enlarged(one, image)
    monkeypatch.setattr(engine, "SIDES", (32,))
    apart = np.abs(enlarged(one, image) - whole)
    assert apart.max() <= 16
    assert apart.mean() < 0.1
    assert apart[32 * 4 - 2 : 32 * 4 + 2].mean() < 0.3


def test_a_picture_whose_sides_fit_no_fold_is_enlarged_whole(picture: Image.Image) -> None:
    odd = picture.crop((0, 0, 37, 51))
    assert enlarged(an_engine(2), odd).shape == (102, 74, 3)


def test_the_same_picture_gives_the_same_bytes(picture: Image.Image) -> None:
    one = an_engine()
    first = enlarged(one, picture)
    enlarged(one, picture.crop((0, 0, 20, 20)))
    assert (enlarged(one, picture) == first).all()


def test_tiles_get_smaller_where_the_memory_is_short_and_stay_so(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, sizes = an_engine(), []
    raw = one._raw

    def short(pixels: Any) -> Any:
        sizes.append(pixels.shape[0] - 2 * tiles.MARGIN)
        if sizes[-1] > 32:
            raise torch.OutOfMemoryError
        return raw(pixels)

    whole = enlarged(one, picture)
    monkeypatch.setattr(engine, "SIDES", (96, 48, 32))
    monkeypatch.setattr(one, "_raw", short)
    assert np.abs(enlarged(one, picture) - whole).max() <= 1
    assert sizes[:3] == [96, 48, 32]
    del sizes[:]
    enlarged(one, picture)
    assert set(sizes) == {32}
    monkeypatch.setattr(engine, "SIDES", (96, 48, 40))
    with pytest.raises(MemoryError):
        enlarged(one, picture)


def test_a_lease_is_looked_at_before_each_tile(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SIDES", (32,))
    left = 3

    def check() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise BadJobError

    with pytest.raises(BadJobError):
        an_engine().enlarged(picture, check)


# --- what is offered ----------------------------------------------------------------------------


def loaded(settings: Settings, **changes: Any) -> processors.PostProcessors:
    return processors.load(replace(settings, device="cpu", torch_threads=1, **changes))


def test_a_cpu_offers_what_it_can_do_in_half_a_lease(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert loaded(settings).offered == ()
    assert "not offered, since MAX_BATCH images of MAX_PIXELS" in caplog.text
    small = loaded(settings, max_pixels=384 * 384, max_batch=1)
    assert small.offered == ("RealESRGAN_x4plus_anime_6B",)
    assert loaded(settings, max_pixels=384 * 384, max_batch=4).offered == ()


def test_what_is_too_slow_for_a_cpu_is_not_even_loaded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        pytest.fail("loaded in vain")

    monkeypatch.setattr(rrdb, "of_ncnn", load)
    assert loaded(settings).offered == ()


def test_an_upscaler_of_the_operators_that_is_too_slow_is_not_offered(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "MAX_SECONDS", 0.0)
    saved(dict(a_net().state_dict()), tmp_path / "4x_AnimeSharp.safetensors")
    assert loaded(settings, post_processor_dir=tmp_path).offered == ()


def test_an_upscaler_of_the_operators_is_offered_by_its_name(
    settings: Settings, tmp_path: Path, picture: Image.Image
) -> None:
    from gpu_worker.horde_client import Job

    saved(dict(a_net().state_dict()), tmp_path / "4x_AnimeSharp.safetensors")
    saved(dict(a_net().state_dict()), tmp_path / "RealESRGAN_x2plus.safetensors")
    post = loaded(settings, post_processor_dir=tmp_path)
    assert post.offered == ("RealESRGAN_x2plus", "4x_AnimeSharp")
    sizes = []
    for name in post.offered:
        payload = {"width": 72, "height": 96, "post_processing": [name]}
        job = Job(id="j", payload=payload, deadline=float("inf"))
        sizes.append(post.run(job, picture, lambda call: call()).size)
    assert sizes == [(144, 192), (288, 384)]


def test_without_fetched_weights_the_worker_draws_and_says_what_it_lacks(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    assert loaded(settings, max_pixels=64 * 64, max_batch=1).offered == ()
    assert "python -m gpu_worker.weights" in caplog.text

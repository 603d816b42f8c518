"""Several models with LoRAs, textual inversions and ControlNets: each job has its model's."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from gpu_worker import control, tensor_files
from gpu_worker.addons.asked import AddOnError
from gpu_worker.addons.folder import Folder
from gpu_worker.addons.library import Library
from gpu_worker.horde_client import BadJobError, Horde
from gpu_worker.model_files import ModelError
from gpu_worker.shifts import Worker
from tests.worker import flux_loras, tiny_addons
from tests.worker.fake_horde import KEY, fake_horde
from tests.worker.models_shop import LORAS, MODELS, Shop, job, pipeline
from tests.worker.test_abilities import png
from tests.worker.test_control import square
from tests.worker.test_pipeline import difference, pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpu_worker.model_cache import ModelCache
    from gpu_worker.pipeline import Pipeline
    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import FakeHorde

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    import torch

    threads = torch.get_num_threads()
    yield Shop(tmp_path_factory.mktemp("shop"))
    torch.set_num_threads(threads)


# --- LoRAs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "originals_mb"), [(1, 4000), (0, 4000), (0, 0)])
def test_pictures_of_models_in_turns_are_those_that_each_draws_alone(
    shop: Shop, most: int, originals_mb: int
) -> None:
    from gpu_worker.pipeline import Pipeline

    cache, _, load = shop.opened(max_loaded=most, lora_memory_mb=originals_mb)
    wanted: dict[tuple[str, bool], bytes] = {}
    for name, path in shop.models.items():
        alone = Pipeline(replace(shop.settings(), model_dir=path, model_name=name), {})
        for with_lora in (True, False):
            mine = load(job(name, *([LORAS[name]] if with_lora else [])))
            wanted[name, with_lora] = alone.draw([mine])[0].tobytes()
    assert len(set(wanted.values())) == len(wanted)
    turns = [(name, with_lora) for with_lora in (True, False, True) for name in MODELS]
    turns += [("one", False), ("two", True), ("one", True), ("xl", False), ("two", False)]
    for name, with_lora in turns:
        mine = load(job(name, *([LORAS[name]] if with_lora else [])))
        assert cache.draw([mine])[0].tobytes() == wanted[name, with_lora], (name, with_lora)


def test_mates_of_several_models_have_each_their_own(shop: Shop) -> None:
    cache, _, load = shop.opened()
    jobs = [load(job(name, *loras)) for name in MODELS for loras in ((LORAS[name],), ())]
    together = cache.draw(jobs)
    for one, image in zip(jobs, together, strict=True):
        assert cache.draw([one])[0].tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("model", "lora"),
    [("one", "large"), ("two", "large"), ("xl", "neon")],
)
def test_a_lora_of_another_family_than_its_jobs_model_loads_nothing(
    shop: Shop, model: str, lora: str
) -> None:
    cache, _, load = shop.opened()
    with pytest.raises(AddOnError) as caught:
        load(job(model, lora))
    assert caught.value.remark == {"type": "lora", "value": "baseline_mismatch", "ref": lora}
    assert not cache.loaded
    assert load(job(model, LORAS[model])).add_ons, "and it harms no other"


def test_a_textual_inversion_of_another_family_is_refused_by_its_length(shop: Shop) -> None:
    _, _, load = shop.opened()
    assert load(job("one", tis=[{"name": "fog", "inject_ti": "prompt"}])).add_ons
    with pytest.raises(AddOnError, match="another length"):
        load(job("xl", tis=[{"name": "fog"}]))


def test_a_lora_for_a_model_that_is_none_of_this_worker_faults_its_job(shop: Shop) -> None:
    _, _, load = shop.opened()
    for name in ("", "unknown"):
        with pytest.raises(BadJobError, match="is no model of this worker"):
            load(job(name, "neon"))
    plain = job("unknown")
    assert load(plain) is plain


def test_models_of_one_shape_share_what_was_read_and_others_do_not(
    shop: Shop, tmp_path: Path
) -> None:
    _, _, load = shop.opened()
    tiny_addons.kohya(tmp_path / "any.safetensors")
    load._library = Library({"lora": Folder(tmp_path)}, "")
    parts = {name: load(job(name, "any")).add_ons.loras[0] for name in MODELS}  # type: ignore[union-attr]
    assert parts["one"].weights is parts["two"].weights
    assert parts["one"].weights is not parts["xl"].weights


def test_one_limit_of_memory_is_for_all_models(shop: Shop, tmp_path: Path) -> None:
    _, _, load = shop.opened()
    for n in range(2):
        tiny_addons.kohya(tmp_path / f"{n}.safetensors", seed=n)
    load._library = Library({"lora": Folder(tmp_path)}, "")
    load._most = (tmp_path / "0.safetensors").stat().st_size * 3 // 2
    held = load(job("one", "0"))
    with pytest.raises(AddOnError, match="does not fit into the memory"):
        load(replace(job("xl", "1"), deadline=time.monotonic() + 0.2))
    del held
    assert load(job("xl", "1")).add_ons


def test_a_model_that_goes_takes_along_what_was_loaded_for_it(shop: Shop) -> None:
    cache, _, load = shop.opened(max_loaded=1)
    cache.draw([load(job("one", "neon"))])
    gone: Pipeline = pipeline(cache, "one")
    assert gone.adapters.originals > 0
    left = weakref.ref(gone), weakref.ref(gone.adapters), weakref.ref(gone._model)
    del gone
    cache.draw([load(job("two", "neon"))])
    gc.collect()
    assert [ref() for ref in left] == [None] * 3


def test_originals_of_a_model_that_rests_are_let_go_with_its_loras(shop: Shop) -> None:
    cache, _, load = shop.opened(lora_memory_mb=0)
    cache.draw([load(job("one", "neon"))])
    cache.draw([load(job("xl"))])
    assert set(cache.loaded) == {"one", "xl"}
    assert pipeline(cache, "one").adapters.originals == 0


# --- ControlNets ---------------------------------------------------------------------------------


def guided(cache: ModelCache, model: str, kind: str = "canny", **payload: Any) -> Any:
    source = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    one = job(model, source="url", control_type=kind, image_is_control=True, **payload)
    return pixels(cache.draw([one], [control.prepared(one, source)])[0])


def test_a_model_has_the_controlnets_of_its_family_or_its_own(shop: Shop) -> None:
    cache, able, _ = shop.opened(own={"two": shop.folder / "own"})
    types = {name: able.of(name).controls for name in MODELS}
    assert types == {"one": ("canny",), "two": ("depth",), "xl": ("canny",)}
    assert [able.of(name).xl for name in MODELS] == [False, False, True]
    drawn = {name: guided(cache, name, (types[name] or ("",))[0]) for name in MODELS}
    for name in MODELS:
        plain = pixels(cache.draw([job(name)])[0])
        assert difference(drawn[name], plain) > 0.5
    with pytest.raises(BadJobError, match="the control_type canny is not supported"):
        guided(cache, "two")


def test_a_controlnet_is_loaded_when_it_is_drawn_with_and_goes_with_its_model(shop: Shop) -> None:
    cache, _, _ = shop.opened(max_loaded=1)
    cache.draw([job("one")])
    assert not pipeline(cache, "one").controls.networks
    guided(cache, "one")
    (network,) = pipeline(cache, "one").controls.networks
    left = weakref.ref(network)
    del network
    guided(cache, "xl")
    gc.collect()
    assert left() is None


def test_the_first_image_with_a_controlnet_tiles_as_the_next_ones_do(shop: Shop) -> None:
    cache, _, _ = shop.opened()
    first, second = (guided(cache, "one", tiling=True) for _ in range(2))
    assert (first == second).all()
    assert difference(first, guided(cache, "one")) > 0


def test_a_model_whose_directory_is_missing_is_drawn_without_and_the_log_says_so(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    cache, able, _ = shop.opened(own={"two": shop.folder / "nowhere"})
    assert [able.of(name).controls for name in MODELS] == [("canny",), (), ("canny",)]
    assert set(cache.usable) == set(MODELS)
    (line,) = [record.getMessage() for record in caplog.records]
    nowhere = shop.folder / "nowhere"
    assert line == f"'two' is drawn without: {nowhere} cannot be read: No such file or directory"


def test_a_family_without_a_folder_is_drawn_without(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.controls / "stable_diffusion_1", tmp_path / "stable_diffusion_1")
    _, able, _ = shop.opened(own={})
    assert able.of("xl").controls == ("canny",)
    from gpu_worker.device import open_models

    _, able = open_models(replace(shop.settings(), controlnet_dir=tmp_path))
    assert [able.of(name).controls for name in MODELS] == [("canny",), ("canny",), ()]


def test_a_folder_that_is_no_familys_ends_the_worker(shop: Shop, tmp_path: Path) -> None:
    from gpu_worker.device import open_models

    (tmp_path / "canny").mkdir()
    with pytest.raises(ModelError, match="CONTROLNET_DIR: 'canny' is no family of stable_diff"):
        open_models(replace(shop.settings(), controlnet_dir=tmp_path))


@pytest.mark.parametrize("harm", ["foreign", "cut", "large"])
def test_a_controlnet_that_cannot_be_used_is_named_and_the_others_are_drawn(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from gpu_worker import device_memory

    own = tmp_path / "own"
    shutil.copytree(shop.controls / "stable_diffusion_1" / "canny", own / "canny")
    shutil.copytree(own / "canny", own / "depth")
    (file,) = (own / "depth").glob("*.safetensors")
    why = {"foreign": "does not fit the model", "cut": "is cut off", "large": "needs 4.0 GB beside"}
    if harm == "foreign":
        other = shop.controls / "stable_diffusion_xl" / "canny" / "config.json"
        shutil.copy(other, own / "depth" / "config.json")
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        real = tensor_files.parameters_of
        monkeypatch.setattr(device_memory.DeviceMemory, "total", lambda _self: int(6e9))
        monkeypatch.setattr(
            tensor_files,
            "parameters_of",
            lambda part: 10**9 if part.name == "depth" else real(part),
        )
    cache, able, _ = shop.opened(own={"one": own})
    assert able.of("one").controls == ("canny",)
    assert why[harm] in caplog.text
    assert guided(cache, "one").std() > 2


def test_one_that_breaks_later_is_lost_for_its_model_alone(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("canny", "depth"):
        shutil.copytree(shop.controls / "stable_diffusion_1" / "canny", tmp_path / name)
    cache, able, _ = shop.opened(own={"one": tmp_path})
    (file,) = (tmp_path / "depth").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadJobError, match="the control_type depth is not supported"):
        guided(cache, "one", "depth")
    assert able.of("one").controls == ("canny",)
    assert "the ControlNet depth cannot be loaded" in caplog.text
    assert guided(cache, "one").std() > 2
    cache.draw([job("xl")])
    cache._forget(["one"])
    cache.draw([job("one")])
    assert list(pipeline(cache, "one").controls) == ["canny"], "it is not tried again either"


def test_what_the_memory_took_is_remembered_when_a_model_is_loaded_anew(shop: Shop) -> None:
    cache, _, _ = shop.opened(max_loaded=1)
    cache.draw([job("one")])
    learnt = pipeline(cache, "one").learnt
    assert learnt.capacity, "measured, alone in memory"
    learnt.limits[64 * 64] = 2
    for name in ("two", "one"):
        cache.draw([job(name)])
    assert pipeline(cache, "one").learnt is learnt
    assert learnt.limits == {64 * 64: 2}
    assert learnt.capacity
    cache.draw([job("two")])
    assert pipeline(cache, "two").learnt.limits == {}


# --- shifts --------------------------------------------------------------------------------------


def test_models_with_loras_and_maps_in_turns_are_all_drawn_and_none_starves(
    shop: Shop, horde: FakeHorde, settings: Settings
) -> None:
    cache, able, load = shop.opened(max_loaded=1, own={"two": shop.folder / "nowhere"})
    horde.files["p.png"] = png()
    ids: dict[str, list[str]] = {name: [] for name in MODELS}
    for number in range(4):
        for name in MODELS:
            loras = [{"name": LORAS[name]}] if number % 2 else []
            more: dict[str, Any] = {"loras": loras, "ddim_steps": 1}
            if number == 3 and name != "two":
                more |= {"control_type": "canny", "source": "p.png"}
            ids[name].append(horde.add(model=name, **more))
    foreign = horde.add(model="one", loras=[{"name": "large"}])
    ours = replace(
        shop.settings(), horde_url=settings.horde_url, horde_api_key=settings.horde_api_key,
        worker_name="tester", max_batch=2, shift_seconds=60,
    )  # fmt: skip
    detector = lambda _file, _image: (0.0, "stand-in 1")  # noqa: E731
    worker = Worker(ours, Horde(ours), cache.draw, detector, cache, add_ons=load, abilities=able)
    result = asyncio.run(worker.work({"id": "t", "input": {"v": 1, "model": "xl"}}))
    assert (result["images"], result["faulted"]) == (12, 1)
    assert all(horde.settled[one]["state"] == "ok" for some in ids.values() for one in some)
    assert horde.settled[foreign]["gen_metadata"][0]["value"] == "baseline_mismatch"
    offers = {tuple(pop["models"]): pop["controls"] for pop in horde.pops}
    assert all(("two" in names) == (not kinds) for names, kinds in offers.items())
    assert all(pop["allow_lora"] for pop in horde.pops)


def test_a_worker_of_these_settings_draws_with_all_of_it(shop: Shop) -> None:
    table = {name: {"source": str(path)} for name, path in shop.models.items()}
    table["two"]["controlnets"] = str(shop.folder / "own")
    command = [sys.executable, "-m", "gpu_worker.handler", "--test_input", '{"input": {"v": 1}}']
    with fake_horde() as horde:
        horde.files["p.png"] = png(square())
        horde.add(model="one", loras=[{"name": "neon"}], control_type="canny", source="p.png")
        given: dict[str, Any] = {"control_type": "depth", "image_is_control": True}
        horde.add(model="two", loras=[{"name": "neon"}], source="p.png", **given)
        horde.add(model="xl", loras=[{"name": "large"}])
        strokes = {"control_type": "canny", "return_control_map": True}
        map_ = horde.add(model="xl", source="p.png", **strokes)
        env = {
            **{key: value for key, value in os.environ.items() if key != "MODEL_DIR"},
            "HORDE_URL": f"{horde.url}/api", "HORDE_API_KEY": KEY, "MODELS": json.dumps(table),
            "LORA_DIR": str(shop.loras), "CONTROLNET_DIR": str(shop.controls),
            "DEVICE": "cpu", "TORCH_THREADS": "1", "MAX_LOADED": "1",
        }  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert horde.done() == 4, done.stderr
        white = Image.open(io.BytesIO(horde.uploads[map_])).convert("L")
        assert white.getextrema()[1] > 200  # type: ignore[operator]
        offers = {tuple(sorted(pop["models"])): pop["controls"] for pop in horde.pops}
        assert offers["two",] == ["depth"]
        assert all(kinds == ["canny"] for names, kinds in offers.items() if "two" not in names)


def test_a_lora_of_flux_is_drawn_beside_other_families(tmp_path: Path) -> None:
    from gpu_worker import tiny

    shop = Shop(tmp_path)
    shop.models["flux"] = tiny.build(tmp_path / "flux", flux=True)
    flux_loras.kohya(shop.loras / "swirl.safetensors")
    cache, able, load = shop.opened(max_loaded=1)
    plain, changed = (
        pixels(cache.draw([load(job("flux", *loras))])[0]) for loras in ((), ("swirl",))
    )
    assert difference(plain, changed) > 0
    cache.draw([load(job("one", "neon"))])
    assert difference(plain, pixels(cache.draw([load(job("flux"))])[0])) == 0
    assert able.fields(["flux"])["allow_lora"] is True
    with pytest.raises(AddOnError):
        load(job("one", "swirl"))

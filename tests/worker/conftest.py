"""What the worker's tests share. Everything listens on 127.0.0.1 and on free ports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from gpu_worker.horde_client import Horde
from gpu_worker.settings import Settings
from tests.worker import tiny_addons
from tests.worker.add_on_helpers import a_library
from tests.worker.fake_civitai import FakeCivitai, fake_civitai
from tests.worker.fake_horde import KEY, FakeHorde, fake_horde

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpu_worker.addons.library import Library
    from tests.worker.studio import Studio


@pytest.fixture
def horde() -> Iterator[FakeHorde]:
    with fake_horde() as horde:
        yield horde


@pytest.fixture
def settings(horde: FakeHorde, tmp_path: Path) -> Settings:
    return Settings(
        horde_url=f"{horde.url}/api",
        horde_api_key=KEY,
        worker_name="tester",
        model_dir=tmp_path,
        shift_seconds=60,
    )


@pytest.fixture
def client(settings: Settings) -> Horde:
    return Horde(settings, backoff=0.001)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch takes one thread, and then as many as before."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def source() -> Image.Image:
    """A picture to start from, in the tiny models' native size."""
    return Image.radial_gradient("L").resize((64, 64)).convert("RGB")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_worker.tiny import build

    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_controls(tiny_model: Path) -> Path:
    """ControlNets of the tiny model."""
    from gpu_worker.tiny import build_control

    folder = tiny_model.parent / "tiny-controls"
    for seed, kind in enumerate(("canny", "depth")):
        build_control(folder / kind, tiny_model, seed)
    return folder


@pytest.fixture(scope="session")
def tiny_xl_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_worker.tiny import build

    return build(tmp_path_factory.mktemp("models") / "tiny-xl", xl=True)


@pytest.fixture
def host() -> Iterator[FakeCivitai]:
    with fake_civitai() as host:
        yield host


@pytest.fixture
def lora(tmp_path: Path) -> bytes:
    return tiny_addons.kohya(tmp_path / "made" / "a.safetensors").read_bytes()


@pytest.fixture
def library(host: FakeCivitai, tmp_path: Path) -> Library:
    return a_library(host, tmp_path)


@pytest.fixture(scope="module", params=[False, True], ids=["sd", "xl"])
def studio(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Studio]:
    import torch

    from tests.worker.studio import build

    threads = torch.get_num_threads()
    yield build(tmp_path_factory.mktemp("studio"), xl=bool(request.param))
    torch.set_num_threads(threads)

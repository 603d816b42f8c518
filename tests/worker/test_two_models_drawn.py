"""The real thing on a CPU: two models of two families, one in memory at a time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpu_worker.horde_client import Horde
from gpu_worker.model_table import Model
from gpu_worker.shifts import Worker
from tests.worker.fake_horde import KEY, fake_horde

if TYPE_CHECKING:
    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import FakeHorde

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("most", "kept"), [(1, 1), (0, 2)])
def test_the_pictures_of_two_models_are_those_that_each_draws_alone(
    horde: FakeHorde,
    settings: Settings,
    tiny_model: Path,
    tiny_xl_model: Path,
    most: int,
    kept: int,
) -> None:
    from gpu_worker.device import open_models
    from gpu_worker.horde_client import Job
    from gpu_worker.pipeline import Pipeline
    from tests.worker.fake_horde import PAYLOAD

    directories = {"small": tiny_model, "large": tiny_xl_model}
    ours = replace(
        settings,
        models=tuple(Model(name=name, source=str(path)) for name, path in directories.items()),
        max_loaded=most,
        device="cpu",
        torch_threads=1,
    )
    cache = open_models(ours)[0]
    job = Job(id="1", payload=PAYLOAD, deadline=0)
    drawn = {name: cache.draw([replace(job, model=name)])[0] for name in directories}
    again = {name: cache.draw([replace(job, model=name)])[0] for name in reversed(directories)}
    for name, path in directories.items():
        alone = Pipeline(replace(ours, model_dir=path, model_name=name)).draw([job])[0]
        assert drawn[name].tobytes() == again[name].tobytes() == alone.tobytes()
    assert len(cache.loaded) == kept

    for name in ("small", "large") * 2:
        horde.add(model=name)
    worker = Worker(ours, Horde(ours), cache.draw, lambda _f, _i: (0.0, "stand-in 1"), cache)
    result = asyncio.run(worker.work({"id": "t", "input": {"v": 1, "model": "large"}}))
    assert (result["images"], result["faulted"]) == (4, 0)


def test_a_worker_takes_its_table_from_a_file_and_leaves_out_what_it_cannot_draw(
    tiny_model: Path, tmp_path: Path
) -> None:
    table = {
        "good": {"source": f"./{tiny_model.name}"},
        "gone": {"source": "org/gone", "revision": "a" * 40},
        "huge": {"source": str(tiny_model), "memory_gb": 9999},
    }
    (tmp_path / tiny_model.name).symlink_to(tiny_model)
    (tmp_path / "models.json").write_text(json.dumps(table))
    command = [sys.executable, "-m", "gpu_worker.handler", "--test_input"]
    command.append('{"input": {"v": 1, "model": "gone"}}')
    with fake_horde() as horde:
        horde.add(model="good")
        horde.add(model="gone")
        env = {
            **{key: value for key, value in os.environ.items() if key != "MODEL_DIR"},
            "HORDE_URL": f"{horde.url}/api",
            "HORDE_API_KEY": KEY,
            "MODELS": str(tmp_path / "models.json"),
            "DEVICE": "cpu",
            "TORCH_THREADS": "1",
        }
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert horde.done() == 1
        assert [job["model"] for job in horde.waiting] == ["gone"]
    said = done.stdout + done.stderr
    assert "the model 'gone' is not drawn: of org/gone at aaa" in said
    assert "'huge' needs 9999 GB" in said

    env["MODELS"] = json.dumps({"gone": table["gone"]})
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("gpu_worker: the model 'gone' is not drawn: of org/gone at")

"""The real gpu_worker behind the local RunPod: RunPod's SDK, a real pipeline, a behaving horde."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from PIL import Image

from tests.support.numbers import HANG_S
from tests.worker.fake_horde import KEY, FakeHorde, fake_horde
from tests.worker.processes import processes_of, wait_until_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + HANG_S
    while not (result := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return result


def worker_env(horde: FakeHorde, model: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "HORDE_URL": f"{horde.url}/api",
        "HORDE_API_KEY": KEY,
        "MODEL_DIR": str(model),
        "MAX_BATCH": "2",
        "DEVICE": "cpu",
        "TORCH_THREADS": "1",
        **more,
    }


@dataclass
class Fleet:
    """A local RunPod with two workers."""

    horde: FakeHorde
    url: str
    endpoint_id: str

    def call(self, method: str, path: str, **body: Any) -> Any:
        headers = {"Authorization": "Bearer runpod-key"}
        response = requests.request(
            method, self.url + path, json=body or None, headers=headers, timeout=HANG_S
        )
        assert response.status_code == 200
        return response.json()

    def api(self, method: str, path: str, **body: Any) -> Any:
        return self.call(method, f"/v2/{self.endpoint_id}{path}", **body)

    def loaded(self) -> bool:
        return bool(self.api("GET", "/health")["workers"]["ready"] == 2)

    def ticket(self) -> str:
        return str(self.api("POST", "/run", input={"v": 1, "model": "stable_diffusion"})["id"])

    def ended(self, ticket: str) -> Any:
        answer = self.api("GET", f"/status/{ticket}")
        return answer if answer["status"] not in ("IN_QUEUE", "IN_PROGRESS") else None


@pytest.fixture(scope="module")
def fleet(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    endpoint_id = f"ep-{uuid.uuid4()}"
    logs = tmp_path_factory.mktemp("logs")
    options = {
        "--endpoint": endpoint_id,
        "--api-key": "runpod-key",
        "--workers-min": "2",
        "--workers-max": "2",
        "--log-dir": str(logs),
    }
    command = [
        sys.executable,
        "-m",
        "infra.local.runpod_server",
        *(w for o in options.items() for w in o),
    ]
    with (
        fake_horde() as horde,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=worker_env(horde, tiny_model),
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1].partition("/v2")[0]
            fleet = Fleet(horde, url, endpoint_id)
            yield fleet
            assert processes_of(endpoint_id)
        finally:
            process.terminate()
            process.communicate()
    assert process.returncode == 0
    assert wait_until_gone(endpoint_id) == []
    written = "".join(path.read_text() for path in logs.iterdir())
    # The tests of a module may be dealt out to processes: this one may have drawn nothing.
    assert "images in" in written or not horde.settled
    for secret in (KEY, "runpod-key", "lighthouse", "X-Amz"):
        assert secret not in written


# Meanwhile the fleet loads its models.
@pytest.mark.usefixtures("fleet")
def test_a_worker_works_one_shift_by_test_input(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "gpu_worker.handler", "--test_input"]
    command.append('{"input": {"v": 1, "model": "stable_diffusion"}}')
    with fake_horde() as horde:
        for _ in range(3):
            horde.add()
        env = worker_env(horde, tiny_model)
        result = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert horde.done() == 3


def test_a_worker_that_gets_sigterm_in_mid_batch_answers_for_all_that_it_popped(
    tiny_model: Path,
) -> None:
    command = [sys.executable, "-m", "gpu_worker.handler", "--test_input"]
    command.append('{"input": {"v": 1, "model": "stable_diffusion"}}')
    with fake_horde() as horde:
        for _ in range(40):
            horde.add()
        horde.let_upload.clear()
        with subprocess.Popen(command, cwd=ROOT, env=worker_env(horde, tiny_model)) as process:
            until(lambda: horde.uploading.is_set() or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
            horde.let_upload.set()
        assert process.returncode == 0
        assert not horde.leased
        assert horde.done() > 0
        assert horde.waiting
        assert horde.done() + len(horde.waiting) == 40


def test_six_images_over_two_tickets_are_all_uploaded_and_submitted(fleet: Fleet) -> None:
    until(fleet.loaded)
    ids = {fleet.horde.add(seed=str(seed)) for seed in range(6)}
    tickets = [fleet.ticket(), fleet.ticket()]
    results = [until(partial(fleet.ended, ticket)) for ticket in tickets]
    assert [result["status"] for result in results] == ["COMPLETED"] * 2
    assert sum(result["output"]["images"] for result in results) == 6
    assert {job for job in ids if fleet.horde.settled[job]["state"] == "ok"} == ids
    drawn = {Image.open(io.BytesIO(fleet.horde.uploads[job])).tobytes() for job in ids}
    assert len(drawn) == 6


def test_a_killed_workers_ticket_goes_back_and_everything_is_drawn(fleet: Fleet) -> None:
    until(fleet.loaded)
    horde = fleet.horde
    horde.uploading.clear()
    horde.let_upload.clear()
    ids = {horde.add(seed=str(seed)) for seed in range(100, 103)}
    ticket = fleet.ticket()
    until(horde.uploading.is_set)
    victim = fleet.api("GET", f"/status/{ticket}")["workerId"]
    # What the ttl does for the images that the victim holds.
    horde.release()
    workers = {worker["id"]: worker["pid"] for worker in fleet.call("GET", "/_local/workers")}
    os.kill(workers[victim], signal.SIGKILL)
    horde.let_upload.set()
    result = until(partial(fleet.ended, ticket))
    assert result["status"] == "COMPLETED"
    assert result["workerId"] != victim
    assert fleet.api("GET", "/health")["jobs"]["retried"] == 1
    assert {job for job in ids if horde.settled[job]["state"] == "ok"} == ids


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"HORDE_API_KEY": ""}, "MODEL_DIR is not set; HORDE_API_KEY is not set"),
        (
            {"HORDE_API_KEY": "k", "MODEL_DIR": "/"},
            "MODEL_DIR holds no diffusers model (no model_index.json)",
        ),
    ],
)
def test_a_worker_without_configuration_says_what_is_missing(
    env: dict[str, str], reason: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "gpu_worker.handler"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HORDE_URL": "http://127.0.0.1:1/api", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (1, f"gpu_worker: {reason}\n")

"""The local RunPod with workers that speak its protocol and draw nothing."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from horde.endpoints import look_after
from horde.runpod import Model, RunPod
from infra.local import runpod_endpoint
from infra.local.runpod_endpoint import Endpoint, LocalRunPod
from infra.local.runpod_server import serve
from tests.support.numbers import HANG_S
from tests.worker.processes import processes_of, wait_until_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WORKER = Path(__file__).with_name("protocol_worker.py")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runpod_endpoint, "TICK", 0.05)
    monkeypatch.setattr(runpod_endpoint, "RESTART_DELAY", 0.05)


class Client:
    """One endpoint's API as the dispatch Lambda uses it."""

    def __init__(self, local: LocalRunPod, http: aiohttp.ClientSession) -> None:
        self.local, self.http = local, http
        self.root = f"{local.url}/{local.endpoint.endpoint_id}"

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.http.request(method, self.root + path, json=body) as response:
            return response.status, await response.json()

    async def run(self, policy: dict[str, int] | None = None, **task: Any) -> str:
        body = {"input": task} | ({"policy": policy} if policy else {})
        status, answer = await self.call("POST", "/run", body)
        assert (status, answer["status"]) == (200, "IN_QUEUE")
        return str(answer["id"])

    async def status(self, job_id: str) -> dict[str, Any]:
        _, answer = await self.call("GET", f"/status/{job_id}")
        return dict(answer)

    async def wait(self, job_id: str, *states: str) -> dict[str, Any]:
        async with asyncio.timeout(HANG_S):
            while (answer := await self.status(job_id)).get("status") not in states:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return answer


@asynccontextmanager
async def an_endpoint(logs: Path, **settings: Any) -> AsyncIterator[Client]:
    command = (sys.executable, str(WORKER))
    options: dict[str, Any] = {"workers_max": 1, "idle_timeout": 60, "command": command} | settings
    endpoint = Endpoint(endpoint_id=f"ep-{uuid.uuid4()}", api_key="key", log_dir=logs, **options)
    headers = {"Authorization": "Bearer key"}
    async with serve(endpoint) as local, aiohttp.ClientSession(headers=headers) as http:
        yield Client(local, http)
    # A child that was killed with its group may take a moment to be gone.
    assert wait_until_gone(endpoint.endpoint_id) == []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_a_job_is_queued_run_and_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path) as client:
            job_id = await client.run(result={"output": {"images": 1}})
            done = await client.wait(job_id, "COMPLETED")
            assert done["output"] == {"images": 1}
            assert done["delayTime"] >= 0 <= done["executionTime"]
            assert done["workerId"] in client.local.workers
            failed = await client.wait(await client.run(result={"error": "no"}), "FAILED")
            assert failed["error"] == "no"
            _, health = await client.call("GET", "/health")
            assert health["jobs"]["completed"] == health["jobs"]["failed"] == 1
            assert health["workers"]["ready"] == 1

    asyncio.run(scenario())


def test_a_wrong_key_a_wrong_body_and_an_unknown_job_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path, workers_max=0) as client:
            bodies: list[Any] = [{}, [], {"input": "text"}, {"input": {}, "policy": {"ttl": "x"}}]
            for body in bodies:
                assert (await client.call("POST", "/run", body))[0] == 400
            assert (await client.call("GET", "/status/unknown"))[0] == 404
            assert (await client.call("POST", "/cancel/unknown"))[0] == 404
            async with client.http.post(
                f"{client.root}/run", data=io.BytesIO(b"x" * 10_500_000)
            ) as answer:
                assert answer.status == 413
            client.http.headers["Authorization"] = "Bearer other"
            assert (await client.call("POST", "/run", {"input": {}}))[0] == 401
            assert (await client.call("GET", "/health"))[0] == 401

    asyncio.run(scenario())


def test_a_waiting_job_can_be_cancelled_or_purged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path, workers_max=0) as client:
            one, two = await client.run(), await client.run()
            assert (await client.call("POST", f"/cancel/{one}"))[1]["status"] == "CANCELLED"
            assert (await client.call("POST", "/purge-queue"))[1]["removed"] == 1
            assert (await client.status(two))["status"] == "CANCELLED"

    asyncio.run(scenario())


def test_a_workers_job_is_stopped_by_cancelling_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path) as client:
            job_id = await client.run(listen=True)
            await client.wait(job_id, "IN_PROGRESS")
            await client.call("POST", f"/cancel/{job_id}")
            # The worker takes the next job, so it was told of the first; its late answer to that
            # one does not count.
            await client.wait(await client.run(), "COMPLETED")
            assert (await client.status(job_id))["status"] == "CANCELLED"

    asyncio.run(scenario())


@pytest.mark.lengthy
def test_a_job_times_out_by_its_policy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path) as client:
            job_id = await client.run({"executionTimeout": 100}, listen=True)
            await client.wait(job_id, "TIMED_OUT")

    asyncio.run(scenario())


def test_a_job_past_its_ttl_is_unknown(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path, workers_max=0) as client:
            job_id = await client.run({"ttl": 50})
            async with asyncio.timeout(HANG_S):
                while "status" in await client.status(job_id):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


@pytest.mark.lengthy
def test_a_dead_workers_job_goes_back_once_and_then_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path) as client:
            failed = await client.wait(await client.run(die=True), "FAILED")
            assert "worker exited" in failed["error"]
            assert (await client.call("GET", "/health"))[1]["jobs"]["retried"] == 1

    asyncio.run(scenario())


def test_a_worker_that_ends_unasked_is_listed_with_its_exit_code(tmp_path: Path) -> None:
    async def scenario() -> None:
        command = ("sh", "-c", "echo no model here; exit 3")
        async with an_endpoint(tmp_path, workers_min=1, command=command) as client:
            await until(lambda: bool(client.local.ended))
            url = client.local.url.removesuffix("/v2")
            async with client.http.get(f"{url}/_local/ended") as response:
                first = (await response.json())[0]
            assert (first["code"], first["ready"]) == (3, False)
            assert "no model here" in (tmp_path / f"{first['id']}.log").read_text()

    asyncio.run(scenario())


@pytest.mark.lengthy
def test_workers_follow_the_queue_and_leave_when_idle(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = {"workers_min": 1, "workers_max": 2, "scaler_value": 2, "idle_timeout": 0.2}
        async with an_endpoint(tmp_path, **limits) as client:
            workers = client.local.workers
            await until(lambda: len(workers) == 1)
            jobs = [await client.run(listen=True) for _ in range(5)]
            await until(lambda: len(workers) == 2)
            for job_id in jobs:
                await client.call("POST", f"/cancel/{job_id}")
                await client.wait(job_id, "CANCELLED")
            await until(lambda: len(workers) == 1)

    asyncio.run(scenario())


def test_a_worker_that_asks_for_it_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path, workers_min=1) as client:
            done = await client.wait(
                await client.run(result={"output": 1, "stopPod": True}), "COMPLETED"
            )
            await until(lambda: done["workerId"] not in client.local.workers)
            again = await client.wait(await client.run(), "COMPLETED")
            assert again["workerId"] != done["workerId"]

    asyncio.run(scenario())


@pytest.mark.lengthy
def test_it_misbehaves_when_told_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path, workers_max=0) as client:

            async def behave(mode: str, count: int = 1) -> None:
                url = client.local.url.removesuffix("/v2") + "/_local/behave"
                async with client.http.post(url, json={"mode": mode, "count": count}) as answer:
                    assert answer.status == 200

            await behave("error", 2)
            for status in (500, 500, 200):
                assert (await client.call("POST", "/run", {"input": {}}))[0] == status
            await behave("drop")
            lost = await client.run()
            assert (await client.call("GET", f"/status/{lost}"))[0] == 404
            await behave("hang")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.run(), timeout=0.2)
            await client.run()
            url = client.local.url.removesuffix("/v2") + "/_local/jobs"
            async with client.http.get(url) as answer:
                assert [job["status"] for job in await answer.json()] == ["IN_QUEUE"] * 2

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["kill", "terminate", "orphan"])
@pytest.mark.slow
def test_no_process_outlives_it(end: str, tmp_path: Path) -> None:
    endpoint_id = f"ep-{uuid.uuid4()}"
    code = f"""
import asyncio, pathlib
from infra.local import runpod_endpoint, runpod_server
endpoint = runpod_endpoint.Endpoint(
    endpoint_id="{endpoint_id}", api_key="key", workers_min=2, workers_max=2,
    log_dir=pathlib.Path({str(tmp_path)!r}), command=({sys.executable!r}, {str(WORKER)!r}))
asyncio.run(runpod_server._main(endpoint, 0))
"""
    command = [sys.executable, "-c", code]
    if end == "orphan":
        # Its parent ends while it runs.
        command = ["sh", "-c", '"$@" & read _', "sh", *command]
    with subprocess.Popen(
        command, cwd=runpod_endpoint.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"local RunPod")
        # Each worker with the child that would outlive it.
        while len(processes_of(endpoint_id)) < 4:
            assert process.poll() is None
        if end != "orphan":
            getattr(process, end)()
        process.communicate(b"\n")
    assert wait_until_gone(endpoint_id) == []


def test_the_most_workers_are_read_and_changed_by_the_management_api(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path, workers_max=0) as client:
            url = f"{client.local.url}/serverless/{client.local.endpoint.endpoint_id}"
            job = await client.run(result={"output": {}})
            async with client.http.get(url) as answer:
                assert (await answer.json())["workers"]["max"] == 0
            for body in (
                {},
                [],
                {"workers": 3},
                *({"workers": {"max": n}} for n in (-1, "1", True)),
            ):
                async with client.http.patch(url, json=body) as answer:
                    assert answer.status == 400
            assert (await client.status(job))["status"] == "IN_QUEUE"
            async with client.http.patch(url, json={"workers": {"max": 1}}) as answer:
                assert (await answer.json())["workers"]["max"] == 1
            await client.wait(job, "COMPLETED")
            client.http.headers["Authorization"] = "Bearer other"
            async with client.http.patch(url, json={"workers": {"max": 9}}) as answer:
                assert answer.status == 401

    asyncio.run(scenario())


def test_the_sweeps_own_client_re_arms_the_local_endpoint(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with an_endpoint(tmp_path, workers_max=0) as client:
            name = client.local.endpoint.endpoint_id
            account = RunPod(client.local.url, "key")
            models = {name: {"m": Model(endpoint=name, max_workers=1)}}
            job = await client.run(result={"output": {}})
            looks = [
                await asyncio.to_thread(look_after, models, account, account) for _ in range(2)
            ]
            assert looks == [1, 0]
            await client.wait(job, "COMPLETED")

    asyncio.run(scenario())

"""The local RunPod's endpoint behind its HTTP API: its jobs, its worker processes and its scaler.

There are `ceil(jobs / scaler value)` workers (REQUEST_COUNT), and fewer when they are idle.

No worker, nor its heartbeat child, outlives this process, even after a SIGKILL. Each worker's
process group contains a leash: a shell that reads a pipe from this process and kills its group when
the pipe closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parents[2]

EXECUTION_TIMEOUT = 600.0
"""RunPod's default for policy.executionTimeout, here in seconds, there in milliseconds."""
TTL = 86400.0
"""RunPod's default for policy.ttl, in seconds from submission; after that a job is deleted."""
RETENTION = 1800.0
"""Seconds for which a finished job is kept."""
LONG_POLL = 20.0
"""Seconds for which a worker's job-take and job-stop wait."""
TICK = 0.2
GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL for a worker that is scaled down."""
RESTART_DELAY = 2.0
"""Seconds before a new worker starts after one has exited, so that a broken one does not spin."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The settings of one serverless endpoint, by RunPod's names."""

    endpoint_id: str
    api_key: str
    workers_min: int = 0
    workers_max: int = 1
    scaler_value: int = 2
    """Jobs per worker, which is the worker's concurrency."""
    idle_timeout: float = 5.0
    """Seconds after which an idle worker may be stopped."""
    log_dir: Path = Path(".local/runpod")
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """The workers' environment, without RunPod's own variables."""
    command: Sequence[str] = (sys.executable, "-m", "gpu_worker.handler")


@dataclass(kw_only=True)
class Job:
    """One job: IN_QUEUE, IN_PROGRESS, and then COMPLETED, FAILED, CANCELLED or TIMED_OUT."""

    body: dict[str, Any]
    id: str = field(default_factory=lambda: f"{uuid.uuid4()}-u1")
    status: str = "IN_QUEUE"
    created: float = field(default_factory=time.monotonic)
    started: float | None = None
    finished: float | None = None
    worker_id: str | None = None
    retries: int = 0
    result: dict[str, Any] = field(default_factory=dict)

    def policy(self, name: str, default: float) -> float:
        """Return a time in the job's policy, in seconds."""
        value = (self.body.get("policy") or {}).get(name)
        return default if value is None else float(value) / 1000

    def end(self, status: str, **result: Any) -> None:
        """End the job, unless it has ended already."""
        if self.finished is None:
            self.status, self.result, self.finished = status, result, time.monotonic()

    def as_json(self) -> dict[str, Any]:
        """Return the job as /status shows it; times are in milliseconds."""
        shown: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started is not None:
            shown["delayTime"] = round(1000 * (self.started - self.created))
            shown["workerId"] = self.worker_id
            if self.finished is not None:
                shown["executionTime"] = round(1000 * (self.finished - self.started))
        return shown | self.result


@dataclass(kw_only=True)
class Worker:
    """One worker process and the leash that ends its process group."""

    id: str
    process: asyncio.subprocess.Process
    leash: asyncio.subprocess.Process
    idle_since: float
    ready: bool = False
    """Whether it has asked for a job, and so has loaded its model."""
    stopping: bool = False
    stops: list[str] = field(default_factory=list)
    """Jobs that it must stop, for its next job-stop."""

    def kill(self) -> None:
        """Kill the worker and all processes that it has started."""
        if self.leash.stdin is not None:
            self.leash.stdin.close()


class LocalRunPod:
    """The state of the endpoint. It needs no locks, since all code runs in one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Create the state; `serve` starts the endpoint."""
        self.endpoint = endpoint
        self.url = ""
        """The base URL for RUNPOD_ENDPOINT_BASE_URL and the dispatch Lambda; ends in /v2."""
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Worker] = {}
        self.ended: list[dict[str, Any]] = []
        """Workers that ended unasked, oldest first."""
        self._changed = asyncio.Condition()
        self._watchers: set[asyncio.Task[None]] = set()
        self._not_before = 0.0

    # Queue and policy

    def queue(self) -> list[Job]:
        """Return the jobs that wait for a worker, oldest first."""
        return [job for job in self.jobs.values() if job.status == "IN_QUEUE"]

    async def notify(self) -> None:
        """Wake all that wait for a change of jobs or workers."""
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds, for LONG_POLL at most; returns whether it does."""
        try:
            async with asyncio.timeout(LONG_POLL), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            return False
        return True

    async def stop(self, job: Job, status: str) -> None:
        """End a job with a status; if it runs, its worker is told so."""
        worker = self.workers.get(job.worker_id or "")
        if job.status == "IN_PROGRESS" and worker is not None:
            worker.stops.append(job.id)
            worker.idle_since = time.monotonic()
        job.end(status)
        await self.notify()

    def expire(self) -> None:
        """Delete the jobs that are older than their ttl, and those that ended long ago."""
        now = time.monotonic()
        for job in list(self.jobs.values()):
            too_old = now > job.created + job.policy("ttl", TTL)
            if too_old or (job.finished is not None and now > job.finished + RETENTION):
                del self.jobs[job.id]
                worker = self.workers.get(job.worker_id or "")
                if job.status == "IN_PROGRESS" and worker is not None:
                    worker.stops.append(job.id)

    async def _time_out(self) -> None:
        now = time.monotonic()
        for job in list(self.jobs.values()):
            limit = job.policy("executionTimeout", EXECUTION_TIMEOUT)
            if job.status == "IN_PROGRESS" and now > (job.started or now) + limit:
                await self.stop(job, "TIMED_OUT")

    # Workers

    async def supervise(self) -> None:
        """Apply the policies and scale the workers, until cancelled."""
        while True:
            self.expire()
            await self._time_out()
            await self._scale()
            await self.notify()
            await asyncio.sleep(TICK)

    async def _scale(self) -> None:
        endpoint, now = self.endpoint, time.monotonic()
        states = Counter(job.status for job in self.jobs.values())
        demand = states["IN_QUEUE"] + states["IN_PROGRESS"]
        wanted = math.ceil(demand / endpoint.scaler_value)
        wanted = max(endpoint.workers_min, min(endpoint.workers_max, wanted))
        active = [worker for worker in self.workers.values() if not worker.stopping]
        if now >= self._not_before:
            for _ in range(wanted - len(active)):
                await self._start()
        busy = {job.worker_id for job in self.jobs.values() if job.status == "IN_PROGRESS"}
        idle = [
            worker
            for worker in active
            if worker.id not in busy and now > worker.idle_since + endpoint.idle_timeout
        ]
        for worker in idle[: max(0, len(active) - wanted)]:
            await self.terminate(worker)

    async def _start(self) -> None:
        endpoint, worker_id = self.endpoint, uuid.uuid4().hex[:14]
        root = f"{self.url}/{endpoint.endpoint_id}"
        env = {
            **endpoint.env,
            "RUNPOD_ENDPOINT_ID": endpoint.endpoint_id,
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_AI_API_KEY": endpoint.api_key,
            # The SDK appends parameters with "&", so each URL needs a query.
            "RUNPOD_WEBHOOK_GET_JOB": f"{root}/job-take/$ID?gpu=local",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{root}/job-done/$RUNPOD_POD_ID/$ID?gpu=local",
            "RUNPOD_WEBHOOK_PING": f"{root}/ping/$RUNPOD_POD_ID",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }
        endpoint.log_dir.mkdir(parents=True, exist_ok=True)
        leash = await asyncio.create_subprocess_exec(
            "sh", "-c", "read _; kill -9 0", stdin=asyncio.subprocess.PIPE, process_group=0
        )
        with (endpoint.log_dir / f"{worker_id}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *endpoint.command,
                cwd=ROOT,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                process_group=leash.pid,
            )
        worker = Worker(id=worker_id, process=process, leash=leash, idle_since=time.monotonic())
        self.workers[worker_id] = worker
        watcher = asyncio.create_task(self._watch(worker))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, worker: Worker) -> None:
        """Clean up after a worker exits. Its jobs are requeued once, and then fail."""
        await worker.process.wait()
        worker.kill()
        await worker.leash.wait()
        del self.workers[worker.id]
        if not worker.stopping:
            code = worker.process.returncode
            self.ended.append({"id": worker.id, "code": code, "ready": worker.ready})
            self._not_before = time.monotonic() + RESTART_DELAY
        for job in self.jobs.values():
            if job.status == "IN_PROGRESS" and job.worker_id == worker.id:
                if job.retries:
                    job.end("FAILED", error="worker exited while the job was running")
                else:
                    job.status, job.worker_id, job.started, job.retries = "IN_QUEUE", None, None, 1
        await self.notify()

    async def terminate(self, worker: Worker) -> None:
        """Send SIGTERM, on which the worker finishes its jobs; after GRACE, kill it."""
        worker.stopping = True
        await self.notify()
        with contextlib.suppress(ProcessLookupError):
            worker.process.terminate()
        asyncio.get_running_loop().call_later(GRACE, worker.kill)

    async def close(self) -> None:
        """Kill all workers and wait until they have exited."""
        for worker in self.workers.values():
            worker.stopping = True
            worker.kill()
        await asyncio.gather(*self._watchers)

"""A local RunPod with one endpoint: its public APIs, its worker protocol and its scaler.

`python -m infra.local.runpod_server --port P --endpoint ID --api-key KEY` starts and stops real
worker processes as RunPod does: `ceil(jobs / scaler value)` of them (REQUEST_COUNT), and fewer when
they are idle. The public API follows RunPod's documentation. The worker's routes follow the source
of RunPod's SDK (runpod 1.12). Neither was captured from RunPod itself. It has no runsync, stream,
retry, webhooks or rate limits, since Horde Commons does not use them.

No worker, nor its heartbeat child, outlives this process, even after a SIGKILL. Each worker's
process group contains a leash: a shell that reads a pipe from this process and kills its group when
the pipe closes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"

MAX_PAYLOAD_BYTES = 10 * 1024 * 1024
"""RunPod's limit for a body of /run."""
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

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
        self._behaviour = ("ok", 0)
        self._not_before = 0.0

    # The public API

    def app(self) -> web.Application:
        """Return the application: RunPod's API, the worker protocol, and /_local for tests."""
        app = web.Application(client_max_size=MAX_PAYLOAD_BYTES)
        root = f"/v2/{self.endpoint.endpoint_id}"
        app.add_routes(
            [
                web.post(f"{root}/run", self._authorised(self.run)),
                web.get(f"{root}/status/{{job}}", self._authorised(self.status)),
                web.post(f"{root}/cancel/{{job}}", self._authorised(self.cancel)),
                web.get(f"{root}/health", self._authorised(self.health)),
                web.post(f"{root}/purge-queue", self._authorised(self.purge)),
                web.get(f"{root}/job-take/{{worker}}", self.job_take),
                web.get(f"{root}/job-take-batch/{{worker}}", self.job_take),
                web.get(f"{root}/job-stop/{{worker}}", self.job_stop),
                web.post(f"{root}/job-done/{{worker}}/{{job}}", self.job_done),
                web.get(f"{root}/ping/{{worker}}", self.ping),
                web.post("/_local/behave", self.behave),
                web.get(
                    f"/v2/serverless/{self.endpoint.endpoint_id}", self._authorised(self.managed)
                ),
                web.patch(
                    f"/v2/serverless/{self.endpoint.endpoint_id}", self._authorised(self.manage)
                ),
                web.get("/_local/jobs", self.list_jobs),
                web.get("/_local/workers", self.list_workers),
                web.get("/_local/ended", self.list_ended),
            ]
        )
        return app

    def _authorised(self, handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Bearer {self.endpoint.api_key}":
                return web.json_response({"error": "Unauthorized"}, status=401)
            return await handler(request)

        return checked

    async def run(self, request: web.Request) -> web.StreamResponse:
        """POST /run: queue a job. A body over 10 MB is refused (413)."""
        mode = self._next_behaviour()
        if mode == "hang":
            await asyncio.sleep(3600)
        if mode in ("error", "hang"):
            return web.json_response({"error": "Internal Server Error"}, status=500)
        try:
            body = json.loads(await request.read())
            job = Job(body={key: body.get(key) for key in ("input", "policy") if key in body})
            valid = isinstance(body["input"], dict)
            job.policy("executionTimeout", 0)
            job.policy("ttl", 0)
        except (AttributeError, KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            return web.json_response({"error": "input must be an object"}, status=400)
        if mode == "ok":
            self.jobs[job.id] = job
            await self._notify()
        return web.json_response({"id": job.id, "status": "IN_QUEUE"})

    async def status(self, request: web.Request) -> web.StreamResponse:
        """GET /status/{job}."""
        self._expire()
        job = self.jobs.get(request.match_info["job"])
        return _job_not_found() if job is None else web.json_response(job.as_json())

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """POST /cancel/{job}: remove it from the queue, or make its worker stop it."""
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            return _job_not_found()
        await self._stop(job, "CANCELLED")
        return web.json_response(job.as_json())

    async def health(self, _: web.Request) -> web.StreamResponse:
        """GET /health: jobs and workers by state."""
        self._expire()
        states = Counter(job.status for job in self.jobs.values())
        running = {job.worker_id for job in self.jobs.values() if job.status == "IN_PROGRESS"}
        workers = [worker for worker in self.workers.values() if not worker.stopping]
        ready = [worker for worker in workers if worker.ready]
        return web.json_response(
            {
                "jobs": {
                    "completed": states["COMPLETED"],
                    "failed": states["FAILED"] + states["TIMED_OUT"],
                    "inProgress": states["IN_PROGRESS"],
                    "inQueue": states["IN_QUEUE"],
                    "retried": sum(job.retries for job in self.jobs.values()),
                },
                "workers": {
                    "idle": sum(worker.id not in running for worker in ready),
                    "initializing": len(workers) - len(ready),
                    "ready": len(ready),
                    "running": sum(worker.id in running for worker in ready),
                    "throttled": 0,
                    "unhealthy": 0,
                },
            }
        )

    async def managed(self, _: web.Request) -> web.StreamResponse:
        """GET /v2/serverless/{id}, of the management API: how many workers there may be."""
        one = self.endpoint
        workers = {"min": one.workers_min, "max": one.workers_max, "idleTimeout": one.idle_timeout}
        return web.json_response({"id": one.endpoint_id, "type": "QUEUE", "workers": workers})

    async def manage(self, request: web.Request) -> web.StreamResponse:
        """PATCH /v2/serverless/{id}, of the management API: change the most workers alone."""
        try:
            most = json.loads(await request.read())["workers"]["max"]
            valid = type(most) is int and most >= self.endpoint.workers_min
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            return web.json_response({"error": "workers.max must be a number"}, status=400)
        self.endpoint = replace(self.endpoint, workers_max=most)
        await self._notify()
        return await self.managed(request)

    async def purge(self, _: web.Request) -> web.StreamResponse:
        """POST /purge-queue: cancel the queued jobs; running jobs continue."""
        queued = self._queue()
        for job in queued:
            job.end("CANCELLED")
        return web.json_response({"removed": len(queued), "status": "completed"})

    # The worker protocol, which the SDK's JobScaler and Heartbeat call

    async def job_take(self, request: web.Request) -> web.StreamResponse:
        """Give jobs to a worker: one as an object, a batch as a list; 204 if there are none."""
        worker = self._worker(request)
        worker.ready = True
        if not await self._wait_for(lambda: worker.stopping or bool(self._queue())):
            return web.Response(status=204)
        # The worker may have died, or been stopped, during the wait.
        if worker.stopping or worker.id not in self.workers:
            return web.Response(status=204)
        taken = self._queue()[: int(request.query.get("batch_size", 1))]
        for job in taken:
            job.status, job.worker_id, job.started = "IN_PROGRESS", worker.id, time.monotonic()
        jobs = [{"id": job.id, "input": job.body["input"]} for job in taken]
        return web.json_response(jobs if "batch_size" in request.query else jobs[0])

    async def job_stop(self, request: web.Request) -> web.StreamResponse:
        """Return the jobs that a worker must stop; 204 if there are none."""
        worker = self._worker(request)
        await self._wait_for(lambda: worker.stopping or bool(worker.stops))
        stops, worker.stops = worker.stops, []
        return web.json_response({"jobsToStop": stops}) if stops else web.Response(status=204)

    async def job_done(self, request: web.Request) -> web.StreamResponse:
        """Accept a job's result: JSON, which the SDK sends as a form."""
        worker = self._worker(request)
        job = self.jobs.get(request.match_info["job"])
        result = json.loads(await request.read())
        if result.pop("stopPod", False):
            await self._terminate(worker)
        # An earlier worker of a requeued job may still respond; only the latest one counts.
        if job is not None and job.worker_id == worker.id and job.status == "IN_PROGRESS":
            job.end("FAILED" if "error" in result else "COMPLETED", **result)
        worker.idle_since = time.monotonic()
        return web.Response()

    async def ping(self, _: web.Request) -> web.StreamResponse:
        """Accept a heartbeat. It is not evaluated: `_watch` notices when a worker exits."""
        return web.Response()

    def _worker(self, request: web.Request) -> Worker:
        worker = self.workers.get(request.match_info["worker"])
        if worker is None:
            raise web.HTTPUnauthorized
        return worker

    # For tests

    async def behave(self, request: web.Request) -> web.StreamResponse:
        """POST /_local/behave {"mode", "count"}: set the behaviour of the next `count` /run calls.

        The modes are ok; error: 500; hang: no response; drop: a response, but the job is lost.
        """
        body = await request.json()
        if body.get("mode") not in ("ok", "error", "hang", "drop"):
            raise web.HTTPBadRequest
        self._behaviour = (body["mode"], int(body.get("count", 1)))
        return web.json_response({})

    def _next_behaviour(self) -> str:
        mode, count = self._behaviour
        self._behaviour = (mode, count - 1) if count > 1 else ("ok", 0)
        return mode

    async def list_jobs(self, _: web.Request) -> web.StreamResponse:
        """GET /_local/jobs: all jobs that have not expired, oldest first."""
        self._expire()
        return web.json_response(
            [job.as_json() | {"input": job.body["input"]} for job in self.jobs.values()]
        )

    async def list_workers(self, _: web.Request) -> web.StreamResponse:
        """GET /_local/workers: id, process id, and whether its model is loaded."""
        return web.json_response(
            [
                {"id": worker.id, "pid": worker.process.pid, "ready": worker.ready}
                for worker in self.workers.values()
            ]
        )

    async def list_ended(self, _: web.Request) -> web.StreamResponse:
        """GET /_local/ended: workers that ended unasked, with their exit codes."""
        return web.json_response(self.ended)

    # Queue and policy

    def _queue(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.status == "IN_QUEUE"]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for(self, condition: Callable[[], bool]) -> bool:
        try:
            async with asyncio.timeout(LONG_POLL), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            return False
        return True

    async def _stop(self, job: Job, status: str) -> None:
        worker = self.workers.get(job.worker_id or "")
        if job.status == "IN_PROGRESS" and worker is not None:
            worker.stops.append(job.id)
            worker.idle_since = time.monotonic()
        job.end(status)
        await self._notify()

    def _expire(self) -> None:
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
                await self._stop(job, "TIMED_OUT")

    # Workers

    async def supervise(self) -> None:
        """Apply the policies and scale the workers, until cancelled."""
        while True:
            self._expire()
            await self._time_out()
            await self._scale()
            await self._notify()
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
            await self._terminate(worker)

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
        await self._notify()

    async def _terminate(self, worker: Worker) -> None:
        """Send SIGTERM, on which the worker finishes its jobs; after GRACE, kill it."""
        worker.stopping = True
        await self._notify()
        with contextlib.suppress(ProcessLookupError):
            worker.process.terminate()
        asyncio.get_running_loop().call_later(GRACE, worker.kill)

    async def close(self) -> None:
        """Kill all workers and wait until they have exited."""
        for worker in self.workers.values():
            worker.stopping = True
            worker.kill()
        await asyncio.gather(*self._watchers)


def _job_not_found() -> web.StreamResponse:
    return web.json_response({"error": "job not found"}, status=404)


@asynccontextmanager
async def serve(endpoint: Endpoint, port: int = 0) -> AsyncIterator[LocalRunPod]:
    """Serve the endpoint on 127.0.0.1 and supervise its workers; port 0 takes a free port."""
    local = LocalRunPod(endpoint)
    runner = web.AppRunner(local.app(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        local.url = f"http://{HOST}:{runner.addresses[0][1]}/v2"
        supervisor = asyncio.create_task(local.supervise())
        try:
            yield local
        finally:
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor
            await local.close()
    finally:
        await runner.cleanup()


async def _main(endpoint: Endpoint, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    parent = os.getppid()
    async with serve(endpoint, port) as local:
        sys.stdout.write(f"local RunPod: {local.url}/{endpoint.endpoint_id}\n")
        sys.stdout.flush()
        while not stop.is_set() and os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), timeout=0.5)


def main() -> None:
    """Serve until SIGTERM, SIGINT or the exit of the parent process."""
    parser = argparse.ArgumentParser(prog="infra.local.runpod_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free port")
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--workers-min", type=int, default=Endpoint.workers_min)
    parser.add_argument("--workers-max", type=int, default=Endpoint.workers_max)
    parser.add_argument("--scaler-value", type=int, default=Endpoint.scaler_value)
    parser.add_argument("--idle-timeout", type=float, default=Endpoint.idle_timeout)
    parser.add_argument("--log-dir", type=Path, default=Endpoint.log_dir)
    options = parser.parse_args()
    endpoint = Endpoint(
        endpoint_id=options.endpoint,
        api_key=options.api_key,
        workers_min=options.workers_min,
        workers_max=options.workers_max,
        scaler_value=options.scaler_value,
        idle_timeout=options.idle_timeout,
        log_dir=options.log_dir,
    )
    asyncio.run(_main(endpoint, options.port))


if __name__ == "__main__":
    main()

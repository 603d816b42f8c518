"""A local RunPod with one endpoint: its public APIs, its worker protocol and its scaler.

`python -m infra.local.runpod_server --port P --endpoint ID --api-key KEY` starts and stops real
worker processes as RunPod does (`infra/local/runpod_endpoint.py`). The public API follows RunPod's
documentation. The worker's routes follow the source of RunPod's SDK (runpod 1.12). Neither was
captured from RunPod itself. It has no runsync, stream, retry, webhooks or rate limits, since Horde
Commons does not use them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from infra.local.runpod_endpoint import Endpoint, Job, LocalRunPod, Worker

HOST = "127.0.0.1"
MAX_PAYLOAD_BYTES = 10 * 1024 * 1024
"""RunPod's limit for a body of /run."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The HTTP side of the endpoint: RunPod's APIs, the worker protocol, and /_local for tests."""

    def __init__(self, local: LocalRunPod) -> None:
        """Create the API; `app` has its routes."""
        self._local = local
        self._behaviour = ("ok", 0)

    # The public API

    def app(self) -> web.Application:
        """Return the application: RunPod's API, the worker protocol, and /_local for tests."""
        app = web.Application(client_max_size=MAX_PAYLOAD_BYTES)
        root = f"/v2/{self._local.endpoint.endpoint_id}"
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
                    f"/v2/serverless/{self._local.endpoint.endpoint_id}",
                    self._authorised(self.managed),
                ),
                web.patch(
                    f"/v2/serverless/{self._local.endpoint.endpoint_id}",
                    self._authorised(self.manage),
                ),
                web.get("/_local/jobs", self.list_jobs),
                web.get("/_local/workers", self.list_workers),
                web.get("/_local/ended", self.list_ended),
            ]
        )
        return app

    def _authorised(self, handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Bearer {self._local.endpoint.api_key}":
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
            self._local.jobs[job.id] = job
            await self._local.notify()
        return web.json_response({"id": job.id, "status": "IN_QUEUE"})

    async def status(self, request: web.Request) -> web.StreamResponse:
        """GET /status/{job}."""
        self._local.expire()
        job = self._local.jobs.get(request.match_info["job"])
        return _job_not_found() if job is None else web.json_response(job.as_json())

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """POST /cancel/{job}: remove it from the queue, or make its worker stop it."""
        job = self._local.jobs.get(request.match_info["job"])
        if job is None:
            return _job_not_found()
        await self._local.stop(job, "CANCELLED")
        return web.json_response(job.as_json())

    async def health(self, _: web.Request) -> web.StreamResponse:
        """GET /health: jobs and workers by state."""
        self._local.expire()
        states = Counter(job.status for job in self._local.jobs.values())
        running = {
            job.worker_id for job in self._local.jobs.values() if job.status == "IN_PROGRESS"
        }
        workers = [worker for worker in self._local.workers.values() if not worker.stopping]
        ready = [worker for worker in workers if worker.ready]
        return web.json_response(
            {
                "jobs": {
                    "completed": states["COMPLETED"],
                    "failed": states["FAILED"] + states["TIMED_OUT"],
                    "inProgress": states["IN_PROGRESS"],
                    "inQueue": states["IN_QUEUE"],
                    "retried": sum(job.retries for job in self._local.jobs.values()),
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
        one = self._local.endpoint
        workers = {"min": one.workers_min, "max": one.workers_max, "idleTimeout": one.idle_timeout}
        return web.json_response({"id": one.endpoint_id, "type": "QUEUE", "workers": workers})

    async def manage(self, request: web.Request) -> web.StreamResponse:
        """PATCH /v2/serverless/{id}, of the management API: change the most workers alone."""
        try:
            most = json.loads(await request.read())["workers"]["max"]
            valid = type(most) is int and most >= self._local.endpoint.workers_min
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            return web.json_response({"error": "workers.max must be a number"}, status=400)
        self._local.endpoint = replace(self._local.endpoint, workers_max=most)
        await self._local.notify()
        return await self.managed(request)

    async def purge(self, _: web.Request) -> web.StreamResponse:
        """POST /purge-queue: cancel the queued jobs; running jobs continue."""
        queued = self._local.queue()
        for job in queued:
            job.end("CANCELLED")
        return web.json_response({"removed": len(queued), "status": "completed"})

    # The worker protocol, which the SDK's JobScaler and Heartbeat call

    async def job_take(self, request: web.Request) -> web.StreamResponse:
        """Give jobs to a worker: one as an object, a batch as a list; 204 if there are none."""
        worker = self._worker(request)
        worker.ready = True
        if not await self._local.wait_for(lambda: worker.stopping or bool(self._local.queue())):
            return web.Response(status=204)
        # The worker may have died, or been stopped, during the wait.
        if worker.stopping or worker.id not in self._local.workers:
            return web.Response(status=204)
        taken = self._local.queue()[: int(request.query.get("batch_size", 1))]
        for job in taken:
            job.status, job.worker_id, job.started = "IN_PROGRESS", worker.id, time.monotonic()
        jobs = [{"id": job.id, "input": job.body["input"]} for job in taken]
        return web.json_response(jobs if "batch_size" in request.query else jobs[0])

    async def job_stop(self, request: web.Request) -> web.StreamResponse:
        """Return the jobs that a worker must stop; 204 if there are none."""
        worker = self._worker(request)
        await self._local.wait_for(lambda: worker.stopping or bool(worker.stops))
        stops, worker.stops = worker.stops, []
        return web.json_response({"jobsToStop": stops}) if stops else web.Response(status=204)

    async def job_done(self, request: web.Request) -> web.StreamResponse:
        """Accept a job's result: JSON, which the SDK sends as a form."""
        worker = self._worker(request)
        job = self._local.jobs.get(request.match_info["job"])
        result = json.loads(await request.read())
        if result.pop("stopPod", False):
            await self._local.terminate(worker)
        # An earlier worker of a requeued job may still respond; only the latest one counts.
        if job is not None and job.worker_id == worker.id and job.status == "IN_PROGRESS":
            job.end("FAILED" if "error" in result else "COMPLETED", **result)
        worker.idle_since = time.monotonic()
        return web.Response()

    async def ping(self, _: web.Request) -> web.StreamResponse:
        """Accept a heartbeat. It is not evaluated: `_watch` notices when a worker exits."""
        return web.Response()

    def _worker(self, request: web.Request) -> Worker:
        worker = self._local.workers.get(request.match_info["worker"])
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
        self._local.expire()
        return web.json_response(
            [job.as_json() | {"input": job.body["input"]} for job in self._local.jobs.values()]
        )

    async def list_workers(self, _: web.Request) -> web.StreamResponse:
        """GET /_local/workers: id, process id, and whether its model is loaded."""
        return web.json_response(
            [
                {"id": worker.id, "pid": worker.process.pid, "ready": worker.ready}
                for worker in self._local.workers.values()
            ]
        )

    async def list_ended(self, _: web.Request) -> web.StreamResponse:
        """GET /_local/ended: workers that ended unasked, with their exit codes."""
        return web.json_response(self._local.ended)


def _job_not_found() -> web.StreamResponse:
    return web.json_response({"error": "job not found"}, status=404)


@asynccontextmanager
async def serve(endpoint: Endpoint, port: int = 0) -> AsyncIterator[LocalRunPod]:
    """Serve the endpoint on 127.0.0.1 and supervise its workers; port 0 takes a free port."""
    local = LocalRunPod(endpoint)
    runner = web.AppRunner(Api(local).app(), access_log=None, shutdown_timeout=0.5)
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

"""Doubles RunPod's APIs, as far as dispatch and sweep use them: ``/run``, ``/health``, and the
management API's ``/serverless/{id}``.

A real HTTP server on a loopback port, one for the whole process. It differs from RunPod in that no
worker ever starts: a job stays in ``jobs`` until a test takes it. ``mode`` makes it fail in the
ways that RunPod may.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeRunPod:
    """The endpoints of one account, and the jobs they were given."""

    key: str = "runpod-key"
    mode: str = "ok"
    """``ok``; ``error``: answers 500; ``nothing``: closes the connection; ``nonsense``: answers
    with something else; ``lose``: says that it took a job, and did not."""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    in_progress: int = 0
    workers: dict[str, Any] = field(default_factory=dict)
    """How many are in which state."""
    said: Any = None
    """What ``/health`` answers instead of the truth."""
    most: dict[str, Any] = field(default_factory=dict)
    """The most workers of each endpoint; 5 where none is named, as of a new account."""
    quota: int = 60
    """The most workers that RunPod allows."""
    managed: list[tuple[str, str]] = field(default_factory=list)
    """The calls of the management API: method and endpoint."""
    management: Callable[[str], tuple[int, Any]] | None = None
    """What the management API answers to a method instead of the truth."""
    url: str = ""
    management_url: str = ""

    @contextmanager
    def serving(self) -> Iterator["FakeRunPod"]:
        """Be the account that the process's server speaks for."""
        server = _server()
        self.url = f"http://127.0.0.1:{server.server_port}/v2"
        self.management_url = f"http://127.0.0.1:{server.server_port}/manage/v2"
        before, server.fake = server.fake, self
        try:
            yield self
        finally:
            server.fake = before

    def run(self, endpoint: str, authorization: str, body: Any) -> tuple[int, Any] | None:
        """Take a job; None where no answer comes."""
        if authorization != f"Bearer {self.key}":
            return 401, {}
        if self.mode == "error":
            return 500, {"error": "out of order"}
        if self.mode == "nothing":
            return None
        if self.mode == "nonsense":
            return 200, ["what?"]
        if self.mode != "lose":
            self.jobs.append({"endpoint": endpoint, **body})
        return 200, {"id": f"job-{len(self.jobs)}", "status": "IN_QUEUE"}

    def health(self, endpoint: str) -> tuple[int, Any]:
        """Say how many jobs there are."""
        if self.mode == "error":
            return 500, {}
        if self.said is not None:
            return 200, self.said
        queued = sum(job["endpoint"] == endpoint for job in self.jobs)
        jobs = {"inQueue": queued, "inProgress": self.in_progress}
        return 200, {"jobs": jobs, "workers": self.workers}

    def manage(
        self, method: str, endpoint: str, authorization: str, body: Any
    ) -> tuple[int, Any] | None:
        """Say how many workers an endpoint may have, or change that up to the quota."""
        self.managed.append((method, endpoint))
        if authorization != f"Bearer {self.key}":
            return 401, {}
        if self.mode == "nothing":
            return None
        if self.management is not None:
            return self.management(method)
        if method == "PATCH":
            assert list(body) == ["workers"], body
            assert list(body["workers"]) == ["max"], body
            self.most[endpoint] = min(self.quota, body["workers"]["max"])
        return 200, {"id": endpoint, "workers": {"min": 0, "max": self.most.get(endpoint, 5)}}


class _Server(ThreadingHTTPServer):
    fake: FakeRunPod | None = None


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_PATCH(self) -> None:
        self._manage(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _manage(self, body: Any = None) -> None:
        assert self.server.fake is not None
        endpoint, authorization = self.path.split("/")[4], self.headers["Authorization"]
        self._answer(self.server.fake.manage(self.command, endpoint, authorization, body))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.server.fake is not None
        endpoint, authorization = self.path.split("/")[2], self.headers["Authorization"]
        self._answer(self.server.fake.run(endpoint, authorization, body))

    def do_GET(self) -> None:
        assert self.server.fake is not None
        if self.path.startswith("/manage/v2/serverless/"):
            self._manage()
        else:
            self._answer(self.server.fake.health(self.path.split("/")[2]))

    def _answer(self, answer: tuple[int, Any] | None) -> None:
        if answer is None:
            self.close_connection = True
            return
        raw = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@cache
def _server() -> _Server:
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

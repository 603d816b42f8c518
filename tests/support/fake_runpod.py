"""Doubles RunPod's endpoint API, as far as dispatch and sweep use it: ``/run`` and ``/health``.

A real HTTP server on a loopback port, one for the whole process. It differs from RunPod in that no
worker ever starts: a job stays in ``jobs`` until a test takes it. ``mode`` makes it fail in the
ways that RunPod may.
"""

import json
import threading
from collections.abc import Iterator
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
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator["FakeRunPod"]:
        """Be the account that the process's server speaks for."""
        server = _server()
        self.url = f"http://127.0.0.1:{server.server_port}/v2"
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

    def health(self) -> tuple[int, Any]:
        """Say how many jobs there are."""
        if self.mode == "error":
            return 500, {}
        jobs = {"inQueue": len(self.jobs), "inProgress": self.in_progress}
        return 200, {"jobs": jobs, "workers": {}}


class _Server(ThreadingHTTPServer):
    fake: FakeRunPod | None = None


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.server.fake is not None
        endpoint, authorization = self.path.split("/")[2], self.headers["Authorization"]
        self._answer(self.server.fake.run(endpoint, authorization, body))

    def do_GET(self) -> None:
        assert self.server.fake is not None
        self._answer(self.server.fake.health())

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

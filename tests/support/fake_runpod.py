"""Doubles RunPod's endpoint API, as far as dispatch and sweep use it: ``/run`` and ``/health``.

A real HTTP server on a loopback port. It differs from RunPod in that no worker ever starts: a job
stays in ``jobs`` until a test takes it. ``mode`` makes it fail in the ways that RunPod may.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    def serving(self) -> Iterator["FakeRunPod"]:  # noqa: C901 - one small server
        """Serve on a loopback port."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def answer(self, status: int, body: Any) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                if self.headers["Authorization"] != f"Bearer {fake.key}":
                    return self.answer(401, {})
                if fake.mode == "error":
                    return self.answer(500, {"error": "out of order"})
                if fake.mode == "nothing":
                    self.close_connection = True
                    return None
                if fake.mode == "nonsense":
                    return self.answer(200, ["what?"])
                endpoint = self.path.split("/")[2]
                if fake.mode != "lose":
                    fake.jobs.append({"endpoint": endpoint, **body})
                return self.answer(200, {"id": f"job-{len(fake.jobs)}", "status": "IN_QUEUE"})

            def do_GET(self) -> None:
                if fake.mode == "error":
                    return self.answer(500, {})
                jobs = {"inQueue": len(fake.jobs), "inProgress": fake.in_progress}
                return self.answer(200, {"jobs": jobs, "workers": {}})

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/v2"
        thread = threading.Thread(target=server.serve_forever, args=(0.002,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

"""A horde that behaves: it leases jobs, stores uploads and lets exactly one submit of a job win."""

from __future__ import annotations

import email
import json
import threading
import time
import uuid
from collections import Counter, deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.support.numbers import HANG_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY = "the-workers-key-000000"

PAYLOAD: Mapping[str, Any] = {
    "prompt": "a lighthouse###fog",
    "seed": "1",
    "width": 64,
    "height": 64,
    "ddim_steps": 2,
    "n_iter": 1,
    "sampler_name": "k_euler",
    "cfg_scale": 7.5,
    "karras": True,
    "tiling": False,
    "hires_fix": False,
    "clip_skip": 1,
    "post_processing": [],
}


class FakeHorde:
    """The state of the horde and what was seen on the wire."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.url = ""
        self.waiting: deque[dict[str, Any]] = deque()
        self.leased: dict[str, dict[str, Any]] = {}
        self.settled: dict[str, dict[str, Any]] = {}
        """The submit that won, by job."""
        self.uploads: dict[str, bytes] = {}
        self.upload_headers: list[dict[str, str]] = []
        self.files: dict[str, bytes] = {}
        """Source images, by name."""
        self.pops: list[dict[str, Any]] = []
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, deque[int]] = {}
        """Statuses that the next calls of pop, submit or upload answer with; 0 drops the line."""
        self.retry_after: str | None = None
        """What failures ask for."""
        self.lose_uploads = 0
        """How many of the next uploads vanish; then submits that name them are refused."""
        self.lose_answers: Counter[str] = Counter()
        """How many of the next calls take effect without an answer."""
        self.seconds: dict[str, float] = {}
        """How long a pop, submit or upload takes."""
        self.aborted: set[str] = set()
        self.lost: set[str] = set()
        """Jobs whose upload vanished."""
        self.uploading = threading.Event()
        """An upload has arrived."""
        self.let_upload = threading.Event()
        """Clear it to hold uploads back."""
        self.let_upload.set()
        self.let_fetch = threading.Event()
        """Clear it to hold source images back."""
        self.let_fetch.set()
        self.knows_mixed_batch = True
        self.most_bytes: int | None = None
        """If set, jobs come with an upload form that is signed for this length."""
        self.r2 = True

    def add(self, **payload: Any) -> str:
        """Let one image wait; `source` is the name of a file, a URL or base64."""
        job_id = str(uuid.uuid4())
        source = payload.pop("source", None)
        job: dict[str, Any] = {
            "id": job_id,
            "model": payload.pop("model", "stable_diffusion"),
            "ttl": payload.pop("ttl", 150),
            "r2_upload": f"{self.url}/put/{job_id}?X-Amz-Signature=secret" if self.r2 else None,
            "payload": {**PAYLOAD, **payload},
        }
        if self.most_bytes is not None:
            fields = {"key": job_id, "Content-Type": "image/webp", "x-amz-signature": "secret"}
            job["r2_post"] = {"url": f"{self.url}/bucket", "fields": fields}
        if source is not None:
            job["source_image"] = f"{self.url}/get/{source}" if source in self.files else source
            job["source_processing"] = "img2img"
        with self.lock:
            self.waiting.append(job)
        return job_id

    def release(self) -> None:
        """Put every lease back, as the Horde does when its ttl is over."""
        with self.lock:
            self.waiting.extend(self.leased.values())
            self.leased.clear()

    def done(self) -> int:
        """How many images were delivered."""
        with self.lock:
            return sum(s["state"] in ("ok", "censored") for s in self.settled.values())

    def pop(self, body: dict[str, Any]) -> dict[str, Any]:
        self.pops.append(body)
        fits = [job for job in self.waiting if job["model"] in body["models"]]
        same = [job for job in fits if job["model"] == fits[0]["model"]]
        jobs = same[: body.get("amount", 1)]
        for job in jobs:
            self.waiting.remove(job)
        self.leased.update({job["id"]: job for job in jobs})
        answer: dict[str, Any] = {"id": None, "ids": [], "skipped": {}, "messages": []}
        if not jobs:
            return answer
        first = jobs[0]
        answer |= first | {
            "ids": [job["id"] for job in jobs],
            "r2_uploads": [job["r2_upload"] for job in jobs],
            "payload": first["payload"] | {"n_iter": len(jobs)},
        }
        if self.knows_mixed_batch and body.get("mixed_batch"):
            answer["jobs"] = jobs
        return answer

    def submit(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        job_id = body["id"]
        if job_id in self.settled:
            return 400, {"rc": "DuplicateGen", "message": "already submitted"}
        if job_id in self.aborted:
            return 400, {"rc": "AbortedGen", "message": "aborted"}
        if job_id in self.lost and body["generation"] == "R2":
            return 400, {
                "rc": "BadRequest",
                "message": f"The image of job {job_id} was not uploaded.",
            }
        if job_id not in self.leased:
            return 404, {"rc": "InvalidJobID", "message": f"Processing Job with ID {job_id} ..."}
        del self.leased[job_id]
        self.settled[job_id] = body
        return 200, {"reward": 0 if body["state"] == "faulted" else 10}


class Handler(BaseHTTPRequestHandler):
    """The wire; `fake_horde` gives each server its own subclass."""

    protocol_version = "HTTP/1.1"
    horde: FakeHorde

    def log_message(self, *_: Any) -> None:
        pass

    def _fails(self, verb: str) -> bool:
        self.horde.calls[verb] += 1
        failures = self.horde.failures.get(verb)
        if not failures:
            return False
        self._answer(
            failures.popleft(),
            {"rc": "Failure", "message": f"{verb} fails"},
            {"Retry-After": self.horde.retry_after} if self.horde.retry_after else {},
        )
        return True

    def _answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        if status == 0:
            self.close_connection = True
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        if self.path == "/bucket":
            self._store_form()
            return
        horde, body, verb = self.horde, json.loads(self._body()), self.path.rpartition("/")[2]
        time.sleep(horde.seconds.get(verb, 0))
        with horde.lock:
            if self._fails(verb):
                return
            if self.headers.get("apikey") != KEY:
                self._answer(401, {"rc": "InvalidAPIKey", "message": "No user matching"})
                return
            status, answer = (200, horde.pop(body)) if verb == "pop" else horde.submit(body)
            if horde.lose_answers[verb]:
                horde.lose_answers[verb] -= 1
                status = 0
        self._answer(status, answer)

    def _store_form(self) -> None:
        """Take an upload as S3 does: the fields first, then the file, within the signed length."""
        horde, head = self.horde, f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form: Any = email.message_from_bytes(head + self._body()).get_payload()
        parts: list[tuple[str, bytes]] = [
            (part.get_param("name", header="content-disposition"), part.get_payload(decode=True))
            for part in form
        ]
        fields = {name: value.decode() for name, value in parts[:-1]}
        name, file = parts[-1]
        with horde.lock:
            if self._fails("upload"):
                return
            signed = fields["x-amz-signature"] == "secret" and name == "file"
            if not signed or len(file) > (horde.most_bytes or 0):
                self._answer(400, b"<Error><Code>EntityTooLarge</Code></Error>")
                return
            horde.uploads[fields["key"]] = file
        self._answer(204, b"")

    def do_PUT(self) -> None:
        horde, data = self.horde, self._body()
        horde.uploading.set()
        horde.let_upload.wait(HANG_S)
        time.sleep(horde.seconds.get("upload", 0))
        with horde.lock:
            if self._fails("upload"):
                return
            job_id = self.path.rpartition("/")[2].partition("?")[0]
            if horde.lose_uploads:
                horde.lose_uploads -= 1
                horde.lost.add(job_id)
            else:
                horde.uploads[job_id] = data
            horde.upload_headers.append({k.lower(): v for k, v in self.headers.items()})
        self._answer(200, b"")

    def do_GET(self) -> None:
        self.horde.let_fetch.wait(HANG_S)
        with self.horde.lock:
            if self._fails("source"):
                return
            data = self.horde.files.get(self.path.rpartition("/")[2])
        self._answer(404, b"") if data is None else self._answer(200, data)


@contextmanager
def fake_horde() -> Iterator[FakeHorde]:
    """Serve a horde on a free port until the end of the block."""
    horde = FakeHorde()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"horde": horde}))
    server.daemon_threads = True
    horde.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield horde
    finally:
        horde.let_upload.set()
        horde.let_fetch.set()
        server.shutdown()
        server.server_close()
        thread.join()

"""CivitAI's API on this machine, as its reference describes it; and what it can be made to lie."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "the-key-of-civitai"


@dataclass
class FakeFile:
    """A version's file, and how it is told of and sent."""

    data: bytes
    base: str = "SD 1.5"
    words: list[str] = field(default_factory=list)
    name: str = "a.safetensors"
    kind: str = "LORA"
    sha256: str = ""
    """What is said of it; else the truth."""
    size_kb: float | None = None
    model: int = 0
    redirect: str = ""
    """Where its download is, beside `/files/ID`."""
    endless: bool = False
    drip_s: float = 0.0
    """Seconds between its bytes."""
    needs_key: bool = False


class FakeCivitai:
    """The state of the host and what was seen on the wire."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[int, FakeFile] = {}
        self.calls: Counter[str] = Counter()
        self.statuses: list[int] = []
        """What the next calls are answered with."""
        self.retry_after = ""
        self.keys: list[tuple[str, str]] = []
        """The path and key of each call that had one."""
        self.hold = threading.Event()
        """Clear it to hold files back."""
        self.hold.set()
        self.answer: bytes | None = None
        """What the API says instead."""

    def version(self, number: int) -> dict[str, Any] | None:
        file = self.files.get(number)
        if file is None:
            return None
        return {
            "id": number,
            "modelId": file.model,
            "baseModel": file.base,
            "trainedWords": file.words,
            "files": [
                {
                    "id": number,
                    "name": file.name,
                    "type": "Model",
                    "sizeKB": len(file.data) / 1024 if file.size_kb is None else file.size_kb,
                    "hashes": {
                        "SHA256": file.sha256 or hashlib.sha256(file.data).hexdigest().upper()
                    },
                    "downloadUrl": f"{self.url}/api/download/models/{number}",
                    "primary": True,
                }
            ],
        }

    def said(self, path: str) -> dict[str, Any] | None:
        *_, kind, number = path.split("/")
        if kind == "model-versions":
            found = self.version(int(number))
            if found is None:
                return None
            return {**found, "model": {"name": "A", "type": self.files[int(number)].kind}}
        versions = [
            self.version(one) for one, file in self.files.items() if file.model == int(number)
        ]
        if not versions:
            return None
        return {"id": int(number), "type": "LORA", "modelVersions": versions[::-1]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeCivitai

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        state, path = self.state, urlsplit(self.path).path
        state.calls[path] += 1
        if key := self.headers.get("Authorization"):
            state.keys.append((path, key))
        if state.statuses:
            self.reply(state.statuses.pop(0), b"")
        elif path.startswith("/api/v1/"):
            said = state.said(path)
            body = json.dumps(said).encode() if state.answer is None else state.answer
            self.reply(200 if said or state.answer else 404, body)
        elif path.startswith("/api/download"):
            self.redirected(path.rpartition("/")[2])
        else:
            self.file(state.files[int(path.rpartition("/")[2])])

    def reply(self, status: int, body: bytes, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.state.retry_after and status in (429, 503):
            self.send_header("Retry-After", self.state.retry_after)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def redirected(self, number: str) -> None:
        file = self.state.files[int(number)]
        if file.needs_key and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.reply(401, b"")
        else:
            self.reply(307, b"", file.redirect or f"/files/{number}")

    def file(self, file: FakeFile) -> None:
        self.state.hold.wait()
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        step = 1 if file.drip_s else len(file.data)
        try:
            while file.endless:
                self.wfile.write(bytes(64 * 1024))
            for at in range(0, len(file.data), step):
                self.wfile.write(file.data[at : at + step])
                time.sleep(file.drip_s)
        except OSError:  # the worker has had enough
            pass


@contextmanager
def fake_civitai() -> Iterator[FakeCivitai]:
    state = FakeCivitai()
    handler = type("OwnHandler", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()

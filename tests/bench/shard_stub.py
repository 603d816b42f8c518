"""S3 and DynamoDB for one ``pack``: ``python -m tests.bench.shard_stub`` prints its port.

It answers until its stdin ends. Any image of ``incoming/`` is there, with ``IMAGE`` bytes that do
not compress. What is uploaded in pieces is counted and forgotten, so this process says nothing of
the memory of the other one. Small objects are kept. Any record of a shared image is
there, and no other.
"""

import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from horde import dataset

IMAGE = 100_000
DAY = "2026-11-27"
"""The day of the images."""
_BODY = os.urandom(IMAGE)
_objects: dict[str, bytes] = {}


def row(name: str) -> dict[str, Any]:
    """Return what is known of an image at its delivery."""
    texts = {
        "id": name,
        "set": "ab" * 32,
        "created_on": DAY,
        "prompt": f"a fox in the snow, {name}, " + "many words " * 20,
        "negative_prompt": "blurry",
        "sampler": "k_euler",
        "model": "stable_diffusion",
        "drawn_by": "endpoint",
        "user_hash": "cd" * 32,
        "user_type": "pseudonymous",
        "consent": "request-flag",
        "terms_version": "2026-12",
        "license": "CC0-1.0",
        "sha256": "ef" * 32,
        "md5": "0" * 32,
        "phash": "0" * 16,
        "format": "webp",
        "file_name": f"{name}.webp",
    }
    numbers = {"batch_index": 0, "seed": 2**62, "steps": 30, "clip_skip": 1}
    numbers |= {"width": 512, "height": 512, "bytes": IMAGE}
    flags = dict.fromkeys(("karras", "hires_fix", "tiling", "nsfw_requested", "censored"), False)
    return {**texts, **numbers, **flags, "cfg_scale": 7.0}


def record(key: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a shared image."""
    name = key["pk"]["S"].partition("#")[2]
    at = f"incoming/date={DAY}/{name}.tar"
    return {**key, "generation_id": {"S": name}, "user_id": {"N": "1"}, "object_key": {"S": at}}


class Answers(BaseHTTPRequestHandler):
    """One request; connections are kept."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _send(self, status: int, body: bytes = b"", kind: str = "application/xml") -> None:
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f'ETag: "0"\r\nx-amzn-RequestId: 0\r\n\r\n'
        )
        self.wfile.write(head.encode() + body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        """Return an image or an object."""
        path = self.path.partition("?")[0]
        name = re.search(r"/incoming/.*/([^/]+)\.tar$", path)
        body = dataset.pack(_BODY, row(name[1])) if name else _objects.get(path)
        missing = b"<Error><Code>NoSuchKey</Code></Error>"
        self._send(200 if body is not None else 404, body or missing)

    def do_PUT(self) -> None:
        """Keep an object, forget a piece."""
        path, _, query = self.path.partition("?")
        body = self._body()
        if "partNumber" not in query:
            _objects[path] = body
        self._send(200)

    def do_POST(self) -> None:
        """Begin or end an upload, or read records."""
        body = self._body()
        if "X-Amz-Target" in self.headers:
            asked = json.loads(body)["RequestItems"]
            found = {
                table: [record(key) for key in one["Keys"] if key["sk"]["S"] == "SHARED"]
                for table, one in asked.items()
            }
            answer = {"Responses": found, "UnprocessedKeys": {}}
            self._send(200, json.dumps(answer).encode(), "application/x-amz-json-1.0")
            return
        kind = "Initiate" if "uploads" in self.path.partition("?")[2] else "Complete"
        name = f"{kind}MultipartUploadResult"
        self._send(200, f"<{name}><UploadId>1</UploadId><ETag>0</ETag></{name}>".encode())


def main() -> None:
    """Serve until stdin ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

"""AWS in another process, for a client whose CPU is measured: moto's tables behind plain HTTP.

``python -m tests.bench.stub`` makes a cloud, prints one line of JSON with what a client needs, and
answers until its stdin ends. It speaks DynamoDB's and Secrets Manager's JSON, and of S3 what a
submit needs. It checks no signature.
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from botocore.exceptions import ClientError

from horde.log import logger
from tests.support import direct
from tests.support.cloud import Cloud, fresh_cloud
from tests.support.images import webp
from tests.support.moto_aws import moto_clients
from tests.support.template import synthesize

KUDOS = 1_000_000
SIZE = 64
"""Pixels of the picture's sides: small, since decoding it is no client's work."""
FILES = ("generate", "status", "worker")
_objects: dict[str, bytes] = {}
_one_at_a_time = threading.Lock()


class Answers(BaseHTTPRequestHandler):
    """One request of a client; connections are kept."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _send(self, status: int, body: bytes, kind: str = "application/x-amz-json-1.0") -> None:
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f'ETag: "0"\r\nx-amzn-RequestId: 0\r\n\r\n'
        )
        self.wfile.write(head.encode() + body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        """Answer DynamoDB or Secrets Manager."""
        service, _, operation = self.headers["X-Amz-Target"].partition(".")
        params = json.loads(self._body())
        if service.startswith("secretsmanager"):
            answer = {"ARN": params["SecretId"], "SecretString": "s" * 64}
            self._send(200, json.dumps(answer).encode(), "application/x-amz-json-1.1")
            return
        try:
            with _one_at_a_time:
                found = direct.dynamodb(operation, params)
        except ClientError as error:
            said: dict[str, Any] = dict(error.response)
            kind = f"com.amazonaws.dynamodb.v20120810#{said['Error']['Code']}"
            reasons = said.get("CancellationReasons", [])
            body = {"__type": kind, "message": "", "CancellationReasons": reasons}
            self._send(400, json.dumps(body).encode())
            return
        self._send(200, json.dumps(found or {}).encode())

    def do_PUT(self) -> None:
        """Keep an object."""
        body = self._body()
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            size, _, rest = body.partition(b"\r\n")
            body = rest[: int(size.partition(b";")[0], 16)]
        _objects[self.path.partition("?")[0]] = body
        self._send(200, b"", "application/xml")

    def do_GET(self) -> None:
        """Return an object."""
        body = _objects.get(self.path.partition("?")[0])
        missing = b"<Error><Code>NoSuchKey</Code></Error>"
        self._send(200 if body is not None else 404, body or missing, "application/xml")

    def do_DELETE(self) -> None:
        """Forget an object."""
        _objects.pop(self.path.partition("?")[0], None)
        self._send(204, b"", "application/xml")


def facts(cloud: Cloud, port: int) -> dict[str, Any]:
    """Return what a client needs: environment, keys, and a picture to submit."""
    user, key = cloud.register("client")
    cloud.set_flags(user, trusted=True)
    cloud.store.accounts.change(cloud.store.accounts.get(user), {"kudos": KUDOS})  # type: ignore[arg-type]
    worker = cloud.new_worker("operator", fleet=True)
    env: dict[str, str] = {}
    for file in FILES:
        env |= cloud.environment(file)
    url = f"http://127.0.0.1:{port}"
    env |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ENDPOINT_URL_S3": url,
        "RATE_LIMITS": "true",
        "TRUSTED_IPS": "127.0.0.0/8",
    }
    picture = webp("red", SIZE, SIZE).hex()
    return {"env": env, "key": key, "worker": worker, "picture": picture, "table": cloud.table}


def main() -> None:
    """Serve until stdin ends."""
    logger.setLevel("ERROR")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    with moto_clients() as clients, fresh_cloud(synthesize(), clients) as cloud:
        cloud.clock.freeze(int(time.time() * 1000))
        told = facts(cloud, server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        os._exit(0)


if __name__ == "__main__":
    main()

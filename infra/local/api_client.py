"""A plain Horde client, which knows only the server's address."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import urllib3

ANONYMOUS = "0000000000"
HANG_S = 300.0
"""Seconds without an answer after which a call is given up: far above the slowest machine's."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Response:
    """A server's response."""

    status: int
    headers: Mapping[str, str]
    data: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        """The parsed body; raises ValueError if it is not JSON."""
        return json.loads(self.data)


class Refused(Exception):  # noqa: N818 - named for the server's response
    """The response has an unexpected status."""

    def __init__(self, what: str, response: Response) -> None:
        super().__init__(f"{what}: {response.status} {response.data[:300]!r}")
        self.response = response


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the Horde's API at ``url`` with one key. It is thread-safe."""

    url: str
    api_key: str | None = ANONYMOUS
    pool: urllib3.PoolManager = field(
        default_factory=lambda: urllib3.PoolManager(maxsize=32, timeout=HANG_S, retries=False),
        repr=False,
    )

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request; ``path`` starts with ``/api``."""
        sent = {"Client-Agent": "horde-commons-demo:1:local", **(headers or {})}
        if self.api_key is not None:
            sent["apikey"] = self.api_key
        data = raw if body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        return self.fetch(method, self.url + path, data, sent)

    def fetch(
        self,
        method: str,
        url: str,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request to any URL, such as a presigned one."""
        response = self.pool.request(method, url, body=data, headers=headers)
        return Response(response.status, response.headers, response.data)

    def expect(self, status: int, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return its JSON; raises Refused for any other status."""
        response = self.call(method, path, body)
        if response.status != status:
            what = f"{method} {path}"
            raise Refused(what, response)
        return response.json

    def register(self, alias: str) -> Any:
        """Open an account; returns id, username, kudos and api_key."""
        return self.expect(201, "POST", "/api/register", {"username": alias})

    def kudos(self) -> int:
        """Return the balance of this key's account."""
        return int(self.expect(200, "GET", "/api/v2/find_user")["kudos"])

    def dry_run(self, body: Mapping[str, Any]) -> int:
        """Return what a request would cost."""
        cost = self.expect(200, "POST", "/api/v2/generate/async", {**body, "dry_run": True})
        return int(cost["kudos"])

    def generate(self, body: Mapping[str, Any]) -> Any:
        """Send a request; returns its id and kudos, and maybe a message."""
        return self.expect(202, "POST", "/api/v2/generate/async", body)

    def check(self, request_id: str) -> Any:
        """Return a request's counts."""
        return self.expect(200, "GET", f"/api/v2/generate/check/{request_id}")

    def status(self, request_id: str) -> Any:
        """Return a request's counts and images."""
        return self.expect(200, "GET", f"/api/v2/generate/status/{request_id}")

    def cancel(self, request_id: str) -> Any:
        """Cancel a request's waiting images."""
        return self.expect(200, "DELETE", f"/api/v2/generate/status/{request_id}")

    def download(self, url: str) -> bytes:
        """Return the file at a presigned URL; raises Refused."""
        response = self.fetch("GET", url)
        if response.status != 200:  # noqa: PLR2004
            raise Refused("GET of an image", response)
        return response.data

    def pop(self, **fields: Any) -> Any:
        """Pop images as a worker does; each API key has a worker name of its own."""
        name = f"manual {hashlib.sha256(str(self.api_key).encode()).hexdigest()[:8]}"
        body = {"name": name, "models": ["stable_diffusion"], "amount": 1, **fields}
        return self.expect(200, "POST", "/api/v2/generate/pop", body)

    def submit(self, generation_id: str, **fields: Any) -> Response:
        """Submit an uploaded image."""
        body = {"id": generation_id, "generation": "R2", "state": "ok", "seed": 1, **fields}
        return self.call("POST", "/api/v2/generate/submit", body)


def until(what: str, probe: Callable[[], T | None], *, seconds: float, every: float = 0.3) -> T:
    """Call ``probe`` until its result is true, and return that; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            message = f"not within {seconds:.0f} s: {what}"
            raise TimeoutError(message)
        time.sleep(every)

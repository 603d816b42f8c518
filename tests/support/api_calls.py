"""Doubles API Gateway and those who call it: clients, and workers with their uploads.

A call is the event of payload format 2.0 that API Gateway makes of it; no HTTP is spoken (``wsgi``
does that). What is too large for API Gateway or Lambda is refused as there (``lambda_limits``).
"""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from horde.edge import auth
from horde.records import ApiKey
from horde.rules.features import delivered_size
from horde.store.accounts import deleted
from tests.support import lambda_limits
from tests.support.deployment import Deployment
from tests.support.images import webp
from tests.support.numbers import HANG_S

ANONYMOUS = "0000000000"
UNKNOWN = "11111111-2222-4333-8444-555555555555"
"""An id, or a shared key, of nothing."""
ADDRESS = "203.0.113.7"
"""Where clients call from."""


@dataclass
class Reply:
    """An API answer."""

    status: int
    body: Any
    headers: dict[str, str]


def refused(answer: Reply, rc: str | None, status: int = 400) -> None:
    """Assert that a call was refused with this status and ``rc``, and that the answer says why."""
    assert (answer.status, answer.body.get("rc")) == (status, rc), answer
    assert answer.body["message"]


def key_of(url: str) -> str:
    """Return the object key of a presigned URL."""
    path = unquote(urlsplit(url).path).lstrip("/")
    return re.sub(r"^[^/]*outputs[^/]*/", "", path)


class ApiCalls(Deployment):
    """The API's callers."""

    def call(
        self,
        route: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        raw: str | None = None,
        query: dict[str, str] | None = None,
        ip: str = ADDRESS,
        **path: str,
    ) -> Reply:
        """Send one HTTP request along a route such as ``GET /api/v2/find_user``."""
        sent = {"content-type": "application/json", **(headers or {})}
        if key is not None:
            sent["apikey"] = key
        route_key = route if route in self.routes else "$default"
        event = {
            "version": "2.0",
            "routeKey": route_key,
            "rawPath": re.sub(r"{(\w+)}", lambda m: path[m[1]], route.partition(" ")[2]),
            "requestContext": {"http": {"method": route.partition(" ")[0], "sourceIp": ip}},
            "queryStringParameters": query,
            "headers": sent,
            "pathParameters": path or None,
            "body": raw if raw is not None else (json.dumps(body) if body is not None else None),
            "isBase64Encoded": False,
        }
        if lambda_limits.too_large(event):
            return Reply(413, lambda_limits.TOO_LARGE, {})
        answer = self.invoke(self.routes[route_key], event)
        is_json = answer["headers"]["Content-Type"].startswith("application/json")
        shown = json.loads(answer["body"]) if is_json else answer["body"]
        return Reply(answer["statusCode"], shown, answer["headers"])

    # --- clients ----------------------------------------------------------------------------------

    def register(self, name: str = "ada", kudos: int = 0) -> tuple[int, str]:
        """Open an account and grant it kudos above its floor; returns its id and key."""
        answer = self.call("POST /api/register", {"username": name})
        assert answer.status == 201, answer
        if kudos:
            assert self.store.accounts.grant(answer.body["id"], kudos)
        return answer.body["id"], answer.body["api_key"]

    def change_user(self, key: str, user: object, **fields: Any) -> Reply:
        """Change an account."""
        return self.call("PUT /api/v2/users/{id}", fields, key=key, id=str(user))

    def set_flags(self, user_id: int, **flags: bool) -> None:
        """Set an account's flags behind the API's back."""
        user = self.store.accounts.get(user_id)
        assert user is not None
        changes = deleted(user) if flags.get("deleted") else flags
        assert self.store.accounts.change(user, changes)

    def transfer(
        self, key: str, username: str, amount: Any = 10, *, once: str | None = None
    ) -> Reply:
        """Send kudos to a user, or to a shared key; ``once`` is an idempotency key."""
        body = {"username": username, "amount": amount}
        headers = {"Idempotency-Key": once} if once else None
        return self.call("POST /api/v2/kudos/transfer", body, key=key, headers=headers)

    def generate(self, key: str = ANONYMOUS, **fields: Any) -> Reply:
        """Ask for images."""
        body = {"prompt": "a red apple", **fields}
        return self.call("POST /api/v2/generate/async", body, key=key)

    def rate(self, request_id: str, **body: Any) -> Reply:
        """Rate a request's images."""
        return self.call("POST /api/v2/generate/rate/{id}", body, id=request_id)

    def check(self, request_id: str) -> Reply:
        """Ask how far a request is."""
        return self.call("GET /api/v2/generate/check/{id}", id=request_id)

    def status(self, request_id: str) -> Reply:
        """Ask for a request's images."""
        return self.call("GET /api/v2/generate/status/{id}", id=request_id)

    def cancel(self, request_id: str) -> Reply:
        """Cancel a request."""
        return self.call("DELETE /api/v2/generate/status/{id}", id=request_id)

    # --- workers ----------------------------------------------------------------------------------

    def worker_key(self, user_id: int, *, fleet: bool = False) -> str:
        """Give a user a worker key, as the operator does."""
        key = auth.new_key()
        made = ApiKey(
            hash=auth.key_hash(key),
            user_id=user_id,
            worker=True,
            created_at=self.clock.now_ms() // 1000,
        )
        assert self.store.keys.add_worker_key(made, fleet=fleet)
        return key

    def new_worker(self, owner: str = "owner", **flags: bool) -> str:
        """Open a trusted account for a worker's owner, with these flags; returns its worker key."""
        user, _ = self.register(owner)
        self.set_flags(user, **{"trusted": True, **flags})
        return self.worker_key(user)

    def worker_named(self, name: str = "w1", key: str | None = None) -> Any:
        """Ask for a worker by its name, as the owner of ``key``."""
        answer = self.call("GET /api/v2/workers/name/{name}", name=name, key=key)
        assert answer.status == 200, answer
        return answer.body

    def pop(self, key: str, **fields: Any) -> Reply:
        """Pop as a worker does."""
        body = {"name": "w1", "models": ["stable_diffusion"], "max_pixels": 4194304, **fields}
        return self.call("POST /api/v2/generate/pop", body, key=key)

    def upload(self, url: str, body: bytes | None = None) -> None:
        """PUT to a presigned URL with no content type, as workers do."""
        sent = self.picture(url) if body is None else body
        answer = requests.put(url, data=sent, timeout=HANG_S)
        assert answer.status_code == 200, answer.text

    def picture(self, url: str, colour: str = "red") -> bytes:
        """Return a picture of the size that was asked for where this upload URL was given."""
        generation = self.store.requests.generation(key_of(url).split("/")[1])
        request = generation and self.store.requests.get(generation.request_id)
        assert request, url
        return webp(colour, *delivered_size(request.payload))

    def submit(self, key: str, generation_id: str, **fields: Any) -> Reply:
        """Submit as a worker does."""
        body = {"id": generation_id, "generation": "R2", "state": "ok", "seed": 7, **fields}
        return self.call("POST /api/v2/generate/submit", body, key=key)

    def draw(self, key: str, **fields: Any) -> list[str]:
        """Pop, upload and submit until nothing waits; returns the generations' ids."""
        drawn: list[str] = []
        while True:
            answer = self.pop(key, mixed_batch=True, **fields)
            assert answer.status == 200, answer
            jobs = answer.body.get("jobs")
            if not jobs:
                return drawn
            for job in jobs:
                self.upload(job["r2_upload"])
                assert self.submit(key, job["id"]).status == 200
                drawn.append(job["id"])

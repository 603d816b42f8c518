"""Signature Version 4: the same bytes as botocore signs (AWS, SigV4 signing process)."""

import hashlib
import hmac
import time
from functools import lru_cache
from typing import NamedTuple

from horde.wire.sockets import Request

ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """What signs a call; ``token`` is None for a user's own keys."""

    access_key: str
    secret_key: str
    token: str | None = None


class Signer:
    """Signs for one service in one region, with some credentials, at one time (seconds)."""

    def __init__(
        self, service: str, region: str, credentials: Credentials, now: float | None = None
    ) -> None:
        self._service, (access, self._secret, self.token) = service, credentials
        self.now = time.time() if now is None else now
        self.stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now))
        self._scope = f"{self.stamp[:8]}/{region}/{service}/aws4_request"
        self.credential = f"{access}/{self._scope}"

    def signed(self, request: Request) -> Request:
        """Return a request with all its headers and those that sign them."""
        origin, method, path, given, body = request
        payload = hashlib.sha256(body).hexdigest()
        headers = {**given, "host": origin.partition("://")[2], "x-amz-date": self.stamp}
        if self.token:
            headers["x-amz-security-token"] = self.token
        if self._service == "s3":
            headers["x-amz-content-sha256"] = payload
        signature, names = self.signature(method, path, headers, payload)
        credential = f"Credential={self.credential}, SignedHeaders={names}"
        headers["authorization"] = f"{ALGORITHM} {credential}, Signature={signature}"
        return request._replace(headers=headers)

    def signature(
        self, method: str, path: str, headers: dict[str, str], payload: str
    ) -> tuple[str, str]:
        """Return the signature, and the names of the headers that it covers.

        The query of ``path`` is sorted, and ``payload`` is the SHA-256 of the body.
        """
        path, _, query = path.partition("?")
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(headers))
        request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        return self.hmac(f"{ALGORITHM}\n{self.stamp}\n{self._scope}\n{digest}"), names

    def hmac(self, text: str) -> str:
        """Return the code of a text with the day's key, in hexadecimal."""
        return hmac.digest(_key(self._secret, self._scope), text.encode(), "sha256").hex()


@lru_cache(maxsize=16)
def _key(secret: str, scope: str) -> bytes:
    """Return the key of a day, a region and a service: four hashes."""
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key

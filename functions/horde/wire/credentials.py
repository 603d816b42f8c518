"""The credentials of a function: its environment's, or those of Lambda's own endpoint.

Lambda gives a function that starts from a snapshot an endpoint, since keys in its environment would
expire. They are replaced as botocore does it. Anything else is for botocore to find.
"""

import json
import os
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

from horde.log import logger
from horde.wire.seam import AwsError
from horde.wire.signing import Credentials
from horde.wire.sockets import Origin, Request, exchange

ADVISORY_S, MANDATORY_S = 15 * 60, 10 * 60
"""Seconds before their end from which one call replaces credentials, and from which all wait."""
TRIES, PAUSE_S = 3, 1
"""Of asking the endpoint."""
HOSTS = ("localhost", "127.0.0.1", "::1", "169.254.170.23")
"""Servers that are asked for credentials without TLS."""
FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
ELSEWHERE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_PROFILE",
)
"""What botocore asks first, or understands and this module does not."""
Found = tuple[Credentials, float]
"""Credentials, and their end in seconds since the epoch."""


def find() -> Callable[[], Credentials]:
    """Return what gives the credentials of this process whenever a call is signed."""
    env = os.environ
    access, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if access and secret and "AWS_CREDENTIAL_EXPIRATION" not in env:
        token = env.get("AWS_SECURITY_TOKEN") or env.get("AWS_SESSION_TOKEN")
        fixed = Credentials(access, secret, token)
        return lambda: fixed
    if FULL_URI in env and not any(name in env for name in ELSEWHERE):
        return Renewed(from_endpoint)
    return _from_botocore()


class Renewed:
    """Credentials that are replaced before they end; threads may ask at once."""

    def __init__(self, fetch: Callable[[], Found]) -> None:
        self._fetch, self._lock = fetch, Lock()
        self._found, self._end = fetch()

    def __call__(self) -> Credentials:
        """Return credentials that are good for now; raises AwsError."""
        left = self._end - time.time()
        if left < ADVISORY_S and self._lock.acquire(blocking=left < MANDATORY_S):
            try:
                left = self._end - time.time()  # another thread may have replaced them
                if left < ADVISORY_S:
                    self._replace(mandatory=left < MANDATORY_S)
            finally:
                self._lock.release()
        return self._found

    def _replace(self, *, mandatory: bool) -> None:
        try:
            self._found, self._end = self._fetch()
        except AwsError:
            logger.warning("credentials not replaced", exc_info=True)
            if mandatory:
                raise
            return
        if self._end <= time.time():
            raise AwsError("CredentialsExpired", "credentials were replaced by expired ones")


def from_endpoint() -> Found:
    """Return the credentials that the endpoint in the environment gives; raises AwsError."""
    for tries in range(1, TRIES + 1):
        try:
            return _asked(os.environ[FULL_URI])
        except (AwsError, ValueError, KeyError, TypeError) as error:
            if tries == TRIES:
                raise AwsError("CredentialRetrievalError", str(error)) from error
        time.sleep(PAUSE_S)
    raise AssertionError


def _asked(url: str) -> Found:
    from datetime import datetime  # noqa: PLC0415 - only after a snapshot

    origin = Origin.of(url)
    if origin.scheme != "https" and origin.host not in HOSTS:
        raise ValueError("credentials come from this machine, or over TLS")
    path = "/" + url.partition("://")[2].partition("/")[2]
    headers = {"host": origin.authority, "accept": "application/json"}
    if token := os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        headers["authorization"] = token
    response = exchange(Request(origin, "GET", path, headers))
    found, end = json.loads(response.read()), "Expiration"
    keys = Credentials(found["AccessKeyId"], found["SecretAccessKey"], found["Token"])
    return keys, datetime.fromisoformat(found[end]).timestamp()


def _from_botocore() -> Callable[[], Credentials]:
    import botocore.session  # noqa: PLC0415 - heavy, and nothing for Lambda

    found = botocore.session.Session().get_credentials()
    if found is None:
        raise AwsError("NoCredentials", "there are no credentials")
    asked: Any = found.get_frozen_credentials
    return lambda: Credentials(*asked()[:3])

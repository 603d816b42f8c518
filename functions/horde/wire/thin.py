"""The thin client of services that speak JSON; ``thin_s3`` and ``thin_lambda`` have the others."""

import json
import os
import re
import time
import zlib
from collections.abc import Callable
from typing import Any

from botocore.retries.quota import RetryQuota

from horde.wire import retries, sockets
from horde.wire.seam import AwsError, Client, NoAnswerError
from horde.wire.signing import Credentials, Signer

APIS = {
    "dynamodb": ("DynamoDB_20120810", "1.0"),
    "sqs": ("AmazonSQS", "1.0"),
    "ssm": ("AmazonSSM", "1.1"),
    "secretsmanager": ("secretsmanager", "1.1"),
}
"""Services: the name of the API, and the version of its JSON."""
KNOWN_REGION = re.compile(r"(?!us-iso|eu-iso|eusc-)[a-z]{2}(-gov)?-[a-z]+-\d+")
_to_json = json.JSONEncoder(separators=(",", ":")).encode


def endpoint(service: str, region: str) -> str:
    """Return a service's address: that of the standard AWS variables, or the region's own."""
    env = os.environ
    url = env.get(f"AWS_ENDPOINT_URL_{service.upper()}") or env.get("AWS_ENDPOINT_URL")
    if not url and not KNOWN_REGION.fullmatch(region):
        message = f"no endpoint in region {region!r} is known here: set AWS_CLIENT=botocore"
        raise ValueError(message)
    china = ".cn" if region.startswith("cn-") else ""
    return url or f"https://{service}.{region}.amazonaws.com{china}"


class ThinClient(Client):
    """A client of one service. Threads may share it."""

    def __init__(self, service: str, region: str, credentials: Callable[[], Credentials]) -> None:
        self.service, self._region, self._credentials = service, region, credentials
        self._origin = "/".join(endpoint(service, region).split("/")[:3])
        self._quota = RetryQuota(retries.QUOTA)

    def warm(self) -> None:
        """Connect before the first call; raises OSError."""
        sockets.connect(self._origin)

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make one call; raises AwsError."""
        api, version = APIS[self.service]
        kind = f"application/x-amz-json-{version}"
        headers = {"content-type": kind, "x-amz-target": f"{api}.{operation}"}
        if self.service == "sqs":
            headers["x-amzn-query-mode"] = "true"  # error codes stay those of the older API
        body = _to_json(params).encode()
        answer = self._tried(sockets.Request(self._origin, "POST", "/", headers, body))
        found: dict[str, Any] = json.loads(answer.body or b"{}")
        return found

    def _signer(self) -> Signer:
        return Signer(self.service, self._region, self._credentials())

    def _tried(self, request: sockets.Request) -> sockets.Response:
        """Send a request, again if need be, and return the response; raises AwsError."""
        tries, cost = 1, 0
        while True:
            try:
                response = sockets.exchange(self._signer().signed(request))
                _check(response)
            except AwsError as error:
                cost = retries.cost(error)
                again = tries < retries.TRIES and retries.is_transient(error)
                if not again or not self._quota.acquire(cost):
                    raise
                time.sleep(retries.pause_s(tries))
                tries += 1
            else:
                self._quota.release(cost or retries.SUCCESS)
                return response


def _check(response: sockets.Response) -> None:
    """Raise the error that a response tells of, in JSON or in S3's XML."""
    status, headers, body = response
    checksum = headers.get("x-amz-crc32", zlib.crc32(body))  # DynamoDB's
    if int(checksum) != zlib.crc32(body):
        raise NoAnswerError("the body does not match its checksum")
    if status < 300:  # noqa: PLR2004 - redirects are not followed
        return
    text = body.decode("utf-8", "replace")
    xml = dict(re.findall(r"<(Code|Message)>([^<]*)</", text))
    found = json.loads(text) if text.startswith("{") else xml
    code = str(found.get("__type") or found.get("Code") or status)
    code = code.partition(":")[0].rpartition("#")[2]
    code = headers.get("x-amzn-errortype", code).partition(":")[0]  # Lambda's
    code = headers.get("x-amzn-query-error", code).partition(";")[0]
    message = found.get("message") or found.get("Message") or ""
    raise AwsError(code, message, status=status, body=found)

"""The thin client of services that speak JSON; ``thin_s3`` and ``thin_lambda`` have the others."""

import json
import os
import re
import time
import zlib
from collections.abc import Callable
from typing import Any

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
    if url:
        return url
    if not KNOWN_REGION.fullmatch(region):
        message = f"no endpoint in region {region!r} is known here: set AWS_CLIENT=botocore"
        raise ValueError(message)
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{service}.{region}.{suffix}"


class ThinClient(Client):
    """A client of one service. Threads may share it."""

    def __init__(self, service: str, region: str, credentials: Callable[[], Credentials]) -> None:
        self.service, self._region, self._credentials = service, region, credentials
        self._origin = sockets.Origin.of(endpoint(service, region))
        self._quota = retries.Quota()

    def warm(self) -> None:
        """Connect before the first call; raises OSError."""
        sockets.connect(self._origin)

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make one call; raises AwsError."""
        name, version = APIS[self.service]
        headers = {
            "content-type": f"application/x-amz-json-{version}",
            "x-amz-target": f"{name}.{operation}",
        }
        if self.service == "sqs":
            headers["x-amzn-query-mode"] = "true"  # error codes stay those of the older API
        body = _to_json(params).encode()
        answer = self._tried(sockets.Request(self._origin, "POST", "/", headers, body), whole)
        found: dict[str, Any] = json.loads(answer or b"{}")
        return found

    def _signer(self) -> Signer:
        return Signer(self.service, self._region, self._credentials())

    def _tried(self, request: sockets.Request, read: Callable[[sockets.Response], Any]) -> Any:
        """Send a request, again if need be, and return what ``read`` makes of the response."""
        tries, cost = 1, 0
        while True:
            signed = self._signer().signed(request)
            signed.headers["user-agent"] = "horde-commons"
            try:
                response = sockets.exchange(signed)
                if response.status >= 300:  # noqa: PLR2004 - redirects are not followed
                    raise refusal(response)
                found = read(response)
            except AwsError as error:
                again = tries < retries.TRIES and retries.is_transient(error)
                cost = self._quota.take(error) if again else 0
                if not cost:
                    raise
                time.sleep(retries.pause_s(tries, error))
                tries += 1
            else:
                self._quota.give(cost)
                return found


def whole(response: sockets.Response) -> bytes:
    """Return a body; DynamoDB's has a checksum."""
    body, checksum = response.read(), response.headers.get("x-amz-crc32")
    if checksum is not None and zlib.crc32(body) != int(checksum):
        raise NoAnswerError("the body does not match its checksum")
    return body


def refusal(response: sockets.Response) -> AwsError:
    """Return the error that a response tells of, in JSON or in S3's XML."""
    body, status = whole(response).decode("utf-8", "replace"), response.status
    if body.startswith("{"):
        found = json.loads(body)
    else:
        xml = dict(re.findall(r"<(Code|Message)>([^<]*)</", body))
        found = {"__type": xml.get("Code", status), "message": xml.get("Message", "")}
    code = str(found.get("__type", status)).partition(":")[0].rpartition("#")[2]
    code = response.headers.get("x-amzn-errortype", code).partition(":")[0]  # Lambda's
    code = response.headers.get("x-amzn-query-error", code).partition(";")[0]
    message = found.get("message") or found.get("Message") or ""
    return AwsError(code, message, status=status, body=found)

"""The thin client of S3: objects, and what lets others read and write them."""

import base64
import json
import time
from typing import Any
from urllib.parse import quote

from horde.wire.signing import ALGORITHM, Signer
from horde.wire.sockets import Origin, Request, Response
from horde.wire.thin import ThinClient, whole

METHODS = {"PutObject": "PUT", "GetObject": "GET", "HeadObject": "HEAD", "DeleteObject": "DELETE"}
PRESIGNED = {"put_object": "PUT", "get_object": "GET"}


class ThinS3(ThinClient):
    """A client of S3. The body of an object is read by ``read`` or given up by ``close``."""

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make one call; raises AwsError."""
        origin, path = self._place(params["Bucket"], params["Key"])
        kind, body = params.get("ContentType"), params.get("Body", b"")
        headers = {"content-type": kind} if kind else {}
        request = Request(origin, METHODS[operation], path, headers, body)
        if operation != "GetObject":
            self._tried(request, whole)
            return {}
        response = self._tried(request, _opened)
        return {"Body": response, "ContentLength": int(response.headers["content-length"])}

    def _place(self, bucket: str, key: str) -> tuple[Origin, str]:
        """Return the server and the path of an object.

        A bucket cannot be a subdomain of an IP address, and no certificate covers two of them.
        """
        scheme, host, port = self._origin
        path = f"/{quote(key, safe='/-._~')}"
        if host.replace(".", "").isdigit() or ":" in host or (scheme == "https" and "." in bucket):
            return self._origin, f"/{bucket}{path}"
        return Origin(scheme, f"{bucket}.{host}", port), path

    def generate_presigned_url(self, name: str, Params: dict[str, str], ExpiresIn: int) -> str:  # noqa: N803 - botocore's names
        """Return a URL for ``put_object`` or ``get_object``, for so many seconds."""
        origin, path = self._place(Params["Bucket"], Params["Key"])
        kind = Params.get("ResponseContentType")
        given = {"response-content-type": kind} if kind else {}
        return presigned_url(self._signer(), PRESIGNED[name], origin, path, given, ExpiresIn)

    def generate_presigned_post(
        self,
        bucket: str,
        key: str,
        Fields: dict[str, str],  # noqa: N803
        Conditions: list[Any],  # noqa: N803
        ExpiresIn: int,  # noqa: N803
    ) -> dict[str, Any]:
        """Return the ``url`` and the ``fields`` of an upload by POST."""
        origin, path = self._place(bucket, "")
        conditions = [*Conditions, {"bucket": bucket}, {"key": key}]
        fields = presigned_form(self._signer(), {**Fields, "key": key}, conditions, ExpiresIn)
        url = f"{origin.scheme}://{origin.authority}{path.rstrip('/') or '/'}"
        return {"url": url, "fields": fields}


def _opened(response: Response) -> Response:
    return response


def presigned_url(
    signer: Signer, method: str, origin: Origin, path: str, given: dict[str, str], seconds: int
) -> str:
    """Return a URL with a signature that covers the host alone of its headers."""
    params = {
        **given,
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": signer.credential,
        "X-Amz-Date": signer.stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    if signer.token:
        params["X-Amz-Security-Token"] = signer.token
    parts = [f"{name}={quote(value, safe='-._~')}" for name, value in params.items()]
    target, host = f"{path}?{'&'.join(sorted(parts))}", {"host": origin.authority}
    signature, _ = signer.signature(method, target, host, "UNSIGNED-PAYLOAD")
    query = "&".join([*parts, f"X-Amz-Signature={signature}"])
    return f"{origin.scheme}://{origin.authority}{path}?{query}"


def presigned_form(
    signer: Signer, given: dict[str, str], conditions: list[Any], seconds: int
) -> dict[str, str]:
    """Return the fields of a form that S3 takes by POST (AWS, POST policy)."""
    own = {
        "x-amz-algorithm": ALGORITHM,
        "x-amz-credential": signer.credential,
        "x-amz-date": signer.stamp,
    }
    if signer.token:
        own["x-amz-security-token"] = signer.token
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(signer.now + seconds))
    signed = [*conditions, *({name: value} for name, value in own.items())]
    text = json.dumps({"expiration": ends, "conditions": signed})
    policy = base64.b64encode(text.encode()).decode()
    return {**given, **own, "policy": policy, "x-amz-signature": signer.hmac(policy)}

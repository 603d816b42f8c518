"""The thin client of S3: objects, and what lets others read and write them."""

import base64
import json
import os
import re
import time
from collections.abc import Callable
from datetime import datetime
from io import BytesIO
from typing import Any
from urllib.parse import quote

from horde.wire.signing import ALGORITHM, Credentials, Signer
from horde.wire.sockets import Request
from horde.wire.thin import KNOWN_REGION, ThinClient

METHODS = {"PutObject": "PUT", "GetObject": "GET", "HeadObject": "HEAD", "DeleteObject": "DELETE"}
PRESIGNED = {"put_object": "PUT", "get_object": "GET"}
IP_ADDRESS = re.compile(r"https?://([\d.]+|\[.*\])(:\d+)?$")


class ThinS3(ThinClient):
    """A client of S3. It reads an object whole: who does not trust its length gives a ``Range``."""

    @classmethod
    def elsewhere(cls, region: str, credentials: Callable[[], Credentials]) -> "ThinS3":
        """Return a client of another region, at that region's own address.

        ``AWS_ENDPOINT_URL_S3`` names the address of the process's own region, which answers by a
        redirect. The local cloud, ``AWS_ENDPOINT_URL``, stands for all regions.
        """
        made = cls("s3", region, credentials)
        local = os.environ.get("AWS_ENDPOINT_URL")
        made._origin = "/".join(local.split("/")[:3]) if local else regional(region)
        return made

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make one call; raises AwsError."""
        if operation == "ListObjectsV2":
            return self._list(params)
        origin, path = self._place(params["Bucket"], params["Key"])
        given = {"content-type": params.get("ContentType"), "range": params.get("Range")}
        headers = {name: value for name, value in given.items() if value}
        body = params.get("Body", b"")
        answer = self._tried(Request(origin, METHODS[operation], path, headers, body))
        return {"Body": BytesIO(answer.body)} if operation == "GetObject" else {}

    def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a page of a bucket's objects, up to 1000: those after ``StartAfter``, by key."""
        origin, path = self._place(params["Bucket"], "")
        query = {"list-type": "2", "prefix": params["Prefix"]}
        query |= {"start-after": params["StartAfter"]} if "StartAfter" in params else {}
        parts = [f"{name}={quote(value, safe='-._~')}" for name, value in query.items()]
        path = f"{path.rstrip('/') or '/'}?{'&'.join(sorted(parts))}"
        answer = self._tried(Request(origin, "GET", path, {}))
        return listed(answer.body.decode())

    def _place(self, bucket: str, key: str) -> tuple[str, str]:
        """Return the server and the path of an object.

        A bucket cannot be a subdomain of an IP address, and no certificate covers two of them.
        """
        path = f"/{quote(key, safe='/-._~')}"
        if IP_ADDRESS.match(self._origin) or ("." in bucket and self._origin[:5] == "https"):
            return self._origin, f"/{bucket}{path}"
        return self._origin.replace("://", f"://{bucket}."), path

    def generate_presigned_url(self, name: str, Params: dict[str, str], ExpiresIn: int) -> str:  # noqa: N803 - botocore's names
        """Return a URL for ``put_object`` or ``get_object``, for so many seconds."""
        origin, path = self._place(Params["Bucket"], Params["Key"])
        kind = Params.get("ResponseContentType")
        query = {"response-content-type": kind} if kind else {}
        return presigned_url(self._signer(), PRESIGNED[name], origin, path, query, ExpiresIn)

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
        return {"url": origin + (path.rstrip("/") or "/"), "fields": fields}


def regional(region: str) -> str:
    """Return the address of S3 in a region; raises ValueError for one of another partition."""
    if not KNOWN_REGION.fullmatch(region):
        message = f"no endpoint in region {region!r} is known here: set AWS_CLIENT=botocore"
        raise ValueError(message)
    return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def listed(xml: str) -> dict[str, Any]:
    """Return what an answer of ``ListObjectsV2`` says, under botocore's names."""
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - few functions list

    root = ET.fromstring(xml)  # noqa: S314 - from S3 alone, whose answers are signed for
    found = [{one.tag.partition("}")[2]: one.text or "" for one in row} for row in root]
    rows = [row for row in found if "Key" in row]
    truncated = root.findtext("{*}IsTruncated") == "true"
    return {
        "IsTruncated": truncated,
        "Contents": [
            {
                "Key": row["Key"],
                "Size": int(row["Size"]),
                "LastModified": datetime.fromisoformat(row["LastModified"]),
            }
            for row in rows
        ],
    }


def presigned_url(
    signer: Signer, method: str, origin: str, path: str, query: dict[str, str], seconds: int
) -> str:
    """Return a URL with a signature that covers the host alone of its headers."""
    own = {name.title(): value for name, value in _fields(signer).items()}
    own |= {"X-Amz-Expires": str(seconds), "X-Amz-SignedHeaders": "host"}
    parts = [f"{name}={quote(value, safe='-._~')}" for name, value in {**query, **own}.items()]
    path, host = f"{path}?{'&'.join(sorted(parts))}", {"host": origin.partition("://")[2]}
    signature, _ = signer.signature(method, path, host, "UNSIGNED-PAYLOAD")
    return f"{origin}{path}&X-Amz-Signature={signature}"


def presigned_form(
    signer: Signer, given: dict[str, str], conditions: list[Any], seconds: int
) -> dict[str, str]:
    """Return the fields of a form that S3 takes by POST (AWS, POST policy)."""
    own, ends = _fields(signer), time.gmtime(signer.now + seconds)
    signed = [*conditions, *({name: value} for name, value in own.items())]
    text = {"expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", ends), "conditions": signed}
    policy = base64.b64encode(json.dumps(text).encode()).decode()
    return {**given, **own, "policy": policy, "x-amz-signature": signer.hmac(policy)}


def _fields(signer: Signer) -> dict[str, str]:
    """Return what says who signs when, by the names of a form."""
    token = {"x-amz-security-token": signer.token} if signer.token else {}
    when = {"x-amz-credential": signer.credential, "x-amz-date": signer.stamp}
    return {"x-amz-algorithm": ALGORITHM, **when, **token}

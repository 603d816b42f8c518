"""Doubles DynamoDB and the plain calls of S3 as moto does, without HTTP between.

Parameters are validated as the SDK does it, and errors are the SDK's. What is left out is its
retries, its endpoint, and the way to JSON or XML and back; tests/e2e goes through them. For crash
points moto also copies itself less (``quick``): so many calls are made there that it is the
difference between a minute and ten.
"""

import io
import json
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import cache
from typing import Any

import pytest
from botocore import xform_name
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.validate import ParamValidator
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.dynamodb.models.dynamo_type import LimitedSizeDict
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler
from moto.s3.models import s3_backends

from tests.support.moto_aws import ACCOUNT, REGION, hand_over
from tests.support.units import size_of


class _Pickler(pickle.Pickler):
    """Pickles moto's backends: their locks are made anew."""

    def reducer_override(self, value: Any) -> Any:
        for made in (threading.Condition, threading.RLock, threading.Lock):
            kind = made if isinstance(made, type) else type(made())
            if isinstance(value, kind):
                return made, ()
        return NotImplemented


def frozen(value: Any) -> bytes:
    """Return a value as bytes; ``pickle.loads`` makes one like it."""
    out = io.BytesIO()
    _Pickler(out, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()


MAX_ITEM_BYTES = 400 * 1024
"""DynamoDB's limit of an item, names and values together."""


def _check_sizes(operation: str, params: dict[str, Any]) -> None:
    """Refuse an item that is larger than DynamoDB takes; ``quick`` took moto's own check away."""
    puts = [part["Put"]["Item"] for part in params.get("TransactItems", []) if "Put" in part]
    for item in [*puts, *([params["Item"]] if "Item" in params else [])]:
        if size_of(item) > MAX_ITEM_BYTES:
            message = "Item size has exceeded the maximum allowed size"
            failure: Any = {
                "Error": {"Code": "ValidationException", "Message": message},
                "ResponseMetadata": {"HTTPStatusCode": 400},
            }
            raise ClientError(failure, operation)


@cache
def _method(operation: str) -> str:
    return xform_name(operation)


_copies: list[Table] = []
"""What the call that runs has copied of the table, before it changed anything."""


def dynamodb(operation: str, params: dict[str, Any]) -> Any:
    """Make one call; raises ClientError as the SDK does."""
    _copies.clear()
    handler = DynamoHandler()
    handler.region, handler.current_account = REGION, ACCOUNT
    # moto keeps what it is given.
    sent = pickle.dumps(params)
    handler.body = handler.params = pickle.loads(sent)
    if len(sent) > MAX_ITEM_BYTES:
        _check_sizes(operation, params)
    try:
        answer = getattr(handler, _method(operation))()
    except JsonRESTError as error:
        said = json.loads(error.description)
        code = said["__type"].rpartition("#")[2]
        failure: Any = {
            "Error": {"Code": code, "Message": error.message},
            "ResponseMetadata": {"HTTPStatusCode": 400},
            "CancellationReasons": said.get("CancellationReasons", []),
        }
        raise ClientError(failure, operation) from None
    assert isinstance(answer, ActionResult), operation
    found: Any = answer.result
    return found


def _failed(operation: str, code: str, key: str) -> ClientError:
    said: Any = {
        "Error": {"Code": code, "Message": "The specified key does not exist.", "Key": key},
        "ResponseMetadata": {"HTTPStatusCode": 404},
    }
    return ClientError(said, operation)


_PLAIN = {
    "GetObject": {"Bucket", "Key"},
    "PutObject": {"Bucket", "Key", "Body", "ContentType", "CacheControl"},
    "DeleteObject": {"Bucket", "Key"},
}
"""The calls of S3 that are made directly, and the parameters that they may have."""


def _is_plain(operation: str, params: dict[str, Any]) -> bool:
    if not params.keys() <= _PLAIN.get(operation, set()):
        return False
    bucket = s3_backends[ACCOUNT]["aws"].buckets.get(params.get("Bucket", ""))
    return bool(bucket and params.get("Key")) and isinstance(params.get("Body", b""), bytes)


def s3(operation: str, params: dict[str, Any]) -> Any:
    """Make one plain call; raises ClientError as the SDK does."""
    backend = s3_backends[ACCOUNT]["aws"]
    bucket, key = params["Bucket"], params["Key"]
    done: dict[str, Any] = {"ResponseMetadata": {"HTTPStatusCode": 200}}
    if operation == "PutObject":
        new = backend.put_object(bucket, key, params.get("Body", b""), storage="STANDARD")
        kind = params.get("ContentType", "binary/octet-stream")
        new.set_metadata({"Content-Type": kind})
        if "CacheControl" in params:
            new.set_metadata({"Cache-Control": params["CacheControl"]})
        new.set_acl(backend.get_bucket(bucket).acl)
        return {**done, "ETag": new.etag}
    if operation == "DeleteObject":
        backend.delete_object(bucket, key)
        return done
    found = backend.get_object(bucket, key)
    if found is None:
        raise _failed(operation, "NoSuchKey", key)
    value = found.value
    kept = {name: found.metadata[name] for name in found.metadata if name.startswith("x-amz-meta")}
    return {
        **done,
        "Body": StreamingBody(io.BytesIO(value), len(value)),
        "ContentLength": len(value),
        "ContentType": found.metadata.get("content-type", "binary/octet-stream"),
        "ETag": found.etag,
        "LastModified": found.last_modified.replace(microsecond=0, tzinfo=UTC),
        "Metadata": {name.removeprefix("x-amz-meta-"): one for name, one in kept.items()},
        **({"VersionId": found.version_id} if found.version_id != "null" else {}),
    }


_validator = ParamValidator()
THROUGH_THE_SDK: Any = vars(BaseClient)["_make_api_call"]
"""How botocore makes a call when nobody doubles it."""


def handed_over(operation: str, params: dict[str, Any]) -> Any:
    """Keep an event for another function."""
    assert (operation, params["InvocationType"]) == ("Invoke", "Event")
    hand_over(params["FunctionName"], params["Payload"])
    return {"StatusCode": 202}


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every client's plain calls direct for as long as ``monkeypatch`` lasts.

    Events for other functions wait where ``delivery`` finds them.
    """

    def call(client: Any, operation: str, params: dict[str, Any]) -> Any:
        service = client.meta.service_model
        if service.service_name == "lambda":
            return handed_over(operation, params)
        shape = service.operation_model(operation).input_shape
        plain = service.service_name == "dynamodb" or (
            service.service_name == "s3" and _is_plain(operation, params)
        )
        if not plain or _validator.validate(params, shape).has_errors():
            return THROUGH_THE_SDK(client, operation, params)
        return (dynamodb if service.service_name == "dynamodb" else s3)(operation, params)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)


@contextmanager
def quick() -> Iterator[None]:
    """Have moto copy its table once for a transaction, not once for each of its parts.

    Nor does it measure every item at every attribute, which is quadratic.
    """

    def copied(table: Table, _memo: Any) -> Table:
        if not _copies:
            _copies.append(pickle.loads(frozen(table)))
        return _copies[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "__deepcopy__", copied, raising=False)
        patch.setattr(LimitedSizeDict, "__setitem__", dict.__setitem__)
        yield

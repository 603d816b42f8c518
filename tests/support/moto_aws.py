"""Doubles AWS: moto in this process, started once, emptied between tests.

How it differs from AWS, where that matters here: it is not atomic under threads (races are tested
in tests/e2e), reads are always consistent, indexes never lag, no permission is checked, nothing is
throttled, a TTL deletes nothing, and a queue's visibility runs out in real time. ``quick`` changes
how it copies its tables, ``direct`` how DynamoDB is called, neither what the tables hold.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from moto import mock_aws
from moto.core.models import botocore_stubber
from moto.dynamodb.models import dynamodb_backends
from moto.s3.models import s3_backends
from moto.sqs.models import sqs_backends

from horde import aws
from tests.support import quick

REGION = "us-east-1"
ACCOUNT = "123456789012"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
    "AWS_CLIENT": "botocore",
}
"""moto doubles AWS inside botocore, so the functions use it here; ``thin_wire`` has the rest."""
SERVICES = ("dynamodb", "dynamodbstreams", "sqs", "s3", "ssm", "secretsmanager")
HANDED = "handed-to-"
"""How the queues begin in which functions' events wait: Lambda's own, which nobody sees."""


@contextmanager
def moto_clients() -> Iterator[dict[str, Any]]:
    """Start moto once and make its clients once, by service: each costs 50 ms."""
    from tests.support import direct

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        quick.patch(patch)
        direct.patch(patch)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        session = boto3.Session(region_name=REGION)
        patch.setattr(aws, "_botocore_client", _made_once(vars(aws)["_botocore_client"]))
        aws.clear_cache()
        yield {name: session.client(name) for name in SERVICES}  # type: ignore[call-overload]
        aws.clear_cache()


def _made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make one client for each service and environment, whatever is forgotten between tests."""
    made: dict[tuple[Any, ...], Any] = {}

    def client(name: str, session: Any = None, region: str | None = None) -> Any:
        if session is not None:
            return make(name, session, region)
        decides = sorted(each for each in os.environ.items() if each[0].startswith("AWS_"))
        wanted = (name, region, *decides)
        if wanted not in made:
            made[wanted] = make(name, None, region)
        return made[wanted]

    return client


@contextmanager
def real_botocore() -> Iterator[None]:
    """Have botocore send its calls, although moto was started for other tests of this process."""
    from tests.support import direct

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore_stubber, "enabled", False)
        patch.setattr(BaseClient, "_make_api_call", direct.THROUGH_THE_SDK)
        yield


def hand_over(function: str, payload: bytes) -> None:
    """Double Lambda's ``Invoke`` with an event: moto would run a container."""
    sqs_backends[ACCOUNT][REGION].send_message(HANDED + function, payload.decode())


def empty() -> None:
    """Forget all items, messages and objects: to make all anew takes ten times as long."""
    for table in dynamodb_backends[ACCOUNT][REGION].tables.values():
        table.items.clear()
        assert table.stream_shard is not None
        table.stream_shard.items = []
    for queue in sqs_backends[ACCOUNT][REGION].queues.values():
        queue._messages, queue._pending_messages = [], set()
    for bucket in s3_backends[ACCOUNT]["aws"].buckets.values():
        bucket.keys.clear()

"""Doubles many Lambdas at once: the handlers in threads, on a table that is really shared.

The table and the buckets are made from the synthesized template, beside those of the deployed
stack, in MiniStack: it runs one operation after the other, each whole, and those of different
threads in any order between them. What it never does, refuse a transaction for another one or lose
an answer, ``Wire`` does.
"""

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

from horde import aws, overview, store
from horde.edge import ratelimit
from horde.wire import sockets
from horde.wire.seam import NoAnswerError
from horde.wire.sockets import Request, Response
from tests.support import template as templates
from tests.support.cloud import Cloud
from tests.support.fake_runpod import FakeRunPod
from tests.support.moto_aws import REGION

T = TypeVar("T")
FUNCTIONS = ("generate", "status", "sweep", "payouts", "transfer", "users", "keys", "worker")
THREADS = 32
MODEL, BY_VOLUNTEERS = "volunteer", {"endpoint": None, "baseline": "stable_diffusion_1"}
"""A model that the operator lists and no endpoint draws: the sweep makes no tickets."""


class Wire:
    """Sends the functions' requests on, and does to writes what DynamoDB does and MiniStack not.

    ``flight_s``: transactions take so long, and what meets one on an item of its is refused.
    ``conflict``: of the transactions every so manieth is refused so, whatever it meets.
    ``lose``: of the transactions every so manieth is applied, and its answer never comes.
    """

    def __init__(self) -> None:
        self._inner, self._lock = sockets.exchange, threading.Lock()
        self._flying: set[str] = set()
        self.flight_s = 0.0
        self.conflict = self.lose = self.transactions = self.conflicts = self.lost = 0

    @contextmanager
    def bad(self, *, flight_s: float = 0, conflict: int = 0, lose: int = 0) -> Iterator["Wire"]:
        """Misbehave for a while."""
        self.flight_s, self.conflict, self.lose = flight_s, conflict, lose
        self.transactions = self.conflicts = self.lost = 0
        try:
            yield self
        finally:
            self.flight_s, self.conflict, self.lose = 0, 0, 0

    def exchange(self, request: Request) -> Response:
        """Send one HTTP request."""
        kind = request.headers.get("x-amz-target", "").rpartition(".")[2]
        if kind == "TransactWriteItems":
            return self._transaction(request)
        if self._flying and kind in {"UpdateItem", "PutItem", "DeleteItem"}:
            with self._lock:
                meets = bool(_keys(json.loads(request.body)) & self._flying)
                self.conflicts += meets
            if meets:
                return _refusal("TransactionConflictException")
        return self._inner(request)

    def _transaction(self, request: Request) -> Response:
        parts = json.loads(request.body)["TransactItems"]
        keys = set().union(*(_keys(*part.values()) for part in parts))
        with self._lock:
            self.transactions += 1
            meets = bool(keys & self._flying)
            meets |= self.conflict > 0 and self.transactions % self.conflict == 0
            lose = not meets and self.lose > 0 and self.transactions % self.lose == 0
            self.conflicts += meets
            self.lost += lose
            if self.flight_s and not meets:
                self._flying |= keys
        if meets:
            reasons = [{"Code": "TransactionConflict"}, *[{"Code": "None"}] * (len(parts) - 1)]
            return _refusal("TransactionCanceledException", CancellationReasons=reasons)
        time.sleep(self.flight_s)
        try:
            answer = self._inner(request)
        finally:
            if self.flight_s:
                with self._lock:
                    self._flying -= keys
        if lose:
            raise NoAnswerError("lost", timed_out=True)
        return answer


def _keys(part: dict[str, Any]) -> set[str]:
    key = part.get("Key") or part["Item"]
    return {f"{key['pk']['S']} {key['sk']['S']}"}


def _refusal(code: str, **more: Any) -> Response:
    """Return a response that refuses a write."""
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "Message": code, **more}
    return Response(400, {}, json.dumps(body).encode())


class Arena(Cloud):
    """A ``Cloud`` whose table is MiniStack's and whose handlers run in threads."""

    wire: Wire

    def _make(self) -> None:
        self._make_table(f"races-{uuid4().hex[:8]}")
        for name in templates.of_type(self.template, "AWS::S3::Bucket"):
            self.names[name] = f"{self.table}-{name.lower()}"[:63]
            self.s3.create_bucket(Bucket=self.names[name])
        for name in templates.of_type(self.template, "AWS::SQS::Queue"):
            made = self.sqs.create_queue(QueueName=f"{self.table}-{name}"[:80])
            self.names[name] = made["QueueUrl"]
        for file, (name, _) in templates.functions(self.template).items():
            self.names[name] = file  # nobody hands anything over in a race
        for name in templates.of_type(self.template, "AWS::SecretsManager::Secret"):
            made = self.secrets.create_secret(Name=f"{self.table}-{name}", SecretString="of races")
            self.names[name] = made["ARN"]

    def bucket(self, part: str) -> str:
        """Return the name of the bucket whose logical id starts so."""
        return next(made for name, made in self.names.items() if name.startswith(part))

    def invoke(self, file: str, event: dict[str, Any]) -> Any:
        """Run one handler; its environment is set for all of them, by ``arena``."""
        return importlib.import_module(file).handler(event, None)

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield every item of the table."""
        for page in self.db.get_paginator("scan").paginate(TableName=self.table):
            yield from page["Items"]

    def remove(self) -> None:
        """Delete the table: its rows are read by nobody else."""
        self.db.delete_table(TableName=self.table)


@contextmanager
def arena(template: dict[str, Any], endpoint: str) -> Iterator[Arena]:
    """Make an arena in a MiniStack."""
    config = Config(max_pool_connections=2 * THREADS)
    with FakeRunPod().serving() as fake, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }.items():
            patch.setenv(name, value)
        patch.delenv("AWS_CLIENT", raising=False)
        aws.clear_cache()
        session: Any = boto3.Session(region_name=REGION)
        names = ("dynamodb", "dynamodbstreams", "sqs", "s3", "ssm", "secretsmanager")
        clients = {name: session.client(name, config=config) for name in names}
        made = Arena(template, clients, fake)
        models = json.loads(made.environment("generate")["MODELS"])
        made.overrides["MODELS"] = json.dumps({**models, MODEL: BY_VOLUNTEERS})
        for file in FUNCTIONS:
            for name, value in made.environment(file).items():
                patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        ratelimit.clear_cache()
        overview.clear_cache()
        made.wire = Wire()
        patch.setattr(sockets, "exchange", made.wire.exchange)
        made.store = store.connect(made.table)
        for file in FUNCTIONS:
            importlib.import_module(file)
        patch.setattr("horde.clock.now_ms", made.clock.now_ms)
        yield made
        made.remove()
    aws.clear_cache()


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Start all calls at the same moment, each in a thread of its own; returns their answers."""
    barrier = threading.Barrier(len(calls))

    def start(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(start, call) for call in calls]]

"""A small cloud for the flow tests: the deployed definition on moto, run step by step.

Tables, queues, buckets, environments, routes, filters and retry counts all come from the
synthesized template, so renaming a key or dropping a route there turns a flow red. moto is not
atomic under threads: races are tested on the local cloud.
"""

import base64
import importlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import boto3
import pytest
import requests
from moto import mock_aws
from moto.dynamodb.models import dynamodb_backends
from moto.s3.models import s3_backends
from moto.sqs.models import sqs_backends
from PIL import Image

from horde import aws, clock, overview, runpod, store
from horde.edge import ratelimit
from horde.store.audit import AuditStore, numbers_of
from horde.store.items import Row, row_of
from tests.support import quick
from tests.support import template as templates

C = TypeVar("C", bound="Cloud")

ANONYMOUS = "0000000000"
REGION = "us-east-1"
ACCOUNT = "123456789012"


def webp(colour: str = "red", size: int = 64) -> bytes:
    """Return a small WebP file."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, "WEBP")
    return out.getvalue()


def png_base64(size: tuple[int, int] = (64, 64), colour: str = "blue") -> str:
    """Return a PNG as clients send source images."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@dataclass
class Reply:
    """An API answer."""

    status: int
    body: Any
    headers: dict[str, str]


@dataclass
class FakeRunPod:
    """RunPod's endpoint API as far as dispatch and sweep use it; misbehaves on demand."""

    key: str = "runpod-key"
    mode: str = "ok"
    jobs: list[dict[str, Any]] = field(default_factory=list)
    in_progress: int = 0
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator["FakeRunPod"]:  # noqa: C901 - one small server
        """Serve on a loopback port."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def answer(self, status: int, body: Any) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                if self.headers["Authorization"] != f"Bearer {fake.key}":
                    return self.answer(401, {})
                if fake.mode == "error":
                    return self.answer(500, {"error": "out of order"})
                if fake.mode == "nothing":
                    self.close_connection = True
                    return None
                if fake.mode == "nonsense":
                    return self.answer(200, ["what?"])
                endpoint = self.path.split("/")[2]
                if fake.mode != "lose":
                    fake.jobs.append({"endpoint": endpoint, **body})
                return self.answer(200, {"id": f"job-{len(fake.jobs)}", "status": "IN_QUEUE"})

            def do_GET(self) -> None:
                if fake.mode == "error":
                    return self.answer(500, {})
                jobs = {"inQueue": len(fake.jobs), "inProgress": fake.in_progress}
                return self.answer(200, {"jobs": jobs, "workers": {}})

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/v2"
        thread = threading.Thread(target=server.serve_forever, args=(0.002,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Clock:
    """Real time plus what a test lets pass."""

    def __init__(self) -> None:
        self.offset_ms = 0
        self._real = clock.now_ms

    def now_ms(self) -> int:
        return self._real() + self.offset_ms

    def freeze(self, at_ms: int) -> None:
        """Stand still at a time; only ``pass_seconds`` moves it on."""
        self._real, self.offset_ms = lambda: at_ms, 0

    def pass_seconds(self, seconds: float) -> None:
        self.offset_ms += int(seconds * 1000)


@dataclass
class Message:
    """A message in one of our queues, and how often it was received."""

    id: str
    body: str
    receipt: str
    receives: int = 0


class Cloud:
    """The deployed system on moto. Async edges move only when a test moves them."""

    def __init__(
        self, template: dict[str, Any], clients: dict[str, Any], fake_runpod: FakeRunPod
    ) -> None:
        self.template, self.runpod, self.clock = template, fake_runpod, Clock()
        self.db, self.streams = clients["dynamodb"], clients["dynamodbstreams"]
        self.sqs, self.s3, self.ssm = clients["sqs"], clients["s3"], clients["ssm"]
        self.names: dict[str, str] = {}
        self.table = ""
        self.overrides: dict[str, str] = {}
        self.pending: dict[str, list[Message]] = {"dispatch": [], "share": [], "webhook": []}
        self.dead: dict[str, list[Message]] = {"dispatch": [], "share": [], "webhook": []}
        self.dead_records: list[dict[str, Any]] = []
        self.uncounted: list[dict[str, Any]] = []
        if clients.get("made_from") is not template:
            self._make()
            made = {"made_from": template, "names": self.names, "table": self.table}
            clients.update(made)
        self.names, self.table = clients["names"], clients["table"]
        self.functions = templates.functions(template)
        self.routes = templates.routes(template)
        self._iterators: dict[str, str] = {}
        self.store = store.Store(self.table, self.db)

    # --- making it from the template ----------------------------------------------------------

    def _make(self) -> None:
        self._make_table("horde")
        for name in templates.of_type(self.template, "AWS::SQS::Queue"):
            url = self.sqs.create_queue(QueueName=name)["QueueUrl"]
            self.names[name] = url
        for name in templates.of_type(self.template, "AWS::S3::Bucket"):
            self.names[name] = name.lower()
            self.s3.create_bucket(Bucket=name.lower())
        for custom in templates.of_type(self.template, "Custom::S3BucketNotifications").values():
            self._notify(custom["Properties"])

    def _make_table(self, name: str) -> None:
        ((table_id, table),) = templates.of_type(
            self.template, "AWS::DynamoDB::GlobalTable"
        ).items()
        properties = table["Properties"]
        self.table = self.names[table_id] = name
        self.db.create_table(
            TableName=self.table,
            KeySchema=properties["KeySchema"],
            AttributeDefinitions=properties["AttributeDefinitions"],
            GlobalSecondaryIndexes=[
                {key: index[key] for key in ("IndexName", "KeySchema", "Projection")}
                for index in properties["GlobalSecondaryIndexes"]
            ],
            BillingMode=properties["BillingMode"],
            StreamSpecification={"StreamEnabled": True, **properties["StreamSpecification"]},
        )

    def _notify(self, properties: dict[str, Any]) -> None:
        queues = [
            {
                "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{entry['QueueArn']['Fn::GetAtt'][0]}",
                "Events": entry["Events"],
            }
            for entry in properties["NotificationConfiguration"]["QueueConfigurations"]
        ]
        self.s3.put_bucket_notification_configuration(
            Bucket=self.names[properties["BucketName"]["Ref"]],
            NotificationConfiguration={"QueueConfigurations": queues},
        )

    def environment(self, file: str) -> dict[str, str]:
        """Return a function's environment with its references resolved."""
        variables = self.functions[file][1]["Environment"]["Variables"]
        found = {key: self._resolve(value) for key, value in variables.items()}
        if "RUNPOD_URL" in found:
            found["RUNPOD_URL"] = self.runpod.url
        return found | {key: self.overrides[key] for key in self.overrides if key in found}

    def _resolve(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        ((kind, inner),) = value.items()
        if kind == "Ref":
            known = {"AWS::Region": REGION, "AWS::URLSuffix": "amazonaws.com"}
            return known.get(inner) or self.names[inner]
        if kind == "Fn::Join":
            return str(inner[0]).join(self._resolve(part) for part in inner[1])
        raise NotImplementedError(kind)

    def bucket(self, part: str) -> str:
        """Return the name of the bucket whose logical id starts so."""
        (name,) = [
            found
            for found in templates.of_type(self.template, "AWS::S3::Bucket")
            if found.startswith(part)
        ]
        return name.lower()

    # --- running it -----------------------------------------------------------------------------

    def invoke(self, file: str, event: dict[str, Any]) -> Any:
        """Run one Lambda with its own environment and nothing else of ours."""
        with _environ(self.environment(file)):
            handler: Callable[[Any, Any], Any] = importlib.import_module(file).handler
            return handler(event, None)

    def call(
        self,
        route: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        raw: str | None = None,
        query: dict[str, str] | None = None,
        ip: str = "203.0.113.7",
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
        answer = self.invoke(self.routes[route_key], event)
        is_json = answer["headers"]["Content-Type"].startswith("application/json")
        shown = json.loads(answer["body"]) if is_json else answer["body"]
        return Reply(answer["statusCode"], shown, answer["headers"])

    def stream(self, *, again: bool = False, only: str | None = None) -> int:
        """Deliver the table's new stream records to each consumer through the template's filters.

        Returns how many left for ``enqueue``. ``only``: to one consumer; the others miss them.
        """
        if again:
            self._iterators.clear()
        records, delivered = self._records(), {}
        for file, mapping in self._consumers().items():
            patterns = [
                json.loads(found["Pattern"]) for found in mapping["FilterCriteria"]["Filters"]
            ]
            wanted = [
                record
                for record in records
                if any(_matches(pattern, record) for pattern in patterns)
            ]
            if only in (None, file):
                self._feed(file, wanted, mapping["MaximumRetryAttempts"])
            delivered[file] = len(wanted)
        return delivered["enqueue"]

    def _consumers(self) -> dict[str, dict[str, Any]]:
        files = {name: file for file, (name, _) in self.functions.items()}
        return {
            files[found["Properties"]["FunctionName"]["Ref"]]: found["Properties"]
            for found in templates.of_type(
                self.template, "AWS::Lambda::EventSourceMapping"
            ).values()
            if "FilterCriteria" in found["Properties"]
        }

    def _feed(self, file: str, records: list[dict[str, Any]], most: int) -> None:
        dead = self.dead_records if file == "enqueue" else self.uncounted
        position, tries = 0, 0
        while position < len(records):
            batch = records[position:]
            failures = self.invoke(file, {"Records": batch})["batchItemFailures"]
            if not failures:
                break
            numbers = [record["dynamodb"]["SequenceNumber"] for record in batch]
            position += numbers.index(failures[0]["itemIdentifier"])
            tries += 1
            if tries > most:
                dead.append(records[position])
                position, tries = position + 1, 0

    def _records(self) -> list[dict[str, Any]]:
        arn = self.db.describe_table(TableName=self.table)["Table"]["LatestStreamArn"]
        found: list[dict[str, Any]] = []
        description = self.streams.describe_stream(StreamArn=arn)["StreamDescription"]
        for shard in description["Shards"]:
            name = shard["ShardId"]
            if name not in self._iterators:
                self._iterators[name] = self.streams.get_shard_iterator(
                    StreamArn=arn, ShardId=name, ShardIteratorType="TRIM_HORIZON"
                )["ShardIterator"]
            answer = self.streams.get_records(ShardIterator=self._iterators[name])
            self._iterators[name] = answer["NextShardIterator"]
            found += [dict(record) for record in answer["Records"]]
        return found

    def _queue_of(self, file: str) -> tuple[str, int]:
        (source,) = [
            found["Properties"]["EventSourceArn"]["Fn::GetAtt"][0]
            for found in templates.of_type(
                self.template, "AWS::Lambda::EventSourceMapping"
            ).values()
            if found["Properties"]["FunctionName"]["Ref"] == self.functions[file][0]
        ]
        redrive = self.template["Resources"][source]["Properties"]["RedrivePolicy"]
        return self.names[source], redrive["maxReceiveCount"]

    def deliver(self, file: str, *, twice: bool = False) -> int:
        """Deliver what is in a function's queue once; what fails waits for the next call."""
        url, most = self._queue_of(file)
        waiting, self.pending[file] = self.pending[file], []
        # A message whose visibility ran out in real time comes again; here it is one that waits.
        known = {message.id for message in [*waiting, *self.dead[file]]}
        while got := self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            waiting += [
                Message(m["MessageId"], m["Body"], m["ReceiptHandle"])
                for m in got
                if m["MessageId"] not in known
            ]
        for message in waiting:
            message.receives += 1
            event = {"Records": [_record(message)] * (2 if twice else 1)}
            if self.invoke(file, event)["batchItemFailures"]:
                (self.dead if message.receives >= most else self.pending)[file].append(message)
            else:
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message.receipt)
        return len(waiting)

    def redrive(self, file: str) -> None:
        """Bring a function's dead letters back, as the operator does."""
        for message in self.dead[file]:
            message.receives = 0
        self.pending[file] += self.dead[file]
        self.dead[file] = []

    def sweep(self) -> Any:
        """Run the sweep once."""
        return self.invoke("sweep", {})

    def settle_async(self) -> None:
        """Move every async edge until nothing moves."""
        self.stream()
        self.deliver("dispatch")
        self.deliver("share")

    # --- what tests do all the time ---------------------------------------------------------------

    def register(self, name: str = "ada", kudos: int = 0) -> tuple[int, str]:
        """Open an account and grant it kudos; returns its id and key."""
        answer = self.call("POST /api/register", {"username": name})
        assert answer.status == 201, answer
        if kudos:
            assert self.store.accounts.grant(answer.body["id"], kudos)
        return answer.body["id"], answer.body["api_key"]

    def worker_key(self, user_id: int) -> str:
        """Give a user a worker key, as the operator does."""
        from horde.edge import auth

        key = auth.new_key()
        assert self.store.accounts.add_worker_key(user_id, auth.key_hash(key))
        return key

    def generate(self, key: str = ANONYMOUS, **fields: Any) -> Reply:
        """Ask for images."""
        body = {"prompt": "a red apple", **fields}
        return self.call("POST /api/v2/generate/async", body, key=key)

    def pop(self, key: str, **fields: Any) -> Reply:
        """Pop as a worker does."""
        body = {"name": "w1", "models": ["stable_diffusion"], "max_pixels": 4194304, **fields}
        return self.call("POST /api/v2/generate/pop", body, key=key)

    def upload(self, url: str, body: bytes | None = None) -> None:
        """PUT to a presigned URL with no content type, as workers do."""
        answer = requests.put(url, data=webp() if body is None else body, timeout=5)
        assert answer.status_code == 200, answer.text

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

    def check(self, request_id: str) -> Reply:
        """Ask how far a request is."""
        return self.call("GET /api/v2/generate/check/{id}", id=request_id)

    def status(self, request_id: str) -> Reply:
        """Ask for a request's images."""
        return self.call("GET /api/v2/generate/status/{id}", id=request_id)

    def cancel(self, request_id: str) -> Reply:
        """Cancel a request."""
        return self.call("DELETE /api/v2/generate/status/{id}", id=request_id)

    def pay(self) -> None:
        """Let ``tally`` pay the rewards that are entered; other records of the stream stay."""
        entered = [
            {"dynamodb": {"NewImage": item, "SequenceNumber": "0"}}
            for item in self.items()
            if item.get("kind") == {"S": "REWARD"} and "posted" not in item
        ]
        if entered:
            assert self.invoke("payouts", {"Records": entered}) == {"batchItemFailures": []}

    def kudos(self, user_id: int) -> int:
        """Return a balance, rewards included."""
        self.pay()
        user = self.store.accounts.get(user_id)
        assert user is not None
        return user.kudos

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Return every item of one kind."""
        pages = self.db.get_paginator("scan").paginate(
            TableName=self.table,
            FilterExpression="sk = :kind",
            ExpressionAttributeValues={":kind": {"S": kind}},
        )
        return [dict(item) for page in pages for item in page["Items"]]

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield every item from moto's own memory: a scan costs more than what was tested."""
        from moto.dynamodb.models import dynamodb_backends

        table = dynamodb_backends[ACCOUNT][REGION].tables[self.table]
        for rows in table.items.values():
            for item in rows.values():
                yield item.to_json()["Attributes"]

    def ledger(self, user_id: int) -> list[dict[str, Any]]:
        """Return a user's ledger, oldest first."""
        items = self.db.query(
            TableName=self.table,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :ledger)",
            ExpressionAttributeValues={
                ":pk": {"S": f"USER#{user_id}"},
                ":ledger": {"S": "LEDGER#"},
            },
        )["Items"]
        return [
            {
                "kind": item["kind"]["S"],
                "amount": int(item["amount"]["N"]),
                "postings": {name: int(n["N"]) for name, n in item["postings"]["M"].items()},
                "reference": item["reference"]["S"],
            }
            for item in items
        ]

    def laion(self) -> dict[str, bytes]:
        """Return every object of the LAION bucket."""
        name = self.bucket("Laion")
        listed = self.s3.list_objects_v2(Bucket=name).get("Contents", [])
        return {
            found["Key"]: self.s3.get_object(Bucket=name, Key=found["Key"])["Body"].read()
            for found in listed
        }

    def audit(self) -> None:
        """Prove the table, as ``bin/operator audit`` does."""
        from infra.operate.audit.run import audit

        report = audit(Still(self), segments=1, pauses=(0,))
        assert not report.findings, "\n".join(report.lines())


class Still(AuditStore):
    """A table that nothing moves, read at once: the audit after each test costs next to nothing."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud.store.table)
        self._items = list(cloud.items())

    def everything(self, segment: int = 0, segments: int = 1) -> Iterator[list[dict[str, Any]]]:
        """Yield the whole table."""
        assert (segment, segments) == (0, 1)
        yield self._items

    def counted(self, rows: Iterable[Row] | None = None) -> dict[Row, dict[str, int]]:
        """Return the counters, and what workers have done."""
        there = {row_of(item): item for item in self._items}
        workers = [Row(row.pk, "STATS") for row in there if row.sk == "WORKER"]
        wanted = [Row("USER#0", "STATS"), *(workers if rows is None else rows)]
        counted = [row for row in wanted if row.sk == "STATS"]
        counted += [row for row in there if row.pk == "STATS"]
        return {row: numbers_of(there.get(row, {})) for row in counted}


def _record(message: Message) -> dict[str, Any]:
    return {
        "messageId": message.id,
        "receiptHandle": message.receipt,
        "body": message.body,
        "attributes": {"ApproximateReceiveCount": str(message.receives)},
    }


def _matches(pattern: Any, value: Any) -> bool:
    if isinstance(pattern, list):
        return value in pattern
    return all(key in value and _matches(inner, value[key]) for key, inner in pattern.items())


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    import os

    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def key_of(url: str) -> str:
    """Return the object key of a presigned URL."""
    path = unquote(urlsplit(url).path).lstrip("/")
    return re.sub(r"^outputs[^/]*/", "", path)


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
}


@contextmanager
def moto_clients() -> Iterator[dict[str, Any]]:
    """Start moto once and make its clients once: each costs 50 ms."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        quick.patch(patch)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        session = boto3.Session(region_name=REGION)
        aws.clear_cache()
        yield {
            name: session.client(name)
            for name in ("dynamodb", "dynamodbstreams", "sqs", "s3", "ssm")
        }
        aws.clear_cache()


def _empty() -> None:
    """Forget all items, messages and objects: to make all anew takes ten times as long."""
    for table in dynamodb_backends[ACCOUNT][REGION].tables.values():
        table.items.clear()
        assert table.stream_shard is not None
        table.stream_shard.items = []
    for queue in sqs_backends[ACCOUNT][REGION].queues.values():
        queue._messages, queue._pending_messages = [], set()
    for bucket in s3_backends[ACCOUNT]["aws"].buckets.values():
        bucket.keys.clear()


def new_processes() -> None:
    """Forget what the functions' processes remember, as new ones do."""
    runpod.connect.cache_clear()
    aws.clear_settings()
    ratelimit.clear_cache()
    overview.clear_cache()
    importlib.import_module("browse")._cached.clear()


def fresh_cloud(
    template: dict[str, Any], clients: dict[str, Any]
) -> AbstractContextManager["Cloud"]:
    """Make a cloud for one test."""
    return cloud_of(Cloud, template, clients)


@contextmanager
def cloud_of(kind: type[C], template: dict[str, Any], clients: dict[str, Any]) -> Iterator[C]:
    """Make a cloud of a kind, from nothing or from an earlier one of this template."""
    if clients.get("made_from") is template:
        _empty()
    else:
        requests.post("http://motoapi.amazonaws.com/moto-api/reset", timeout=5)
    clients["ssm"].put_parameter(
        Name="/horde-commons/runpod-api-key",
        Value=FakeRunPod.key,
        Type="SecureString",
        Overwrite=True,
    )
    new_processes()
    with FakeRunPod().serving() as fake, pytest.MonkeyPatch.context() as patch:
        made = kind(template, clients, fake)
        patch.setattr(clock, "now_ms", made.clock.now_ms)
        yield made

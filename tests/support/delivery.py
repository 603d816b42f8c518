"""Doubles Lambda's event sources and the minute's schedule: streams, queues, retries, DLQs.

Nothing moves by itself: an edge moves when a test moves it. Filters, retry counts and dead letter
queues are those of the template. It differs from AWS in that one batch holds all there is, one
message is one batch, a message that failed comes again at the next call and not after a timeout,
and records of the stream are never lost by age.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.support import rights
from tests.support import template as templates
from tests.support.deployment import Item
from tests.support.fake_runpod import FakeRunPod
from tests.support.moto_aws import HANDED
from tests.support.reading import Reading

Record = dict[str, Any]
"""A record of the table's stream."""


@dataclass
class Message:
    """A message in a queue, ours or Lambda's own, and how often it was received."""

    id: str
    body: str
    receipt: str
    receives: int = 0


def sqs_record(body: str, name: str = "1", receives: int = 1) -> dict[str, Any]:
    """Return a message as Lambda hands it over."""
    return {
        "messageId": name,
        "receiptHandle": name,
        "body": body,
        "attributes": {"ApproximateReceiveCount": str(receives)},
    }


class Delivery(Reading):
    """The edges between functions."""

    def __init__(self, template: Item, clients: dict[str, Any], fake_runpod: FakeRunPod) -> None:
        super().__init__(template, clients, fake_runpod)
        self.pending: dict[str, list[Message]] = {
            "dispatch": [],
            "share": [],
            "webhook": [],
            "finish": [],
        }
        """Messages that failed and come again, by their function."""
        self.dead: dict[str, list[Message]] = {file: [] for file in self.pending}
        self.dead_records: list[Record] = []
        """Of ``enqueue``."""
        self.uncounted: list[Record] = []
        """Of ``payouts``."""
        self._iterators: dict[str, str] = {}
        files = {name: file for file, (name, _) in self.functions.items()}
        configured = templates.of_type(template, "AWS::Lambda::EventInvokeConfig").values()
        tries = {
            files[one["Properties"]["FunctionName"]["Ref"]]: one["Properties"][
                "MaximumRetryAttempts"
            ]
            + 1
            for one in configured
        }
        self.handed = {file: tries[file] for file in self.pending if file in tries}
        """How often a function is tried to which others hand events over."""

    # --- the stream -------------------------------------------------------------------------------

    def stream(self, *, again: bool = False, only: str | None = None) -> int:
        """Deliver the table's new stream records to each consumer through the template's filters.

        Returns how many left for ``enqueue``. ``again``: all there are; ``only``: to one consumer,
        the others miss them.
        """
        records, delivered = self.records_of_the_stream(again=again), {}
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

    def _feed(self, file: str, records: list[Record], most: int) -> None:
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

    def records_of_the_stream(self, *, again: bool = False) -> list[Record]:
        """Return the records that are new since the last call, or all of them ``again``."""
        if again:
            self._iterators.clear()
        arn = self.db.describe_table(TableName=self.table)["Table"]["LatestStreamArn"]
        found: list[Record] = []
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

    def pay(self) -> None:
        """Let ``payouts`` post the settlements that are pending; the stream keeps its records."""
        pending = [
            {"dynamodb": {"NewImage": item, "SequenceNumber": "0"}}
            for item in self.items()
            if item.get("kind") == {"S": "REWARD"} and "posted" not in item
        ]
        if pending:
            assert self.invoke("payouts", {"Records": pending}) == {"batchItemFailures": []}

    # --- the queues -------------------------------------------------------------------------------

    def _queue_of(self, file: str) -> tuple[str, int]:
        """Return the address of what feeds a function, and how often it tries."""
        if file in self.handed:
            url = self.sqs.get_queue_url(QueueName=HANDED + file)["QueueUrl"]
            return url, self.handed[file]
        (source,) = [
            found["Properties"]["EventSourceArn"]["Fn::GetAtt"][0]
            for found in templates.of_type(
                self.template, "AWS::Lambda::EventSourceMapping"
            ).values()
            if found["Properties"]["FunctionName"]["Ref"] == self.functions[file][0]
        ]
        redrive = self.template["Resources"][source]["Properties"]["RedrivePolicy"]
        return self.names[source], redrive["maxReceiveCount"]

    def run_later(self, file: str, event: dict[str, Any]) -> bool:
        """Run a function with an event that was handed to it; returns whether it failed."""
        try:
            self.invoke(file, event)
        except Exception:  # noqa: BLE001 - Lambda's own: tried again, and then a dead letter
            return True
        return False

    def events_for(self, file: str) -> list[dict[str, Any]]:
        """Return the events that a function will be started with, and take them away."""
        url, _ = self._queue_of(file)
        found: list[dict[str, Any]] = []
        while got := self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in got:
                found.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found

    def deliver(self, file: str, *, twice: bool = False) -> int:
        """Deliver what is in a function's queue once; what fails waits for the next call."""
        with rights.held_to("Lambda itself", {"*"}):
            return self._deliver(file, twice=twice)

    def _deliver(self, file: str, *, twice: bool) -> int:
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
            if self._took(file, message, twice=twice):
                (self.dead if message.receives >= most else self.pending)[file].append(message)
            else:
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message.receipt)
        return len(waiting)

    def _took(self, file: str, message: Message, *, twice: bool) -> bool:
        """Deliver one message; returns whether it failed."""
        if file in self.handed:
            runs = [self.run_later(file, json.loads(message.body)) for _ in range(1 + twice)]
            return any(runs)
        record = sqs_record(message.body, message.id, message.receives)
        event = {"Records": [record | {"receiptHandle": message.receipt}] * (1 + twice)}
        return bool(self.invoke(file, event)["batchItemFailures"])

    def redrive(self, file: str) -> None:
        """Bring a function's dead letters back, as the operator does."""
        for message in self.dead[file]:
            message.receives = 0
        self.pending[file] += self.dead[file]
        self.dead[file] = []

    # --- all of them ------------------------------------------------------------------------------

    def sweep(self) -> Any:
        """Run the sweep once."""
        return self.invoke("sweep", {})

    def look_for_lost_copies(self) -> dict[str, int]:
        """Let two hours pass, and run ``recover`` in each of the next twelve: it sees all files.

        Returns the sums of its counts.
        """
        counts: Counter[str] = Counter()
        self.clock.pass_seconds(3600)
        for _ in range(12):
            self.clock.pass_seconds(3600)
            counts.update(self.invoke("recover", {}))
        return dict(counts)

    def settle_async(self) -> None:
        """Move every async edge until nothing moves."""
        self.stream()
        self.deliver("dispatch")
        self.deliver("share")


def _matches(pattern: Any, value: Any) -> bool:
    if isinstance(pattern, list):
        return value in pattern
    return all(key in value and _matches(inner, value[key]) for key, inner in pattern.items())

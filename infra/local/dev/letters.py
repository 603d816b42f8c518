"""Dead letters of the local cloud: list them, send them back, record them as an event file."""

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from infra.local.dev.run_handler import DevError
from infra.local.dev.running import REGION, Cloud, Queue

MAX_MESSAGES = 10
"""Most messages in one call of SQS."""
HOLD_S = 60
"""Seconds for which an interrupted redrive leaves its messages hidden."""
SHOWN = 300
"""Most characters of a dead letter to print."""
PAGE = 1000


def dead(cloud: Cloud) -> Iterator[str]:
    """Yield a line for each dead-letter queue, and one for its first message."""
    queues = cloud.dead_queues()
    width = max(len(queue.name) for queue in queues)
    for queue in queues:
        where = f"redrive to {queue.source.name}" if queue.source else "cannot be redriven"
        hidden = f", {queue.hidden} being read" if queue.hidden else ""
        yield f"{queue.name:{width}}  {queue.waiting:4} waiting{hidden}  ({where})"
        for message in peek(cloud, queue, 1):
            text = message["Body"]
            yield f"  {text[:SHOWN]}{'...' if len(text) > SHOWN else ''}"


def peek(cloud: Cloud, queue: Queue, count: int) -> list[dict[str, Any]]:
    """Return up to ``count`` messages of a queue, which stay visible to all."""
    found = cloud.aws("sqs").receive_message(
        QueueUrl=queue.url,
        MaxNumberOfMessages=min(count, MAX_MESSAGES),
        VisibilityTimeout=0,
        MessageSystemAttributeNames=["All"],
        MessageAttributeNames=["All"],
    )
    messages: list[dict[str, Any]] = found.get("Messages", [])
    return messages


def redrive(cloud: Cloud, name: str) -> str:
    """Send a queue's dead letters back to it; returns the text to print. Raises DevError.

    MiniStack has no StartMessageMoveTask, so each message is received, sent and then deleted.
    Crash window: a message that was sent but not deleted is in both queues, so the function gets it
    twice. Every function here allows this, and no message is lost.
    """
    queues = cloud.dead_queues()
    found = {queue.name: queue for queue in queues if queue.source is not None}
    queue = found.get(name) or found.get(f"{name}Dead")
    if queue is None or queue.source is None:
        names = ", ".join(sorted(one.source.name for one in found.values() if one.source))
        if any(one.name == name for one in queues):
            message = (
                f"{name} has reports of failed runs, not messages that can be sent back "
                f"(see the runbook); {names} can be redriven"
            )
        else:
            message = f"there is no queue {name!r}; {names} can be redriven"
        raise DevError(message)
    sqs, moved = cloud.aws("sqs"), 0
    # At most the initial count, or a message that fails again would be moved forever.
    while moved < queue.waiting:
        batch = sqs.receive_message(
            QueueUrl=queue.url,
            MaxNumberOfMessages=min(MAX_MESSAGES, queue.waiting - moved),
            VisibilityTimeout=HOLD_S,
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not batch:
            break
        for message in batch:
            sqs.send_message(
                QueueUrl=queue.source.url,
                MessageBody=message["Body"],
                MessageAttributes=message.get("MessageAttributes", {}),
            )
            sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"])
            moved += 1
    return f"{moved} of {queue.waiting} messages moved from {queue.name} to {queue.source.name}"


def record(cloud: Cloud, function: str, count: int) -> dict[str, Any]:
    """Return an event from a function's own trigger; raises DevError.

    For a stream it has the last ``count`` records of 24 hours that pass the function's filters. For
    a queue it has dead letters, since processed messages are gone.
    """
    mapping = cloud.source(function)
    arn = mapping["EventSourceArn"]
    if ":dynamodb:" in arn:
        records = _stream_records(cloud, arn, mapping, count)
    else:
        records = _queue_records(cloud, arn, count)
    if not records:
        kind = "record in the stream" if ":dynamodb:" in arn else "dead letter in the queue"
        message = f"there is no {kind} of {function} to record yet"
        raise DevError(message)
    return {"Records": records}


def _queue_records(cloud: Cloud, arn: str, count: int) -> list[dict[str, Any]]:
    queues = cloud.dead_queues()
    (queue,) = (queue for queue in queues if queue.source is not None and queue.source.arn == arn)
    return [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message.get("Attributes", {}),
            "messageAttributes": {},
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": arn,
            "awsRegion": REGION,
        }
        for message in peek(cloud, queue, count)
    ]


def _stream_records(
    cloud: Cloud, arn: str, mapping: Mapping[str, Any], count: int
) -> list[dict[str, Any]]:
    streams = cloud.aws("dynamodbstreams")
    patterns = [
        json.loads(one["Pattern"]) for one in mapping.get("FilterCriteria", {}).get("Filters", [])
    ]
    found: list[dict[str, Any]] = []
    for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
        cursor = streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        ).get("ShardIterator")
        while cursor:
            page = streams.get_records(ShardIterator=cursor, Limit=PAGE)
            for row in page["Records"]:
                one = json.loads(json.dumps({**row, "eventSourceARN": arn}, default=_plain))
                if not patterns or any(matches(pattern, one) for pattern in patterns):
                    found.append(one)
            # An open shard has no end; an empty page is its last one for now.
            cursor = page.get("NextShardIterator") if page["Records"] else None
    return found[-count:]


def _plain(value: Any) -> Any:
    """Return a value in the form of Lambda's event: times in seconds, bytes in base64."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def matches(pattern: Mapping[str, Any], value: Any) -> bool:
    """Return whether a record passes an event source's filter; raises DevError.

    It supports only the filter rules that the stack uses: equality and ``or``.
    """
    for key, wanted in pattern.items():
        found = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(wanted, Mapping):
            if not matches(wanted, found):
                return False
        elif not all(isinstance(one, str) for one in wanted):
            message = f"the filter {json.dumps(pattern)} has rules other than equality"
            raise DevError(message)
        elif found not in wanted:
            return False
    return True

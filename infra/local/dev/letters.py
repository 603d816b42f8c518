"""Dead letters of the local cloud: look at them, send them back, turn them into an event's file."""

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from infra.local.dev.run_handler import DevError
from infra.local.dev.running import REGION, Cloud, Queue

AT_ONCE = 10
"""Messages that SQS hands out, takes or deletes at a time."""
HOLD_S = 60
"""A redrive that dies in between leaves its messages hidden for this long, then they are back."""
SHOWN = 300
"""Characters of a dead letter that are printed."""
PAGE = 1000


def dead(cloud: Cloud) -> Iterator[str]:
    """Yield a line for each queue of dead letters, and one for its first message."""
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
    """Return messages of a queue and leave them there: they are seen again at once."""
    found = cloud.aws("sqs").receive_message(
        QueueUrl=queue.url,
        MaxNumberOfMessages=min(count, AT_ONCE),
        VisibilityTimeout=0,
        MessageSystemAttributeNames=["All"],
        MessageAttributeNames=["All"],
    )
    messages: list[dict[str, Any]] = found.get("Messages", [])
    return messages


def redrive(cloud: Cloud, name: str) -> str:
    """Send a queue's dead letters back to it; returns what to print. Raises DevError.

    MiniStack has no StartMessageMoveTask, so each message is received, sent and then deleted.
    Crash window: sent but not deleted. It is then in both queues, and the function gets it twice,
    which every function here takes; none is lost.
    """
    queues = cloud.dead_queues()
    found = {queue.name: queue for queue in queues if queue.source is not None}
    queue = found.get(name) or found.get(f"{name}Dead")
    if queue is None or queue.source is None:
        names = ", ".join(sorted(one.source.name for one in found.values() if one.source))
        if any(one.name == name for one in queues):
            message = (
                f"{name} holds reports of failed runs, not messages: there is nothing to send "
                f"back (see the runbook); {names} can be redriven"
            )
        else:
            message = f"there is no queue {name!r}; {names} can be redriven"
        raise DevError(message)
    sqs, moved = cloud.aws("sqs"), 0
    # No more than there were: a message that dies again meanwhile would be moved forever.
    while moved < queue.waiting:
        batch = sqs.receive_message(
            QueueUrl=queue.url,
            MaxNumberOfMessages=min(AT_ONCE, queue.waiting - moved),
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
    """Return an event of a function's own trigger, of what was last in it; raises DevError.

    Of a stream: the last records that the function's filters let through, of 24 hours. Of a queue:
    its dead letters, since a message that was taken is gone.
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
            # An open shard has no end: its last page is an empty one.
            cursor = page.get("NextShardIterator") if page["Records"] else None
    return found[-count:]


def _plain(value: Any) -> Any:
    """Return a value as Lambda has it in the event: seconds, and base64."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def matches(pattern: Mapping[str, Any], value: Any) -> bool:
    """Say whether an event source's filter lets a record through; raises DevError.

    Of Lambda's filter rules those are known that the stack uses: equality and ``or``.
    """
    for key, wanted in pattern.items():
        found = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(wanted, Mapping):
            if not matches(wanted, found):
                return False
        elif not all(isinstance(one, str) for one in wanted):
            message = f"the filter {json.dumps(pattern)} is more than equality"
            raise DevError(message)
        elif found not in wanted:
            return False
    return True

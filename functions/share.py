"""S3 ObjectCreated -> SQS -> the LAION bucket: copy delivered images that are shared.

S3 tells of objects below ``shared/`` alone: files that a submit has checked and stored under a key
that names their content. The settlement says which of them was delivered, and this function copies
that one, after it has compared the SHA-256 of what it read.

An event that arrives before its settlement is retried later, with growing pauses. A repeated event
writes the same bytes to the same keys. Crash windows: if this run dies between the image, its
metadata and the mark in the table, the message is delivered again and everything is written again.
The metadata comes after the image, so a reader that lists ``.json`` never misses an image.
"""

import hashlib
import json
from typing import Any
from urllib.parse import unquote_plus

from horde import aws, images
from horde.log import logger
from horde.records import parse_shared_key
from horde.rules.dates import day
from horde.rules.sharing import Verdict, judge, row
from horde.store import connect

MAX_PAUSE_S = 300


class Settings(aws.Settings):
    """The names of this function's resources; ``laion_role`` gives access to another account."""

    table_name: str
    outputs_bucket: str
    uploads_queue_url: str
    laion_bucket: str
    laion_role: str = ""


def share(key: str) -> Verdict:
    """Share one delivered file if the rules allow it.

    Raises RuntimeError if it cannot be read, or is not what was settled.
    """
    settings = Settings.load()
    store = connect(settings.table_name)
    parsed = parse_shared_key(key)
    if parsed is None:
        return Verdict.NEVER  # an earlier version announced uploads
    generation_id, sha256 = parsed
    generation = store.requests.generation(generation_id)
    request = store.requests.get(generation.request_id) if generation else None
    verdict = judge(request, generation, sha256)
    if verdict is not Verdict.SHARE or request is None or generation is None:
        return verdict
    if generation.shared_at is not None:
        return verdict
    body = images.read(aws.s3(), settings.outputs_bucket, key)
    if body is None or hashlib.sha256(body).hexdigest() != sha256:
        message = f"{key} is gone, or not what was delivered"
        raise RuntimeError(message)
    delivered_on = day(generation.settled_at or request.created_at)
    prefix = f"incoming/date={delivered_on}/{generation.id}"
    client = aws.s3_with_role(settings.laion_role) if settings.laion_role else aws.s3()
    published = row(request, generation, sha256=sha256, size=len(body))
    images.put_webp(client, settings.laion_bucket, f"{prefix}.webp", body)
    client.put_object(
        Bucket=settings.laion_bucket,
        Key=f"{prefix}.json",
        Body=json.dumps(published, ensure_ascii=False).encode(),
        ContentType="application/json",
    )
    store.sharing.mark_shared(request, generation, f"{prefix}.webp")
    return verdict


def pause_seconds(receives: int) -> int:
    """Return the pause before an early event's next try: 2, 4, 8 and so on up to 300 seconds."""
    return int(min(MAX_PAUSE_S, 2**receives))


def keys_of(body: str) -> list[str]:
    """Return the object keys in an S3 event; the test event that S3 sends has none."""
    return [
        unquote_plus(record["s3"]["object"]["key"])
        for record in json.loads(body).get("Records", [])
    ]


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point; only messages that failed or came too early are delivered again."""
    failed = []
    verdicts: list[str] = []
    for record in event["Records"]:
        try:
            found = [share(key) for key in keys_of(record["body"])]
            if Verdict.LATER in found:
                _postpone(record)
                failed.append({"itemIdentifier": record["messageId"]})
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not shared")
            failed.append({"itemIdentifier": record["messageId"]})
            continue
        verdicts += found
    logger.info("judged", extra={"verdicts": verdicts, "failed": len(failed)})
    return {"batchItemFailures": failed}


def _postpone(record: dict[str, Any]) -> None:
    receives = int(record["attributes"]["ApproximateReceiveCount"])
    aws.sqs().change_message_visibility(
        QueueUrl=Settings.load().uploads_queue_url,
        ReceiptHandle=record["receiptHandle"],
        VisibilityTimeout=pause_seconds(receives),
    )

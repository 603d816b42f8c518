"""S3 ObjectCreated -> SQS -> the LAION bucket: publish delivered images that are shared.

S3 tells of objects below ``shared/`` alone: files that a submit has checked and stored under a key
that names their content. The settlement says which of them was delivered, and this function takes
that one, after it has compared the SHA-256 of what it read.

An image goes one of three ways. It is published: its file and its row are written to the LAION
bucket. It is held back in a private bucket until its worker's owner is trusted; then the sweep asks
for its release. Or it is dropped. What a worker marked as CSAM takes all images of its request out
of the data set again, and raises an alarm.

An event that arrives before its settlement is retried later, with growing pauses. A repeated event
writes the same bytes to the same keys. Crash windows: if this run dies between the image, its
metadata and the mark in the table, the message is delivered again and everything is written again.
The metadata comes after the image, so a reader that lists ``.json`` never misses an image. If the
mark is refused, because the image must not be published by now, its files are deleted again; if
this run dies before that, the repeated message deletes them.
"""

import hashlib
import json
from typing import Any
from urllib.parse import unquote_plus

from horde import aws, dataset, images, startup
from horde.log import logger
from horde.records import Held, parse_shared_key
from horde.rules.sharing import Verdict, drawn_by, judge, judge_people, row
from horde.store import Store, connect

MAX_PAUSE_S = 300


class Settings(aws.Settings):
    """The names of this function's resources; ``laion_role`` gives access to another account."""

    table_name: str
    outputs_bucket: str
    uploads_queue_url: str
    laion_bucket: str
    laion_role: str = ""
    held_bucket: str
    hash_secret: str
    """The ARN of the secret that requests are hashed with."""
    hold_volunteers: bool = True
    """Whether images of untrusted volunteers are held back."""


def share(key: str) -> Verdict:
    """Publish or hold back one delivered file, if the rules allow it.

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
    image = Held(
        generation_id=generation.id,
        request_id=request.id,
        user_id=request.user_id,
        worker_user=generation.worker_user or 0,
    )
    author, owner = store.accounts.get(image.user_id), store.accounts.get(image.worker_user)
    verdict = judge_people(author, owner, hold=settings.hold_volunteers)
    if verdict is Verdict.NEVER:
        return verdict
    body = _read(settings.outputs_bucket, key)
    if hashlib.sha256(body).hexdigest() != sha256:
        message = f"{key} is not what was delivered"
        raise RuntimeError(message)
    published = row(
        request,
        generation,
        drawn=drawn_by(owner),
        sha256=sha256,
        size=len(body),
        secret=aws.secret(settings.hash_secret),
    )
    if verdict is Verdict.HOLD:
        return verdict if _hold(store, image, body, published) else Verdict.NEVER
    return verdict if _publish(store, image, body, published) else Verdict.NEVER


def release(generation_id: str) -> Verdict:
    """Publish an image that was held back, once its worker's owner is trusted.

    Crash window: the image is published, but still held. The sweep then asks again, and only the
    held copy is deleted. Raises RuntimeError if the held image cannot be read.
    """
    settings = Settings.load()
    store = connect(settings.table_name)
    image = store.held.get(generation_id)
    if image is None:
        return Verdict.NEVER
    author, owner = store.accounts.get(image.user_id), store.accounts.get(image.worker_user)
    verdict = judge_people(author, owner, hold=settings.hold_volunteers)
    if verdict is Verdict.HOLD:
        return verdict
    if verdict is Verdict.SHARE and store.sharing.get(generation_id) is None:
        bucket = settings.held_bucket
        published = json.loads(_read(bucket, f"{generation_id}.json"))
        published["drawn_by"] = drawn_by(owner)
        body = _read(bucket, f"{generation_id}.webp")
        settled = store.requests.generation(generation_id) is not None
        if not _publish(store, image, body, published, settled=settled):
            verdict = Verdict.NEVER
    drop(store, generation_id)
    return verdict


def unpublish(request_id: str) -> None:
    """Take all images of a request out of the data set, and those that are held back.

    A repeated message goes on where an interrupted run ended.
    """
    store = connect(Settings.load().table_name)
    logger.error("csam marked", extra={"request_id": request_id})  # the alarm counts this line
    request = store.requests.get(request_id)
    for generation_id in request.generations if request else []:
        drop(store, generation_id)
        shared = store.sharing.get(generation_id)
        if shared is not None and shared.withdrawn_at is None:
            dataset.withdraw(store, _laion(), Settings.load().laion_bucket, shared)


def drop(store: Store, generation_id: str) -> None:
    """Delete an image that is held back. Idempotent: the record goes after the files."""
    dataset.delete(aws.s3(), Settings.load().held_bucket, f"{generation_id}.webp")
    store.held.remove(generation_id)


def _read(bucket: str, key: str) -> bytes:
    body = images.read(aws.s3(), bucket, key)
    if body is None:
        message = f"{key} is gone"
        raise RuntimeError(message)
    return body


def _laion() -> Any:
    role = Settings.load().laion_role
    return aws.s3_with_role(role) if role else aws.s3()


def _hold(store: Store, image: Held, body: bytes, published: dict[str, Any]) -> bool:
    """Hold an image back; returns False if it may not be published at all."""
    key = f"{image.generation_id}.webp"
    dataset.write(aws.s3(), Settings.load().held_bucket, key, body, published)
    if store.held.add(image):
        return True
    drop(store, image.generation_id)
    return False


def _publish(
    store: Store, image: Held, body: bytes, published: dict[str, Any], *, settled: bool = True
) -> bool:
    """Write an image to the data set; returns False if it may not be published by now.

    ``settled`` says whether its generation still exists.
    """
    bucket = Settings.load().laion_bucket
    key = f"incoming/date={published['created_on']}/{image.generation_id}.webp"
    dataset.write(_laion(), bucket, key, body, published)
    if store.sharing.mark_shared(image, key, settled=settled):
        return True
    shared = store.sharing.get(image.generation_id)
    if shared is not None and shared.withdrawn_at is None:
        return True  # a concurrent run has published it
    dataset.delete(_laion(), bucket, key)
    return False


def pause_seconds(receives: int) -> int:
    """Return the pause before an early event's next try: 2, 4, 8 and so on up to 300 seconds."""
    return int(min(MAX_PAUSE_S, 2**receives))


def work(message: dict[str, Any]) -> list[Verdict]:
    """Do what one message asks for: an S3 event, a release, or a CSAM mark.

    The test event that S3 sends has no records.
    """
    if "csam" in message:
        unpublish(message["csam"])
        return []
    if "release" in message:
        return [release(message["release"])]
    keys = [record["s3"]["object"]["key"] for record in message.get("Records", [])]
    return [share(unquote_plus(key)) for key in keys]


startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point; only messages that failed or came too early are delivered again."""
    failed = []
    verdicts: list[str] = []
    for record in event["Records"]:
        try:
            found = work(json.loads(record["body"]))
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

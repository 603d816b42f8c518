"""S3 ObjectCreated -> SQS -> the LAION bucket: publish delivered images that are shared.

S3 tells of objects below ``shared/`` alone: files that a submit has checked and stored under a key
that names their content. The settlement says which of them was delivered, and this function takes
that one, after it has compared the SHA-256 of what it read.

An image goes one of three ways. It is published: its archive, one object with file and row, is
written to the LAION bucket. It is held back in a private bucket until its worker's owner is
trusted; then the sweep asks for its release. Or it is dropped. What a worker marked as CSAM takes
all images of its request out of the data set again, and raises an alarm.

No image stays in the data set whose request was marked or withdrawn, whose author's account was
deleted or withdrew it with all others, or whose worker's owner was flagged before it was published.
Nor does one whose record says that it was withdrawn, which may be there before this function is: an
owner may withdraw an image before its copy. No transaction is needed for that:

1. The archive is written.
2. The record is put, if there is none: one plain write.
3. What forbids the image is read, with strong consistency. If anything does, or if the image was
   withdrawn, the archive is deleted, and the record says that it was withdrawn.

Whoever marks, deletes or flags writes that first, and then looks for records: ``unpublish``,
``withdraw``, the releases and ``bin/operator``. If the record is there by then, they find it. If it
is not, step 3 comes after their write, and finds that. Both may withdraw one image: it is the same.

An event that arrives before its settlement is retried later, with growing pauses. Crash windows: if
this run dies, the message is delivered again. After step 1, there is no record: the same bytes are
written to the same key, or the archive is deleted if something forbids it by now. After step 2, the
record is there: nothing is written, and step 3 decides by what is true then. A message that comes
again, or two at once, do the same. The record of a withdrawn image stays, so none brings it back.
"""

import hashlib
import json
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_plus

from horde import aws, dataset, images, laion, startup
from horde.detector import hashes
from horde.log import logger
from horde.records import Held, parse_shared_key
from horde.rules.sharing import (
    Context,
    ImageFile,
    Removal,
    Verdict,
    Weights,
    created_on,
    drawn_by,
    forbidden,
    judge,
    judge_context,
    removal,
    row,
)
from horde.runpod import Models
from horde.store import Store, connect

MAX_PAUSE_S = 300


class Settings(laion.Settings):
    """The names of this function's resources."""

    table_name: str
    outputs_bucket: str
    uploads_queue_url: str
    held_bucket: str
    hash_secret: str
    """The ARN of the secret that requests are hashed with."""
    hold_volunteers: bool = True
    """Whether images of untrusted volunteers are held back."""
    models: Models


def share(key: str) -> Verdict:
    """Publish or hold back one delivered file, if the rules allow it.

    Raises RuntimeError if it cannot be read, or is not what was settled, and OSError if it is no
    picture.
    """
    settings = Settings.load()
    store = connect(settings.table_name)
    parsed = parse_shared_key(key)
    if parsed is None:
        return Verdict.NEVER  # an earlier version announced uploads
    generation_id, sha256 = parsed
    generation = store.requests.generation(generation_id)
    if generation is None:
        return Verdict.NEVER
    image = Held(
        generation_id=generation.id,
        request_id=generation.request_id,
        user_id=generation.user_id,
        worker_user=generation.worker_user or 0,
    )
    context = store.sharing.context(image, generation.worker_id)
    request = context.request
    verdict = judge(request, generation, sha256)
    if verdict is not Verdict.SHARE or request is None:
        return verdict
    target = dataset.object_key(created_on(request, generation), generation.id)
    if context.shared is not None or forbidden(context):
        return _settled(store, image, context, target)
    body = _read(settings.outputs_bucket, key)
    if hashlib.sha256(body).hexdigest() != sha256:
        message = f"{key} is not what was delivered"
        raise RuntimeError(message)
    published = row(
        request,
        generation,
        drawn=drawn_by(context.owner),
        agent=context.agent,
        weights=_weights(settings.models, generation.model),
        file=ImageFile(sha256, *hashes(body), len(body)),
        secret=aws.secret(settings.hash_secret),
    )
    archive = dataset.pack(body, published)
    if judge_context(context, hold=settings.hold_volunteers) is Verdict.HOLD:
        return _hold(store, replace(image, requested_at=request.created_at), archive)
    return _publish(store, image, archive, target)


def _weights(models: Models, name: str) -> Weights:
    model = models.get(name)
    return Weights(model.sha256, model.license) if model else Weights()


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
    context = _of_held(store, image)
    verdict = judge_context(context, hold=settings.hold_volunteers)
    if verdict is Verdict.HOLD:
        return verdict
    if context.shared is not None:
        verdict = _settled(store, image, context, context.shared.object_key)
    elif verdict is Verdict.NEVER:
        drop(store, generation_id)
        return verdict
    else:
        body, published = dataset.unpack(
            _read(settings.held_bucket, dataset.held_key(generation_id))
        )
        published["drawn_by"] = drawn_by(context.owner)
        target = dataset.object_key(published["created_on"], generation_id)
        verdict = _publish(store, image, dataset.pack(body, published), target)
    _forget(store, generation_id)
    return verdict


def _of_held(store: Store, image: Held) -> Context:
    """Read what decides on a held image; its request may be gone, and was then withdrawn apart."""
    context = store.sharing.context(image)
    if context.request is not None:
        return context
    withdrawn = store.withdrawals.is_withdrawn(image.request_id, image.user_id)
    return replace(context, request_withdrawn=withdrawn)


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
            dataset.withdraw(
                store, laion.client(), Settings.load().laion_bucket, shared, Removal.SAFETY
            )


def drop(store: Store, generation_id: str) -> None:
    """Delete an image that is held back, and what a release that died has written of it.

    A published image has a record in the data set, and stays. Idempotent: the held copy, which
    names the day of delivery, goes after what it tells of, and the record goes last.
    """
    settings = Settings.load()
    archive = images.read(aws.s3(), settings.held_bucket, dataset.held_key(generation_id))
    if archive is not None and store.sharing.get(generation_id) is None:
        _, published = dataset.unpack(archive)
        key = dataset.object_key(published["created_on"], generation_id)
        dataset.delete(laion.client(), settings.laion_bucket, key)
    _forget(store, generation_id)


def _forget(store: Store, generation_id: str) -> None:
    """Delete the held copy of an image. Idempotent: the record goes after the file."""
    key = dataset.held_key(generation_id)
    dataset.delete(aws.s3(), Settings.load().held_bucket, key)
    store.held.remove(generation_id)


def _read(bucket: str, key: str) -> bytes:
    body = images.read(aws.s3(), bucket, key)
    if body is None:
        message = f"{key} is gone"
        raise RuntimeError(message)
    return body


def _hold(store: Store, image: Held, archive: bytes) -> Verdict:
    """Hold an image back, unless it may not be published at all by now."""
    key = dataset.held_key(image.generation_id)
    dataset.write(aws.s3(), Settings.load().held_bucket, key, archive)
    if store.held.add(image):
        return Verdict.HOLD
    drop(store, image.generation_id)
    return Verdict.NEVER


def _publish(store: Store, image: Held, archive: bytes, key: str) -> Verdict:
    """Write an image to the data set; it stays there if nothing forbids it by now."""
    dataset.write(laion.client(), Settings.load().laion_bucket, key, archive)
    store.sharing.mark_shared(image, key, len(archive))
    return _settled(store, image, _of_held(store, image), key)


def _settled(store: Store, image: Held, context: Context, key: str) -> Verdict:
    """Decide on an image that has a record or is forbidden; deletes it unless it may stay.

    ``context`` was read after whatever this run has written at ``key``. A run that died, or one
    beside this one, may have written there too. So the file is deleted even if there is no record,
    and the record is looked for once more after it is known that the image is forbidden.
    """
    shared = context.shared or store.sharing.get(image.generation_id)
    if shared is None or shared.withdrawn_at is not None:
        dataset.delete(laion.client(), Settings.load().laion_bucket, key)
    elif not forbidden(context):
        return Verdict.SHARE
    else:
        bucket = Settings.load().laion_bucket
        dataset.withdraw(store, laion.client(), bucket, shared, removal(context))
    return Verdict.NEVER


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

"""S3 ObjectCreated -> SQS -> the LAION bucket: only what was delivered, uncensored and shareable.

An event that comes before its settlement is tried again later, with growing pauses; one that
comes twice writes the same bytes to the same keys. Crash windows: the image is written but not
its metadata, or both but not the mark in the table: the message comes again and writes all of it
once more. The metadata comes last, so readers that list ``.json`` never meet a missing image.
"""

import hashlib
import json
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

from horde import aws, clock, images, store
from horde.http import logger
from horde.model import Generation, Request, State
from horde.sharing import LICENSE, TERMS_VERSION, Reason

MAX_PAUSE_S = 300


class Settings(aws.Settings):
    """Names of what this function uses; the bucket may be another account's, by its role."""

    table_name: str
    outputs_bucket: str
    uploads_queue_url: str
    laion_bucket: str
    laion_role: str = ""


class Verdict(StrEnum):
    """What to do with an uploaded image."""

    SHARE = "share"
    LATER = "later"
    NEVER = "never"


def judge(request: Request | None, generation: Generation | None, attempt: int) -> Verdict:
    """Decide whether an uploaded image is shared. Pure."""
    if request is None or generation is None or not request.shared:
        return Verdict.NEVER
    if attempt != generation.attempt:
        return Verdict.NEVER  # a worker whose lease ran out uploaded after all
    if generation.state is State.PROCESSING:
        return Verdict.LATER
    return Verdict.SHARE if generation.state is State.OK else Verdict.NEVER


def metadata(request: Request, generation: Generation, body: bytes) -> dict[str, Any]:
    """Return the row of an image (laion-dataset.md 2.4): flat, no null, no empty list.

    Nothing in it leads to a person: no user, key, address, client or worker.
    """
    payload = request.payload
    prompt, _, negative = payload["prompt"].partition("###")
    seed = generation.drawn_seed if generation.drawn_seed is not None else generation.seed
    anonymous_default = request.share_reason == Reason.ANONYMOUS
    return {
        "id": generation.id,
        "request_id": request.id,
        "batch_index": generation.index,
        "created_at": clock.iso(generation.settled_at or request.created_at),
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        "seed": seed,
        "steps": payload["ddim_steps"],
        "cfg_scale": float(payload["cfg_scale"]),
        "sampler": payload["sampler_name"],
        "karras": payload["karras"],
        "clip_skip": payload["clip_skip"],
        "hires_fix": payload["hires_fix"],
        "tiling": payload["tiling"],
        "width": payload["width"],
        "height": payload["height"],
        "model": generation.model,
        "user_type": "anon" if request.anonymous else "pseudonymous",
        "consent": "anonymous-default" if anonymous_default else "request-flag",
        "terms_version": TERMS_VERSION,
        "license": LICENSE,
        "nsfw_requested": request.nsfw,
        "censored": False,
        "sha256": hashlib.sha256(body).hexdigest(),
        "bytes": len(body),
        "format": "webp",
        "file_name": f"{generation.id}.webp",
    }


def share(key: str) -> Verdict:
    """Share one uploaded image, if it may be."""
    settings = Settings.load()
    table = store.connect(settings.table_name)
    generation_id, _, name = key.partition("/")
    attempt = int(name.removesuffix(".webp"))
    generation = table.generation(generation_id)
    request = table.request(generation.request_id) if generation else None
    verdict = judge(request, generation, attempt)
    if verdict is not Verdict.SHARE or request is None or generation is None:
        return verdict
    if generation.shared_at is not None:
        return verdict
    body = images.read(aws.s3(), settings.outputs_bucket, key)
    if body is None or not images.is_webp(body):
        message = f"the settled image {key} cannot be read"
        raise RuntimeError(message)
    day = clock.iso(generation.settled_at or request.created_at)[:10]
    prefix = f"incoming/date={day}/{generation.id}"
    client = aws.s3_as(settings.laion_role) if settings.laion_role else aws.s3()
    row = json.dumps(metadata(request, generation, body), ensure_ascii=False).encode()
    images.put_webp(client, settings.laion_bucket, f"{prefix}.webp", body)
    client.put_object(
        Bucket=settings.laion_bucket,
        Key=f"{prefix}.json",
        Body=row,
        ContentType="application/json",
    )
    table.mark_shared(request, generation, f"{prefix}.webp")
    return verdict


def pause_seconds(receives: int) -> int:
    """Return how long an early event waits: 2, 4, 8 ... 300 seconds, over an hour in all."""
    return int(min(MAX_PAUSE_S, 2**receives))


def keys_of(body: str) -> list[str]:
    """Return the object keys of an S3 event; its test event has none."""
    return [
        unquote_plus(record["s3"]["object"]["key"])
        for record in json.loads(body).get("Records", [])
    ]


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry; only the messages that failed or came too early come back."""
    failed = []
    verdicts: list[str] = []
    for record in event["Records"]:
        try:
            found = [share(key) for key in keys_of(record["body"])]
            if Verdict.LATER in found:
                _put_off(record)
                failed.append({"itemIdentifier": record["messageId"]})
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not shared")
            failed.append({"itemIdentifier": record["messageId"]})
            continue
        verdicts += found
    logger.info("judged", extra={"verdicts": verdicts, "failed": len(failed)})
    return {"batchItemFailures": failed}


def _put_off(record: dict[str, Any]) -> None:
    receives = int(record["attributes"]["ApproximateReceiveCount"])
    aws.sqs().change_message_visibility(
        QueueUrl=Settings.load().uploads_queue_url,
        ReceiptHandle=record["receiptHandle"],
        VisibilityTimeout=pause_seconds(receives),
    )

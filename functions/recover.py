"""Every hour -> the uploads queue: shared images whose copy was lost, while their files exist.

A copy is lost if its message became a dead letter, or never came. This function looks through
``shared/`` in the outputs bucket, a twelfth of it in each hour, so twice a day through all. What
has no record in the data set and is not held back is judged as ``share`` judges it. Only what may
still be shared is asked for again, by a message like S3's own; so nothing is asked for without end
that can never be shared. Its request and its item are kept as long as its file, since its row is
made of them. ``share`` then decides by what is true at its time.

A file of more than a day that nothing needs any more is deleted here: one that was copied, is held
back, or cannot be shared. So a file is kept for long only while its copy is lost.

Every step may be repeated: a message that comes twice publishes once, a second call keeps nothing
shorter, and a file is deleted only when its record is there already. If a run dies, the retry or
the same hour half a day later does the rest. If the LAION bucket takes nothing for days, the queue
fills up, and no more is asked for until it drains.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote_plus

from horde import aws, clock, images, startup
from horde.log import logger
from horde.records import SHARED, SHARED_DAYS, Generation, Held, parse_shared_key
from horde.rules.dates import DAY_S, HOUR_S
from horde.rules.sharing import Verdict, forbidden, judge
from horde.store import Store, connect

SLICES = 12
"""Parts of ``shared/``, by the first digits of the ids; each hour has one."""
LOST_S = 2 * HOUR_S
"""Age from which a copy is lost: its message has had its tries by then."""
KEPT_S = (SHARED_DAYS + 1) * DAY_S
"""How long the row of a lost image is kept after its file was written; S3 expires at midnight."""
WORKED_S = 780
"""Seconds that a run works, which are rarely needed; the last files take some more."""
MAX_QUEUED = 5000
"""Most messages in the queue to which another one is added."""
BATCH = 100
"""Files whose records are read at once."""


class Settings(aws.Settings):
    """The names of this function's resources."""

    table_name: str
    outputs_bucket: str
    uploads_queue_url: str


class File(NamedTuple):
    """A delivered file: its key, and when it was written, in seconds since the epoch."""

    key: str
    written_at: int


def files(bucket: str, after: str, until: str) -> Iterator[File]:
    """Yield the files of a bucket whose keys are after one text and before another, by key."""
    while True:
        page = aws.s3().list_objects_v2(Bucket=bucket, Prefix=SHARED, StartAfter=after)
        for one in page.get("Contents", []):
            if one["Key"] >= until:
                return
            after = one["Key"]
            yield File(after, _seconds(one["LastModified"]))
        if not page["IsTruncated"]:
            return


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def slice_of(hour: int) -> tuple[str, str]:
    """Return the bounds of the part of ``shared/`` that an hour since the epoch looks through."""
    part = hour % SLICES
    low, high = (f"{SHARED}{256 * edge // SLICES:02x}" for edge in (part, part + 1))
    # No id begins with a letter after f, and no uuid has an upper-case one.
    return low, high if part + 1 < SLICES else f"{SHARED}~"


def fate(store: Store, generation: Generation | None, sha256: str) -> Verdict:
    """Return what may become of a file without a record: shared, not yet, or never."""
    if generation is None:
        return Verdict.NEVER
    image = Held(
        generation_id=generation.id,
        request_id=generation.request_id,
        user_id=generation.user_id,
        worker_user=generation.worker_user or 0,
    )
    context = store.sharing.context(image)
    if context.shared is not None or forbidden(context):
        return Verdict.NEVER
    return judge(context.request, generation, sha256)


def look_through(store: Store, found: list[File], room: int) -> tuple[int, int]:
    """Ask for the lost copies among some files, and delete what nothing needs.

    ``room`` is how many may be asked for; the rows of the others are kept too. Returns how many
    were asked for, and how many deleted.
    """
    asked = deleted = 0
    names = {file: parse_shared_key(file.key) or ("", "") for file in found}
    ids = {generation_id for generation_id, _ in names.values() if generation_id}
    left = ids - store.sharing.recorded(ids)
    rows = {one.id: one for one in store.requests.generations_by_id(left)}
    for file, (generation_id, sha256) in names.items():
        generation = rows.get(generation_id)
        verdict = fate(store, generation, sha256)
        if verdict is Verdict.SHARE and generation is not None:
            store.requests.keep(generation, file.written_at + KEPT_S)
            if asked < room:
                _ask(file)
                asked += 1
        elif verdict is Verdict.NEVER and file.written_at + DAY_S <= clock.now():
            images.delete(aws.s3(), Settings.load().outputs_bucket, file.key)
            deleted += 1
    return asked, deleted


def _ask(file: File) -> None:
    event = {"Records": [{"s3": {"object": {"key": quote_plus(file.key, safe="/")}}}]}
    aws.sqs().send_message(
        QueueUrl=Settings.load().uploads_queue_url, MessageBody=json.dumps(event)
    )


def _room() -> int:
    """Return how many messages the queue takes: none while those before cannot be worked on."""
    found = aws.sqs().get_queue_attributes(
        QueueUrl=Settings.load().uploads_queue_url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )
    queued = sum(int(count) for count in found["Attributes"].values())
    return max(0, MAX_QUEUED - queued)


startup.ready("dynamodb")


def handler(_event: dict[str, Any], _context: object) -> dict[str, int]:
    """Lambda's entry point; raises TimeoutError if this hour's part takes too long."""
    settings, now = Settings.load(), clock.now()
    store, room = connect(settings.table_name), _room()
    counts = {"files": 0, "asked": 0, "deleted": 0}
    found = files(settings.outputs_bucket, *slice_of(now // HOUR_S))
    old = (file for file in found if file.written_at + LOST_S <= now)
    while some := list(islice(old, BATCH)):
        asked, deleted = look_through(store, some, room - counts["asked"])
        counts["files"] += len(some)
        counts["asked"] += asked
        counts["deleted"] += deleted
        if clock.now() - now > WORKED_S:
            logger.error("too many files", extra=counts)
            message = "there are more shared files than an hour looks through"
            raise TimeoutError(message)
    logger.info("looked through", extra=counts)
    return counts

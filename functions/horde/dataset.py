"""The file of one image of the data set: an uncompressed tar archive of the image and its row.

It is one sample of webdataset: ``<id>.webp``, then ``<id>.json``. Image and row are one object, so
a reader never meets one without the other, and one call removes both. Equal contents have equal
bytes. The archive ends after two empty blocks and is padded no further: a shard is archives one
after another, each but the last without its ``END``.

Before there were archives, image and row were two objects with the endings of the members. What
was published so can still be withdrawn.
"""

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from horde import clock, images
from horde.records import OLD_ENDING, Shared
from horde.rules.dates import day
from horde.rules.sharing import Removal, created_on, shareable
from horde.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ENDING = ".tar"
BROKEN = (tarfile.TarError,)
"""What reading a file raises that is no archive."""
BLOCK = tarfile.BLOCKSIZE
"""Bytes of a block: each header is one, and what follows it is filled up to whole ones."""
END = bytes(2 * BLOCK)
"""The end of an archive."""


def object_key(created_on: str, generation_id: str) -> str:
    """Return the key of an image in the data set's bucket; ``created_on`` is its row's day."""
    return f"incoming/date={created_on}/{generation_id}{ENDING}"


def waiting_keys(created_on: str, generation_id: str) -> list[str]:
    """Return all keys that an image may have in ``incoming/``, those of early ones included."""
    start = object_key(created_on, generation_id).removesuffix(ENDING)
    return [f"{start}{ending}" for ending in (ENDING, OLD_ENDING, ".json")]


def held_key(generation_id: str) -> str:
    """Return the key of an image in the bucket of what is held back."""
    return f"{generation_id}{ENDING}"


def pack(file: bytes, row: dict[str, Any]) -> bytes:
    """Return the archive of a WebP file and its row."""
    text = json.dumps(row, ensure_ascii=False).encode()
    return member(f"{row['id']}.webp", file) + member(f"{row['id']}.json", text) + END


def member(name: str, data: bytes) -> bytes:
    """Return a file as an archive has it: of nobody, readable by all, with no time of its own."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def unpack(archive: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the WebP file and the row of an archive."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as opened:
        files = [opened.extractfile(member) for member in opened]
        file, text = [one.read() for one in files if one is not None]
    return file, json.loads(text)


def record_of(store: Store, image_id: str) -> Shared | None:
    """Return the record of a shared image, or what it would be if it is not copied yet.

    None if there is no such image, if it is not delivered, or if it is not shared.
    """
    found = store.sharing.get(image_id)
    if found is not None:
        return found
    generation = store.requests.generation(image_id)
    request = store.requests.get(generation.request_id) if generation else None
    if request is not None and generation is not None:
        if not shareable(request, generation.state):
            return None
        key = object_key(created_on(request, generation), image_id)
        owner = generation.worker_user
        return Shared(image_id, request.user_id, key, owner, request_id=request.id)
    held = store.held.get(image_id)
    if held is None:
        return None
    key = object_key(day(held.requested_at or clock.now_ms()), image_id)
    return Shared(image_id, held.user_id, key, held.worker_user, request_id=held.request_id)


def write(client: "S3Client", bucket: str, key: str, archive: bytes) -> None:
    """Write an archive: an image and its row, both or neither."""
    client.put_object(Bucket=bucket, Key=key, Body=archive, ContentType="application/x-tar")


def delete(client: "S3Client", bucket: str, key: str) -> None:
    """Delete an image and its row. Idempotent."""
    images.delete(client, bucket, key)
    if key.endswith(OLD_ENDING):
        images.delete(client, bucket, key.removesuffix(OLD_ENDING) + ".json")


def withdraw(
    store: Store,
    client: "S3Client",
    bucket: str,
    shared: Shared,
    reason: Removal = Removal.OPERATOR,
) -> None:
    """Take one image out of the data set; from a shard that has it, the next release takes it.

    Crash window: the mark comes after the file is gone, so a repeated call goes on where an
    interrupted one ended. Between the two, a second delivery of the image's event may write the
    file again, and find no mark. So the file is deleted once more after the mark. A delivery that
    writes even later finds the mark, and deletes the file itself.
    """
    delete(client, bucket, shared.object_key)
    store.sharing.mark_withdrawn(shared, reason)
    delete(client, bucket, shared.object_key)

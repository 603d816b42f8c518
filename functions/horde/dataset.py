"""The files of one image of the data set: a WebP file, and its row beside it."""

import json
from typing import TYPE_CHECKING, Any

from horde import images
from horde.records import Shared
from horde.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def _row_key(key: str) -> str:
    return key.removesuffix("webp") + "json"


def write(client: "S3Client", bucket: str, key: str, file: bytes, row: dict[str, Any]) -> None:
    """Write an image and then its row, so that a reader that lists rows never misses an image."""
    images.put_webp(client, bucket, key, file)
    client.put_object(
        Bucket=bucket,
        Key=_row_key(key),
        Body=json.dumps(row, ensure_ascii=False).encode(),
        ContentType="application/json",
    )


def delete(client: "S3Client", bucket: str, key: str) -> None:
    """Delete an image and its row. Idempotent."""
    for name in (key, _row_key(key)):
        images.delete(client, bucket, name)


def withdraw(store: Store, client: "S3Client", bucket: str, shared: Shared) -> None:
    """Take one image out of the data set.

    Crash window: the mark comes after the files are gone, so a repeated call goes on where an
    interrupted one ended.
    """
    delete(client, bucket, shared.object_key)
    store.sharing.mark_withdrawn(shared)

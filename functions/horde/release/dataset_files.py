"""The files of the data set, as a release reads, writes and deletes them in its bucket."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from horde.release import shard, tables, versions, work
from horde.release.names import MANIFEST, File, Manifest, Part
from horde.release.work import Settings

THREADS = 8
"""Files that are read, written or deleted at once."""


def manifest() -> Manifest:
    """Return the manifest of the newest release."""
    return Manifest.load(work.read(MANIFEST))


def ids(part: Part) -> list[str]:
    """Return the ids of a part's images, by its table."""
    with TemporaryDirectory() as folder:
        (path,) = fetched([part.table], Path(folder))
        return tables.ids(path)


def fetched(keys: Iterable[str], folder: Path) -> list[Path]:
    """Copy files of the data set into a folder; returns them in the same order."""
    keys = list(keys)
    paths = [folder / f"{number:06d}.parquet" for number in range(len(keys))]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work.fetch, keys, paths))


def image(row: dict[str, Any]) -> bytes:
    """Return the image file of a row, out of its shard."""
    end = row["offset"] + row["size"] - 1
    where = {"Bucket": Settings.load().laion_bucket, "Key": row["shard"]}
    answer = work.bucket().get_object(**where, Range=f"bytes={row['offset']}-{end}")
    file: bytes = answer["Body"].read()
    return file


def put_bytes(body: bytes, key: str, kind: str) -> File:
    """Write a file of these bytes and content type."""
    target = upload(key, kind)
    target.write(body)
    return target.close()


def upload(key: str, kind: str) -> shard.Upload:
    """Begin to write a file piece by piece."""
    return shard.Upload(work.bucket(), Settings.load().laion_bucket, key, kind)


def listed(prefix: str) -> Iterator[dict[str, Any]]:
    """Yield what S3 lists under a prefix, in the order of keys."""
    client, more = work.bucket(), dict[str, str]()
    while True:
        page = client.list_objects_v2(Bucket=Settings.load().laion_bucket, Prefix=prefix, **more)
        yield from page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def delete(keys: list[str]) -> None:
    """Delete files of the data set, with their versions. Idempotent; raises RuntimeError."""
    versions.delete(work.bucket(), Settings.load().laion_bucket, keys)

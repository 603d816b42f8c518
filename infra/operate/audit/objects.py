"""The data set's bucket, as the audit reads it. Nothing here writes."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from botocore.exceptions import ClientError

from horde.release.names import MANIFEST, Manifest

PREFIX = "incoming/"
"""Where ``share`` puts images and their metadata; the rest of the bucket is not ours."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A file in the bucket; ``size`` is in bytes, ``modified_at`` in seconds since the epoch."""

    key: str
    size: int
    modified_at: int
    sha256: str = ""
    """From the object's own metadata; empty if it has none, or if they were not read."""


@dataclass(frozen=True, slots=True)
class Released:
    """What the release in a bucket says that it has."""

    parts: dict[str, list[str]] = field(default_factory=dict)
    """The paths of the shards that have an image, by its id."""
    broken: list[str] = field(default_factory=list)
    """What the manifest names and the bucket does not have so."""


class Bucket:
    """One bucket, read through one client."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def pages(self) -> Iterator[list[StoredObject]]:
        """Yield all files of the data set, up to a thousand at a time, without their metadata."""
        paginator = self._client.get_paginator("list_objects_v2")
        for page in paginator.paginate(Bucket=self._name, Prefix=PREFIX):
            yield [
                StoredObject(one["Key"], one["Size"], int(one["LastModified"].timestamp()))
                for one in page.get("Contents", [])
            ]

    def read(self, key: str) -> StoredObject | None:
        """Read one file's size and metadata, not the file; returns None if there is none."""
        try:
            head = self._client.head_object(Bucket=self._name, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
                return None
            raise
        modified_at = int(head["LastModified"].timestamp())
        sha256 = head["Metadata"].get("sha256", "")
        return StoredObject(key, head["ContentLength"], modified_at, sha256)

    def released(self) -> Released:
        """Read which images are in which shards of the release, by the tables of its parts."""
        from horde.release import tables  # noqa: PLC0415 - DuckDB, which most commands do not need

        manifest = Manifest.load(self._bytes(MANIFEST))
        parts: dict[str, list[str]] = defaultdict(list)
        broken = [
            one.path for one in manifest.files if self._length(one.at or one.path) != one.bytes
        ]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "part.parquet"
            for part in manifest.parts():
                body = self._bytes(part.table)
                if body is None:
                    continue
                path.write_bytes(body)
                for one in tables.ids(path):
                    parts[one].append(part.shard)
        return Released(dict(parts), broken)

    def _bytes(self, key: str) -> bytes | None:
        try:
            body: bytes = self._client.get_object(Bucket=self._name, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
                return None
            raise
        return body

    def _length(self, key: str) -> int | None:
        one = self.read(key)
        return None if one is None else one.size

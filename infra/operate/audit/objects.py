"""The data set's bucket, as the audit reads it. Nothing here writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

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

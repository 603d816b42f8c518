"""Shards: tar archives of samples, streamed to and from a bucket.

A sample is three adjacent files, as webdataset and img2dataset have them: ``<id>.webp``,
``<id>.json`` and ``<id>.txt`` with the prompt. Equal samples give equal bytes: the headers are
USTAR, of nobody, without a time.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from horde import dataset
from horde.release.names import File

T = TypeVar("T")
MAX_IMAGES = 10_000
MAX_BYTES = 1_000_000_000
"""Most images and bytes of a shard, as img2dataset's."""
PIECE = 16 * 2**20
"""Bytes of a piece of a multipart upload; S3 takes 5 MiB to 5 GiB, and 10,000 of them."""


class Upload:
    """A file that is written to a bucket piece by piece, without knowing its length before.

    It is there once ``close`` has returned, or not at all. ``abort`` gives it up; what a process
    that dies has sent is deleted by the bucket's lifecycle.
    """

    def __init__(self, client: Any, bucket: str, key: str, kind: str) -> None:
        self._client, self._where = client, {"Bucket": bucket, "Key": key}
        self._kind, self._id = kind, ""
        self._buffer, self._etags = bytearray(), list[str]()
        self._hash = hashlib.sha256()
        self.length = 0
        """Bytes written so far."""

    def write(self, data: bytes) -> None:
        """Add some bytes."""
        self._hash.update(data)
        self._buffer += data
        self.length += len(data)
        while len(self._buffer) >= PIECE:
            self._send(bytes(self._buffer[:PIECE]))
            del self._buffer[:PIECE]

    def _send(self, piece: bytes) -> None:
        if not self._id:
            made = self._client.create_multipart_upload(**self._where, ContentType=self._kind)
            self._id = made["UploadId"]
        number = len(self._etags) + 1
        sent = self._client.upload_part(
            **self._where, UploadId=self._id, PartNumber=number, Body=piece
        )
        self._etags.append(sent["ETag"])

    def close(self, images: int | None = None) -> File:
        """Complete it and return what a manifest says of it."""
        if not self._id:
            self._client.put_object(**self._where, Body=bytes(self._buffer), ContentType=self._kind)
        else:
            if self._buffer:
                self._send(bytes(self._buffer))
            pieces = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(self._etags, 1)]
            self._client.complete_multipart_upload(
                **self._where, UploadId=self._id, MultipartUpload={"Parts": pieces}
            )
        return File(self._where["Key"], self.length, self._hash.hexdigest(), images)

    def abort(self) -> None:
        """Give it up."""
        if self._id:
            self._client.abort_multipart_upload(**self._where, UploadId=self._id)


class ShardWriter:
    """Writes samples to an upload, and their rows as lines of JSON to a file."""

    def __init__(self, upload: Upload, shard: str, rows: IO[str]) -> None:
        self._upload, self._shard, self._rows = upload, shard, rows
        self.images = 0

    def add(self, file: bytes, row: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
        """Add a sample; ``row`` has the columns ``IN_SHARD``, and ``scores`` has ``SCORES``."""
        text = json.dumps(row, ensure_ascii=False).encode()
        name = row["id"]
        offset = self._upload.length + dataset.BLOCK
        sample = dataset.member(f"{name}.webp", file) + dataset.member(f"{name}.json", text)
        self._upload.write(sample + dataset.member(f"{name}.txt", row["prompt"].encode()))
        place = {"shard": self._shard, "offset": offset, "size": len(file)}
        self._rows.write(json.dumps({**row, **place, **scores}, ensure_ascii=False) + "\n")
        self.images += 1

    def close(self) -> File:
        """End the archive and return its file."""
        self._upload.write(dataset.END)
        return self._upload.close(self.images)


def samples(stream: IO[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the image file and the row of each sample of a shard that is read as a stream.

    Raises tarfile.TarError for what is no shard.
    """
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        file: bytes | None = None
        for member in archive:
            opened = archive.extractfile(member)
            if opened is None:
                continue
            if member.name.endswith(".webp"):
                file = opened.read()
            elif member.name.endswith(".json") and file is not None:
                yield file, json.loads(opened.read())
                file = None


def stored(write: Callable[[Upload], T], upload: Upload) -> T:
    """Return what ``write`` makes of an upload, which is given up if that fails."""
    try:
        return write(upload)
    except BaseException:
        upload.abort()
        raise


def put(upload: Upload, path: Path, images: int | None = None) -> File:
    """Send a local file; returns what a manifest says of it."""

    def write(upload: Upload) -> File:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                upload.write(piece)
        return upload.close(images)

    return stored(write, upload)

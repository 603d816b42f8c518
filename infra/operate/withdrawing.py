"""``bin/operator withdraw``: take images out of the data set, by what they are or who made them.

An image is marked first; then its files are deleted that are not in a release, and its copy in the
pool. From a release the next one takes it. An interrupted run is run again: what is marked is
skipped, or asked for again if it is named by its id.

Of an account, its mark comes before all: so images that are drawn or copied meanwhile are withdrawn
too. Its images are found by a scan of the table, which also finds those whose rows are too old to
have a hash of their account.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from horde import dataset, detector, gallery
from horde.records import Shared
from horde.release import work
from horde.release.names import INCOMING, MANIFEST, METADATA, Manifest
from horde.rules.screening import HashList, Screening, asked_in, found_words
from horde.rules.sharing import Removal
from horde.store import Store

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Buckets:
    """The client of S3, and the names of the buckets; without a name, one is left alone."""

    client: Any
    laion: str
    held: str = ""
    gallery: str = ""
    own: Any = None
    """The client of the stack's own buckets, if the data set's is elsewhere."""

    @property
    def ours(self) -> Any:
        """The client of the stack's own buckets."""
        return self.own or self.client


def remove(
    store: Store, buckets: Buckets, image: Shared, reason: Removal = Removal.OPERATOR
) -> None:
    """Withdraw one image, copied or not, and delete what there is of it beside the releases.

    Idempotent. Crash window: once it is marked, the next release deletes the rest. The file is
    deleted before and after the mark, as ``dataset.withdraw`` does.
    """
    dataset.delete(buckets.client, buckets.laion, image.object_key)
    store.sharing.withdraw(image, reason)
    dataset.delete(buckets.client, buckets.laion, image.object_key)
    if buckets.held:
        for key in (dataset.held_key(image.generation_id), work.kept(image.generation_id)):
            dataset.delete(buckets.ours, buckets.held, key)
    if buckets.gallery:
        gallery.remove(store, buckets.ours, buckets.gallery, image.generation_id)
    else:
        store.pool.remove(image.generation_id)


def of_words(store: Store, buckets: Buckets, words: Iterable[str]) -> Iterator[Shared]:
    """Yield the images whose prompts have one of these words or phrases, as the screening does."""
    listed = tuple(words)
    yield from _records(
        store, (id_ for id_, prompt, _ in _all(buckets) if found_words(prompt, listed))
    )


def of_hashes(store: Store, buckets: Buckets, hashes: HashList) -> Iterator[Shared]:
    """Yield the images that are on a list of hashes, or look like one on it."""
    yield from _records(store, (id_ for id_, _, seen in _all(buckets) if hashes.holds(seen())))


def _records(store: Store, ids: Iterable[str]) -> Iterator[Shared]:
    for id_ in dict.fromkeys(ids):
        found = dataset.record_of(store, id_)
        if found is not None:
            yield found


def _all(buckets: Buckets) -> Iterator[tuple[str, str, Callable[[], Screening]]]:
    """Yield the id and prompt of every image, released, waiting or held, and what has its hashes.

    A file that is no image with its row has neither: it is in no release.
    """
    with TemporaryDirectory() as folder:
        for row in _released(buckets, Path(folder)):
            yield row["id"], asked_in(row), partial(_hashed, row["md5"], row["phash"])
    places = [(buckets.client, buckets.laion, INCOMING)]
    places += [(buckets.ours, buckets.held, "")] if buckets.held else []
    for client, bucket, prefix in places:
        for key in _keys(client, bucket, prefix):
            try:
                file, row = dataset.unpack(_body(client, bucket, key))
                yield row["id"], asked_in(row), partial(_hashes, file)
            except (ValueError, KeyError, OSError, EOFError, *dataset.BROKEN):
                continue


def _released(buckets: Buckets, folder: Path) -> Iterator[dict[str, Any]]:
    from horde.release import tables  # noqa: PLC0415 - DuckDB, which most commands do not need

    if MANIFEST not in _keys(buckets.client, buckets.laion, MANIFEST):
        return
    manifest = Manifest.load(_body(buckets.client, buckets.laion, MANIFEST))
    file = manifest.file(METADATA)
    if file is not None:
        path = folder / METADATA
        path.write_bytes(_body(buckets.client, buckets.laion, file.at or file.path))
        yield from tables.every_row(path)


def _hashes(file: bytes) -> Screening:
    return _hashed(*detector.hashes(file))


def _hashed(md5: str, phash: str) -> Screening:
    return Screening(0.0, "", md5, phash)


def _keys(client: Any, bucket: str, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


def _body(client: Any, bucket: str, key: str) -> bytes:
    body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body

"""Checking a copy against its manifest, and its parts against each other."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from horde_dataset import files, tables
from horde_dataset.download import ID_PATTERN, progress
from horde_dataset.errors import DatasetError, shown
from horde_dataset.manifest import IMAGES, Entry, Manifest, Part
from horde_dataset.tars import ENDINGS, Member, TarError, Walk

MAX_TEXT = 2**20
"""Most bytes of a prompt or a row."""
MAX_SHOWN = 20
"""Most problems of one kind in one file that are shown."""
Row = tuple[object, ...]
"""The columns below, but for the id."""
COLUMNS = 'id, sha256, "offset", size, bytes, prompt, shard'


class _Counted:
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], object]) -> None:
        self._file, self._tell = file, tell
        self.digest, self.size = hashlib.sha256(), 0

    def read(self, size: int, /) -> bytes:
        """Return so many bytes, or fewer at the end."""
        data = self._file.read(size)
        self.digest.update(data)
        self.size += len(data)
        self._tell(len(data))
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(files.CHUNK):
            pass


def verify(folder: Path) -> Iterator[str]:
    """Yield what is wrong with a copy, a sentence each. Raises DatasetError without a manifest."""
    manifest = files.read_manifest(folder)
    mark = files.mark_of(folder)
    if mark is not None:
        yield f"{shown(mark.get('command', 'a command'))} was interrupted: run it again"
    tars = {entry.path: part for part, entry in manifest.parts("images")}
    seen = _Ids()
    total = sum(entry.bytes for entry in manifest.files)
    with progress(total, "verify") as bar:
        good: set[str] = set()
        for entry in manifest.files:
            if entry.path not in tars:
                problem = _file_problem(folder, entry, bar.update)
                if problem:
                    yield problem
                else:
                    good.add(entry.path)
        yield from _tables(folder, manifest, good, seen)
        for path, part in tars.items():
            rows = folder / part.at("metadata")
            known = part.at("metadata") in good
            yield from _limited(
                path,
                _tar(folder, manifest.by_path[path], part, rows if known else None, bar.update),
            )
    if manifest.layout == IMAGES and "metadata.parquet" in good:
        yield from _limited("images", _images(folder, folder / "metadata.parquet"))


def _limited(path: str, problems: Iterator[str]) -> Iterator[str]:
    """Yield the first problems of a file, and how many more there are."""
    count = 0
    for problem in problems:
        count += 1
        if count <= MAX_SHOWN:
            yield f"{path}: {problem}"
    if count > MAX_SHOWN:
        yield f"{path}: {count - MAX_SHOWN} more problems"


def _file_problem(folder: Path, entry: Entry, tell: Callable[[int], object]) -> str:
    path = folder / entry.path
    if not path.is_file():
        return f"{entry.path} is missing"
    size, sha256 = files.sha256_of(path, tell)
    if size != entry.bytes:
        return f"{entry.path} has {size} bytes, and the manifest says {entry.bytes}"
    if sha256 != entry.sha256:
        return f"{entry.path} has another sha256 than the manifest says"
    return ""


class _Ids:
    """The ids of a copy, as 16 bytes each."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()
        self.removed: set[bytes] = set()

    @staticmethod
    def short(image: object) -> bytes:
        return hashlib.blake2b(str(image).encode(), digest_size=16).digest()


def _tables(folder: Path, manifest: Manifest, good: set[str], seen: _Ids) -> Iterator[str]:
    """Check the parquet files: rows, ids and tombstones."""
    removed = [path for path in sorted(good) if path.startswith("removed/")]
    seen.removed = {
        seen.short(image) for image in tables.column([folder / path for path in removed], "id")
    }
    for path in sorted(good):
        entry = manifest.by_path[path]
        if path.endswith(".parquet") and entry.images is not None:
            try:
                found = tables.count(folder / path)
            except DatasetError as error:
                yield f"{path} cannot be read: {error}"
                good.discard(path)
                continue
            if found != entry.images:
                yield f"{path} has {found} rows, and the manifest says {entry.images}"
    parts = [path for path in sorted(good) if path.startswith("metadata/")]
    for path in parts:
        yield from _limited(path, _ids(folder / path, seen))
    if "metadata.parquet" in good:
        of_parts, seen.known = seen.known, set()
        yield from _limited("metadata.parquet", _ids(folder / "metadata.parquet", seen))
        all_parts = len(parts) == len(manifest.parts("metadata"))
        if parts and all_parts and seen.known != of_parts:
            yield "metadata.parquet has other ids than the parts"
    if len(seen.known) != manifest.fields["images"]:
        yield f"the tables have {len(seen.known)} ids, and the manifest {manifest.fields['images']}"


def _ids(path: Path, seen: _Ids) -> Iterator[str]:
    for image in tables.column([path], "id"):
        short = seen.short(image)
        if short in seen.known:
            yield f"the id {shown(image)} is there twice"
        if short in seen.removed:
            yield f"{shown(image)} was removed: run apply-removed"
        seen.known.add(short)


def _tar(
    folder: Path, entry: Entry, part: Part, rows: Path | None, tell: Callable[[int], object]
) -> Iterator[str]:
    """Check a tar: its SHA-256, and each sample against its row."""
    path = folder / entry.path
    if not path.is_file():
        yield "it is missing"
        return
    known = {}
    if rows:
        try:
            with tables.connected() as connection:
                found = connection.execute(f"SELECT {COLUMNS} FROM {tables.rows(rows)}")  # noqa: S608
                known = {row[0]: row[1:] for row in found.fetchall()}
        except DatasetError as error:
            yield f"{part.at('metadata')} cannot be read: {error}"
    with path.open("rb") as opened:
        file = _Counted(opened, tell)
        try:
            yield from _samples(Walk(file), entry, known if rows else None)
        except TarError as error:
            yield str(error)
        file.drain()
    if (file.size, file.digest.hexdigest()) != (entry.bytes, entry.sha256):
        yield "it has another size or sha256 than the manifest says"


class _Order:
    """Whether the files of samples are complete and next to each other."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self._sample = ""
        self._place = 0

    def take(self, member: Member) -> Iterator[str]:
        """Yield what is wrong with the place of a member."""
        first = member.ending == ENDINGS[0]
        if member.ending != ENDINGS[self._place] or (self._place and member.sample != self._sample):
            yield f"{shown(member.name)} does not follow the order of {', '.join(ENDINGS)}"
            self._place = 0
        if first:
            if member.sample in self.ids:
                yield f"{shown(member.sample)} is there twice"
            self.ids.add(member.sample)
        if first or self._place:
            self._place = (self._place + 1) % len(ENDINGS)
        self._sample = member.sample

    def end(self) -> Iterator[str]:
        """Yield what is wrong with the last sample."""
        if self._place:
            yield f"the last sample, {shown(self._sample)}, is not whole"


def _samples(walk: Walk, entry: Entry, rows: dict[str, Row] | None) -> Iterator[str]:
    order = _Order()
    for member in walk:
        yield from order.take(member)
        if rows is not None:
            yield from _member(walk, member, rows.get(member.sample), entry.path)
    yield from order.end()
    if rows is not None:
        for lacking in rows.keys() - order.ids:
            yield f"{shown(lacking)} has a row and no sample"
    if len(order.ids) != entry.images:
        yield f"it has {len(order.ids)} samples, and the manifest says {entry.images}"


def _member(walk: Walk, member: Member, row: Row | None, shard: str) -> Iterator[str]:
    """Check one member of a sample against its row."""
    if row is None:
        if member.ending == ENDINGS[0]:
            yield f"{shown(member.sample)} has a sample and no row"
    elif member.ending == ENDINGS[0]:
        yield from _image(walk, member, row, shard)
    elif not _same_text(walk, member, row):
        yield f"{shown(member.name)} does not say what the row says"


def _image(walk: Walk, member: Member, row: Row, shard: str) -> Iterator[str]:
    sha256, offset, size, count, _, its_shard = row
    digest = hashlib.sha256()
    for chunk in walk.chunks():
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        yield f"{shown(member.name)} has another sha256 than its row"
    if (member.offset, member.size, member.size, shard) != (offset, size, count, its_shard):
        yield f"{shown(member.name)} is not where its row says"


def _same_text(walk: Walk, member: Member, row: Row) -> bool:
    """Whether a prompt or a JSON says what the row says."""
    sha256, *_, prompt, _ = row
    text = walk.data(MAX_TEXT)
    if member.ending == "txt":
        return text == str(prompt).encode()
    try:
        found = json.loads(text)
        says = (found["id"], found["prompt"], found["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return says == (member.sample, prompt, sha256)


def _images(folder: Path, table: Path) -> Iterator[str]:
    """Check extracted images against their rows."""
    with tables.connected() as connection:
        found = connection.execute(f"SELECT id, sha256 FROM {tables.rows(table)}")  # noqa: S608
        known = dict(found.fetchall())
    for image, sha256 in known.items():
        path = folder / "images" / f"{image}.webp"
        if not ID_PATTERN.fullmatch(str(image)) or not path.is_file():
            yield f"{shown(image)} has a row and no image"
        elif files.sha256_of(path)[1] != sha256:
            yield f"{shown(image)}.webp has another sha256 than its row"
    for path in (folder / "images").glob("*"):
        if path.suffix != ".webp" or path.stem not in known:
            yield f"{shown(path.name)} is of no row"

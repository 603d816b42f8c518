"""Downloading a release, or a part of it.

Crash window: each file gets its name when its SHA-256 is right, and the manifest comes last. Until
then a mark lies in the folder. A repeated download loads only what is not there.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

from tqdm import tqdm

from horde_dataset import files, manifest, sources, tables
from horde_dataset.errors import BrokenOffError, DatasetError, shown
from horde_dataset.manifest import IMAGES, PARTS, Entry, Manifest, part_of
from horde_dataset.sources import Source

TRIES = 4
PAUSE_S = 1.0
"""Seconds before the second try; twice as many before each further one."""
ID_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
QUERIED = ".query/metadata.parquet"
"""Where the release's table lies while it is asked for hits."""
BY_IMAGES = ("LICENSE", "removed/")
"""What comes along with extracted images."""
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What is to be downloaded; dates are inclusive, as YYYY-MM-DD."""

    first: str = "0000-00-00"
    last: str = "9999-99-99"
    where: str = ""
    whole_parts: bool = False
    metadata_only: bool = False
    jobs: int = 4

    def covers(self, date: str) -> bool:
        """Whether a day is wanted."""
        return self.first <= date <= self.last

    @property
    def layout(self) -> str:
        """How the copy is laid out."""
        return IMAGES if self.where and not self.whole_parts and not self.metadata_only else PARTS


@dataclass(frozen=True)
class Piece:
    """A file to load, and where it is: a whole file of the source, or bytes within one."""

    entry: Entry
    path: str
    start: int = 0
    whole: bool = True


# --- transfers -----------------------------------------------------------------------------------


def each(function: Callable[[T], object], items: Sequence[T], jobs: int) -> None:
    """Call a function for each item, in threads where ``jobs`` is above one; stop at an error."""
    if jobs == 1:
        for item in items:
            function(item)
        return
    stop = Event()

    def unless_stopped(item: T) -> None:
        if not stop.is_set():
            function(item)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for _ in pool.map(unless_stopped, items):
                pass
        finally:
            stop.set()


@contextmanager
def progress(total: int, title: str) -> Iterator["tqdm[None]"]:
    """Show a bar of bytes on a terminal."""
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        yield bar


def load(source: Source, folder: Path, pieces: Sequence[Piece], jobs: int, title: str) -> int:
    """Load what is not there yet; return the number of files loaded. Raises DatasetError."""
    loaded: list[str] = []
    files.make_folder(folder)
    needed = 0
    for piece in pieces:
        path = folder / piece.entry.path
        size = path.stat().st_size if path.is_file() else -1
        needed += piece.entry.bytes * (size != piece.entry.bytes)
    files.check_room(folder, needed)
    with progress(sum(piece.entry.bytes for piece in pieces), title) as bar:

        def one(piece: Piece) -> None:
            if files.is_there(folder, piece.entry):
                bar.update(piece.entry.bytes)
                return
            fetch(source, folder / piece.entry.path, piece, bar.update)
            loaded.append(piece.entry.path)

        each(one, pieces, jobs)
    return len(loaded)


def fetch(source: Source, target: Path, piece: Piece, tell: Callable[[int], object] = int) -> None:
    """Load one file; go on where an earlier try ended. Raises DatasetError."""
    files.make_folder(target.parent)
    for attempt in range(TRIES):
        try:
            _load(source, target, piece, tell)
        except BrokenOffError:
            if attempt == TRIES - 1:
                raise
            time.sleep(PAUSE_S * 2**attempt)
        else:
            return


def _load(source: Source, target: Path, piece: Piece, tell: Callable[[int], object]) -> None:
    """Load what lacks of one file. Raises BrokenOffError where another try may help."""
    entry, part = piece.entry, files.unfinished(target)
    digest, have = hashlib.sha256(), 0
    if part.is_file() and part.stat().st_size <= entry.bytes:
        with part.open("rb") as file:
            while chunk := file.read(files.CHUNK):
                digest.update(chunk)
                have += len(chunk)
    resumed = have
    length = None if piece.whole else entry.bytes - have
    with part.open("ab" if have else "wb") as file:
        stream = source.stream(piece.path, piece.start + have, length)
        for chunk in stream if have < entry.bytes else ():
            have += len(chunk)
            if have > entry.bytes:
                break
            digest.update(chunk)
            file.write(chunk)
    if have > entry.bytes:
        files.delete(part)
        raise DatasetError(
            f"{entry.path} is longer than the manifest's {entry.bytes} bytes: refused"
        )
    if have < entry.bytes:
        raise BrokenOffError(f"{entry.path} ended after {have} of {entry.bytes} bytes")
    if digest.hexdigest() != entry.sha256:
        files.delete(part)
        kind = BrokenOffError if resumed else DatasetError
        raise kind(f"{entry.path} has another sha256 than the manifest says: refused")
    files.finish(target)
    tell(entry.bytes)


def whole(entries: Iterable[Entry]) -> list[Piece]:
    """Return the pieces of whole files."""
    return [Piece(entry, entry.source) for entry in entries]


# --- choosing ------------------------------------------------------------------------------------


def download(source: Source, folder: Path, wanted: Wanted) -> str:
    """Download a release into a folder; return a sentence on it. Raises DatasetError."""
    if wanted.where:
        tables.check_expression(wanted.where)
    before = _prepared(folder, wanted)
    release = sources.read_manifest(source)
    if release.layout != PARTS:
        raise DatasetError("the source is itself a copy of single images: copy its folder")
    if before and manifest.release_order(before.release) > manifest.release_order(release.release):
        raise DatasetError(
            f"the source has the release {release.release}, and {folder} the newer one "
            f"{before.release}: withdrawn images would come back"
        )
    if wanted.layout == IMAGES:
        return _download_images(source, folder, wanted, release, before)
    return _download_parts(source, folder, wanted, release, before)


def _prepared(folder: Path, wanted: Wanted) -> Manifest | None:
    """Return the manifest of what a folder has. Raises DatasetError where nothing may come here."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder")
    mark = files.mark_of(folder)
    if (folder / manifest.NAME).exists():
        before = files.read_manifest(folder)
        layout, where = before.layout, before.where
    elif mark is not None:
        before, layout, where = None, str(mark.get("layout", PARTS)), str(mark.get("where", ""))
    elif any(path != files.unfinished(folder / files.MARK) for path in folder.iterdir()):
        raise DatasetError(f"{folder} is not empty, and holds no release: choose another folder")
    else:
        return None
    if mark is not None and mark.get("command") == "apply-removed":
        raise DatasetError(f"an apply-removed of {folder} was interrupted: run it again first")
    if not layout:  # it ended before anything was chosen
        return before
    if layout != wanted.layout:
        raise DatasetError(f"{folder} holds {layout}, not {wanted.layout}: choose another folder")
    if layout == IMAGES and where != wanted.where:
        raise DatasetError(
            f"{folder} holds the images of another query, {shown(where)}: choose another folder"
        )
    return before


def _queried(source: Source, folder: Path, release: Manifest, where: str) -> tuple[Path, list[str]]:
    """Return the release's table, and the ids of the hits. Raises DatasetError where none are."""
    entry = release.by_path.get("metadata.parquet")
    if entry is None:
        raise DatasetError("the release has no metadata.parquet to ask")
    fresh = files.mark_of(folder) is None
    if fresh:
        files.set_mark(folder, command="download", layout="", where="")
    asked = Entry(QUERIED, entry.bytes, entry.sha256)
    load(source, folder, [Piece(asked, entry.source)], 1, "table")
    ids: list[str] = []
    try:
        ids = tables.hits(folder / QUERIED, where)
    finally:
        if not ids:
            _forget_query(folder)
            if fresh:
                files.lift_mark(folder)
    if not ids:
        raise DatasetError("no image fits --where")
    return folder / QUERIED, ids


def _forget_query(folder: Path) -> None:
    files.delete(folder / QUERIED)
    if (folder / QUERIED).parent.is_dir():
        (folder / QUERIED).parent.rmdir()


def tidy(folder: Path, kept: Iterable[str], before: Manifest | None) -> None:
    """Delete what a folder has of other releases: parts that were rewritten above all."""
    keep = {*kept, "metadata.parquet"}
    old = {entry.path for entry in before.files} if before else set()
    for kind, ending in manifest.KINDS.items():
        found = (folder / kind).glob(f"date=*/part-*{ending}")
        old |= {path.relative_to(folder).as_posix() for path in found}
        for path in (folder / kind).glob(f"date=*/part-*{files.UNFINISHED}"):
            files.delete(path)
    for name in sorted(old - keep):
        files.delete(folder / name)
    files.prune(folder)


def _download_parts(
    source: Source, folder: Path, wanted: Wanted, release: Manifest, before: Manifest | None
) -> str:
    """Load whole parts: those that are wanted, and newer versions of those that are there."""
    bases = {part.base for part, _ in release.parts("metadata") if wanted.covers(part.date)}
    if wanted.where:
        table, ids = _queried(source, folder, release, wanted.where)
        shards = {str(row[0]) for row in tables.select(table, ids, 'DISTINCT shard, 0 AS "offset"')}
        bases &= {part.base for part in map(part_of, shards) if part}
        _forget_query(folder)
    had = before.by_path if before else {}
    had_parts = {(part.kind, part.base) for part in map(part_of, had) if part}

    def chosen(entry: Entry) -> bool:
        part, date = part_of(entry.path), manifest.date_of(entry.path)
        if part:
            new = part.base in bases and not (wanted.metadata_only and part.kind == "images")
            return new or (part.kind, part.base) in had_parts
        by_day = date and not entry.path.startswith("removed/")
        return not by_day or wanted.covers(str(date)) or entry.path in had

    entries = [entry for entry in release.files if chosen(entry)]
    parts = [entry for entry in entries if entry.path.startswith("metadata/")]
    if not parts and release.parts("metadata"):
        raise DatasetError("the release has no images of these days, or none that fit --where")
    files.set_mark(folder, command="download", layout=PARTS, where="")
    whole_table = len(parts) == len(release.parts("metadata"))
    if not whole_table:
        entries = [entry for entry in entries if entry.path != "metadata.parquet"]
    loaded = load(source, folder, whole(entries), wanted.jobs, release.release)
    loaded_of = f"{loaded} files loaded, {len(entries) - loaded} were there"
    tidy(folder, (entry.path for entry in entries), before)
    if whole_table and len(entries) == len(release.files):
        made = release.of_whole_copy()
    else:
        images = sum(entry.images or 0 for entry in parts)
        if not whole_table:
            tables.join([folder / entry.path for entry in parts], folder / "metadata.parquet")
            entries.append(files.entry_of(folder, "metadata.parquet", images))
        made = release.of_copy(entries, images, layout=PARTS)
    files.write(folder / manifest.NAME, made.raw)
    files.lift_mark(folder)
    return f"release {made.release}: {made.fields['images']} images in {folder}; {loaded_of}"


def _download_images(
    source: Source, folder: Path, wanted: Wanted, release: Manifest, before: Manifest | None
) -> str:
    """Load the single images that fit a query, out of the tars."""
    table, ids = _queried(source, folder, release, wanted.where)
    columns = 'id, shard, "offset", size, sha256'
    pieces = [_image(row, release) for row in tables.select(table, ids, columns)]
    pieces = [piece for piece in pieces if wanted.covers(str(manifest.date_of(piece.path)))]
    if not pieces:
        raise DatasetError("no image of these days fits --where")
    if len({piece.entry.path.casefold() for piece in pieces}) != len(pieces):
        raise DatasetError("metadata.parquet has an id twice: refused")
    files.set_mark(folder, command="download", layout=IMAGES, where=wanted.where)
    known = [entry for entry in release.files if entry.path.startswith(BY_IMAGES)]
    loaded = load(source, folder, [*whole(known), *pieces], wanted.jobs, release.release)
    found = [Path(piece.entry.path).stem for piece in pieces]
    if before:
        for image in set(tables.column([folder / "metadata.parquet"], "id")) - set(found):
            if ID_PATTERN.fullmatch(str(image)):
                files.delete(folder / "images" / f"{image}.webp")
    tables.keep(table, folder / "metadata.parquet", found)
    entries = [*known, files.entry_of(folder, "metadata.parquet", len(found))]
    made = release.of_copy(entries, len(found), layout=IMAGES, where=wanted.where)
    files.write(folder / manifest.NAME, made.raw)
    _forget_query(folder)
    files.lift_mark(folder)
    return (
        f"release {made.release}: {len(found)} images in {folder / 'images'}; {loaded} files loaded"
    )


def _image(row: tuple[object, ...], release: Manifest) -> Piece:
    """Return where an image is. Raises DatasetError where its row cannot be right."""
    image, shard, offset, size, sha256 = row
    tar = release.by_path.get(str(shard))
    part = part_of(str(shard))
    fits = (
        isinstance(image, str)
        and ID_PATTERN.fullmatch(image)
        and tar is not None
        and part is not None
        and part.kind == "images"
        and isinstance(offset, int)
        and isinstance(size, int)
        and offset >= 0
        and 0 < size <= tar.bytes - offset
        and manifest.SHA256.fullmatch(str(sha256))
    )
    if not fits or not isinstance(offset, int) or not isinstance(size, int):
        raise DatasetError(f"metadata.parquet has a row that cannot be right, of {shown(image)}")
    place = tar.source if tar else ""
    return Piece(Entry(f"images/{image}.webp", size, str(sha256)), place, offset, whole=False)

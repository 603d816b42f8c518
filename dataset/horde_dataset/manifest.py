"""The list of a release's files, and how much of what it says is believed."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from horde_dataset.errors import DatasetError, shown

NAME = "manifest.json"
MAX_BYTES = 64 * 2**20
"""Most bytes of a manifest."""
MAX_FILES = 300_000
MAX_FILE_BYTES = 64 * 2**30
"""Most bytes of one file; parts have about a gigabyte."""
MAX_PATH = 200
SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._=-]*[A-Za-z0-9_=-])?")
"""A folder or file: no ``..``, nothing hidden, nothing that a shell or Windows reads otherwise."""
SHA256 = re.compile(r"[0-9a-f]{64}")
RELEASE = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(\d{1,6}))?")
PART = re.compile(r"(part-(\d{4}-\d\d-\d\d)-\d{5,9})(?:-(\d{1,6}))?")
KINDS = {"images": ".tar", "metadata": ".parquet"}
"""The folders that hold parts, and their files' endings."""
OURS = frozenset({NAME, ".horde-dataset.json"})
PARTS, IMAGES = "parts", "images"
"""Layouts of a copy: whole parts, or extracted images."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a file belongs: ``images/date=…/<base>[-<rewrite>].tar`` or its metadata."""

    kind: str
    date: str
    base: str
    rewrite: int

    def at(self, kind: str, rewrite: int | None = None) -> str:
        """Return the path of this part's file of a kind, of this or another rewrite."""
        number = self.rewrite if rewrite is None else rewrite
        suffix = f"-{number}" if number else ""
        return f"{kind}/date={self.date}/{self.base}{suffix}{KINDS[kind]}"


def part_of(path: str) -> Part | None:
    """Return what part a path is of; None for a file that is no part."""
    kind, _, rest = path.partition("/")
    folder, _, name = rest.partition("/")
    if kind not in KINDS or not name.endswith(KINDS[kind]):
        return None
    found = PART.fullmatch(name.removesuffix(KINDS[kind]))
    if not found or folder != f"date={found[2]}":
        return None
    return Part(kind, found[2], found[1], int(found[3] or 0))


def date_of(path: str) -> str | None:
    """Return the date of the folder that a file lies in, if it lies in one of a day."""
    found = re.search(r"/date=(\d{4}-\d\d-\d\d)/", path)
    return found[1] if found else None


def release_order(release: str) -> tuple[str, int]:
    """Return what sorts release ids: the day, then the run of that day."""
    day, _, number = release.partition(".")
    return day, int(number or 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a release; ``images`` is its number of rows or samples.

    A source may have it elsewhere than at its path (``at``): what each release has anew lies in a
    folder of the release. A copy has every file at its path.
    """

    path: str
    bytes: int
    sha256: str
    images: int | None = None
    at: str | None = None

    @property
    def source(self) -> str:
        """Where a source has it."""
        return self.at or self.path

    def as_json(self) -> dict[str, Any]:
        """Return the entry as it stands in the manifest of a copy."""
        entry = {"path": self.path, "bytes": self.bytes, "sha256": self.sha256}
        return entry if self.images is None else {**entry, "images": self.images}


@dataclass(frozen=True)
class Manifest:
    """A release, or the part of one that a copy holds (``layout`` and ``where``)."""

    fields: Mapping[str, Any]
    """All fields of the file but ``files``."""
    files: tuple[Entry, ...]
    raw: bytes = field(default=b"", compare=False)
    """The file itself, as it was read."""

    @property
    def release(self) -> str:
        """Its id: the day, with ``.1``, ``.2`` … for later runs of a day."""
        return str(self.fields["release"])

    @property
    def layout(self) -> str:
        """PARTS or IMAGES."""
        return str(self._copy.get("layout", PARTS))

    @property
    def where(self) -> str:
        """The query that chose the images; empty if none did."""
        return str(self._copy.get("where", ""))

    @property
    def _copy(self) -> Mapping[str, Any]:
        copy = self.fields.get("copy")
        return copy if isinstance(copy, dict) else {}

    @cached_property
    def by_path(self) -> dict[str, Entry]:
        """The files by their paths."""
        return {entry.path: entry for entry in self.files}

    def parts(self, kind: str) -> list[tuple[Part, Entry]]:
        """Return the parts of a kind in the order of their paths."""
        found = [(part_of(entry.path), entry) for entry in self.files]
        return [(part, entry) for part, entry in found if part and part.kind == kind]

    def of_copy(self, entries: Iterable[Entry], images: int, **copy: str) -> "Manifest":
        """Return the manifest of a copy with these files and images, as it is to be written."""
        files = tuple(sorted(map(_placed, entries), key=lambda entry: entry.path))
        removed = sum(entry.images or 0 for entry in files if entry.path.startswith("removed/"))
        fields = {
            **self.fields,
            "images": images,
            "bytes": sum(entry.bytes for entry in files),
            "removed": removed,
            "copy": {**self._copy, **copy},
        }
        return Manifest(fields, files, _dumped(fields, files))

    def of_whole_copy(self) -> "Manifest":
        """Return the manifest of a copy of all files, each of them at its path."""
        if all(entry.at is None for entry in self.files):
            return self
        files = tuple(map(_placed, self.files))
        return Manifest(self.fields, files, _dumped(self.fields, files))


def _placed(entry: Entry) -> Entry:
    return replace(entry, at=None)


def _dumped(fields: Mapping[str, Any], files: Iterable[Entry]) -> bytes:
    data = {**fields, "files": [entry.as_json() for entry in files]}
    return json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True).encode()


def parse(raw: bytes) -> Manifest:
    """Return a manifest that can be worked with. Raises DatasetError for any other."""
    if len(raw) > MAX_BYTES:
        raise DatasetError(f"the manifest is larger than {MAX_BYTES} bytes")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DatasetError("the manifest is no JSON") from error
    if not isinstance(data, dict) or data.get("format") != 1:
        raise DatasetError("the manifest is not of format 1: a newer horde-dataset may read it")
    fields = {name: value for name, value in data.items() if name != "files"}
    if not RELEASE.fullmatch(str(fields.get("release"))):
        raise DatasetError("the manifest names no release")
    for name in ("images", "bytes", "removed"):
        _count(fields.get(name), name, 2**62)
    kept_back = fields.get("kept_back", {})
    if not isinstance(kept_back, dict):
        raise DatasetError("the manifest's 'kept_back' is no list of reasons")
    for value in kept_back.values():
        _count(value, "kept_back", 2**62)
    files = data.get("files")
    if not isinstance(files, list) or len(files) > MAX_FILES:
        raise DatasetError(f"the manifest lists no files, or more than {MAX_FILES}")
    manifest = Manifest(fields, tuple(_entry(one) for one in files), raw)
    _check_together(manifest)
    return manifest


def _count(value: object, name: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise DatasetError(f"the manifest's {name!r} is no number between 0 and {most}")
    return value


def _entry(one: object) -> Entry:
    if not isinstance(one, dict):
        raise DatasetError("the manifest lists something that is no file")
    path, sha256 = one.get("path"), one.get("sha256")
    if not isinstance(path, str) or not safe(path):
        raise DatasetError(f"the manifest has a path that is not allowed: {shown(repr(path))}")
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise DatasetError(f"the manifest has no sha256 of {path}")
    at = one.get("at")
    if at is not None and not (isinstance(at, str) and _safe_source(at)):
        raise DatasetError(f"the manifest has {path} at a place that is not allowed")
    images = one.get("images")
    size = _count(one.get("bytes"), f"bytes of {path}", MAX_FILE_BYTES)
    if images is not None:
        _count(images, f"images of {path}", size)
    return Entry(path, size, sha256, images, at)


def safe(path: str) -> bool:
    """Whether a path stays within the copy's folder and is none of the tool's own files."""
    return _safe_source(path) and not path.startswith("releases/") and path != "releases"


def _safe_source(path: str) -> bool:
    """Whether a path stays within a source, and is no file that it does not publish."""
    segments = path.split("/")
    return (
        len(path) <= MAX_PATH
        and all(SEGMENT.fullmatch(segment) for segment in segments)
        and path not in OURS
        and segments[0] != "incoming"
    )


def _check_together(manifest: Manifest) -> None:
    """Raise DatasetError where files are in each other's way, or a part lacks its metadata."""
    folded = [entry.path.casefold() for entry in manifest.files]
    if len(set(folded)) != len(folded):
        raise DatasetError("the manifest lists a file twice")
    folders = {path[:at] for path in folded for at, sign in enumerate(path) if sign == "/"}
    if folders & set(folded):
        raise DatasetError("the manifest has one path as both a file and a folder")
    for entry in manifest.files:
        part = part_of(entry.path)
        if part is None and entry.path.partition("/")[0] in KINDS:
            raise DatasetError(f"the manifest has a part with a wrong name: {entry.path}")
        if part and entry.images is None:
            raise DatasetError(f"the manifest does not say how many images {entry.path} has")
    metadata = {part.at("metadata"): entry for part, entry in manifest.parts("metadata")}
    for part, entry in manifest.parts("images"):
        twin = metadata.get(part.at("metadata"))
        if twin is None or twin.images != entry.images:
            raise DatasetError(f"the manifest has no metadata of equally many images: {entry.path}")
    if len({part.base for part, _ in manifest.parts("metadata")}) != len(metadata):
        raise DatasetError("the manifest lists a part and its rewritten version")

"""The paths of a release, and its manifest.

A release is what ``manifest.json`` names. It is written last, so a reader who goes by it sees the
previous release or the whole new one. A part is one shard and one parquet file of the same name:
``part-<date>-<number>``, by the day of delivery. A part that was written anew without some images
gets a new name, with the number of the change as its suffix.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MANIFEST = "manifest.json"
METADATA = "metadata.parquet"
CROISSANT = "croissant.json"
CARD = "README.md"
LICENSE_FILE = "LICENSE"
SHEET = "contact-sheet.webp"
INCOMING = "incoming/"
HISTORY = "releases/"
FORMAT = 1
"""The version of the manifest's own form."""
NAME = "horde-commons"
_PART = re.compile(r"part-(\d{4}-\d{2}-\d{2})-(\d{5,})(?:-(\d+))?")
_RELEASE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?")


class Part(NamedTuple):
    """A part: the day of its images, its number on that day, and how often it was rewritten."""

    date: str
    number: int
    change: int = 0

    @property
    def name(self) -> str:
        """The name of its files."""
        suffix = f"-{self.change}" if self.change else ""
        return f"part-{self.date}-{self.number:05d}{suffix}"

    @property
    def shard(self) -> str:
        """The path of its images."""
        return f"images/date={self.date}/{self.name}.tar"

    @property
    def table(self) -> str:
        """The path of its rows."""
        return f"metadata/date={self.date}/{self.name}.parquet"

    def rewritten(self) -> "Part":
        """Return the part that takes its place."""
        return self._replace(change=self.change + 1)

    @classmethod
    def parse(cls, name: str) -> "Part":
        """Return the part of a name, or of a path of one of its files; raises ValueError."""
        found = _PART.fullmatch(name.rpartition("/")[2].partition(".")[0])
        if found is None:
            message = f"{name!r} is not the name of a part"
            raise ValueError(message)
        return cls(found[1], int(found[2]), int(found[3] or 0))


class File(NamedTuple):
    """A file of a release; ``images`` is how many samples or rows it has, if it has any.

    ``at`` is where it lies in the bucket, if not at its path: what each release has anew, such as
    the table of all rows, lies beside that of the release before until the manifest is written.
    """

    path: str
    bytes: int
    sha256: str
    images: int | None = None
    at: str | None = None


def removed_table(release: str) -> str:
    """Return the path of the tombstones that a release adds."""
    day, number = release_parts(release)
    return f"removed/date={day}/removed-{day}-{number:05d}.parquet"


def beside(release: str, path: str) -> str:
    """Return where a release's own file lies in the bucket; a copy at its path follows."""
    return f"{HISTORY}{release}/{path}"


def history(release: str) -> str:
    """Return the path of a release's own manifest, which stays."""
    return f"{HISTORY}{release}.json"


def release_parts(release: str) -> tuple[str, int]:
    """Return the day of a release, and its number on that day from 0; raises ValueError."""
    found = _RELEASE.fullmatch(release)
    if found is None:
        message = f"{release!r} is not a release"
        raise ValueError(message)
    return found[1], int(found[2] or 0)


def next_release(last: str | None, today: str) -> str:
    """Return the id of the release after ``last``: the day, and a number if it has several."""
    if last is not None and release_parts(last)[0] >= today:
        day, number = release_parts(last)
        return f"{day}.{number + 1}"
    return today


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a release consists of; ``release`` is empty before the first."""

    release: str = ""
    released_at: str = ""
    images: int = 0
    removed: int = 0
    """Tombstones in all."""
    kept_back: dict[str, int] = field(default_factory=dict)
    """Images that were kept back since the first release, by reason."""
    files: tuple[File, ...] = ()

    def parts(self) -> list[Part]:
        """Return its parts, in their order."""
        return sorted(Part.parse(one.path) for one in self.files if one.path.endswith(".tar"))

    def file(self, path: str) -> File | None:
        """Return one of its files."""
        return next((one for one in self.files if one.path == path), None)

    def of_images(self) -> list[File]:
        """Return the shards and their tables."""
        return [one for one in self.files if one.path.startswith(("images/", "metadata/"))]

    def tombstones(self) -> list[File]:
        """Return the tables of removed images."""
        return [one for one in self.files if one.path.startswith("removed/")]

    def next_number(self, date: str) -> int:
        """Return the first free number of a day's parts."""
        return max((part.number + 1 for part in self.parts() if part.date == date), default=0)

    def dump(self) -> bytes:
        """Return the manifest as it is stored."""
        files = [
            {name: value for name, value in one._asdict().items() if value is not None}
            for one in sorted(self.files)
        ]
        found = {
            "format": FORMAT,
            "name": NAME,
            "license": "CC0-1.0",
            "release": self.release,
            "released_at": self.released_at,
            "images": self.images,
            "bytes": sum(one.bytes for one in self.files),
            "removed": self.removed,
            "kept_back": self.kept_back,
            "files": files,
        }
        return json.dumps(found, indent=1, sort_keys=True).encode()

    @classmethod
    def load(cls, text: bytes | None) -> "Manifest":
        """Return a stored manifest, or the empty one; raises ValueError for an unknown form."""
        if text is None:
            return cls()
        found: dict[str, Any] = json.loads(text)
        if found.get("format") != FORMAT:
            message = f"the manifest has the form {found.get('format')!r}, not {FORMAT}"
            raise ValueError(message)
        files = tuple(
            File(one["path"], one["bytes"], one["sha256"], one.get("images"), one.get("at"))
            for one in found["files"]
        )
        return cls(
            found["release"],
            found["released_at"],
            found["images"],
            found["removed"],
            found["kept_back"],
            files,
        )


def added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Return two counts by reason as one."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}

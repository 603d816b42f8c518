"""Finds a job's LoRAs and textual inversions: in a folder, in the cache, or at an allowed host."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from gpu_worker.addons.asked import UnusableError
from gpu_worker.addons.cache import DiskCache
from gpu_worker.addons.civitai import Civitai
from gpu_worker.addons.folder import Folder
from gpu_worker.addons.found import Found

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpu_worker.addons.asked import Kind
    from gpu_worker.addons.civitai import Version
    from gpu_worker.settings import Settings

REMEMBER_S = 600.0
"""Seconds for which the answer to a number is believed. A version does not change; a model may get
a newer one."""
FORGET_FAILURE_S = 60.0
"""Seconds for which a number that failed is not asked for again."""
MAX_REMEMBERED = 4096

log = logging.getLogger(__name__)


class Library:
    """Where LoRAs and textual inversions come from. Thread-safe."""

    def __init__(
        self,
        folders: Mapping[Kind, Folder],
        baseline: str,
        host: Civitai | None = None,
        cache: DiskCache | None = None,
        seconds: float = 120.0,
    ) -> None:
        """Take the folders, the model's family, and a host with the cache of its files."""
        self._folders, self._baseline, self._seconds = folders, baseline, seconds
        self._host, self._cache = host, cache
        self._lock = threading.Lock()
        self._locks: dict[tuple[Kind, str, bool], threading.Lock] = {}
        self._answers: dict[tuple[Kind, str, bool], tuple[float, Version | UnusableError]] = {}

    @classmethod
    def of(cls, settings: Settings, baseline: str) -> Library | None:
        """Return what the settings name, or None if they name nothing.

        Raises OSError if the cache's folder cannot be made.
        """
        named: dict[Kind, Folder] = {}
        if settings.lora_dir:
            named["lora"] = Folder(settings.lora_dir)
        if settings.ti_dir:
            named["ti"] = Folder(settings.ti_dir)
        if not settings.civitai_url:
            return cls(named, baseline) if named else None
        host = Civitai(
            settings.civitai_url,
            settings.civitai_key,
            settings.civitai_hosts,
            most_bytes=settings.lora_max_mb * 1024 * 1024,
        )
        cache = DiskCache(settings.lora_cache_dir, settings.lora_cache_mb * 1024 * 1024)
        return cls(named, baseline, host, cache, settings.lora_seconds)

    def of_family(self, baseline: str) -> Library:
        """Return the same library for models of another family: its folders, host and cache."""
        return Library(self._folders, baseline, self._host, self._cache, self._seconds)

    @contextmanager
    def using(self, kind: Kind, name: str, *, is_version: bool, deadline: float) -> Iterator[Found]:
        """Give a file, which stays while in this context.

        It ends by the `time.monotonic()` `deadline`, or sooner by the setting. Raises
        UnusableError.
        """
        folder = self._folders.get(kind)
        found = folder.find(name, is_version=is_version) if folder else None
        if found is not None:
            self._check_baseline(found.baseline)
            yield found
            return
        host, cache = self._host, self._cache
        if host is None or cache is None or not _is_number(name):
            _fail("is not known to this worker")
        until = min(deadline, time.monotonic() + self._seconds)
        version = self._version(host, (kind, name, is_version), until)
        self._check_baseline(version.baseline, known=True)
        with cache.using(version.sha256) as path:
            try:
                self._fetch(host, cache, version, until)
            except UnusableError as error:
                self._remember((kind, name, is_version), error, until)
                raise
            yield Found(
                path=path,
                key=version.sha256,
                triggers=version.triggers,
                baseline=version.baseline,
            )

    def _check_baseline(self, baseline: str, *, known: bool = False) -> None:
        if baseline != self._baseline and (baseline or known):
            message = "is made for another family of models"
            raise UnusableError("baseline_mismatch", message)

    def _version(self, host: Civitai, asked: tuple[Kind, str, bool], until: float) -> Version:
        """Return what a number stands for, asked for once by all jobs that name it."""
        with self._one_at_a_time(asked, until):
            kept = self._answers.get(asked)
            if kept is None or time.monotonic() >= kept[0]:
                kept = self._remember(asked, self._asked(host, asked, until), until)
        if isinstance(kept[1], UnusableError):
            raise kept[1]
        return kept[1]

    def _asked(
        self, host: Civitai, asked: tuple[Kind, str, bool], until: float
    ) -> Version | UnusableError:
        kind, name, is_version = asked
        try:
            if is_version:
                return host.version(name, kind, until)
            return host.newest(name, kind, self._baseline, until)
        except UnusableError as error:
            return error

    def _remember(
        self, asked: tuple[Kind, str, bool], answer: Version | UnusableError, until: float
    ) -> tuple[float, Version | UnusableError]:
        """Keep an answer; a failure for a shorter time, and none that was this job's lack of it."""
        now = time.monotonic()
        failed = isinstance(answer, UnusableError)
        lasts = 0.0 if failed and now >= until else FORGET_FAILURE_S if failed else REMEMBER_S
        with self._lock:
            while len(self._answers) >= MAX_REMEMBERED:
                self._answers.pop(next(iter(self._answers)))
            self._answers.pop(asked, None)
            self._answers[asked] = kept = now + lasts, answer
        return kept

    def _fetch(self, host: Civitai, cache: DiskCache, version: Version, until: float) -> None:
        """Download a version's file unless it is there, once for all jobs that wait for it."""
        with (
            self._one_at_a_time(("lora", version.sha256, True), until),
            cache.using(version.sha256) as path,
        ):
            if path.exists():
                return
            started = time.monotonic()
            with cache.writing(version.sha256, version.size) as scratch:
                host.download(version, scratch, until)
            size = path.stat().st_size
            log.info("%d bytes fetched in %.1f s", size, time.monotonic() - started)

    @contextmanager
    def _one_at_a_time(self, key: tuple[Kind, str, bool], until: float) -> Iterator[None]:
        with self._lock:
            if len(self._locks) >= MAX_REMEMBERED:
                free = [one for one, lock in self._locks.items() if not lock.locked()]
                for one in free:
                    del self._locks[one]
            lock = self._locks.setdefault(key, threading.Lock())
        if not lock.acquire(timeout=max(0.0, until - time.monotonic())):
            _fail("does not arrive in time")
        try:
            yield
        finally:
            lock.release()


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) <= 12  # noqa: PLR2004


def _fail(message: str) -> NoReturn:
    raise UnusableError("download_failed", message)

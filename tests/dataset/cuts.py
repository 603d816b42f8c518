"""Ends a command at one of its file operations, as a power cut does."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from horde_dataset import files
from horde_dataset.sources import FolderSource

OPERATIONS = ("replace", "unlink", "fsync", "makedirs")


class Cut(BaseException):
    """No command catches it."""


class CutOs:
    """The module os, as the package's files use it; it cuts before the ``at``-th operation."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counted(real) if name in OPERATIONS else real

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise Cut
            return real(*arguments, **options)

        return operation


def every_cut(
    monkeypatch: pytest.MonkeyPatch, prepare: Callable[[], None], command: Callable[[], object]
) -> Iterator[int]:
    """Cut a command before each of its file operations in turn; yield after each cut.

    The last operation takes the mark away: after it the command is done.
    """
    for at in range(1, 1000):
        prepare()
        cutting = CutOs(at)
        with monkeypatch.context() as patched:
            patched.setattr(files, "os", cutting)
            try:
                command()
            except Cut:
                pass
            else:
                assert cutting.count == at - 1
                return
        yield at


class Slow(FolderSource):
    """A folder that sends little at a time, and is cut after so many chunks."""

    def __init__(self, folder: Path, left: int = 10**9) -> None:
        super().__init__(folder)
        object.__setattr__(self, "left", left)
        object.__setattr__(self, "asked", [])

    left: int
    asked: list[tuple[str, int]]

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.asked.append((path, start))
        for chunk in super().stream(path, start, length):
            for at in range(0, len(chunk), 4096):
                if not self.left:
                    raise Cut
                object.__setattr__(self, "left", self.left - 1)
                yield chunk[at : at + 4096]

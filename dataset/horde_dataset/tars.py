"""Reading and cutting the tars of a release: plain USTAR, one sample after another.

A sample is ``<id>.webp``, ``<id>.json`` and ``<id>.txt``, next to each other. Everything streams: a
tar of any size takes the same memory.
"""

import tarfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from horde_dataset.errors import DatasetError, shown

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20
END = bytes(2 * BLOCK)
MAX_MEMBER = 256 * 2**20
"""Most bytes of an image; a description of one has far fewer."""
ENDINGS = ("webp", "json", "txt")


class TarError(DatasetError):
    """A tar is not as a release has it; the message says where."""


class Readable(Protocol):
    """What a tar is read from."""

    def read(self, size: int, /) -> bytes:
        """Return so many bytes, or fewer at the end."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar; ``offset`` is where its bytes begin."""

    name: str
    size: int
    offset: int
    header: bytes

    @property
    def sample(self) -> str:
        """The id of the sample that it belongs to."""
        return self.name.rpartition(".")[0]

    @property
    def ending(self) -> str:
        """What follows the last dot."""
        return self.name.rpartition(".")[2]


class Walk:
    """The members of a tar in order; ``chunks`` yields the bytes of the current one."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._at = 0
        self._left = 0
        """Bytes of the current member that are not read yet, without its filling."""
        self._filling = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield the members. Raises TarError where the tar is damaged."""
        while True:
            for _ in self.chunks():
                pass
            self._take(self._filling)
            header = self._file.read(BLOCK)
            if not header.strip(b"\0"):
                return
            self._at += len(header)
            yield self._member(header)

    def _member(self, header: bytes) -> Member:
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.TarError, ValueError) as error:
            raise TarError(f"no header of a file at byte {self._at - len(header)}") from error
        if not info.isreg() or not 0 <= info.size <= MAX_MEMBER:
            raise TarError(f"{shown(info.name)} is no file, or larger than {MAX_MEMBER} bytes")
        self._left, self._filling = info.size, -info.size % BLOCK
        return Member(info.name, info.size, self._at, header)

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise TarError(f"it ends within a file, at byte {self._at + len(data)}")
        self._at += size
        return data

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the current member that were not read yet."""
        while self._left:
            size = min(self._left, CHUNK)
            self._left -= size
            yield self._take(size)

    def data(self, most: int) -> bytes:
        """Return the current member. Raises TarError where it has more than ``most`` bytes."""
        if self._left > most:
            raise TarError(f"a text at byte {self._at} has more than {most} bytes")
        return b"".join(self.chunks())


def cut(source: Path, target: BinaryIO, removed: AbstractSet[str]) -> dict[str, tuple[int, int]]:
    """Copy a tar without some samples; return offset and size of each image that is left."""
    places: dict[str, tuple[int, int]] = {}
    at = 0
    with source.open("rb") as file:
        walk = Walk(file)
        for member in walk:
            if member.sample in removed:
                continue
            target.write(member.header)
            at += BLOCK
            if member.ending == ENDINGS[0]:
                places[member.sample] = (at, member.size)
            target.writelines(walk.chunks())
            filling = -member.size % BLOCK
            target.write(bytes(filling))
            at += member.size + filling
    target.write(END)
    return places

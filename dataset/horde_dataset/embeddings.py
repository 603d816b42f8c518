"""Running a model on the images of a copy, and remembering what it gave for each.

What it gave lies in a cache, by the SHA-256 of the image, for this model alone. So an interrupted
command goes on from where it was, and a newer release costs its new images.
"""

import hashlib
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from horde_dataset import files, graph, pictures
from horde_dataset.errors import DatasetError, shown
from horde_dataset.pictures import Place

MAGIC = b"horde-1\0"
MAX_DIMENSION = 8192
Vector = NDArray[np.float32]


class Task(NamedTuple):
    """An image of a copy, and the SHA-256 of its file in hexadecimal."""

    place: Place
    sha256: str


class Model:
    """A model that runs: an image goes in, and a row of numbers comes out. On one core or more."""

    def __init__(self, data: bytes, output: str, name: object) -> None:
        """Load a model. Raises DatasetError where it cannot run."""
        self._output, self._name = output, name
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own, of no common class
            raise DatasetError(f"onnxruntime cannot load {shown(name)}: {shown(error)}") from error

    def run(self, picture: NDArray[np.uint8]) -> Vector:
        """Return what it says of an RGB image ``[H, W, 3]``. Raises DatasetError."""
        try:
            (found,) = self.session.run([self._output], {graph.IMAGE: picture[None]})
        except Exception as error:  # the same
            raise DatasetError(f"{shown(self._name)} fails: {shown(error)}") from error
        row: Vector = np.asarray(found, np.float32).reshape(len(found), -1)
        if len(row) != 1 or not 0 < row.shape[1] <= MAX_DIMENSION:
            raise DatasetError(
                f"{shown(self._name)} gives {' x '.join(map(str, np.shape(found)))} for one image, "
                f"not a row of up to {MAX_DIMENSION} numbers"
            )
        first: Vector = row[0]
        return first


class Cache:
    """Rows of numbers by SHA-256, in a file that only grows.

    Each record has a checksum; what a killed command has left half written is cut off.
    """

    def __init__(self, path: Path, key: bytes, dimension: int) -> None:
        """Open or begin one; that of another model is begun anew."""
        self._path, self._dimension = path, dimension
        self._header = MAGIC + hashlib.sha256(key).digest() + struct.pack("<I", dimension)
        self._record = 32 + 4 * dimension + 4
        self.rows: dict[bytes, Vector] = {}
        self._read()
        self._file = path.open("ab", buffering=0)

    def _read(self) -> None:
        files.make_folder(self._path.parent)
        whole = 0
        if self._path.is_file():
            with self._path.open("rb") as file:
                if file.read(len(self._header)) == self._header:
                    whole = len(self._header)
                    while len(record := file.read(self._record)) == self._record:
                        whole += self._record
                        if zlib.crc32(record[:-4]) == struct.unpack("<I", record[-4:])[0]:
                            row = np.frombuffer(record, "<f4", self._dimension, 32)
                            self.rows[record[:32]] = row.astype(np.float32)
        if whole:
            with self._path.open("r+b") as file:
                file.truncate(whole)
        else:
            files.write(self._path, self._header)

    def add(self, sha256: bytes, row: Vector) -> None:
        """Remember a row."""
        record = sha256 + row.astype("<f4").tobytes()
        self._file.write(record + struct.pack("<I", zlib.crc32(record)))
        self.rows[sha256] = row

    def close(self) -> None:
        """Close its file."""
        self._file.close()


def dimension_of(model: Model) -> int:
    """Return how many numbers a model gives. Raises DatasetError."""
    return len(model.run(np.zeros((8, 8, 3), np.uint8)))


def each(
    model: Model,
    cache: Cache,
    folder: Path,
    layout: str,
    tasks: Iterable[Task],
    problems: Counter[str],
    *,
    total: int,
    what: str,
) -> Iterator[tuple[Task, Vector | None]]:
    """Yield what a model gives for each image, in order; None for those counted in ``problems``."""
    for task in tqdm(tasks, total=total, desc=what, unit="image", disable=None):
        digest = _digest(task.sha256)
        known = cache.rows.get(digest)
        if known is None:
            known, problem = _looked_at(model, digest, folder, layout, task.place)
            if problem:
                problems[problem] += 1
            elif known is not None:
                cache.add(digest, known)
        yield task, known


def _digest(sha256: str) -> bytes:
    try:
        return bytes.fromhex(sha256)
    except ValueError:
        return b""


def _looked_at(
    model: Model, digest: bytes, folder: Path, layout: str, place: Place
) -> tuple[Vector | None, str]:
    """Return what a model gives for an image, or why there is nothing."""
    (data,) = pictures.each(folder, layout, [place])
    if data is None:
        return None, "the file is not there"
    if hashlib.sha256(data).digest() != digest:
        return None, "the file is not that of its SHA-256"
    picture: Any = pictures.decoded(data)
    if picture is None:
        return None, "the file does not decode"
    row = model.run(np.asarray(picture, np.uint8))
    return (row, "") if np.isfinite(row).all() else (None, "the model gives no finite numbers")

"""The image files of a copy, one after another, and what they show."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from horde_dataset import files
from horde_dataset.download import ID_PATTERN
from horde_dataset.errors import DatasetError
from horde_dataset.manifest import IMAGES, Manifest, safe
from horde_dataset.tars import MAX_MEMBER

MAX_PIXELS = 2**25
"""Most pixels of an image that is decoded; 5792 by 5792."""
FORMATS = ("WEBP", "PNG", "JPEG")
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for a file that it cannot draw."""


class Place(NamedTuple):
    """Where a copy has an image: by its id, or by its bytes in a tar."""

    image: str
    shard: str
    offset: int
    size: int


PLACE = (
    "coalesce(id::VARCHAR, ''), coalesce(shard::VARCHAR, ''), "
    'coalesce(try_cast("offset" AS BIGINT), -1), coalesce(try_cast(size AS BIGINT), 0)'
)
"""The SQL of a place in metadata.parquet, whatever lies there."""


def opened(folder: Path) -> Manifest:
    """Return the manifest of a copy that has images and their table. Raises DatasetError."""
    copy = files.read_manifest(folder)
    if not (folder / "metadata.parquet").is_file():
        raise DatasetError(f"{folder} has no metadata.parquet")
    if copy.layout != IMAGES and not copy.parts("images"):
        raise DatasetError(f"{folder} has the metadata alone, and no images")
    return copy


def each(folder: Path, layout: str, places: Iterable[Place]) -> Iterator[bytes | None]:
    """Yield the bytes of each image; None for one that is not there."""
    for image, shard, offset, size in places:
        if layout == IMAGES:
            path, start = folder / "images" / f"{image}.webp", 0
            fits = bool(ID_PATTERN.fullmatch(image))
        else:
            path, start = folder / shard, offset
            fits = safe(shard)
        if not fits or not 0 < size <= MAX_MEMBER or offset < 0 or not path.is_file():
            yield None
            continue
        with path.open("rb") as file:
            file.seek(start)
            yield file.read(size)


def decoded(data: bytes) -> Image.Image | None:
    """Return an image as RGB; None for what is no image, or one of more than MAX_PIXELS."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            return image.convert("RGB")
    except BROKEN:
        return None

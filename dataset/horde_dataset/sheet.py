"""A picture of many images, evenly sampled from a copy."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from horde_dataset import files, tables
from horde_dataset.download import ID_PATTERN
from horde_dataset.errors import DatasetError
from horde_dataset.manifest import IMAGES, safe
from horde_dataset.tars import MAX_MEMBER

TILE = 160
"""Pixels of a tile's sides."""
GAP = 6
MAX_TILES = 2500
PAPER, LACKING = "#ffffff", "#d9d9d9"
ENDINGS = {".png", ".webp", ".jpg", ".jpeg"}


def sampled(folder: Path, number: int) -> list[tuple[str, str, int, int]]:
    """Return id, tar, offset and size of evenly sampled images, oldest first."""
    table = folder / "metadata.parquet"
    if not table.is_file():
        raise DatasetError(f"{folder} has no metadata.parquet")
    with tables.connected() as connection:
        query = (
            "SELECT coalesce(id::VARCHAR, ''), coalesce(shard::VARCHAR, ''), "  # noqa: S608
            'coalesce(try_cast("offset" AS BIGINT), -1), coalesce(try_cast(size AS BIGINT), 0) '
            "FROM (SELECT *, "
            'row_number() OVER (ORDER BY shard, "offset") - 1 AS place, count(*) OVER () AS total '
            f"FROM {tables.rows(table)}) WHERE total <= ? OR "
            "(place + 1) * ? // total > place * ? // total ORDER BY place"
        )
        return connection.execute(query, [number] * 3).fetchall()


def contact_sheet(folder: Path, target: Path, number: int) -> int:
    """Draw so many images, or all where there are fewer; return how many. Raises DatasetError."""
    if target.suffix.lower() not in ENDINGS:
        raise DatasetError(f"{target} ends with none of {', '.join(sorted(ENDINGS))}")
    if not target.parent.is_dir():
        raise DatasetError(f"there is no folder {target.parent}")
    copy = files.read_manifest(folder)
    if copy.layout != IMAGES and not copy.parts("images"):
        raise DatasetError(f"{folder} has the metadata alone, and no images")
    chosen = sampled(folder, number)
    if not chosen:
        raise DatasetError(f"{folder} has no images")
    columns = math.ceil(math.sqrt(len(chosen) * 1.5))
    height = math.ceil(len(chosen) / columns)
    step = TILE + GAP
    sheet = Image.new("RGB", (columns * step + GAP, height * step + GAP), PAPER)
    bar = tqdm(chosen, desc="contact-sheet", unit="image", disable=None)
    for at, data in enumerate(_each(folder, copy.layout, bar)):
        place = (GAP + at % columns * step, GAP + at // columns * step)
        _draw(sheet, place, data)
    sheet.save(target)
    return len(chosen)


def _each(
    folder: Path, layout: str, chosen: "tqdm[tuple[str, str, int, int]]"
) -> Iterator[bytes | None]:
    """Yield the bytes of each image; None for one that is not there."""
    for image, shard, offset, size in chosen:
        if layout == IMAGES:
            path, offset = folder / "images" / f"{image}.webp", 0  # noqa: PLW2901
            fits = bool(ID_PATTERN.fullmatch(image))
        else:
            path, fits = folder / shard, safe(shard)
        if not fits or not 0 < size <= MAX_MEMBER or offset < 0 or not path.is_file():
            yield None
            continue
        with path.open("rb") as file:
            file.seek(offset)
            yield file.read(size)


def _draw(sheet: Image.Image, place: tuple[int, int], data: bytes | None) -> None:
    """Put an image in the middle of its tile; a grey tile where there is none."""
    x, y = place
    try:
        with Image.open(io.BytesIO(data or b""), formats=["WEBP", "PNG", "JPEG"]) as image:
            image.thumbnail((2 * TILE, 2 * TILE))
            tile = ImageOps.contain(image.convert("RGB"), (TILE, TILE))
            sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        ImageDraw.Draw(sheet).rectangle((x, y, x + TILE - 1, y + TILE - 1), fill=LACKING)

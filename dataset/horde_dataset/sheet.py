"""A picture of many images, evenly sampled from a copy."""

import io
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from horde_dataset import pictures, tables
from horde_dataset.errors import DatasetError
from horde_dataset.pictures import PLACE, Place

TILE = 160
"""Pixels of a tile's sides."""
GAP = 6
MAX_TILES = 2500
PAPER, LACKING = "#ffffff", "#d9d9d9"
ENDINGS = {".png", ".webp", ".jpg", ".jpeg"}


def sampled(folder: Path, number: int) -> list[Place]:
    """Return id, tar, offset and size of evenly sampled images, oldest first."""
    table = folder / "metadata.parquet"
    if not table.is_file():
        raise DatasetError(f"{folder} has no metadata.parquet")
    with tables.connected() as connection:
        query = (
            f"SELECT {PLACE} FROM (SELECT *, "  # noqa: S608
            'row_number() OVER (ORDER BY shard, "offset") - 1 AS place, count(*) OVER () AS total '
            f"FROM {tables.rows(table)}) WHERE total <= ? OR "
            "(place + 1) * ? // total > place * ? // total ORDER BY place"
        )
        found = connection.execute(query, [number] * 3).fetchall()
    return [Place(*row) for row in found]


def contact_sheet(folder: Path, target: Path, number: int) -> int:
    """Draw so many images, or all where there are fewer; return how many. Raises DatasetError."""
    if target.suffix.lower() not in ENDINGS:
        raise DatasetError(f"{target} ends with none of {', '.join(sorted(ENDINGS))}")
    if not target.parent.is_dir():
        raise DatasetError(f"there is no folder {target.parent}")
    copy = pictures.opened(folder)
    chosen = sampled(folder, number)
    if not chosen:
        raise DatasetError(f"{folder} has no images")
    columns = math.ceil(math.sqrt(len(chosen) * 1.5))
    height = math.ceil(len(chosen) / columns)
    step = TILE + GAP
    sheet = Image.new("RGB", (columns * step + GAP, height * step + GAP), PAPER)
    bar = tqdm(chosen, desc="contact-sheet", unit="image", disable=None)
    for at, data in enumerate(pictures.each(folder, copy.layout, bar)):
        place = (GAP + at % columns * step, GAP + at // columns * step)
        _draw(sheet, place, data)
    sheet.save(target)
    return len(chosen)


def _draw(sheet: Image.Image, place: tuple[int, int], data: bytes | None) -> None:
    """Put an image in the middle of its tile; a grey tile where there is none."""
    x, y = place
    try:
        with Image.open(io.BytesIO(data or b""), formats=pictures.FORMATS) as image:
            image.thumbnail((2 * TILE, 2 * TILE))
            tile = ImageOps.contain(image.convert("RGB"), (TILE, TILE))
            sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
    except pictures.BROKEN:
        ImageDraw.Draw(sheet).rectangle((x, y, x + TILE - 1, y + TILE - 1), fill=LACKING)

"""What a release has of ratings: two tables without identities, by rating and by image."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from horde.rating_rows import Means, ratings
from horde.release import tables
from horde.store import Store

RATINGS, IMAGES = "ratings/ratings.parquet", "ratings/images.parquet"
OF_RATINGS = {
    "id": "VARCHAR",
    "rater": "VARCHAR",
    "rating": "INTEGER",
    "artifacts": "INTEGER",
    "own": "BOOLEAN",
    "proven": "BOOLEAN",
    "rated_on": "VARCHAR",
}
OF_IMAGES = {
    "id": "VARCHAR",
    "ratings_count": "INTEGER",
    "rating": "DOUBLE",
    "artifacts_count": "INTEGER",
    "artifacts": "DOUBLE",
}
"""The columns of both (``horde.rating_rows``)."""


def written(store: Store, secret: bytes, folder: Path) -> dict[str, tuple[Path, int]]:
    """Write both tables into a folder; returns their files and numbers of rows by path.

    Both are empty as long as no image has enough ratings.
    """
    means, lines = Means(), folder / "ratings.jsonl"
    count = 0
    with lines.open("w", encoding="utf-8") as file:
        for page in ratings(store, secret):
            count += _write(file, page)
            for row in page:
                means.add(row)
    images = folder / "images.jsonl"
    with images.open("w", encoding="utf-8") as file:
        of_images = _write(file, means.rows())
    found = {}
    for path, source, columns, rows in (
        (RATINGS, lines, OF_RATINGS, count),
        (IMAGES, images, OF_IMAGES, of_images),
    ):
        table = source.with_suffix(".parquet")
        tables.typed(source, table, columns)
        found[path] = (table, rows)
    return found


def _write(file: Any, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for row in rows:
        file.write(json.dumps(row) + "\n")
        count += 1
    return count

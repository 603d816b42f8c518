"""The ratings of a release: which of them count, and what they say of each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from horde_dataset import tables
from horde_dataset.errors import DatasetError, shown
from horde_dataset.manifest import Manifest

LOWEST, HIGHEST = 1, 10


@dataclass(frozen=True, slots=True)
class Rated:
    """What people said of an image."""

    image: str
    number: int
    """How many ratings it has."""
    mean: float
    spread: float | None
    """Sum of the squared distances from the mean; None where single ratings are not known."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """The rated images, by their ids, and how many ratings or images were left out, and why."""

    images: list[Rated]
    left_out: dict[str, int]
    ratings: int
    """How many ratings the images have together."""


def read(folder: Path, copy: Manifest, more: Sequence[Path], *, least: int, own: bool) -> Ratings:
    """Return the ratings of a copy, and those of ``more`` tables. Raises DatasetError.

    ``least`` is how many ratings an image needs. Ratings by an image's own author count with
    ``own`` alone. A table of single ratings is preferred to one of means.
    """
    paths = [
        folder / entry.path
        for entry in copy.files
        if entry.path.startswith("ratings/") and entry.path.endswith(".parquet")
    ]
    paths = [*paths, *more]
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"there is no table {shown(path)}")
    if not paths:
        raise DatasetError(f"{folder} has no ratings (--ratings FILE names a table of them)")
    with tables.connected() as connection:
        single, means = _sorted(connection, paths)
        if single:
            _take_single(connection, single, own=own)
        else:
            _take_means(connection, means)
        return _summed(connection, folder, least)


def _sorted(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]
) -> tuple[dict[Path, set[str]], dict[Path, set[str]]]:
    """Return the tables of single ratings and those of means, with their columns."""
    single: dict[Path, set[str]] = {}
    means: dict[Path, set[str]] = {}
    for path in paths:
        found = connection.execute(f"DESCRIBE FROM {tables.rows(path)}").fetchall()
        columns = {str(row[0]) for row in found}
        if not {"id", "rating"} <= columns:
            raise DatasetError(f"{shown(path)} is no table of ratings: it has no id and rating")
        (means if "ratings_count" in columns else single)[path] = columns
    return single, means


def _take_single(
    connection: duckdb.DuckDBPyConnection, found: dict[Path, set[str]], *, own: bool
) -> None:
    """Make the table ``given``: id, rating, number, spread, and why a row does not count."""
    parts = []
    for path, columns in found.items():
        texts = {name: f"{name}::VARCHAR" if name in columns else "NULL" for name in _TEXTS}
        is_own = "coalesce(try_cast(own AS BOOLEAN), false)" if "own" in columns else "false"
        parts.append(
            f"SELECT id::VARCHAR AS id, try_cast(rating AS DOUBLE) AS rating, "  # noqa: S608
            f"coalesce({texts['rater']}, '') AS rater, coalesce({texts['rated_on']}, '') AS day, "
            f"{is_own} AS own FROM {tables.rows(path)}"
        )
    own_rule = "false" if own else "own"
    connection.execute(
        f"CREATE TEMP TABLE given AS SELECT id, rating, 1 AS number, CASE "  # noqa: S608
        f"WHEN NOT coalesce(rating BETWEEN {LOWEST} AND {HIGHEST}, false) THEN '{NO_RATING}' "
        f"WHEN {own_rule} THEN '{OWN}' "
        f"WHEN (rater <> '' OR own) AND row_number() OVER "
        f"(PARTITION BY id, rater, own ORDER BY coalesce(rating BETWEEN {LOWEST} AND {HIGHEST}, "
        f"false) DESC, day DESC, rating) > 1 THEN '{TWICE}' ELSE '' END AS why "
        f"FROM ({' UNION ALL '.join(parts)})"
    )


_TEXTS = ("rater", "rated_on")
NO_RATING = "ratings that are no number from 1 to 10"
OWN = "ratings by authors of their own images"
TWICE = "ratings that are there twice"
UNKNOWN = "ratings of images that are not in the copy"
FEW = "images with fewer than {least} ratings"


def _take_means(connection: duckdb.DuckDBPyConnection, found: dict[Path, set[str]]) -> None:
    """Make it of tables of means; of several of an image, that of the most ratings counts."""
    parts = " UNION ALL ".join(
        f"SELECT id::VARCHAR AS id, try_cast(rating AS DOUBLE) AS rating, "  # noqa: S608
        f"coalesce(try_cast(ratings_count AS BIGINT), 0) AS number FROM {tables.rows(path)}"
        for path in found
    )
    connection.execute(
        f"CREATE TEMP TABLE given AS SELECT id, rating, number, CASE "  # noqa: S608
        f"WHEN NOT coalesce(rating BETWEEN {LOWEST} AND {HIGHEST}, false) OR number < 1 "
        f"THEN '{NO_RATING}' "
        f"WHEN row_number() OVER (PARTITION BY id ORDER BY coalesce(rating BETWEEN {LOWEST} "
        f"AND {HIGHEST}, false) DESC, number DESC, rating) > 1 THEN '{TWICE}' ELSE '' END AS why "
        f"FROM ({parts})"
    )
    connection.execute("ALTER TABLE given ADD COLUMN mean BOOLEAN DEFAULT true")


def _summed(connection: duckdb.DuckDBPyConnection, folder: Path, least: int) -> Ratings:
    known = f"(SELECT id::VARCHAR FROM {tables.rows(folder / 'metadata.parquet')})"  # noqa: S608
    connection.execute(
        f"UPDATE given SET why = '{UNKNOWN}' "  # noqa: S608
        f"WHERE why = '' AND (id IS NULL OR id NOT IN {known})"
    )
    counted = connection.execute(
        "SELECT why, count(*) FROM given WHERE why <> '' GROUP BY why ORDER BY why"
    ).fetchall()
    columns = {str(row[0]) for row in connection.execute("DESCRIBE given").fetchall()}
    spread = "NULL" if "mean" in columns else "var_pop(rating) * count(*)"
    found = connection.execute(
        f"SELECT id, sum(number)::BIGINT, sum(rating * number) / sum(number), {spread} "  # noqa: S608
        "FROM given WHERE why = '' GROUP BY id ORDER BY id"
    ).fetchall()
    images = [Rated(*row) for row in found if row[1] >= least]
    left_out = {str(why): int(number) for why, number in counted}
    if len(images) < len(found):
        left_out[FEW.format(least=least)] = len(found) - len(images)
    return Ratings(images, left_out, sum(one.number for one in images))

"""What is in a copy: numbers to print, and plots."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from horde_dataset import files, tables
from horde_dataset.errors import DatasetError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = 15
"""Most models and sizes in a plot."""
Rows = list[tuple[Any, ...]]


class Numbers:
    """Counts from a copy's tables. Sizes are in pixels, lengths in characters."""

    def __init__(self, folder: Path) -> None:
        """Open a copy. Raises DatasetError."""
        self.manifest = files.read_manifest(folder)
        self.table = folder / "metadata.parquet"
        if not self.table.is_file():
            raise DatasetError(f"{folder} has no metadata.parquet")
        ratings = [entry.path for entry in self.manifest.files if entry.path.startswith("ratings/")]
        self.rating_files = [folder / path for path in ratings if path.endswith(".parquet")]
        self.columns = self._columns([self.table])
        self.rating_columns = self._columns(self.rating_files) if self.rating_files else set()

    def _columns(self, paths: list[Path]) -> set[str]:
        return {str(row[0]) for row in self._ask("DESCRIBE FROM {rows}", paths)}

    def _ask(self, query: str, paths: list[Path] | None = None) -> Rows:
        with tables.connected() as connection:
            return _all(connection, query.format(rows=tables.rows(*(paths or [self.table]))))

    def days(self) -> Rows:
        """Return each day and its number of images."""
        return self._ask("SELECT created_on, count(*) FROM {rows} GROUP BY 1 ORDER BY 1")

    def prompt_lengths(self) -> Rows:
        """Return each length of a prompt and its number."""
        return self._ask("SELECT length(prompt), count(*) FROM {rows} GROUP BY 1 ORDER BY 1")

    def models(self) -> Rows:
        """Return each model and its number of images, most first."""
        return self._ask("SELECT model, count(*) FROM {rows} GROUP BY 1 ORDER BY 2 DESC, 1")

    def sizes(self) -> Rows:
        """Return width, height and number of images, most first."""
        return self._ask(
            "SELECT width, height, count(*) FROM {rows} GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        )

    def scores(self, column: str) -> Rows:
        """Return a score, rounded to hundredths, and its number; scores that are null are out."""
        if column not in self.columns:
            return []
        return self._ask(
            f"SELECT round({column}, 2), count(*) FROM {{rows}} "  # noqa: S608 - named here
            f"WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1"
        )

    def ratings(self) -> Rows:
        """Return each rating and its number; none without such a table."""
        if "rating" not in self.rating_columns:
            return []
        query = "SELECT CAST(rating AS DOUBLE), count(*) FROM {rows} GROUP BY 1 ORDER BY 1"
        return self._ask(query, self.rating_files)

    def summary(self) -> str:
        """Return what there is, in lines."""
        query = (
            "SELECT count(*), min(created_on), max(created_on), coalesce(sum(bytes), 0), "
            "count(DISTINCT nullif(user_hash, '')), count(DISTINCT model), "
            "median(length(prompt)), count(DISTINCT prompt), "
            "count(*) FILTER (nsfw_requested), count(*) FILTER (user_type = 'anon') FROM {rows}"
        )
        row = self._ask(query)[0]
        count = int(row[0])
        lines = [
            ("release", self.manifest.release),
            ("images", f"{count:,}"),
            ("days", f"{shown(row[1])} to {shown(row[2])}" if count else "none"),
            ("image bytes", f"{row[3] / 1e6:,.1f} MB"),
            ("users", f"{row[4]:,} pseudonyms; {row[9]:,} images by anonymous users"),
            ("prompts", f"{row[7]:,} different; half have up to {row[6] or 0:.0f} characters"),
            ("nsfw asked for", f"{row[8]:,} images"),
            ("models", f"{row[5]:,}"),
        ]
        lines += [(f"  {shown(model)}", f"{number:,}") for model, number in self.models()[:TOP]]
        if found := self.ratings():
            lines.append(("ratings", f"{sum(number for _, number in found):,}"))
        wide = max(len(name) for name, _ in lines) + 2
        return "\n".join(f"{name:<{wide}}{value}" for name, value in lines)


def _all(connection: duckdb.DuckDBPyConnection, query: str) -> Rows:
    return connection.execute(query).fetchall()


def stats(folder: Path, target: Path) -> tuple[str, list[Path]]:
    """Draw the plots into a folder; return the summary and the plots. Raises DatasetError."""
    numbers = Numbers(folder)
    if not numbers.days():
        raise DatasetError(f"{folder} has no images")
    from horde_dataset import plots  # noqa: PLC0415 - matplotlib takes half a second

    files.make_folder(target)
    drawn = []
    to_draw: list[tuple[str, Callable[[Path, Rows], None], Rows]] = [
        ("images-per-day.png", plots.days, numbers.days()),
        ("prompt-lengths.png", plots.prompt_lengths, numbers.prompt_lengths()),
        ("models.png", plots.models, numbers.models()),
        ("sizes.png", plots.sizes, numbers.sizes()),
        ("nsfw-scores.png", plots.nsfw_scores, numbers.scores("nsfw_score")),
        ("aesthetic-scores.png", plots.aesthetic_scores, numbers.scores("aesthetic_score")),
        ("ratings.png", plots.ratings, numbers.ratings()),
    ]
    for name, draw, rows in to_draw:
        if rows:
            try:
                draw(target / name, rows)
            except (ValueError, TypeError, OverflowError) as error:
                raise DatasetError(f"{name} cannot be drawn: {shown(error)}") from error
            drawn.append(target / name)
    return numbers.summary(), drawn

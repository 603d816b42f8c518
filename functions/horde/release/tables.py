"""Tables of a release as parquet files, by DuckDB, within the temporary folder."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from horde.rules.columns import COLUMNS, DEFAULTS, SCORES, Column

KIND = "application/vnd.apache.parquet"
"""The content type of a table."""
MEMORY = "256MB"
BATCH = 10_000
REMOVED = {"id": "VARCHAR", "removed_on": "VARCHAR", "reason": "VARCHAR"}
"""The columns of tombstones."""


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return the process's database, which is opened once: 27 ms. It has no file and no tables.

    It loads no extension.
    """
    folder = tempfile.gettempdir()
    options: dict[str, Any] = {
        "memory_limit": MEMORY,
        "threads": 2,
        "temp_directory": folder,
        "home_directory": folder,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "preserve_insertion_order": True,
    }
    return duckdb.connect(config=options)


def _cursor() -> duckdb.DuckDBPyConnection:
    """Return a connection of its own to that database: threads may each have one."""
    return _database().cursor()


def _types(columns: Sequence[Column]) -> str:
    pairs = ", ".join(f"'{one.name}': '{one.type}'" for one in columns)
    return f"{{{pairs}}}"


def _quoted(path: Path | str) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def from_lines(lines: Path, table: Path, columns: Sequence[Column] = COLUMNS) -> None:
    """Write a parquet file of rows that are lines of JSON."""
    names = ", ".join(f'"{one.name}"' for one in columns)
    source = f"read_json({_quoted(lines)}, format='newline_delimited', columns={_types(columns)})"
    with _cursor() as database:
        _copy(database, f"SELECT {names} FROM {source}", table)  # noqa: S608 - own names


def combined(tables: Sequence[Path], table: Path) -> None:
    """Write one parquet file of the rows of several, in their order.

    Those of before there was a column have its default.
    """
    empty = ", ".join(f'CAST(NULL AS {one.type}) AS "{one.name}"' for one in COLUMNS)
    query = f"SELECT {empty} WHERE false"
    if tables:
        listed = ", ".join(map(_quoted, tables))
        source = f"read_parquet([{listed}], hive_partitioning=false, union_by_name=true)"
        names = ", ".join(map(_with_default, COLUMNS))
        query = f"SELECT {names} FROM (FROM {source} UNION ALL BY NAME ({query}))"  # noqa: S608
    with _cursor() as database:
        _copy(database, query, table)


def _with_default(column: Column) -> str:
    default = DEFAULTS.get(column.name)
    name = f'"{column.name}"'
    return name if default is None else f"coalesce({name}, {_quoted(default)}) AS {name}"


def scores(table: Path) -> dict[str, dict[str, Any]]:
    """Return the scores of a part's images by id; empty for a part of before there were any."""
    with _cursor() as database:
        source = f"read_parquet({_quoted(table)}, hive_partitioning=false)"
        there = [one[0] for one in database.execute(f"DESCRIBE FROM {source}").fetchall()]
        names = [column.name for column in SCORES if column.name in there]
        found = database.execute(f"SELECT {', '.join(['id', *names])} FROM {source}").fetchall()  # noqa: S608
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in found}


def removed(rows: Iterable[Mapping[str, str]], table: Path) -> None:
    """Write a table of tombstones."""
    lines = table.with_suffix(".jsonl")
    lines.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows))
    typed(lines, table, REMOVED)


def typed(lines: Path, table: Path, columns: Mapping[str, str]) -> None:
    """Write a parquet file of lines of JSON, with DuckDB's types of its columns by their names."""
    types = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
    source = f"read_json({_quoted(lines)}, format='newline_delimited', columns={{{types}}})"
    with _cursor() as database:
        _copy(database, f"SELECT {', '.join(columns)} FROM {source}", table)  # noqa: S608


def _copy(database: duckdb.DuckDBPyConnection, query: str, table: Path) -> None:
    options = "FORMAT parquet, COMPRESSION zstd"
    database.execute(f"COPY ({query}) TO {_quoted(table)} ({options})")


def ids(table: Path) -> list[str]:
    """Return the ids of a table's images."""
    with _cursor() as database:
        source = f"read_parquet({_quoted(table)}, hive_partitioning=false)"
        found = database.execute(f"SELECT id FROM {source}").fetchall()  # noqa: S608
    return [str(row[0]) for row in found]


def every_row(table: Path) -> Iterator[dict[str, Any]]:
    """Yield all rows of a table, in its order, some thousands in memory at once."""
    with _cursor() as database:
        source = f"read_parquet({_quoted(table)}, hive_partitioning=false)"
        cursor = database.execute(f"SELECT * FROM {source}")  # noqa: S608
        names = [one[0] for one in cursor.description or ()]
        while some := cursor.fetchmany(BATCH):
            for row in some:
                yield dict(zip(names, row, strict=True))


def rows(table: Path, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return some rows of a table, by their numbers from 0, in the table's order.

    A row of a table of before a column has it not.
    """
    if not numbers:
        return []
    with _cursor() as database:
        source = f"read_parquet({_quoted(table)}, hive_partitioning=false, file_row_number=true)"
        among = ", ".join(map(str, numbers))
        cursor = database.execute(
            f"SELECT * EXCLUDE file_row_number FROM {source} "  # noqa: S608
            f"WHERE file_row_number IN ({among}) ORDER BY file_row_number"
        )
        names = [one[0] for one in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def statistics(table: Path) -> dict[str, Any]:
    """Return what the card says of all rows: counts by day, model, consent and size."""
    with _cursor() as database:
        source = f"read_parquet({_quoted(table)}, hive_partitioning=false)"

        def counts(what: str, order: str, most: int) -> list[tuple[str, int]]:
            query = (
                f"SELECT {what} AS name, count(*) AS images FROM {source} "  # noqa: S608
                f"GROUP BY name ORDER BY {order}, name LIMIT {most}"
            )
            return [(str(name), int(images)) for name, images in database.execute(query).fetchall()]

        one = database.execute(
            f"SELECT count(*), min(created_on), max(created_on), median(length(prompt)), "  # noqa: S608
            f"median(nsfw_score), sum(bytes) FROM {source}"
        ).fetchone()
        images, first, last, prompt, score, size = one or (0, None, None, None, None, None)
        return {
            "images": int(images),
            "first": first,
            "last": last,
            "prompt_length": prompt,
            "nsfw_score": score,
            "bytes": int(size or 0),
            "models": counts("model", "images DESC", 20),
            "consent": counts("consent", "images DESC", 5),
            "sizes": counts("width || ' x ' || height", "images DESC", 10),
            "drawn_by": counts("drawn_by", "images DESC", 5),
        }


def of_authors(parts: Sequence[Path], sets: Iterable[str], authors: Iterable[str]) -> list[str]:
    """Return the ids of the rows with one of these hashes of requests or of accounts.

    With any account's hash, also those of accounts whose rows have none, since they are early.
    """
    sets, authors = list(sets), list(authors)
    if not parts or not (sets or authors):
        return []
    source = f"read_parquet([{', '.join(map(_quoted, parts))}], hive_partitioning=false)"
    early = "user_hash = '' AND user_type <> 'anon'"
    listed = "(SELECT unnest(?::VARCHAR[]))"
    which = f'"set" IN {listed} OR user_hash IN {listed} OR ({early} AND ?)'
    query = f"SELECT id FROM {source} WHERE {which}"  # noqa: S608 - own names
    with _cursor() as database:
        found = database.execute(query, [sets, authors, bool(authors)]).fetchall()
    return [str(row[0]) for row in found]

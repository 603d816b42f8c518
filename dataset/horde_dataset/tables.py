"""The parquet files of a release, by DuckDB."""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from horde_dataset.errors import DatasetError, shown
from horde_dataset.files import finish, make_folder, unfinished

BATCH = 1000


def _database() -> duckdb.DuckDBPyConnection:
    """Make a database in memory, which loads no extensions and keeps nothing of a file."""
    return duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "enable_external_file_cache": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
        }
    )


@functools.cache
def _shared() -> duckdb.DuckDBPyConnection:
    """Return the database of all that we ask ourselves: making one takes long."""
    return _database()


@contextmanager
def connected(*, alone: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to a database; ``alone``: to a new one, for a query from outside.

    Tables are temporary, so that connections do not meet. Raises DatasetError.
    """
    connection = _database() if alone else _shared().cursor()
    try:
        yield connection
    except duckdb.Error as error:
        first = next(iter(str(error).splitlines()), "")
        raise DatasetError(f"DuckDB: {shown(first)}") from error
    finally:
        connection.close()


def quoted(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def pattern(path: Path) -> str:
    """Return a path as DuckDB's functions want it, which take it for a pattern otherwise."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))


def rows(*paths: Path) -> str:
    """Return the SQL of all rows of parquet files, one file after another."""
    listed = ", ".join(quoted(pattern(path)) for path in paths)
    return f"read_parquet([{listed}], hive_partitioning=false, union_by_name=true)"


def write(connection: duckdb.DuckDBPyConnection, query: str, target: Path) -> None:
    """Write what a query finds to a parquet file, whole or not at all."""
    make_folder(target.parent)
    place = quoted(str(unfinished(target).absolute()))
    options = "FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false"
    connection.execute(f"COPY ({query}) TO {place} ({options})")
    finish(target)


def count(path: Path) -> int:
    """Return the number of a parquet file's rows. Raises DatasetError."""
    with connected() as connection:
        found = connection.execute(f"SELECT count(*) FROM {rows(path)}").fetchone()  # noqa: S608
    return int(found[0]) if found else 0


def column(paths: Sequence[Path], name: str) -> Iterator[Any]:
    """Yield one column of parquet files. Raises DatasetError."""
    if not paths:
        return
    with connected() as connection:
        found = connection.execute(f'SELECT "{name}" FROM {rows(*paths)}')  # noqa: S608
        while batch := found.fetchmany(BATCH):
            yield from (row[0] for row in batch)


def removed_ids(paths: Sequence[Path]) -> set[str]:
    """Return the ids of all tombstones."""
    return {str(each) for each in column(paths, "id")}


# --- a query from the command line ---------------------------------------------------------------


def check_expression(where: str) -> None:
    """Raise DatasetError unless a text is one expression of SQL."""
    refused = DatasetError(f"--where is not one SQL expression: {shown(where)}")
    if not where.strip():
        raise refused
    with connected() as connection:
        text = f"SELECT (\n{where}\n)"
        found = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchone()
    parsed: dict[str, Any] = json.loads(found[0]) if found else {"error": True}
    if parsed.get("error"):
        raise DatasetError(f"--where: {shown(parsed.get('error_message', 'not understood'))}")
    statements = parsed["statements"]
    node = statements[0]["node"]
    plain = (
        len(statements) == 1
        and node["type"] == "SELECT_NODE"
        and not node["modifiers"]
        and not node["cte_map"]["map"]
        and len(node["select_list"]) == 1
        and node["select_list"][0]["class"] != "STAR"
        and node["from_table"]["type"] == "EMPTY"
        and not any(node[part] for part in ("where_clause", "group_expressions", "having"))
        and not any(node[part] for part in ("qualify", "sample"))
    )
    if not plain:
        raise refused


def hits(path: Path, where: str) -> list[str]:
    """Return the ids of the rows that an expression of SQL chooses.

    It comes from anywhere: it is one expression, and DuckDB may open no other file meanwhile, and
    write none. Raises DatasetError.
    """
    check_expression(where)
    allowed = f"{quoted(pattern(path))}, {quoted(str(path.absolute()))}"
    with connected(alone=True) as connection:
        connection.execute(f"CREATE VIEW release AS SELECT * FROM {rows(path)}")  # noqa: S608
        connection.execute(f"SET allowed_paths=[{allowed}]")
        connection.execute("SET enable_external_access=false")
        connection.execute("SET lock_configuration=true")
        query = f"SELECT id FROM release WHERE (\n{where}\n)"  # noqa: S608 - one expression
        return [str(row[0]) for row in connection.execute(query).fetchall()]


def select(
    path: Path, ids: Sequence[str] | AbstractSet[str], columns: str
) -> Iterator[tuple[Any, ...]]:
    """Yield columns of the rows with some ids, in the order of the tars."""
    with connected() as connection:
        keep_ids(connection, ids)
        query = (
            f"SELECT {columns} FROM {rows(path)} WHERE id IN (FROM chosen) "  # noqa: S608
            'ORDER BY shard, "offset"'
        )
        found = connection.execute(query)
        while batch := found.fetchmany(BATCH):
            yield from batch


def keep_ids(connection: duckdb.DuckDBPyConnection, ids: Sequence[str] | AbstractSet[str]) -> None:
    """Make the table ``chosen`` of ids."""
    connection.execute("CREATE TEMP TABLE chosen AS SELECT unnest(?::VARCHAR[]) AS id", [list(ids)])


# --- new tables from old ones --------------------------------------------------------------------


def join(parts: Sequence[Path], target: Path) -> None:
    """Write the rows of all parts to one file."""
    with connected() as connection:
        write(connection, f"SELECT * FROM {rows(*parts)}", target)  # noqa: S608


def keep(path: Path, target: Path, ids: Sequence[str]) -> None:
    """Write the rows with some ids."""
    with connected() as connection:
        keep_ids(connection, ids)
        write(connection, f"SELECT * FROM {rows(path)} WHERE id IN (FROM chosen)", target)  # noqa: S608


def drop(path: Path, target: Path, ids: AbstractSet[str]) -> None:
    """Write the rows without some ids."""
    with connected() as connection:
        keep_ids(connection, ids)
        query = f"SELECT * FROM {rows(path)} WHERE id NOT IN (FROM chosen)"  # noqa: S608
        write(connection, query, target)


def move(path: Path, target: Path, shard: str, places: Mapping[str, tuple[int, int]]) -> int:
    """Write the rows of the images that a rewritten tar has, with their places there.

    Returns the number of rows.
    """
    with connected() as connection:
        connection.execute(
            "CREATE TEMP TABLE places AS SELECT unnest(?::VARCHAR[]) AS id, "
            'unnest(?::BIGINT[]) AS "offset"',
            [list(places), [offset for offset, _ in places.values()]],
        )
        query = (
            f'SELECT old.* REPLACE (places."offset" AS "offset", {quoted(shard)} AS shard) '  # noqa: S608
            f'FROM {rows(path)} old JOIN places USING (id) ORDER BY places."offset"'
        )
        write(connection, query, target)
    return count(target)

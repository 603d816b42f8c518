"""Tables of a release: what is written is read, whatever a prompt holds."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from horde.release import tables
from horde.rules.columns import COLUMNS, Type

VALUES: dict[Type, Any] = {
    Type.TEXT: "x",
    Type.INT: -1,
    Type.LONG: 2**63 - 1,
    Type.FLOAT: 7.0,
    Type.BOOL: True,
}


def written(folder: Path, *changes: dict[str, Any], name: str = "rows") -> Path:
    lines, table = folder / f"{name}.jsonl", folder / f"{name}.parquet"
    row = {column.name: VALUES[column.type] for column in COLUMNS}
    lines.write_text(
        "".join(json.dumps({**row, **one}, ensure_ascii=False) + "\n" for one in changes), "utf-8"
    )
    tables.from_lines(lines, table)
    return table


@pytest.mark.parametrize(
    "prompt",
    [
        *("", "NULL", "null", "2026-01-01", "1e309", "[]", '{"a": 1}', "\ufeffbom"),
        *("'\"\\\n\r\t\u2028", "a\0b", "\x1b[31m", "😀", "x" * 100_000),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_a_prompt_is_read_as_it_was_sent(tmp_path: Path, prompt: str) -> None:
    (row,) = tables.rows(written(tmp_path, {"prompt": prompt}), [0])
    assert row["prompt"] == prompt
    assert row["seed"] == 2**63 - 1


def test_the_columns_have_their_types_and_none_is_null(tmp_path: Path) -> None:
    table = written(tmp_path, {})
    found = duckdb.execute(f"DESCRIBE SELECT * FROM read_parquet('{table}')").fetchall()
    assert [(name, kind) for name, kind, *_ in found] == [
        (column.name, column.type.value) for column in COLUMNS
    ]


def test_some_rows_are_found_by_their_numbers(tmp_path: Path) -> None:
    table = written(tmp_path, *({"id": str(number)} for number in range(9)))
    assert [row["id"] for row in tables.rows(table, [7, 0, 3])] == ["0", "3", "7"]
    assert tables.rows(table, []) == []
    assert tables.ids(table) == [str(number) for number in range(9)]


def test_tables_are_put_together_in_their_order(tmp_path: Path) -> None:
    parts = [written(tmp_path, {"id": name}, name=name) for name in "bac"]
    whole = tmp_path / "whole.parquet"
    tables.combined(parts, whole)
    assert tables.ids(whole) == ["b", "a", "c"]
    tables.combined([], whole)
    assert tables.ids(whole) == []
    assert tables.statistics(whole)["images"] == 0


def test_a_tables_path_is_no_sql(tmp_path: Path) -> None:
    folder = tmp_path / "it's"
    folder.mkdir()
    assert tables.ids(written(folder, {"id": "1"})) == ["1"]


def test_tombstones_are_a_table_of_three_columns(tmp_path: Path) -> None:
    table = tmp_path / "removed.parquet"
    row = {"id": "1", "removed_on": "2026-11-28", "reason": "owner"}
    tables.removed([row], table)
    found = duckdb.execute(f"SELECT * FROM read_parquet('{table}')")
    assert [one[0] for one in found.description or ()] == list(row)
    assert found.fetchall() == [tuple(row.values())]

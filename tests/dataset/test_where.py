"""What a query from anywhere cannot do: read or write files, or be more than one expression."""

from pathlib import Path

import pytest

from horde_dataset import tables
from horde_dataset.errors import DatasetError
from tests.dataset import made
from tests.dataset.conftest import Run

SECRET = "secret.csv"
ESCAPES = [
    "1=1; COPY (SELECT 1) TO '{folder}/written'",
    "1=1); COPY (SELECT 1) TO '{folder}/written'; SELECT (1",
    "1) UNION SELECT column0 FROM read_csv('{folder}/secret.csv') WHERE (1=1",
    "1) FROM read_csv('{folder}/secret.csv') WHERE (1=1",
    "1), (2",
    "1) ORDER BY (1",
    "1) LIMIT (1",
    "*",
    "",
    "id IN (SELECT column0 FROM read_csv('{folder}/secret.csv', header=false))",
    "id IN (FROM '{folder}/secret.csv')",
    "EXISTS (FROM glob('{folder}/*'))",
    "EXISTS (FROM read_text('{folder}/secret.csv'))",
    "EXISTS (FROM read_blob('/etc/passwd'))",
    "EXISTS (FROM read_parquet('{folder}/other.parquet'))",
    "EXISTS (FROM read_parquet('https://example.org/x.parquet'))",
    "EXISTS (FROM sniff_csv('{folder}/secret.csv'))",
    "EXISTS (FROM query('COPY (SELECT 1) TO ''{folder}/written'''))",
    "getenv('HOME') <> ''",
    "EXISTS (FROM path)",
]


@pytest.mark.parametrize("where", ESCAPES)
def test_a_query_opens_no_other_file_and_writes_none(
    pristine: made.Release, tmp_path: Path, where: str
) -> None:
    (tmp_path / SECRET).write_text(f"{pristine.ids[0]}\n")
    made.parquet(tmp_path / "other.parquet", made.TOMBSTONE, [{"id": "a"}])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DatasetError):
        tables.hits(pristine.folder / "metadata.parquet", where.format(folder=tmp_path))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "where",
    [
        "true",
        "prompt LIKE '%fox%' AND steps BETWEEN 20 AND 22",
        "id IN (SELECT max(id) FROM release GROUP BY model)",
        "nsfw_score < 0.1 -- mild",
        "regexp_matches(prompt, 'boat|fox')",
    ],
)
def test_one_expression_of_any_kind_is_a_query(pristine: made.Release, where: str) -> None:
    assert tables.hits(pristine.folder / "metadata.parquet", where)


def test_a_folder_with_a_pattern_in_its_name_is_read_alone(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    for name in ("a*?[x]'q", "ab?[x]'q"):
        folder = tmp_path / name
        assert run("download", pristine.folder, folder, "--date", "2026-11-25")[0] == 0
        assert run("verify", folder)[0] == 0
        found = tables.hits(folder / "metadata.parquet", "true")
        assert len(found) == 40

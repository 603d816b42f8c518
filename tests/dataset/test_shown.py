"""Contact sheets, plots and numbers of a copy."""

import shutil
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from horde_dataset import sheet, stats
from tests.dataset import made
from tests.dataset.conftest import Run

COMMON = {
    "images-per-day.png",
    "prompt-lengths.png",
    "models.png",
    "sizes.png",
    "nsfw-scores.png",
    "aesthetic-scores.png",
}


def test_sampled_images_are_spread_over_the_copy(pristine: made.Release) -> None:
    all_ids = pristine.ids
    for number in (1, 7, 33, 100, 500):
        found = [all_ids.index(row[0]) for row in sheet.sampled(pristine.folder, number)]
        assert len(found) == min(number, 100)
        gaps = [b - a for a, b in pairwise(found)]
        assert max(gaps, default=1) - min(gaps, default=1) <= 1
        assert min(gaps, default=1) >= 1


@pytest.mark.parametrize("options", [[], ["--where", "true"]])
def test_a_contact_sheet_shows_the_images(
    pristine: made.Release, tmp_path: Path, run: Run, options: list[str]
) -> None:
    run("download", pristine.folder, tmp_path / "copy", *options)
    out = tmp_path / "sheet.png"
    assert run("contact-sheet", tmp_path / "copy", "-o", out, "-n", 6)[0] == 0
    with Image.open(out) as image:
        assert image.size == (3 * 166 + 6, 2 * 166 + 6)
        seen = {image.getpixel((x, y)) for x in range(89, 504, 166) for y in (100, 266)}
    assert len(seen - {(255, 255, 255), (217, 217, 217)}) == 6


@pytest.mark.lengthy
def test_an_image_that_cannot_be_drawn_is_a_grey_tile(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    path = release.folder / release.rows[0]["shard"]
    path.write_bytes(bytes(path.stat().st_size))
    next(release.folder.rglob("part-2026-11-28-00000.tar")).unlink()
    out = tmp_path / "sheet.webp"
    assert run("contact-sheet", release.folder, "-o", out)[0] == 0
    with Image.open(out) as image:
        first = image.convert("RGB").getpixel((80, 80))
    assert isinstance(first, tuple)
    assert all(abs(value - 217) < 4 for value in first)


@pytest.mark.parametrize("out", ["sheet.gif", "none/sheet.png", "sheet"])
def test_where_no_sheet_can_be_written_is_said(
    pristine: made.Release, tmp_path: Path, run: Run, out: str
) -> None:
    code, _, said = run("contact-sheet", pristine.folder, "-o", tmp_path / out)
    assert (code, said.count("\n")) == (1, 1)


@pytest.mark.slow
def test_the_summary_counts_what_is_there(pristine: made.Release, tmp_path: Path, run: Run) -> None:
    code, said, _ = run("stats", pristine.folder, "-o", tmp_path / "plots")
    assert code == 0
    assert {path.name for path in (tmp_path / "plots").iterdir()} == COMMON
    lines = dict(line.strip().split("  ", 1) for line in said.splitlines() if "  " in line.strip())
    assert lines["images"].strip() == "100"
    assert lines["days"].strip() == "2026-11-25 to 2026-11-28"
    models = [row["model"] for row in pristine.rows]
    for model in set(models):
        assert lines[model].strip() == str(models.count(model))
    for path in (tmp_path / "plots").iterdir():
        with Image.open(path) as image:
            assert image.size == (1200, 675)


@pytest.mark.slow
def test_scores_and_ratings_are_drawn_if_they_are_there(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    scored = release.folder / "metadata.parquet"
    made.parquet(
        release.folder / "ratings/date=2026-11-28/ratings-2026-11-28-00000.parquet",
        {"id": "VARCHAR", "rating": "INTEGER"},
        [{"id": each, "rating": n % 10 + 1} for n, each in enumerate(release.ids)],
    )
    release.publish()
    duckdb.sql(
        f"COPY (SELECT *, CASE WHEN steps > 20 THEN random() * 10 END AS aesthetic_score "
        f"FROM '{scored}') TO '{tmp_path}/scored.parquet'"
    )
    shutil.copy(tmp_path / "scored.parquet", scored)
    _, said, _ = run("stats", release.folder, "-o", tmp_path / "plots")
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert drawn == COMMON | {"aesthetic-scores.png", "ratings.png"}
    assert "ratings" in said


@pytest.mark.slow
def test_names_from_outside_are_drawn_and_printed_as_plain_text(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    for row in release.rows:
        row["model"] = "$\\frac{$ \x1b[31m" + "x" * 500
    release.publish()
    code, said, _ = run("stats", release.folder, "-o", tmp_path / "plots")
    assert code == 0
    assert "\x1b" not in said


@pytest.mark.slow
@pytest.mark.parametrize("days", [1, 5, 40, 400])
def test_days_are_drawn_for_a_day_and_for_a_year(tmp_path: Path, days: int) -> None:
    import datetime as dt

    from horde_dataset import plots

    first = dt.date(2026, 1, 1)
    rows = [(str(first + dt.timedelta(n)), 10 + n) for n in range(days)]
    plots.days(tmp_path / "days.png", rows)
    plots.prompt_lengths(tmp_path / "lengths.png", [(0, 1)])
    plots.models(tmp_path / "models.png", [(f"model {n}", 100 - n) for n in range(30)])
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.lengthy
def test_values_that_make_no_sense_are_said(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    release.rows[0].update(created_on="yesterday", shard=None, offset=None, size=None)
    release.publish()
    code, _, said = run("stats", release.folder, "-o", tmp_path / "plots")
    assert (code, said.count("\n")) == (1, 1)
    assert run("contact-sheet", release.folder, "-o", tmp_path / "sheet.png")[0] == 0


def test_a_table_without_the_columns_is_said(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    made.parquet(release.folder / "metadata.parquet", made.TOMBSTONE, [{"id": "a"}])
    code, _, said = run("stats", release.folder, "-o", tmp_path / "plots")
    assert (code, said.count("\n")) == (1, 1)
    assert stats.TOP

"""Which files a download brings, and that a copy is right at its end."""

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from horde_dataset import files
from horde_dataset.cli import parser
from tests.dataset import made
from tests.dataset.conftest import Run


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files that a folder has at their paths; of its manifest, what a copy's says."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != "releases"
    }
    if "manifest.json" in found:
        named = json.loads(found["manifest.json"])
        for each in named["files"]:
            each.pop("at", None)
        found["manifest.json"] = json.dumps(named, sort_keys=True).encode()
    return found


def ids_of(folder: Path) -> set[str]:
    table = folder / "metadata.parquet"
    return {row[0] for row in duckdb.execute(f"SELECT id FROM '{table}'").fetchall()}


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


@pytest.mark.lengthy
def test_a_whole_download_is_the_release_byte_for_byte(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    code, said, _ = run("download", pristine.folder, tmp_path / "copy")
    assert code == 0
    assert "100 images" in said
    assert contents(tmp_path / "copy") == contents(pristine.folder)
    assert run("verify", tmp_path / "copy") == (0, "all is right\n", "")


def test_what_lies_elsewhere_in_the_source_lies_at_its_path_in_a_copy(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    expected = contents(release.folder)
    for name in made.ANEW:  # as between two steps of a publication: those of another release
        if (release.folder / name).exists():
            (release.folder / name).write_bytes(b"of another release")
    copy, hits = tmp_path / "copy", tmp_path / "hits"
    assert run("download", release.folder, copy)[0] == 0
    assert contents(copy) == expected
    assert '"at"' not in (copy / "manifest.json").read_text()
    assert run("verify", copy) == (0, "all is right\n", "")
    assert run("download", release.folder, hits, "--where", "width = 32")[0] == 0
    assert '"at"' not in (hits / "manifest.json").read_text()
    assert run("verify", hits)[0] == 0
    assert run("download", copy, tmp_path / "copy of a copy")[0] == 0
    assert contents(tmp_path / "copy of a copy") == expected


def test_what_is_there_with_the_right_sha256_is_not_loaded_again(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    run("download", pristine.folder, tmp_path / "copy")
    damaged = tmp_path / "copy" / "LICENSE"
    damaged.write_bytes(damaged.read_bytes()[::-1])
    _, said, _ = run("download", pristine.folder, tmp_path / "copy")
    assert "1 files loaded, 13 were there" in said
    assert contents(tmp_path / "copy") == contents(pristine.folder)


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        ("2026-11-25..2026-11-26", {"2026-11-25", "2026-11-26"}),
        ("2026-11-26", {"2026-11-26"}),
        ("2026-11-27..", {"2026-11-28"}),
        ("..2026-11-25", {"2026-11-25"}),
    ],
)
def test_a_date_range_brings_the_parts_of_its_days_and_their_rows(
    pristine: made.Release, tmp_path: Path, run: Run, dates: str, days: set[str]
) -> None:
    copy = tmp_path / "copy"
    assert run("download", pristine.folder, copy, "--date", dates)[0] == 0
    assert ids_of(copy) == {row["id"] for row in pristine.rows if row["created_on"] in days}
    assert {path.name for path in copy.glob("images/*")} == {f"date={day}" for day in days}
    assert (copy / "removed").is_dir()
    assert run("verify", copy)[1] == "all is right\n"


def test_further_days_are_added_to_a_copy_and_all_days_make_the_release(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy"
    run("download", pristine.folder, copy, "--date", "2026-11-25")
    run("download", pristine.folder, copy, "--date", "2026-11-28")
    assert len(ids_of(copy)) == 60
    assert run("verify", copy)[0] == 0
    run("download", pristine.folder, copy)
    assert contents(copy) == contents(pristine.folder)


def test_the_metadata_alone_has_all_rows_and_no_image(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy"
    run("download", pristine.folder, copy, "--metadata-only")
    assert ids_of(copy) == set(pristine.ids)
    assert not (copy / "images").exists()
    assert run("verify", copy)[0] == 0
    code, _, said = run("contact-sheet", copy, "-o", tmp_path / "sheet.png")
    assert (code, "has the metadata alone" in said) == (1, True)


def test_a_query_extracts_the_images_that_fit(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy"
    query = "model = 'emoji' AND width > height -- a comment"
    assert run("download", pristine.folder, copy, "--where", query)[0] == 0
    wanted = [
        row for row in pristine.rows if row["model"] == "emoji" and row["width"] > row["height"]
    ]
    found = {path.stem: path.read_bytes() for path in (copy / "images").iterdir()}
    assert found == {row["id"]: pristine.pictures[row["id"]] for row in wanted}
    assert ids_of(copy) == set(found)
    assert run("verify", copy)[0] == 0
    _, said, _ = run("download", pristine.folder, copy, "--where", query)
    assert " 0 files loaded" in said


@pytest.mark.lengthy
def test_a_query_within_days_extracts_no_image_of_other_days(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    run("download", pristine.folder, tmp_path / "copy", "--where", "true", "--date", "2026-11-28")
    days = {row["created_on"] for row in pristine.rows if row["id"] in ids_of(tmp_path / "copy")}
    assert days == {"2026-11-28"}


def test_a_query_for_whole_parts_brings_the_parts_with_hits(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy"
    wanted = pristine.rows[70]
    run("download", pristine.folder, copy, "--whole-parts", "--where", f"id = '{wanted['id']}'")
    assert [path.name for path in copy.glob("images/*/*")] == [Path(wanted["shard"]).name]
    assert len(ids_of(copy)) == 15
    assert run("verify", copy)[0] == 0


@pytest.mark.lengthy
def test_a_newer_release_replaces_rewritten_parts_and_leaves_no_withdrawn_image(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy"
    run("download", release.folder, copy, "--date", "2026-11-25")
    release.forget_part("part-2026-11-25-00000")
    release.add_part("part-2026-11-25-00000-1", range(1, 40))
    release.remove([made.image_id(0)], "2026-11-29")
    release.publish("2026-11-29")
    # Other days are asked for; those that are there are brought up to date all the same.
    assert run("download", release.folder, copy, "--date", "2026-11-28")[0] == 0
    assert len(ids_of(copy)) == 59
    assert not [name for name in contents(copy) if "2026-11-25-00000." in name]
    assert run("verify", copy)[0] == 0


def test_an_older_release_does_not_replace_a_newer_one(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    older = tmp_path / "older"
    shutil.copytree(release.folder, older)
    release.publish("2026-11-28.2")
    run("download", release.folder, tmp_path / "copy")
    code, _, said = run("download", older, tmp_path / "copy")
    assert (code, "withdrawn images would come back" in said) == (1, True)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--where", "model = 'none such'"], "no image fits"),
        (["--date", "2020-01-01"], "no images of these days"),
        (["--where", "nonsense = 1"], 'Referenced column "nonsense" not found'),
        (["--where", "id"], "Could not convert"),
        (["--where", " "], "not one SQL expression"),
    ],
)
def test_what_cannot_be_found_is_said(
    pristine: made.Release, tmp_path: Path, run: Run, options: list[str], why: str
) -> None:
    code, said, errors = run("download", pristine.folder, tmp_path / "copy", *options)
    assert (code, said, errors.count("\n")) == (1, "", 1)
    assert why in errors
    assert not (tmp_path / "copy" / "manifest.json").exists()


@pytest.mark.parametrize(
    "dates", ["2026-11", "20261125", "2026-02-30", "2026-11-26..2026-11-25", "..", "today"]
)
def test_a_range_that_is_none_is_a_usage_error(tmp_path: Path, run: Run, dates: str) -> None:
    code, _, said = run("download", tmp_path, tmp_path / "copy", "--date", dates)
    assert code == 2
    assert "argument --date" in said


def test_a_folder_of_other_things_is_left_alone(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("my own")
    code, _, said = run("download", pristine.folder, mine)
    assert (code, "is not empty, and holds no release" in said) == (1, True)
    assert contents(mine) == {"README.md": b"my own"}


def test_parts_and_images_of_queries_do_not_share_a_folder(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    run("download", pristine.folder, tmp_path / "parts")
    run("download", pristine.folder, tmp_path / "images", "--where", "width = 32")
    for folder, options in (
        ("parts", ["--where", "width = 32"]),
        ("images", []),
        ("images", ["--where", "width = 64"]),
    ):
        code, _, said = run("download", pristine.folder, tmp_path / folder, *options)
        assert (code, "choose another folder" in said) == (1, True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_loaded(
    pristine: made.Release, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SPARE_BYTES", 10**18)
    code, _, said = run("download", pristine.folder, tmp_path / "copy")
    assert (code, "are to be written" in said) == (1, True)


def test_the_releases_are_listed_with_their_numbers(release: made.Release, run: Run) -> None:
    for name in ("2026-11-28.2", "2026-11-28.10", "2026-11-29"):
        release.publish(name, kept_back={"prompt \x1b[31m": 1200})
    _, said, _ = run("releases", release.folder)
    lines = said.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "2026-11-28", "2026-11-28.2", "2026-11-28.10", "2026-11-29",
    ]  # fmt: skip
    assert lines[1].split()[1:4] == ["100", f"{manifest_of_first(release)['bytes']:,}", "3"]
    assert "15 (nsfw score 12, prompt 3)" in lines[1]
    assert "1,200" in lines[-1]
    assert "\x1b" not in said
    assert len(run("releases", release.folder, "--last", 2)[1].splitlines()) == 3


def manifest_of_first(release: made.Release) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (release.folder / "releases" / f"{made.RELEASE}.json").read_text()
    )
    return found


@pytest.mark.parametrize("source", ["ftp://x", "http://example.org", "s3://", "/none", "https://"])
def test_a_source_that_is_none_is_said_in_a_sentence(run: Run, source: str) -> None:
    code, _, said = run("releases", source)
    assert (code, said.count("\n")) == (1, 1)


def test_every_command_has_a_line_of_help() -> None:
    shown = parser().format_help()
    for command in ("releases", "download", "verify", "apply-removed", "contact-sheet", "stats"):
        assert command in shown

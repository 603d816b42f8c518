"""Withdrawn images leave a copy, whole or extracted, and an interrupted run can be repeated."""

import io
import shutil
import tarfile
from pathlib import Path

import duckdb
import pytest

from horde_dataset.removed import apply_removed
from horde_dataset.sources import FolderSource
from tests.dataset import made
from tests.dataset.conftest import Run
from tests.dataset.cuts import every_cut
from tests.dataset.test_download import contents, ids_of, manifest_of

SOME = [made.image_id(n) for n in (0, 39, 41, 60)]
WHOLE_PART = [made.image_id(n) for n in range(65, 80)]
GONE = [*SOME, *WHOLE_PART]


def bytes_of(ids: list[str], folder: Path) -> set[str]:
    """Return which of some ids are anywhere in the files of a folder, tombstones aside."""
    found = contents(folder)
    texts = b"".join(data for name, data in found.items() if not name.startswith("removed/"))
    tables = [folder / name for name in found if name.startswith("metadata")]
    rows = {
        row[0] for path in tables for row in duckdb.execute(f"SELECT id FROM '{path}'").fetchall()
    }
    return {
        each for each in ids if each.encode() in texts or each in rows or each in str(list(found))
    }


@pytest.fixture
def withdrawn(release: made.Release) -> made.Release:
    """The release with tombstones that are not applied yet, in the source and its copies."""
    release.remove(GONE, "2026-11-28")
    release.publish()
    return release


@pytest.mark.lengthy
def test_withdrawn_images_leave_tars_and_tables(withdrawn: made.Release, run: Run) -> None:
    assert "was removed: run apply-removed" in run("verify", withdrawn.folder)[1]
    before = manifest_of(withdrawn.folder)
    assert run("apply-removed", withdrawn.folder)[:2] == (0, f"{len(GONE)} images removed\n")
    assert not bytes_of(GONE, withdrawn.folder)
    assert ids_of(withdrawn.folder) == set(withdrawn.ids) - set(GONE)
    assert run("verify", withdrawn.folder)[1] == "all is right\n"
    after = manifest_of(withdrawn.folder)
    names = [Path(each["path"]).name for each in after["files"] if ".tar" in each["path"]]
    assert names == [
        "part-2026-11-25-00000-1.tar",
        "part-2026-11-26-00000-1.tar",
        "part-2026-11-28-00000.tar",
    ]
    assert (after["images"], after["removed"]) == (before["images"] - len(GONE), 3 + len(GONE))
    # It showed all images, these among them.
    assert not (withdrawn.folder / "contact-sheet.webp").exists()
    files = contents(withdrawn.folder)
    assert run("apply-removed", withdrawn.folder)[1] == "0 images removed\n"
    assert contents(withdrawn.folder) == files


def test_a_rewritten_tar_is_read_by_others_and_its_rows_say_where_its_images_are(
    withdrawn: made.Release, run: Run
) -> None:
    run("apply-removed", withdrawn.folder)
    rows = duckdb.execute(f"SELECT * FROM '{withdrawn.folder}/metadata.parquet'").fetchall()
    columns = list(made.TYPES)
    for row in rows:
        named = dict(zip(columns, row, strict=True))
        with (withdrawn.folder / named["shard"]).open("rb") as file:
            file.seek(named["offset"])
            assert file.read(named["size"]) == withdrawn.pictures[named["id"]]
    for path in withdrawn.folder.glob("images/*/*.tar"):
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
            assert len(tar.getnames()) % 3 == 0


@pytest.mark.lengthy
def test_tombstones_of_a_newer_release_are_fetched_first(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy"
    run("download", release.folder, copy)
    release.remove(GONE, "2026-11-28")
    release.publish()
    assert run("apply-removed", copy)[1] == "0 images removed\n"
    said = run("apply-removed", copy, "--from", release.folder)[1]
    assert said == f"{len(GONE)} images removed\n"
    assert not bytes_of(GONE, copy)
    assert run("verify", copy)[0] == 0
    second = [made.image_id(1), made.image_id(2)]
    release.remove(second, "2026-11-29")
    release.publish("2026-11-29")
    assert run("apply-removed", copy, "--from", release.folder)[1] == "2 images removed\n"
    assert (copy / "images/date=2026-11-25/part-2026-11-25-00000-2.tar").exists()
    assert run("verify", copy)[0] == 0


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "options",
    [["--metadata-only"], ["--where", "true"], ["--date", "2026-11-26"], ["--date", "2026-11-25"]],
    ids=" ".join,
)
def test_copies_of_every_kind_lose_withdrawn_images(
    release: made.Release, tmp_path: Path, run: Run, options: list[str]
) -> None:
    copy = tmp_path / "copy"
    run("download", release.folder, copy, *options)
    had = ids_of(copy)
    release.remove(GONE, "2026-11-28")
    release.publish()
    said = run("apply-removed", copy, "--from", release.folder)[1]
    assert said == f"{len(had & set(GONE))} images removed\n"
    assert ids_of(copy) == had - set(GONE)
    assert not bytes_of(GONE, copy)
    assert run("verify", copy)[:2] == (0, "all is right\n")


def test_a_copy_without_any_image_left_is_right(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy"
    run("download", release.folder, copy, "--date", "2026-11-28")
    release.remove(release.ids, "2026-11-28")
    release.publish()
    assert run("apply-removed", copy, "--from", release.folder)[1] == "20 images removed\n"
    assert run("verify", copy)[1] == "all is right\n"
    for command in ("stats", "contact-sheet"):
        code, _, said = run(command, copy, "-o", tmp_path / "x.png")
        assert (code, "no images" in said) == (1, True)


@pytest.mark.parametrize("damage", ["images", "metadata"])
def test_a_damaged_part_is_not_rewritten_as_if_it_were_right(
    withdrawn: made.Release, run: Run, damage: str
) -> None:
    path = next((withdrawn.folder / damage).rglob("part-2026-11-25-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, _, said = run("apply-removed", withdrawn.folder)
    assert code == 1
    assert "damaged" in said or "DuckDB" in said
    assert path.exists()


def test_a_part_that_is_missing_is_not_taken_for_a_withdrawn_one(
    withdrawn: made.Release, run: Run
) -> None:
    for path in withdrawn.folder.rglob("part-2026-11-28-*"):
        path.unlink()
    code, _, said = run("apply-removed", withdrawn.folder)
    assert (code, "part-2026-11-28-00000 is missing" in said) == (1, True)


def small(folder: Path) -> made.Release:
    """Write a release of three small parts, with tombstones for some and for all of one."""
    folder.mkdir()
    release = made.Release(folder)
    release.add_part("part-2026-11-25-00000", range(3))
    release.add_part("part-2026-11-26-00000", range(3, 5))
    release.add_part("part-2026-11-28-00000", range(5, 7))
    (folder / "contact-sheet.webp").write_bytes(made.picture(1))
    release.remove([made.image_id(n) for n in (1, 3, 4)], "2026-11-28")
    release.publish()
    return release


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parts", "images"])
def test_a_run_that_was_cut_anywhere_is_completed_by_the_next(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = small(tmp_path / "source")
    fresh, copy = tmp_path / "fresh", tmp_path / "copy"
    run("download", source.folder, fresh, *(["--where", "true"] if kind == "images" else []))

    def prepare() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(fresh, copy)

    def command() -> None:
        apply_removed(copy, FolderSource(source.folder))

    prepare()
    command()
    expected = sorted(contents(copy))
    gone = [made.image_id(n) for n in (1, 3, 4)]
    cuts = 0
    for cut in every_cut(monkeypatch, prepare, command):
        cuts += 1
        command()
        assert sorted(contents(copy)) == expected, cut
        assert not bytes_of(gone, copy), cut
        assert run("verify", copy)[:2] == (0, "all is right\n"), cut
    assert cuts > 15


@pytest.mark.slow
def test_newer_tombstones_after_a_cut_are_applied_too(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small(tmp_path / "source")
    more = made.Release(tmp_path / "more", list(source.rows), {}, dict(source.images))
    shutil.copytree(source.folder, more.folder)
    more.remove([made.image_id(n) for n in (0, 5)], "2026-11-29")
    more.publish("2026-11-29")
    copy = tmp_path / "copy"

    def prepare() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source.folder, copy)

    def first() -> None:
        apply_removed(copy, None)

    for cut in every_cut(monkeypatch, prepare, first):
        apply_removed(copy, FolderSource(more.folder))
        assert ids_of(copy) == {made.image_id(n) for n in (2, 6)}, cut
        assert not bytes_of([made.image_id(n) for n in (0, 1, 3, 4, 5)], copy), cut
        assert run("verify", copy)[:2] == (0, "all is right\n"), cut


@pytest.mark.lengthy
def test_a_download_waits_for_an_interrupted_removal(
    withdrawn: made.Release, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in every_cut(monkeypatch, lambda: None, lambda: apply_removed(withdrawn.folder, None)):
        if at == 8:
            break
    code, _, said = run("download", withdrawn.folder, withdrawn.folder)
    assert (code, "apply-removed" in said) == (1, True)
    assert "apply-removed was interrupted" in run("verify", withdrawn.folder)[1]
    assert run("apply-removed", withdrawn.folder)[0] == 0
    assert run("verify", withdrawn.folder)[0] == 0

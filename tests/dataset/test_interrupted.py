"""A download that was cut anywhere is completed by the next, and loads nothing twice."""

import shutil
from pathlib import Path

import pytest

from horde_dataset import cli, download, files, sources
from horde_dataset.download import Wanted
from horde_dataset.sources import FolderSource
from tests.dataset import made
from tests.dataset.conftest import Run
from tests.dataset.cuts import Cut, Slow, every_cut
from tests.dataset.test_download import contents
from tests.dataset.test_removed import small


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted", [Wanted(jobs=1), Wanted(first="2026-11-26", jobs=1), Wanted(where="true", jobs=1)]
)
def test_a_download_that_was_cut_at_any_file_operation_is_completed_by_the_next(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, wanted: Wanted
) -> None:
    source = FolderSource(small(tmp_path / "source").folder)
    copy, expected = tmp_path / "copy", tmp_path / "expected"
    download.download(source, expected, wanted)
    for cut in every_cut(
        monkeypatch,
        lambda: shutil.rmtree(copy, ignore_errors=True),
        lambda: download.download(source, copy, wanted),
    ):
        if (copy / "manifest.json").exists() and files.mark_of(copy) is None:
            assert run("verify", copy)[0] in {0, 1}
        download.download(source, copy, wanted)
        assert sorted(contents(copy)) == sorted(contents(expected)), cut
        problems = run("verify", copy)[1].splitlines()
        # The tombstones of this source are not applied yet; nothing else is wrong.
        assert [each for each in problems[:-1] if "was removed" not in each] == [], cut


@pytest.mark.slow
def test_an_update_that_was_cut_at_any_file_operation_leaves_no_rewritten_part(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = small(tmp_path / "old")
    new = tmp_path / "new"
    shutil.copytree(old.folder, new)
    assert run("apply-removed", new)[0] == 0
    copy = tmp_path / "copy"

    def prepare() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        download.download(FolderSource(old.folder), copy, Wanted(jobs=1))

    def update() -> None:
        download.download(FolderSource(new), copy, Wanted(jobs=1))

    for cut in every_cut(monkeypatch, prepare, update):
        update()
        assert contents(copy) == contents(new), cut


def test_a_download_goes_on_within_a_file(pristine: made.Release, tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "copy"
    asked: list[tuple[str, int]] = []
    for _ in range(100):
        source = Slow(pristine.folder, left=30)
        try:
            download.download(source, copy, Wanted(jobs=1))
        except Cut:
            asked += source.asked
        else:
            break
    assert contents(copy) == contents(pristine.folder)
    assert any(start > 0 for _, start in asked)
    assert not list(copy.rglob(f"*{files.UNFINISHED}"))


def test_what_an_interrupted_download_left_wrong_is_loaded_anew(
    pristine: made.Release, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    with pytest.raises(Cut):
        download.download(Slow(pristine.folder, left=30), copy, Wanted(jobs=1))
    (left,) = copy.rglob(f"part-*{files.UNFINISHED}")
    left.write_bytes(bytes(left.stat().st_size))
    download.PAUSE_S, pause = 0.0, download.PAUSE_S
    try:
        download.download(FolderSource(pristine.folder), copy, Wanted())
    finally:
        download.PAUSE_S = pause
    assert contents(copy) == contents(pristine.folder)


def test_threads_stop_at_the_first_error(release: made.Release, tmp_path: Path, run: Run) -> None:
    next(release.folder.rglob("part-2026-11-26-00001.tar")).unlink()
    code, _, said = run("download", release.folder, tmp_path / "copy", "--jobs", 8)
    assert code == 1
    assert said.count("\n") == 1
    assert "has no images/date=2026-11-26/part-2026-11-26-00001.tar" in said


def test_ctrl_c_is_no_traceback(
    pristine: made.Release, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "read_manifest", interrupted)
    code, _, said = run("releases", pristine.folder)
    assert (code, "interrupted" in said) == (cli.INTERRUPTED, True)

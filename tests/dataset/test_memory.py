"""A large tar takes no more memory than a small one."""

import tracemalloc
from pathlib import Path

import pytest

from horde_dataset.download import Wanted, download
from horde_dataset.removed import apply_removed
from horde_dataset.sources import FolderSource
from horde_dataset.verify import verify
from tests.dataset import made

IMAGE_BYTES = 1_000_000
IMAGES = 60
MOST_BYTES = 12_000_000
"""A fifth of the tar: several chunks and images, and far from all."""


@pytest.mark.slow
def test_no_command_holds_a_tar_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "picture", lambda number: bytes([number]) * IMAGE_BYTES)
    monkeypatch.setattr(made, "dhash", lambda _: "0" * 16)
    (tmp_path / "source").mkdir()
    release = made.Release(tmp_path / "source")
    release.add_part("part-2026-11-25-00000", range(IMAGES))
    release.remove([made.image_id(5)], "2026-11-28")
    release.publish()
    release.pictures.clear()
    copy = tmp_path / "copy"
    tracemalloc.start()
    try:
        download(FolderSource(release.folder), copy, Wanted())
        assert len(list(verify(copy))) == 2  # the table of the part, and the whole table
        assert apply_removed(copy, None) == 1
        assert list(verify(copy)) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert IMAGE_BYTES < peak < MOST_BYTES < IMAGES * IMAGE_BYTES

"""The archive of a shared image: two plain files that any reader of tar archives takes."""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde import dataset
from tests.support.archives import members, opened

ROW = {"id": "a" * 36, "prompt": "a cat, 猫", "cfg_scale": 7.0, "karras": True}
IMAGE = b"RIFF" + bytes(range(256)) * 3


@given(st.binary(max_size=2000), st.text())
def test_what_was_packed_is_unpacked(image: bytes, prompt: str) -> None:
    row = {**ROW, "prompt": prompt}
    archive = dataset.pack(image, row)
    assert dataset.unpack(archive) == (image, row)
    assert opened(archive) == (image, row)
    assert len(archive) % dataset.BLOCK == 0


def test_an_archive_is_the_image_and_then_its_row(tmp_path: Path) -> None:
    archive = dataset.pack(IMAGE, ROW)
    assert list(members(archive)) == [f"{ROW['id']}.webp", f"{ROW['id']}.json"]
    text = members(archive)[f"{ROW['id']}.json"]
    assert text.decode() == json.dumps(ROW, ensure_ascii=False)
    tar = shutil.which("tar")
    if tar is None:
        pytest.skip("there is no tar")
    (tmp_path / "x.tar").write_bytes(archive)
    done = subprocess.run(
        [tar, "-xvf", "x.tar"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == (list(members(archive)), "")
    assert (tmp_path / f"{ROW['id']}.webp").read_bytes() == IMAGE


def test_equal_contents_have_equal_bytes_that_name_nobody() -> None:
    archive = dataset.pack(IMAGE, ROW)
    assert archive == dataset.pack(IMAGE, dict(ROW))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            assert member.isreg()
            assert member.mode == 0o644
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
            assert (member.uname, member.gname, member.pax_headers) == ("", "", {})


def test_a_shard_is_archives_one_after_another_without_the_ends_between() -> None:
    rows = [{**ROW, "id": letter * 36} for letter in "abc"]
    archives = [dataset.pack(IMAGE * (index + 1), row) for index, row in enumerate(rows)]
    shard = b"".join(one.removesuffix(dataset.END) for one in archives) + dataset.END
    expected = [f"{row['id']}.{kind}" for row in rows for kind in ("webp", "json")]
    assert list(members(shard)) == expected


def test_a_key_has_the_day_and_the_id() -> None:
    assert dataset.object_key("2026-11-26", "x") == "incoming/date=2026-11-26/x.tar"
    assert dataset.held_key("x") == "x.tar"

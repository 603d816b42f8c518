"""What a source says is believed within bounds, and what was damaged is found."""

import copy
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horde_dataset import files, manifest
from horde_dataset.download import Wanted, download
from horde_dataset.errors import DatasetError
from horde_dataset.sources import FolderSource
from horde_dataset.tars import TarError, Walk
from tests.dataset import made
from tests.dataset.conftest import Run
from tests.dataset.test_download import contents, manifest_of

Change = Callable[[dict[str, Any]], object]


def entry(**fields: object) -> Change:
    """Return a change that adds a file to a manifest."""
    added = {"path": "NOTES.md", "bytes": 1, "sha256": "0" * 64, **fields}
    return lambda data: data["files"].append(added)


def first_tar(**fields: object) -> Change:
    return lambda data: next(
        each for each in data["files"] if each["path"].endswith(".tar")
    ).update(fields)


BAD_PATHS = [
    "../outside", "images/../../outside", "/etc/outside", "./x", "a//b", "a/", "", ".hidden",
    "a/.git/config", "C:/x", "c:x", "a\\b", "..\\x", "a\x00b", "a\nb", "~/x", "a b", "x.", "-x",
    "manifest.json", ".horde-dataset.json", "incoming/x", "releases/x.json", "e\u0301", "x" * 201,
    "README.md", "readme.MD", "README.md/x", "images/date=2026-11-25/other.tar",
    "metadata/date=2026-11-24/part-2026-11-25-00009.parquet", "images/x.tar", None, 5, ["x"],
]  # fmt: skip
BAD_FILES: list[Change] = [
    entry(bytes=-1),
    entry(bytes=2**60),
    entry(bytes=1.5),
    entry(bytes=True),
    entry(bytes="1"),
    entry(bytes=None),
    entry(sha256="0" * 63),
    entry(sha256="Z" * 64),
    entry(sha256=None),
    entry(images=-1),
    entry(images=2),
    first_tar(images=7),
    first_tar(images=None),
    first_tar(path="images/date=2026-11-25/part-2026-11-25-00007.tar"),
    *(entry(at=at) for at in ("../x", "/etc/passwd", "incoming/x", "manifest.json", "a//b", 5, "")),
    entry(at="releases/../../x"),
    lambda data: data.update(format=2),
    lambda data: data.update(release="../../x"),
    lambda data: data.update(release=20261128),
    lambda data: data.update(images="many"),
    lambda data: data.update(bytes=None),
    lambda data: data.update(removed=-1),
    lambda data: data.update(kept_back=[1]),
    lambda data: data.update(kept_back={"prompt": "x"}),
    lambda data: data.update(files={}),
    lambda data: data.update(files=[None]),
    lambda data: data.pop("files"),
    lambda data: data.update(copy={"layout": "images", "where": "x"}),
]


@pytest.mark.parametrize("change", [entry(path=path) for path in BAD_PATHS] + BAD_FILES)
def test_a_manifest_that_asks_for_too_much_is_refused_and_nothing_is_written(
    pristine: made.Release, tmp_path: Path, run: Run, change: Change
) -> None:
    data = copy.deepcopy(manifest_of(pristine.folder))
    change(data)
    source = tmp_path / "source"
    source.mkdir()
    (source / "manifest.json").write_text(json.dumps(data))
    code, said, errors = run("download", source, tmp_path / "target")
    assert (code, said, errors.count("\n")) == (1, "", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    assert run("releases", source)[0] == 1 or "copy" in data


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 100_000, '{"format": 1}', "\udcff", "1e999"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, run: Run, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    for command in (["releases"], ["verify"], ["apply-removed"], ["stats"], ["contact-sheet"]):
        code, _, errors = run(*command, tmp_path)
        assert (code, errors.count("\n")) == (1, 1)


def test_a_manifest_that_never_ends_is_given_up(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "MAX_BYTES", 10_000)
    (tmp_path / "manifest.json").write_text(" " * 10_001)
    assert "is larger than 10000 bytes" in run("releases", tmp_path)[2]
    assert "is larger than 10000 bytes" in run("verify", tmp_path)[2]


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_no_bytes_are_a_crash(data: bytes) -> None:
    with pytest.raises(DatasetError):
        manifest.parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.mark.lengthy
@given(name=st.sampled_from(["release", "images", "bytes", "kept_back", "files", "copy"]), to=JSON)
@settings(max_examples=200)
def test_no_field_of_a_manifest_is_a_crash(name: str, to: object, pristine: made.Release) -> None:
    data = {**manifest_of(pristine.folder), name: to}
    with suppress(DatasetError):
        manifest.parse(json.dumps(data).encode())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data + b"x", "longer than the manifest's"),
        (lambda data: b"x" + data[1:], "another sha256"),
        (lambda data: data[:-1], "ended after"),
    ],
)
def test_a_file_with_other_bytes_than_the_manifest_says_gets_no_name(
    release: made.Release, tmp_path: Path, run: Run, change: Callable[[bytes], bytes], why: str
) -> None:
    name = release.rows[0]["shard"]
    path = release.folder / name
    path.write_bytes(change(path.read_bytes()))
    target = tmp_path / "target"
    code, _, errors = run("download", release.folder, target)
    assert (code, why in errors) == (1, True)
    assert not (target / name).exists()
    assert not (target / "manifest.json").exists()


class Endless(FolderSource):
    """A source whose tars never end."""

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        yield from super().stream(path, start, length)
        for sent in range(100 if path.endswith(".tar") else 0):
            assert sent < 5, "read on long after the end"
            yield bytes(10_000)


def test_a_file_that_never_ends_is_given_up(pristine: made.Release, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="longer than the manifest's"):
        download(Endless(pristine.folder), tmp_path / "copy", Wanted(jobs=1))
    assert not list(tmp_path.rglob("*.tar*"))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../../outside"},
        {"id": "a/b"},
        {"id": ""},
        {"shard": "../outside.tar"},
        {"shard": "LICENSE"},
        {"shard": "metadata/date=2026-11-25/part-2026-11-25-00000.parquet"},
        {"offset": -1},
        {"offset": 2**40},
        {"size": 2**40},
        {"size": 0},
        {"sha256": "x"},
        {"sha256": "0" * 64},
    ],
    ids=str,
)
def test_a_row_of_the_table_cannot_write_or_read_elsewhere(
    release: made.Release, tmp_path: Path, run: Run, change: dict[str, Any]
) -> None:
    release.rows[3] = {**release.rows[3], **change}
    release.publish()
    target = tmp_path / "deep" / "target"
    code, _, errors = run("download", release.folder, target, "--where", "true")
    assert code == 1
    assert "cannot be right" in errors or "another sha256" in errors
    assert not [path for path in tmp_path.rglob("outside*") if path.is_file()]


# --- verify --------------------------------------------------------------------------------------


def damaged_tar(release: made.Release, change: Callable[[bytes], bytes]) -> None:
    """Change a tar, and the manifest with it: the source is wrong, not the transfer."""
    path = release.folder / release.rows[0]["shard"]
    path.write_bytes(change(path.read_bytes()))
    release.publish()


def member_at(release: made.Release, place: int) -> tuple[int, int]:
    """Return where a file of the first tar begins with its header, and where the next one does."""
    data = (release.folder / release.rows[0]["shard"]).read_bytes()
    at = 0
    for _ in range(place + 1):
        start = at
        size = int(data[at + 124 : at + 135], 8)
        at += 512 + size + -size % 512
    return start, at


def without(start: int, end: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:start] + data[end:]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sample_that_lacks_a_file_is_found(release: made.Release, run: Run, place: int) -> None:
    damaged_tar(release, without(*member_at(release, place)))
    code, said, _ = run("verify", release.folder)
    assert code == 1
    assert "does not follow the order of webp, json, txt" in said


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_changed_image_json_or_prompt_is_found(
    release: made.Release, run: Run, place: int
) -> None:
    at = member_at(release, place)[0] + 512 + 9
    damaged_tar(release, lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    said = run("verify", release.folder)[1]
    assert ("another sha256 than its row" if place == 0 else "does not say what") in said


def test_a_tar_that_is_cut_off_or_has_a_broken_header_is_found(
    release: made.Release, run: Run
) -> None:
    start, end = member_at(release, 0)
    damaged_tar(release, lambda data: data[: end - 1])
    said = run("verify", release.folder)[1]
    assert "it ends within a file" in said
    assert "39 samples" not in said.splitlines()[0]
    damaged_tar(release, lambda data: data[:start] + b"\xff" * 512 + data[start + 512 :])
    assert "no header of a file at byte 0" in run("verify", release.folder)[1]


def test_a_link_in_a_tar_is_found(release: made.Release, run: Run) -> None:
    link = tarfile.TarInfo("x.webp")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    damaged_tar(release, lambda data: link.tobuf(tarfile.USTAR_FORMAT) + data)
    assert "x.webp is no file" in run("verify", release.folder)[1]


def test_an_id_that_is_there_twice_is_found(release: made.Release, run: Run) -> None:
    release.add_part("part-2026-11-28-00001", [5, 200])
    release.publish()
    code, said, _ = run("verify", release.folder)
    assert code == 1
    assert f"the id {made.image_id(5)} is there twice" in said
    assert "101 ids, and the manifest 102" in said


def test_a_sample_without_a_row_and_a_row_without_a_sample_are_found(
    release: made.Release, run: Run
) -> None:
    table = release.folder / "metadata/date=2026-11-28/part-2026-11-28-00000.parquet"
    rows = [row for row in release.rows if row["created_on"] == "2026-11-28"]
    changed = [*rows[1:], {**rows[0], "id": "other"}]
    made.parquet(table, made.TYPES, changed)
    release.publish()
    said = run("verify", release.folder)[1]
    assert f"{rows[0]['id']} has a sample and no row" in said
    assert "other has a row and no sample" in said
    assert "metadata.parquet has other ids than the parts" in said


@pytest.mark.parametrize(
    ("field", "said"), [("offset", "is not where its row says"), ("size", "is not where its row")]
)
def test_a_row_with_the_wrong_place_is_found(
    release: made.Release, run: Run, field: str, said: str
) -> None:
    table = release.folder / "metadata/date=2026-11-28/part-2026-11-28-00000.parquet"
    rows = [row for row in release.rows if row["created_on"] == "2026-11-28"]
    made.parquet(table, made.TYPES, [{**rows[0], field: rows[0][field] + 512}, *rows[1:]])
    release.publish()
    assert said in run("verify", release.folder)[1]


@pytest.mark.parametrize("name", ["LICENSE", "metadata.parquet", "images", "metadata"])
@pytest.mark.parametrize("damage", ["missing", "changed", "longer"])
def test_a_file_that_is_missing_or_changed_is_found(
    release: made.Release, run: Run, name: str, damage: str
) -> None:
    path = release.folder / name
    path = next(path.rglob("part-*")) if path.is_dir() else path
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data + b"x" if damage == "longer" else changed)
    code, said, _ = run("verify", release.folder)
    assert code == 1
    assert path.relative_to(release.folder).as_posix() in said


def test_a_table_that_is_no_parquet_or_lacks_columns_is_found(
    release: made.Release, run: Run
) -> None:
    table = release.folder / "metadata/date=2026-11-28/part-2026-11-28-00000.parquet"
    table.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    release.publish()
    assert "cannot be read" in run("verify", release.folder)[1]
    made.parquet(table, made.TOMBSTONE, [{"id": "a"}])
    release.publish()
    code, said, errors = run("verify", release.folder)
    assert code == 1
    assert "cannot be read" in said
    assert errors == ""


def test_an_extracted_image_that_is_damaged_lacking_or_of_nobody_is_found(
    release: made.Release, tmp_path: Path, run: Run
) -> None:
    copied = tmp_path / "copy"
    run("download", release.folder, copied, "--where", "width = 32")
    one, two, *_ = sorted((copied / "images").iterdir())
    one.write_bytes(b"x")
    two.unlink()
    (copied / "images" / "stranger.webp").write_bytes(b"x")
    said = run("verify", copied)[1]
    assert f"{one.name} has another sha256" in said
    assert f"{two.stem} has a row and no image" in said
    assert "stranger.webp is of no row" in said


@given(st.binary(max_size=3000))
@settings(max_examples=200)
def test_no_bytes_of_a_tar_are_a_crash(data: bytes) -> None:
    with suppress(TarError):
        for _ in Walk(io.BytesIO(data)):
            pass


def test_only_the_first_problems_of_a_file_are_shown(release: made.Release, run: Run) -> None:
    release.remove(release.ids, "2026-11-28")
    release.publish()
    said = run("verify", release.folder)[1].splitlines()
    assert sum("part-2026-11-25-00000.parquet" in line for line in said) == 21
    assert any(line.endswith("20 more problems") for line in said)


def test_a_folder_without_a_release_is_said(tmp_path: Path, run: Run) -> None:
    for folder, why in (
        (tmp_path, "no release is there"),
        (tmp_path / "none", "there is no folder"),
    ):
        for command in ("verify", "apply-removed", "stats", "contact-sheet"):
            code, _, said = run(command, folder)
            assert (code, why in said) == (1, True)
    assert contents(tmp_path) == {}
    assert files.mark_of(tmp_path) is None

"""What comes from a host, which is believed no further than it can be checked."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker.addons import civitai
from gpu_worker.addons.asked import AddOnError, UnusableError
from gpu_worker.addons.cache import DiskCache
from gpu_worker.addons.civitai import baseline_of
from gpu_worker.addons.library import Library
from gpu_worker.addons.loader import Loader
from tests.worker.add_on_helpers import (
    MOST,
    SD1,
    SOON_S,
    XL,
    Reader,
    a_job,
    a_library,
    cached,
    fault,
    fetched,
)
from tests.worker.fake_civitai import KEY, FakeCivitai, FakeFile, fake_civitai

if TYPE_CHECKING:
    from pathlib import Path


# At the host


def test_a_version_is_fetched_once_and_kept_by_its_hash(
    host: FakeCivitai, library: Library, lora: bytes, tmp_path: Path
) -> None:
    host.files[7] = FakeFile(lora)
    assert fetched(library, "7") == fetched(library, "7") == lora
    assert host.calls == {
        "/api/v1/model-versions/7": 1, "/api/download/models/7": 1, "/files/7": 1
    }  # fmt: skip
    assert cached(tmp_path) == {f"{hashlib.sha256(lora).hexdigest()}.safetensors"}
    assert fetched(a_library(host, tmp_path), "7") == lora  # a worker that starts again
    assert host.calls["/files/7"] == 1


def test_a_models_number_is_its_newest_version_for_this_family(
    host: FakeCivitai, library: Library, lora: bytes
) -> None:
    host.files[1] = FakeFile(b"older", model=9)
    host.files[2] = FakeFile(lora, model=9, base="SD 1.5 LCM", words=["neon"])
    host.files[3] = FakeFile(b"for another family", model=9, base="Pony")
    assert fetched(library, "9", version=False) == lora
    host.files = {3: host.files[3]}
    assert fault(a_library_like(library), "9", version=False).startswith("baseline_mismatch")


def a_library_like(library: Library) -> Library:
    return Library(library._folders, SD1, library._host, library._cache)


def test_each_family_has_its_own_answers_and_all_share_the_cache(
    host: FakeCivitai, library: Library, lora: bytes, tmp_path: Path
) -> None:
    other = lora[:-4] + b"\0\0\0\0"
    host.files[1] = FakeFile(lora, model=9)
    host.files[2] = FakeFile(other, model=9, base="SDXL 1.0")
    large = library.of_family(XL)
    for _ in range(2):
        assert fetched(library, "9", version=False) == lora
        assert fetched(large, "9", version=False) == other
    assert host.calls["/api/v1/models/9"] == 2
    assert fault(large, "1").startswith("baseline_mismatch")
    assert len(cached(tmp_path)) == 2
    assert library._cache is large._cache, "and its limit"


def test_a_version_for_another_family_is_not_downloaded(
    host: FakeCivitai, library: Library
) -> None:
    host.files[7] = FakeFile(b"x", base="SDXL 1.0")
    assert fault(library).startswith("baseline_mismatch")
    assert host.calls["/files/7"] == 0


FLUX = "flux_1"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *(("SD 1.4", SD1), ("SD 1.5 Hyper", SD1), ("SD 2.1 768", "stable_diffusion_2")),
        *(("SDXL Lightning", XL), ("Pony", XL), ("Illustrious", XL), ("NoobAI", XL)),
        *(("Flux.1 D", FLUX), ("Flux.1 S", FLUX), ("Flux.1 Kontext", ""), ("Flux.2 D", "")),
        *(("Pony V7", ""), ("SD 3.5", ""), ("", ""), (None, ""), (7, "")),
    ],
)
def test_base_models_have_the_hordes_baselines(name: Any, wanted: str) -> None:
    assert baseline_of(name) == wanted


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "wrong checksum": ({"sha256": "ab" * 32}, "has another SHA-256"),
    "checksum is a path": ({"sha256": "../../etc/passwd"}, "has no safetensors file"),
    "endless body": ({"endless": True}, "is larger than the host says"),
    "larger than promised": ({"size_kb": 0.5}, "is larger than the host says"),
    "promises too much": ({"size_kb": 1e6}, "has more than 200000 bytes"),
    "promises nothing": ({"size_kb": float("nan")}, "has no safetensors file"),
    "pickle by its name": ({"name": "a.ckpt"}, "has no safetensors file"),
    "another kind": ({"kind": "Checkpoint"}, "stands for something else"),
    "another host": ({"redirect": "http://127.0.0.2:1/a"}, "at a host that is not allowed"),
    "another scheme": ({"redirect": "ftp://127.0.0.1/a"}, "at an address without http"),
    "a file": ({"redirect": "file:///etc/passwd"}, "at an address without http"),
    "no address": ({"redirect": "http://[::1"}, "cannot be fetched: ValueError"),
    "back to itself": ({"redirect": "/api/download/models/7"}, "too many redirects"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_host_that_lies_is_not_believed(
    host: FakeCivitai, library: Library, lora: bytes, tmp_path: Path, lie: str
) -> None:
    options, wanted = LIES[lie]
    host.files[7] = FakeFile(lora, **options)
    assert wanted in fault(library)
    assert cached(tmp_path) == set()
    # Nor asked again at once for the same.
    calls = host.calls.total()
    assert wanted in fault(library)
    assert host.calls.total() == calls


def test_a_download_over_plain_http_is_refused(
    host: FakeCivitai, lora: bytes, tmp_path: Path
) -> None:
    host.files[7] = FakeFile(lora)
    library = a_library(host, tmp_path, schemes=("https",))
    assert "at an address without https" in fault(library)
    assert not host.calls


@pytest.mark.parametrize("answer", [b"[]", b"no JSON", b"[" * 100_000, b'{"files": 7}'])
def test_an_answer_that_is_no_answer_is_refused(
    host: FakeCivitai, library: Library, answer: bytes
) -> None:
    host.answer = answer
    assert fault(library).startswith("download_failed")


def test_an_answer_is_read_up_to_its_limit(
    host: FakeCivitai, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(civitai, "MAX_ANSWER", 1000)
    host.answer = b" " * 100_000
    assert "an answer that is too long" in fault(library)


@pytest.mark.lengthy
def test_a_slow_body_ends_with_the_jobs_time_and_leaves_nothing(
    host: FakeCivitai, library: Library, lora: bytes, tmp_path: Path
) -> None:
    host.files[7] = FakeFile(lora, drip_s=0.01)
    soon = time.monotonic() + 0.3
    with (
        pytest.raises(UnusableError, match="in time"),
        library.using("lora", "7", is_version=True, deadline=soon),
    ):
        pass
    assert cached(tmp_path) == set()
    # Another job, with more time, is not told that it failed.
    host.files[7].drip_s = 0
    assert fetched(library, "7") == lora


@pytest.mark.lengthy
def test_nothing_is_fetched_for_longer_than_the_setting_says(
    host: FakeCivitai, lora: bytes, tmp_path: Path
) -> None:
    host.files[7] = FakeFile(lora, drip_s=0.01)
    assert "in time" in fault(a_library(host, tmp_path, seconds=0.3))


def test_an_unknown_number_is_not_asked_for_again_at_once(
    host: FakeCivitai, library: Library
) -> None:
    for _ in range(3):
        assert "status 404" in fault(library)
    assert host.calls.total() == 1


def test_a_host_in_trouble_is_asked_again(host: FakeCivitai, library: Library, lora: bytes) -> None:
    host.files[7] = FakeFile(lora)
    host.statuses = [503, 429]
    assert fetched(library, "7") == lora


def test_a_host_that_asks_for_silence_gets_it(
    host: FakeCivitai, library: Library, lora: bytes
) -> None:
    host.files[7], host.files[8] = FakeFile(lora), FakeFile(lora)
    host.statuses, host.retry_after = [429], "300"
    assert "status 429" in fault(library, "7")
    assert "asked for silence" in fault(library, "8")
    assert host.calls.total() == 1


def test_the_key_goes_to_the_host_alone_and_into_no_message_or_log(
    host: FakeCivitai, lora: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with fake_civitai() as store:
        host.files[7] = store.files[7] = FakeFile(lora, needs_key=True)
        elsewhere = store.url.replace("127.0.0.1", "localhost")
        host.files[7].redirect = f"{elsewhere}/files/7?signed=secret"
        library = a_library(host, tmp_path, hosts=["local*"])
        assert fetched(library, "7") == lora
        assert {path for path, _ in host.keys} == {
            "/api/v1/model-versions/7", "/api/download/models/7"
        }  # fmt: skip
        assert store.keys == []
        assert store.calls == {"/files/7": 1}
    host.files[8] = FakeFile(lora + b" ", redirect=host.files[7].redirect)  # it is away now
    said = fault(library, "8")
    texts = [
        said,
        *(record.getMessage() for record in caplog.records if "gpu_worker" in record.name),
    ]
    assert not [text for text in texts if KEY in text or "secret" in text]


def test_jobs_that_want_the_same_file_wait_for_one_download(
    host: FakeCivitai, library: Library, lora: bytes
) -> None:
    host.files[7] = FakeFile(lora)
    host.hold.clear()
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(fetched(library, "7"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    host.hold.set()
    for thread in threads:
        thread.join()
    assert got == [lora] * 4
    assert host.calls["/files/7"] == 1


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..", "/etc/passwd", "7/../8", "\u0667", "a\x00b", "x" * 255, "火" * 255],
)
@pytest.mark.parametrize("version", [True, False])
def test_a_name_is_never_a_path_nor_a_part_of_an_address(
    host: FakeCivitai, library: Library, tmp_path: Path, name: str, version: bool
) -> None:
    (tmp_path / "lora").mkdir()
    assert fault(library, name, version=version) == "download_failed: is not known to this worker"
    assert not host.calls
    with pytest.raises(AddOnError) as caught:
        Loader(library, Reader(), MOST)(a_job(loras=[{"name": name, "is_version": version}]))
    assert caught.value.remark == {"type": "lora", "value": "download_failed", "ref": name}
    assert name not in str(caught.value)


# The cache


def test_the_file_used_longest_ago_makes_room_and_none_in_use(
    host: FakeCivitai, lora: bytes, tmp_path: Path
) -> None:
    for number in range(1, 5):
        host.files[number] = FakeFile(lora + bytes(number), size_kb=(len(lora) + number) / 1024)
    room = 3 * (len(lora) + 3000)
    library = a_library(host, tmp_path, cache_bytes=room)
    deadline = time.monotonic() + SOON_S
    with library.using("lora", "1", is_version=True, deadline=deadline) as used:
        os.utime(used.path, (1, 1))  # the oldest of all
        for name, at in (("2", 3), ("3", 2)):
            with library.using("lora", name, is_version=True, deadline=deadline) as found:
                os.utime(found.path, (at, at))
        fetched(library, "4")
        assert used.path.exists()
    calls = host.calls["/files/2"]
    fetched(library, "2")
    assert host.calls["/files/2"] == calls, "3 was older"
    fetched(library, "3")
    assert host.calls["/files/3"] == 2
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= room


def test_a_file_for_which_there_is_no_room_faults_its_job(
    host: FakeCivitai, lora: bytes, tmp_path: Path
) -> None:
    host.files[7] = FakeFile(lora)
    library = a_library(host, tmp_path, cache_bytes=1000)
    assert "does not fit into the cache" in fault(library)


def test_what_a_killed_worker_left_unfinished_is_removed(tmp_path: Path) -> None:
    for name, at in (("old", 1), ("new", time.time())):
        (tmp_path / f"{name}.part").write_bytes(b"half")
        os.utime(tmp_path / f"{name}.part", (at, at))
    DiskCache(tmp_path, MOST)
    assert [one.name for one in tmp_path.iterdir()] == ["new.part"]


def test_a_folder_that_another_user_may_fill_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    DiskCache(folder, MOST)
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(PermissionError):
        DiskCache(folder, MOST)


def test_files_that_are_being_written_take_room_too(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    with cache.writing("a", 60) as first:
        first.write_bytes(b"a")
        with pytest.raises(UnusableError), cache.writing("b", 60):
            pass
        with cache.writing("b", 40) as path:
            path.write_bytes(b"b")
    with pytest.raises(FileNotFoundError), cache.writing("c", 99):
        pass  # nothing was written
    assert [one.name for one in tmp_path.iterdir()] == ["b.safetensors"], "a made room"

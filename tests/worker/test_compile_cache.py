"""What was compiled is there at the next start, and nothing that happens to it stops a worker."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpu_worker.compile_cache import CompileCache

pytestmark = [
    # Importing torch takes seconds.
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]
MB = 1_000_000


@pytest.fixture(autouse=True)
def torchs_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "put back after the test")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return tmp_path / "volume" / "compiled"


def started(volume: Path, *about: object, limit: int = 10 * MB) -> CompileCache:
    """A cache as a worker has it when it begins to compile."""
    from gpu_worker.compile_cache import CompileCache

    cache = CompileCache(volume, limit, "cpu", *about)
    cache.load()
    return cache


def torchs() -> Path:
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])


def compiled(name: str = "graph", size: int = 10) -> None:
    """Stands in for torch: what it compiles is a file in its folder, here of random bytes."""
    file = torchs() / "fxgraph" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(os.urandom(size))


def known() -> set[str]:
    return {file.name for file in torchs().rglob("*") if file.is_file()}


def kept(volume: Path) -> list[Path]:
    return sorted(volume.glob("compiled-*.tar.gz"))


START = """
import json, sys, torch
from pathlib import Path
from gpu_worker.compile_cache import CompileCache

cache = CompileCache(Path(sys.argv[1]), 10_000_000, "cpu")
cache.load()

class Tiny(torch.nn.Linear):
    def forward(self, x):
        return torch.nn.functional.gelu(super().forward(x))

model = Tiny(8, 8)
model.compile(dynamic=False)
with torch.inference_mode():
    model(torch.ones(2, 8))
cache.save()
counted = torch._dynamo.utils.counters
print(json.dumps({
    "compiled": counted["inductor"]["fxgraph_cache_miss"],
    "found": counted["inductor"]["fxgraph_cache_hit"],
    "C++": sum(1 for _ in Path(cache._local).rglob("*.so")),
}))
"""


def test_a_second_process_compiles_nothing(volume: Path) -> None:
    def start() -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", START, str(volume)],
            capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": f"{Path.cwd()}{os.pathsep}functions"},
        )  # fmt: skip
        found: dict[str, int] = json.loads(done.stdout)
        return found

    first = start()
    assert (first["compiled"], first["found"]) == (1, 0)
    assert first["C++"]
    written = kept(volume)[0].stat().st_ino
    assert start() == {"compiled": 0, "found": 1, "C++": first["C++"]}
    assert kept(volume)[0].stat().st_ino == written, "nothing is new, so nothing is written"


def test_a_worker_finds_what_the_last_one_compiled_for_the_same_model_and_shapes(
    tiny_model: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker import speed
    from gpu_worker.pipeline import Pipeline

    found: list[set[str]] = []

    def compile_for(_model: object, draws: list[Any]) -> bool:
        found.append(known())
        compiled(f"graph {len(found)}")
        return len(found) < 4

    monkeypatch.setattr(speed, "compile_for", compile_for)
    settings = Settings(
        horde_url="", horde_api_key="", worker_name="", model_dir=tiny_model, device="cpu",
        compiled=((64, 64, 1),), compile_cache_dir=volume,
    )  # fmt: skip
    for one in (settings, settings, replace(settings, compiled=((64, 64, 2),)), settings):
        Pipeline(one).warm_up()
    assert found == [set(), {"graph 1"}, set(), {"graph 1", "graph 2"}]
    assert len(kept(volume)) == 1, "with the last one nothing could be drawn, so it is gone"
    Pipeline(replace(settings, compile_cache_mb=0)).warm_up()
    assert len(kept(volume)) == 1


def test_what_can_never_be_used_together_is_kept_apart(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from gpu_worker import compile_cache

    def name(device: str = "cuda") -> str:
        return compile_cache.CompileCache(volume, MB, device)._file.name

    monkeypatch.setattr(compile_cache, "CPUS", tmp_path / "cpuinfo")
    compile_cache.CPUS.write_text("model name : A\nflags : sse avx2\ncpu MHz : 2000.1\n")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    first = name()
    compile_cache.CPUS.write_text("model name : A\nflags : sse avx2\ncpu MHz : 2900.7\n")
    assert name() == first
    others = [name("cpu")]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L40S")
    others.append(name())
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    others.append(name())
    compile_cache.CPUS.write_text("model name : A\nflags : sse avx2 avx512f\n")
    others.append(name())
    assert len({first, *others}) == 5


@pytest.mark.parametrize("damage", ["cut", "half", "changed", "empty", "other"])
def test_a_damaged_archive_is_removed_and_nothing_of_it_is_used(volume: Path, damage: str) -> None:
    cache = started(volume)
    compiled(size=100_000)
    cache.save()
    (archive,) = kept(volume)
    data = archive.read_bytes()
    middle = len(data) // 2
    archive.write_bytes(
        {
            "cut": data[:-100],
            "half": gzip.compress(gzip.decompress(data)[:50_000]),
            "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "empty": b"",
            "other": b"#!/bin/sh\n",
        }[damage]
    )
    cache = started(volume)
    assert known() == set()
    assert kept(volume) == []
    compiled()
    cache.save()
    started(volume)
    assert known() == {"graph"}


def test_a_worker_that_is_killed_while_it_writes_leaves_what_was_there(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = started(volume)
    compiled("old")
    cache.save()
    cache = started(volume)
    compiled("new", 1000)
    child = os.fork()
    if not child:
        monkeypatch.setattr(os, "fsync", lambda _: os._exit(0))  # all is written, and not in place
        cache.save()
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    (left,) = volume.glob("*.part")
    other = started(volume)
    assert known() == {"old"}
    # What it left is the oldest, and so the first to be evicted.
    os.utime(left, (0, 0))
    other._limit = sum(file.stat().st_size for file in kept(volume)) + left.stat().st_size
    compiled("more")
    other.save()
    assert list(volume.glob("*.part")) == []


def test_of_workers_that_write_at_once_one_wins_and_none_mixes(volume: Path) -> None:
    workers = []
    for number in range(4):
        workers.append(started(volume))
        for part in range(3):
            compiled(f"{number} {part}", 50_000)
    threads = [threading.Thread(target=worker.save) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started(volume)
    assert known() in [{f"{number} {part}" for part in range(3)} for number in range(4)]
    assert [file.suffix for file in volume.iterdir()] == [".gz"]


@pytest.fixture
def files_of_a_kilobyte() -> Iterator[None]:
    """The system refuses to make a file longer, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_on_the_volume_a_worker_goes_on(
    volume: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    cache = started(volume)
    compiled(size=5000)
    with caplog.at_level("CRITICAL"):
        request.getfixturevalue("files_of_a_kilobyte")
        cache.save()
    assert list(volume.iterdir()) == []


def test_a_volume_that_cannot_be_written_or_read_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = started(tmp_path / "file" / "compiled")
    compiled()
    cache.save()
    cache.drop()
    assert "not used" in caplog.text
    assert "not kept for later starts" in caplog.text


def test_the_archives_used_longest_ago_are_evicted_and_no_other_file(volume: Path) -> None:
    for name in ("a", "b", "c"):
        cache = started(volume, name)
        compiled(name, 100_000)
        cache.save()
    for name, age in (("a", 300), ("b", 200), ("c", 100)):
        file = started(volume, name)._file
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    started(volume, "a")  # used just now
    (volume / "precious.safetensors").write_bytes(bytes(MB))
    cache = started(volume, "d", limit=320_000)
    compiled("d", 100_000)
    cache.save()
    left = {name for name in "abcd" if started(volume, name)._file.exists()}
    assert left == {"a", "c", "d"}
    assert (volume / "precious.safetensors").exists()


def test_an_archive_that_has_grown_over_the_limit_is_begun_anew(volume: Path) -> None:
    cache = started(volume)
    compiled("old", 60_000)
    cache.save()
    cache = started(volume, limit=100_000)
    compiled("new", 60_000)
    cache.save()
    assert list(volume.iterdir()) == []


def test_what_others_could_have_written_is_not_run(
    volume: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = started(volume)
    compiled()
    cache.save()
    (archive,) = kept(volume)
    assert (volume.stat().st_mode & 0o777, archive.stat().st_mode & 0o777) == (0o700, 0o600)
    content = archive.read_bytes()

    def is_used() -> bool:
        started(volume)
        return known() == {"graph"}

    assert is_used()
    archive.chmod(0o620)
    assert not is_used()
    archive.chmod(0o600)
    volume.chmod(0o777)
    assert not is_used()
    cache = started(volume)
    compiled("more")
    cache.save()
    assert archive.read_bytes() == content
    assert "others may write" in caplog.text
    volume.chmod(0o700)
    archive.rename(volume / "elsewhere")
    archive.symlink_to(volume / "elsewhere")
    assert not is_used()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_archive_is_not_run(volume: Path) -> None:
    cache = started(volume)
    compiled()
    cache.save()
    (archive,) = kept(volume)
    for path in (archive, volume):
        os.chown(path, 12345, -1)
        started(volume)
        assert known() == set()
        os.chown(path, 0, -1)
    started(volume)
    assert known() == {"graph"}

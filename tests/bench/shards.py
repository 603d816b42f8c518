"""A shard of 10,000 images: the memory and rate of the real ``pack``, in a fresh process.

``python -m tests.bench.shards URL FILE IMAGES`` is that process; the bench starts it beside
``shard_stub``. Two cores share both, so the images in a second are fewer than on AWS; the peak of
its memory is its own, from its start.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 10_000
BATCH = 250
SCREENED = 40
"""Images of which the CPU of their screening is measured."""
NAMES = {"TABLE_NAME": "t", "LAION_BUCKET": "l", "HELD_BUCKET": "h", "WORK_BUCKET": "w"}
Say = Callable[[str], None]
Row = dict[str, Any]


def measure(say: Say, images: int = IMAGES) -> dict[str, Row]:
    """Return by row: the peak of the memory in MB, and the CPU of an image in ms."""
    say(f"a shard of {images:,} images")
    env = {**os.environ, "PYTHONPATH": f"functions{os.pathsep}."}
    stub = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.shard_stub"],
        env=env,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stub.stdout
    assert stub.stdin
    try:
        url = f"http://127.0.0.1:{stub.stdout.readline().strip()}"
        with tempfile.TemporaryDirectory() as home:
            file = Path(home) / "found.json"
            for what in ("pack", "screen"):
                command = [sys.executable, "-m", "tests.bench.shards", what, url, str(file)]
                own = {
                    **env,
                    **NAMES,
                    "AWS_ENDPOINT_URL": url,
                    "AWS_ENDPOINT_URL_S3": url,
                    "AWS_ACCESS_KEY_ID": "id",
                    "AWS_SECRET_ACCESS_KEY": "secret",
                    "AWS_REGION": "us-east-1",
                    "AWS_DEFAULT_REGION": "us-east-1",
                }
                subprocess.run(
                    [*command, str(images)], env=own, cwd=ROOT, check=True, stdout=sys.stderr
                )
            found: dict[str, Row] = json.loads(file.read_text())
            return found
    finally:
        stub.stdin.close()
        stub.stdout.close()
        stub.wait()


def _pack(images: int) -> dict[str, Row]:
    """Plan a part, write it, and return what it took."""
    import pack
    from horde.release import work
    from horde.release.work import Folder
    from tests.bench.shard_stub import DAY

    name = f"part-{DAY}-00000"
    bench = work.Bench(NAMES["WORK_BUCKET"], DAY)
    names = [f"{name}.{number:03d}" for number in range(-(-images // BATCH))]
    seen = {"nsfw_score": 0.01, "screened_by": "none 1", "md5": "0" * 32, "phash": "0" * 16}
    for number, batch in enumerate(names):
        ids = [str(uuid.UUID(int=one)) for one in range(images)[number * BATCH :][:BATCH]]
        passed = [
            {"key": f"incoming/date={DAY}/{one}.tar", "size": 1, "id": one, **seen} for one in ids
        ]
        bench.write(Folder.SCREENED.of(batch), {"passed": passed, "kept_back": {}})
    bench.write(Folder.PARTS.of(name), {"batches": names})
    begun, cpu = time.perf_counter(), time.process_time()
    done = pack.pack(DAY, name)
    lasted, cpu = time.perf_counter() - begun, time.process_time() - cpu
    assert len(done["ids"]) == images
    shard = done["files"][0]
    peak = _peak()
    rate = images / lasted
    print(
        f"  {images:,} images, {shard['bytes'] / 1e6:.0f} MB: {lasted:.0f} s, "
        f"{rate:.0f} images/s, {1000 * cpu / images:.2f} ms of CPU an image, "
        f"{peak:.0f} MB of memory"
    )
    return {
        "release memory": {"value": peak, "images_per_s": rate},
        "release pack": _cpu(1000 * cpu / images),
    }


def _peak() -> float:
    """Return the most memory that this process has had, in MB.

    On Linux not by ``getrusage``, which counts what the process had that started this one.
    """
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in one]
    return int(line.split()[1]) / 2**10


def _screen() -> dict[str, Row]:
    """Return the CPU of screening an image of usual size."""
    from horde.detector import OPENNSFW, screened
    from tests.support.images import webp

    file = webp("red", 512)
    screened(file, OPENNSFW)
    begun = time.process_time()
    for _ in range(SCREENED):
        screened(file, OPENNSFW)
    found = 1000 * (time.process_time() - begun) / SCREENED
    print(f"  {found:.0f} ms of CPU to screen an image")
    return {"release screen": _cpu(found)}


def _cpu(ms: float) -> Row:
    return {"value": ms, "ms": ms}


def main(what: str, file: Path, images: int) -> None:
    """Add what was measured to a file."""
    before = json.loads(file.read_text()) if file.exists() else {}
    found = _pack(images) if what == "pack" else _screen()
    file.write_text(json.dumps({**before, **found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[3]), int(sys.argv[4]))

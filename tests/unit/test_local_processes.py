"""Nothing outlives a local cloud, and ``make down`` ends no stranger."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import down
from infra.local.processes import LocalCloudError, Part, Parts, identity
from tests.support.numbers import HANG_S

LONG = str(10 * HANG_S)
SLEEP = ["sleep", LONG]
STUBBORN = f"trap '' TERM; sleep {LONG} & echo ready $!; wait; sleep {LONG}"


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path)
    yield made
    made.end(grace=0)


def start(parts: Parts, folder: Path, *command: str) -> Part:
    return parts.start("part", command, env=dict(os.environ), cwd=folder)


def gone(pid: int) -> bool:
    end = time.monotonic() + HANG_S
    while identity(pid) is not None:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_end_stops_what_ignores_sigterm_and_its_children(parts: Parts, tmp_path: Path) -> None:
    part = start(parts, tmp_path, "sh", "-c", STUBBORN)
    while "ready" not in part.last_line():
        time.sleep(0.02)
    child = int(part.last_line().split()[1])
    assert identity(child)
    parts.end(grace=0.1)
    assert gone(child)
    assert gone(part.process.pid)


def test_a_killed_run_takes_its_parts_along(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, time
        from pathlib import Path
        from infra.local.processes import Parts
        parts = Parts(Path({str(tmp_path)!r}))
        part = parts.start("p", {SLEEP!r}, env=dict(os.environ), cwd=Path("/"))
        print(part.process.pid, flush=True)
        time.sleep({LONG})
        """
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert identity(pid)
        run.kill()
    assert gone(pid)


def test_a_failed_command_names_its_log(parts: Parts, tmp_path: Path) -> None:
    part = start(parts, tmp_path, "sh", "-c", "echo no such bucket; exit 3")
    with pytest.raises(LocalCloudError, match="part ended with 3") as raised:
        parts.wait(part, seconds=HANG_S)
    assert "| no such bucket" in raised.value.tail()


def test_a_command_that_hangs_is_given_up(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(LocalCloudError, match="has not ended"):
        parts.wait(start(parts, tmp_path, *SLEEP), seconds=0.1)


def record(folder: Path, **row: object) -> None:
    nobody = {"pid": 2**22 + 1, "identity": "gone"}
    text = json.dumps({"run": nobody, "parts": [{"name": "x", **row}]})
    (folder / "processes.json").write_text(text)


def test_down_ends_what_is_left(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, process_group=0) as left:
        pid = left.pid
        record(tmp_path, group=pid, pid=pid, identity=identity(pid))
        assert down.end_run(tmp_path) == 1
        assert left.wait(HANG_S) == -signal.SIGKILL
    assert not (tmp_path / "processes.json").exists()


def test_down_leaves_a_stranger_with_the_same_number_alone(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, process_group=0) as stranger:
        record(tmp_path, group=stranger.pid, pid=stranger.pid, identity="an earlier start")
        assert down.end_run(tmp_path) == 0
        assert stranger.poll() is None
        stranger.kill()

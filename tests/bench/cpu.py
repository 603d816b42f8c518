"""The CPU of one request in fresh processes, in turns with one GetItem of boto3."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from layers import build
from layers.bytecode import RUNTIME, python_for
from tests.bench.coldstart import TARGET, plain_stack

HERE = Path(__file__).parent
PROCESSES, ROUNDS = 4, 40
BASE = "cpu GetItem"
Say = Callable[[str], None]


def one_process(python: Path, path: str, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Return the milliseconds of each call, by row, in a fresh process with a fresh AWS."""
    env = {**os.environ, "PYTHONPATH": f"functions{os.pathsep}."}
    stub = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.stub"],
        env=env,
        cwd=build.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert stub.stdout
    assert stub.stdin
    try:
        told = json.loads(stub.stdout.readline())
        with tempfile.TemporaryDirectory() as home:
            file = Path(home) / "facts.json"
            file.write_text(json.dumps(told))
            subprocess.run(
                [python, "-S", "-P", HERE / "timed.py", file, str(rounds)],
                env={
                    "PYTHONPATH": path,
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "HOME": home,
                    "AWS_ACCESS_KEY_ID": "id",
                    "AWS_SECRET_ACCESS_KEY": "secret",
                    "AWS_REGION": "us-east-1",
                    "AWS_DEFAULT_REGION": "us-east-1",
                },
                stdout=subprocess.DEVNULL,  # the functions' log
                check=True,
            )
            found: dict[str, list[float]] = json.loads(file.read_text())
            return found
    finally:
        stub.stdin.close()
        stub.wait()


def measure(say: Say) -> dict[str, dict[str, float]]:
    """Return by row: the median and the minimum in ms, and both against those of a GetItem.

    Raises BuildError where there is no Python of the runtime's version.
    """
    python = python_for(RUNTIME)
    folders = (build.functions(TARGET), build.layer(TARGET) / "python", plain_stack(TARGET, python))
    path = os.pathsep.join(map(str, folders))
    times: dict[str, list[float]] = {}
    for number in range(PROCESSES):
        say(f"CPU of requests: process {number + 1} of {PROCESSES}")
        for name, values in one_process(python, path).items():
            times.setdefault(name, []).extend(values)
    return summed(times)


def summed(times: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return by row: ms, least_ms, and the ratios of both to a GetItem's."""
    middle, least = statistics.median(times[BASE]), min(times[BASE])
    return {
        name: {
            "ms": statistics.median(values),
            "least_ms": min(values),
            "value": statistics.median(values) / middle,
            "least": min(values) / least,
        }
        for name, values in times.items()
    }

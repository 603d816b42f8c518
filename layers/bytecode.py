"""Compile an asset's modules for the Lambda runtime, whatever Python runs the build.

Lambda's file systems are read-only, so a module without a ``.pyc`` of the runtime's own version is
compiled at every cold start, which doubles its CPU time (lambda-performance.md 1.2). The files are
of the unchecked-hash kind: they stay valid when a zip changes the times of their sources.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

RUNTIME = (3, 13)
"""The version of the Lambda runtime's Python."""
MAGIC = 3571
"""The number at the start of each ``.pyc`` of Python 3.13; its alphas had others."""
_ABOUT = (
    "import importlib.util, sys; print(*sys.version_info[:2], "
    "int.from_bytes(importlib.util.MAGIC_NUMBER[:2], 'little'))"
)
_NAME = ".".join(map(str, RUNTIME))
DIRECTORY_MODE, FILE_MODE = 0o755, 0o644
EPOCH = 315_532_800
"""The time of every file of an asset, in seconds: 1980-01-01, the first that a zip can hold."""


class BuildError(Exception):
    """An asset cannot be built; the message says why, and what to do."""


def compile_folder(folder: Path, at: str, python: Path) -> None:
    """Give every ``.py`` below a folder its ``.pyc``, as if the folder were mounted ``at`` a path.

    The paths inside the files are those on Lambda, so that the build's own folder is not in them.
    Raises BuildError where a file cannot be compiled.
    """
    # A fixed seed: the order of a set's constants is in the file.
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    env = {name: value for name, value in env.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command: list[str | Path] = [python, "-s", "-P", "-m", "compileall", "-q", "-f"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", folder, "-p", at, folder]
    done = subprocess.run(command, env=env, cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode:
        message = f"not every module in {folder} can be compiled: {done.stdout}{done.stderr}"
        raise BuildError(message.strip())


def settle(folder: Path) -> None:
    """Give all files the same mode and time: neither the umask nor the clock is in an asset."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(DIRECTORY_MODE if path.is_dir() else FILE_MODE)
        os.utime(path, (EPOCH, EPOCH))


def python_for(version: tuple[int, int]) -> Path:
    """Return a Python of a version, this one where it fits; raises BuildError if there is none.

    Bytecode does not depend on the processor, so any build of the version will do.
    """
    if sys.version_info[:2] == version:
        return Path(sys.executable)
    found = next((path for path in _candidates() if _is_the_runtimes(path)), None)
    if found is None:
        message = (
            f"Python {_NAME} is needed to compile the Lambdas' modules, and none was found; "
            f"install it so that the command python{_NAME} runs"
        )
        raise BuildError(message)
    return found


def _candidates() -> Iterator[Path]:
    """Yield where a Python of the runtime's version may be, the quickest to ask first."""
    on_path = shutil.which(f"python{_NAME}")
    if on_path:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{_NAME}.*/bin/python{_NAME}"))
    uv = shutil.which("uv", path=str(Path(sys.prefix) / "bin")) or shutil.which("uv")
    if uv is None:
        return
    # uv installs the environments, and is locked in requirements/uv.txt. It keeps the Pythons that
    # it downloads to itself, and changes no other.
    for task in ("find", "install", "find"):
        said = subprocess.run(
            [uv, "python", task, _NAME], text=True, capture_output=True, check=False
        )
        if task == "find" and said.returncode == 0:
            yield Path(said.stdout.strip())


def _is_the_runtimes(python: Path) -> bool:
    # A shim of pyenv may exist and run nothing.
    try:
        said = subprocess.run([python, "-c", _ABOUT], text=True, capture_output=True, check=False)
    except OSError:
        return False
    return said.stdout.split() == [*map(str, RUNTIME), str(MAGIC)]

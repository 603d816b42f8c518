"""Build the Lambdas' assets: the layer of their wheels, and the functions with their bytecode.

``python -m layers.build [lambda|lambda-x86|host]`` fills ``build/layer/<target>`` and
``build/functions/<target>``. The default target ``lambda`` is the Lambda runtime (arm64, Python
3.13), as in cdk.json's ``build``. The target ``host`` is this machine and this Python, for the
local cloud. ``lambda-x86`` is the runtime's Python on x86-64, for measurements.

Where nothing changed it does nothing, so a synth needs no network. Two builds of the same sources
have the same bytes, so a second deploy replaces no function. It installs only wheels and needs
neither compiler nor Docker.
"""

import fcntl
import gzip
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from layers.bytecode import RUNTIME, BuildError, compile_folder, python_for, settle
from layers.trimmed import ALL_ROOTS_FILE, ROOTS_FILE, amazon_roots, trim_data

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LOCK = ROOT / "requirements" / "lambda.txt"
NPM = ROOT / "node_modules"
NPM_LOCK = ROOT / "package-lock.json"
SOURCES = ROOT / "functions"
BUILDERS = sorted(Path(__file__).parent.glob("*.py"))
GROUPS = ("screening", "release")
"""Locked groups with layers of their own, beside that of all functions."""
SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")
TARGETS = {
    "lambda": ("manylinux2014_aarch64", "manylinux_2_28_aarch64"),
    "lambda-x86": ("manylinux2014_x86_64", "manylinux_2_28_x86_64"),
    "host": (),
}
"""The platforms whose wheels each target takes; for ``host``, those of this Python."""
IN_LAYER, IN_FUNCTION = "/opt", "/var/task"
"""Where Lambda mounts the assets."""
INSTALLERS_NOTES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""Files of a ``.dist-info`` that tell of the installation, such as hashes of removed scripts."""


def layer(target: str, build: Path = BUILD) -> Path:
    """Build the layer of a target, if it changed, and return its folder; raises BuildError."""
    made_from = _digest(target, {path.name: path for path in (LOCK, NPM_LOCK, *BUILDERS)})

    def make(folder: Path) -> None:
        packages = folder / "python"
        _install(LOCK, packages, target)
        trim_data(packages / "botocore" / "data")
        roots = amazon_roots((packages / ALL_ROOTS_FILE).read_text("utf-8"))
        (packages / ROOTS_FILE).write_text(roots)
        copy_swagger_ui(packages / "swagger_ui")

    return _build(build / "layer" / target, made_from, make, IN_LAYER, target)


def group_layer(target: str, group: str, build: Path = BUILD) -> Path:
    """Build the layer of a locked group, without what the layer of all functions has.

    Returns its folder; raises BuildError.
    """
    lock = LOCK.with_name(f"{group}.txt")
    made_from = _digest(target, {path.name: path for path in (lock, LOCK, *BUILDERS)})

    def make(folder: Path) -> None:
        packages = folder / "python"
        _install(lock, packages, target)
        shared = {_wheel_name(line) for line in LOCK.read_text().splitlines() if "==" in line}
        for info in sorted(packages.glob("*.dist-info")):
            if _wheel_name(info.name.partition("-")[0]) in shared:
                for name in (info / "top_level.txt").read_text().split():
                    shutil.rmtree(packages / name, ignore_errors=True)
                libraries = f"{info.name.partition('-')[0]}.libs"
                shutil.rmtree(packages / libraries, ignore_errors=True)
                shutil.rmtree(info)
        for tests in (*packages.glob("*/tests"), *packages.glob("*/*/tests")):
            shutil.rmtree(tests)

    return _build(build / "layer" / f"{target}-{group}", made_from, make, IN_LAYER, target)


def _wheel_name(line: str) -> str:
    return line.partition("==")[0].strip().lower().replace("-", "_")


def _install(lock: Path, packages: Path, target: str) -> None:
    """Install the wheels of a lock into a folder; raises BuildError."""
    print(f"building the {target} layer from {lock.relative_to(ROOT)}", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    pip += ["--only-binary=:all:", "--no-compile", f"--target={packages}"]
    pip += ["--requirement", str(lock), *(f"--platform={name}" for name in TARGETS[target])]
    if TARGETS[target]:
        pip += [f"--python-version={RUNTIME[0]}.{RUNTIME[1]}", "--implementation=cp"]
    if subprocess.run(pip, check=False).returncode:
        message = f"pip cannot install {lock.relative_to(ROOT)} for {target}"
        raise BuildError(message)
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for name in INSTALLERS_NOTES:
        for note in packages.glob(f"*.dist-info/{name}"):
            note.unlink()


def functions(target: str, build: Path = BUILD, sources: Path = SOURCES) -> Path:
    """Build the functions' asset, if it changed, and return its folder; raises BuildError."""
    files = {str(path.relative_to(sources)): path for path in _deployed(sources)}

    def make(folder: Path) -> None:
        for name, path in files.items():
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)

    made_from = _digest(target, files | {path.name: path for path in BUILDERS})
    return _build(build / "functions" / target, made_from, make, IN_FUNCTION, target)


def _deployed(sources: Path) -> Iterator[Path]:
    """Yield the files of the functions in order, without bytecode of other Pythons."""
    for path in sorted(sources.rglob("*")):
        parts = path.relative_to(sources).parts
        hidden = any(part == "__pycache__" or part.startswith(".") for part in parts)
        if path.is_file() and path.suffix != ".pyc" and not hidden:
            yield path


def copy_swagger_ui(folder: Path) -> None:
    """Write the assets of the API documentation page into a folder, compressed as served."""
    folder.mkdir()
    for name in SWAGGER_UI:
        body = (NPM / "swagger-ui-dist" / name).read_bytes()
        # Not gzip.compress, whose header is another one in each version of Python.
        with (
            (folder / f"{name}.gz").open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        ):
            packed.write(body)


def _digest(target: str, files: Mapping[str, Path]) -> str:
    """Return a hash of everything that decides what is built."""
    version = RUNTIME if TARGETS[target] else sys.version_info[:2]
    digest = hashlib.sha256(f"{target} {version}".encode())
    for name, path in files.items():
        digest.update(f"\0{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return f"{digest.hexdigest()}\n"


def _build(
    folder: Path, made_from: str, make: Callable[[Path], None], at: str, target: str
) -> Path:
    """Make an asset and compile it, unless its stamp says that it was made from the same."""
    stamp = folder.with_name(f"{folder.name}.sha256")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if folder.exists() and stamp.exists() and stamp.read_text() == made_from:
            return folder
        python = python_for(RUNTIME) if TARGETS[target] else Path(sys.executable)
        work = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(work, ignore_errors=True)
        make(work)
        compile_folder(work, at, python)
        settle(work)
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
        stamp.write_text(made_from)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process builds the same."""
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Build the assets of the target that the command line names."""
    target = sys.argv[1] if len(sys.argv) > 1 else "lambda"
    if target not in TARGETS:
        sys.exit(f"usage: python -m layers.build [{'|'.join(TARGETS)}], not {target!r}")
    try:
        layer(target)
        for group in GROUPS if target == "lambda" else ():
            group_layer(target, group)
        functions(target)
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

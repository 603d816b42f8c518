"""Build the Lambdas' layer: wheels of ``requirements/lambda.txt``, and Swagger UI from npm.

``python -m layers.build [lambda|host]`` fills ``build/layer/<target>/python``. The default target
``lambda`` is the Lambda runtime (arm64, Python 3.13), as in cdk.json's ``build``. The target
``host`` is this machine, for the local cloud. Without a change of the lock files it does nothing,
so a synth needs no network. It installs only wheels and needs neither compiler nor Docker.
"""

import compileall
import gzip
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "lambda.txt"
NPM = ROOT / "node_modules"
NPM_LOCK = ROOT / "package-lock.json"
SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")
RUNTIME = (3, 13)
PLATFORM = (
    "--python-version=3.13",
    "--implementation=cp",
    "--platform=manylinux2014_aarch64",
    "--platform=manylinux_2_28_aarch64",
)


def build(target: str) -> Path:
    """Build one layer and return its folder; raises CalledProcessError if pip fails."""
    folder = ROOT / "build" / "layer" / target
    stamp = folder / "lock.sha256"
    version = sys.version_info[:2] if target == "host" else RUNTIME
    locks = hashlib.sha256(LOCK.read_bytes() + NPM_LOCK.read_bytes()).hexdigest()
    current = f"{locks} {target} {version}\n"
    if stamp.exists() and stamp.read_text() == current:
        return folder
    print(f"building the {target} layer from {LOCK.relative_to(ROOT)}", flush=True)
    work = folder.with_name(f"{target}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    pip += ["--only-binary=:all:", "--no-compile", f"--target={work / 'python'}"]
    pip += ["--requirement", str(LOCK), *(PLATFORM if target == "lambda" else ())]
    subprocess.run(pip, check=True)
    shutil.rmtree(work / "python" / "bin", ignore_errors=True)
    copy_swagger_ui(work / "python" / "swagger_ui")
    if version == sys.version_info[:2]:
        # Lambda's file system is read-only, so without .pyc every cold start compiles everything.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(work / "python", quiet=1, invalidation_mode=mode)
    else:
        print(
            f"no .pyc, since this is not Python {'.'.join(map(str, version))}: slower cold starts"
        )
    (work / stamp.name).write_text(current)
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    return folder


def copy_swagger_ui(folder: Path) -> None:
    """Write the assets of the API documentation page into a folder, compressed as served."""
    folder.mkdir()
    for name in SWAGGER_UI:
        body = (NPM / "swagger-ui-dist" / name).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(body, mtime=0))


def main() -> None:
    """Build the layer that the command line names."""
    target = sys.argv[1] if len(sys.argv) > 1 else "lambda"
    if target not in {"lambda", "host"}:
        sys.exit(f"usage: python -m layers.build [lambda|host], not {target!r}")
    build(target)


if __name__ == "__main__":
    main()

"""Measure cold starts in fresh processes: ``python -m tests.bench.coldstart``.

The CPU (user and system) of a process that starts, imports Lambda's runtime client and a function's
handler, and makes its clients, above that of a process with the runtime client alone. It is set
beside the usual stack, powertools' Logger and boto3's client of DynamoDB, in the same run. All have
their bytecode and the runtime's Python. AWS is a server on loopback that answers nothing, so
neither TLS nor a call is in the figures.

``--also NAME=FUNCTIONS:LAYER`` measures other builds, for instance those of an earlier commit.
"""

import argparse
import hashlib
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from layers import build
from layers.bytecode import RUNTIME, compile_folder, python_for

HOT = ("generate", "status", "worker")
USUAL = "powertools + boto3"
LOCK = build.ROOT / "requirements" / "bench.txt"
TARGET = "lambda-x86" if platform.machine() == "x86_64" else "lambda"
"""The build whose wheels run on this machine."""
ENVIRONMENT = {
    "ADMINS": "",
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
    "AWS_LAMBDA_FUNCTION_NAME": "measured",
    "AWS_REGION": "eu-central-1",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "HASH_SECRET": "arn:aws:secretsmanager:eu-central-1:000000000000:secret:hashes",
    "MODELS": '{"stable_diffusion":{"endpoint":"a","baseline":"stable_diffusion_1"}}',
    "MONTHLY_KUDOS": "0",
    "OUTPUTS_BUCKET": "outputs",
    "RATE_LIMITS": "true",
    "SOURCES_BUCKET": "sources",
    "TABLE_NAME": "horde",
    "TRUSTED_IPS": "",
}
PLAIN = """
from aws_lambda_powertools import Logger
logger = Logger(service="plain")
import boto3
client = boto3.client("dynamodb")
"""
OURS = """
import {function}
from horde import aws
client = aws.dynamodb()
"""


@dataclass
class Variant:
    """A thing to start: its code and where its packages are; the CPU seconds of its starts."""

    name: str
    code: str
    path: Sequence[Path]
    cpu: list[float] = field(default_factory=list)


def measure(variants: Sequence[Variant], runs: int, env: Mapping[str, str], python: Path) -> None:
    """Start each variant so often, in turns, so that a disturbance meets all of them."""
    for turn in range(runs + 1):
        for variant in variants:
            joined = os.pathsep.join(map(str, variant.path))
            process = subprocess.Popen(
                [python, "-S", "-P", "-c", f"import awslambdaric.bootstrap\n{variant.code}"],
                env={**env, "PYTHONPATH": joined, "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                sys.exit(f"{variant.name} does not start")
            if turn:  # the first one warms the file cache
                variant.cpu.append(usage.ru_utime + usage.ru_stime)


def table(variants: Sequence[Variant]) -> Iterator[str]:
    """Yield the lines: milliseconds above the first variant, and their ratio to the second's."""
    bare, plain = variants[:2]

    def above(variant: Variant) -> list[float]:
        return [1000 * (pick(variant.cpu) - pick(bare.cpu)) for pick in (statistics.median, min)]

    yield f"{'above ' + bare.name:44}{'median':>8}{'min':>8}{'ratio':>8}{'of min':>8}"
    for variant in variants[1:]:
        (middle, least), (usual, usual_least) = above(variant), above(plain)
        yield (
            f"{variant.name:44}{middle:8.1f}{least:8.1f}"
            f"{middle / usual:8.2f}{least / usual_least:8.2f}"
        )


def plain_stack(target: str, python: Path) -> Path:
    """Return a folder with the runtime client and the usual stack, compiled; built once."""
    stamp = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = build.BUILD / "bench" / f"plain-{stamp}"
    if folder.exists():
        return folder
    work = folder.with_suffix(".part")
    shutil.rmtree(work, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    pip += ["--only-binary=:all:", "--no-compile", "--requirement", str(LOCK)]
    pip += [f"--target={work}", f"--python-version={RUNTIME[0]}.{RUNTIME[1]}"]
    pip += ["--implementation=cp", *(f"--platform={name}" for name in build.TARGETS[target])]
    subprocess.run(pip, check=True)
    compile_folder(work, str(folder), python)
    work.rename(folder)
    return folder


@contextmanager
def silent_server() -> Iterator[str]:
    """Accept connections on loopback, and answer nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def starts(runs: int, also: Sequence[str] = ()) -> list[Variant]:
    """Build what is measured, and measure it; ``also`` are other builds, NAME=FUNCTIONS:LAYER.

    The first variant is the runtime client alone, the second the usual stack, and the rest are the
    functions. Raises BuildError where there is no Python of the runtime's version.
    """
    python = python_for(RUNTIME)
    plain = plain_stack(TARGET, python)
    builds = {"": (build.functions(TARGET), build.layer(TARGET) / "python")}
    for given in also:
        name, _, folders = given.partition("=")
        functions, layer = map(Path, folders.split(":"))
        builds[f"{name}: "] = (functions, layer)
    variants = [Variant("the runtime client alone", "", [plain]), Variant(USUAL, PLAIN, [plain])]
    for name, (functions, layer) in builds.items():
        for function in HOT:
            code = OURS.format(function=function)
            path = [functions, layer, plain]
            variants.append(Variant(f"{name}{function}", code, path))
    with silent_server() as url, tempfile.TemporaryDirectory() as home:
        env = {**ENVIRONMENT, "HOME": home, "PATH": os.environ.get("PATH", "")}
        env |= {"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_S3": url}
        measure(variants, runs, env, python)
    return variants


def main() -> None:
    """Build what is measured, measure it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FUNCTIONS:LAYER")
    options = parser.parse_args()
    variants = starts(options.runs, options.also)
    version = ".".join(map(str, RUNTIME))
    print(f"cold start, CPU in ms: {options.runs} fresh processes each, Python {version}")
    print("\n".join(table(variants)))


if __name__ == "__main__":
    main()

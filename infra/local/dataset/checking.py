"""Whether a copy of a release is what was delivered, by each library that researchers use."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import duckdb
from PIL import Image as Picture

from horde.rules.columns import COLUMNS, IN_SHARD
from infra.local.dataset.batch import Image
from infra.local.local_cloud import ROOT, LocalCloud, environment
from infra.local.processes import LocalCloudError
from infra.local.setup import READERS

PYTHON = READERS / "bin" / "python"
PARQUET_ONLY = {one.name for one in COLUMNS} - {one.name for one in IN_SHARD}
PICTURES = frozenset(
    {"datasets", "datasets_streaming", "webdataset", "open_clip", "ranges", "mlcroissant"}
)
"""The readers that decode every picture."""
ROWS = frozenset({"pyarrow", "pandas", "duckdb", "polars", "datasets_metadata"})
"""The readers of tables alone."""
PROMPT_ONLY = "open_clip"
"""Takes the prompt of a row, and nothing else."""


def tool(cloud: LocalCloud, *arguments: object) -> str:
    """Run the command ``horde-dataset`` with a cloud's S3; returns what it says.

    Raises LocalCloudError where it fails.
    """
    env = environment(cloud.endpoint) | {"PYTHONPATH": str(ROOT / "dataset")}
    return _run([sys.executable, "-m", "horde_dataset", *map(str, arguments)], env)


def operator(cloud: LocalCloud, *arguments: object) -> str:
    """Run ``bin/operator`` on a cloud; returns what it says. Raises LocalCloudError."""
    env = environment(cloud.endpoint) | {"PYTHONPATH": f"{ROOT / 'functions'}:{ROOT}"}
    command = [sys.executable, "-m", "infra.operate.commands", "--stage", "local"]
    return _run([*command, *map(str, arguments)], env)


def _run(command: list[str], env: Mapping[str, str], cwd: Path = ROOT) -> str:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        name = " ".join(command[1:])
        message = f"{name} ended with {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        raise LocalCloudError(message)
    return done.stdout


def ids_of(folder: Path) -> list[str]:
    """Return the ids of a copy, one for each row."""
    found = duckdb.execute(f"SELECT id FROM '{folder}/metadata.parquet'").fetchall()  # noqa: S608
    return [str(row[0]) for row in found]


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a copy by id."""
    cursor = duckdb.execute(f"SELECT * FROM '{folder}/metadata.parquet'")  # noqa: S608
    names = [column[0] for column in cursor.description or ()]
    found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return {str(row["id"]): row for row in found}


def readers(folder: Path, scratch: Path) -> dict[str, Any]:
    """Return what each library found in a copy, and the seconds it took; raises LocalCloudError."""
    if not PYTHON.exists():
        message = "what loads the data set is not installed here: run 'make setup' first"
        raise LocalCloudError(message)
    dropped = ("PYTHON", "HF_", "COVERAGE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    env |= {"HF_HOME": str(scratch / "hf"), "MPLCONFIGDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    said = _run([str(PYTHON), "-m", "tests.dataset.readers", str(folder)], env, scratch)
    found: dict[str, Any] = json.loads(said)
    return found


def wrong_rows(folder: Path, images: Mapping[str, Image], never: AbstractSet[str]) -> Iterator[str]:
    """Yield what a copy's rows say that was not asked for, or not delivered.

    ``images`` are to be there, and ``never`` may not; of others, which are not ours, it says
    nothing.
    """
    rows = {name: row for name, row in rows_of(folder).items() if name in never | images.keys()}
    for name in sorted(images.keys() ^ rows.keys()):
        yield f"{name} is {'missing' if name in images else 'there, and should not be'}"
    if len(ids_of(folder)) != len(set(ids_of(folder))):
        yield "an id is there twice"
    for name in sorted(images.keys() & rows.keys()):
        for column, value in _expected(images[name]).items():
            if rows[name][column] != value:
                yield f"{name} has the {column} {rows[name][column]!r}, not {value!r}"
        if any(rows[name][column.name] is None for column in COLUMNS if not column.nullable):
            yield f"{name} has a null"


def _expected(image: Image) -> dict[str, Any]:
    asked, params = image.ask.body, image.ask.body["params"]
    prompt, _, negative = asked["prompt"].partition("###")
    anonymous = image.ask.account is None
    return {
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        "seed": image.seed,
        "steps": params["steps"],
        "cfg_scale": params["cfg_scale"],
        "sampler": params["sampler_name"],
        "width": params["width"],
        "height": params["height"],
        "model": asked["models"][0],
        "user_type": "anon" if anonymous else "pseudonymous",
        "consent": "anonymous-default" if anonymous else "request-flag",
        "license": "CC0-1.0",
        "nsfw_requested": False,
        "censored": False,
        "sha256": hashlib.sha256(image.file).hexdigest(),
        "md5": hashlib.md5(image.file, usedforsecurity=False).hexdigest(),
        "bytes": len(image.file),
        "format": "webp",
        "file_name": f"{image.id}.webp",
    }


def wrong_readings(
    found: Mapping[str, Any], folder: Path, images: Mapping[str, Image]
) -> Iterator[str]:
    """Yield what a library reads otherwise than it was delivered: ids, rows, types, pixels."""
    for lacking in sorted((PICTURES | ROWS) - found.keys()):
        yield f"{lacking} has not read it"
    rows = rows_of(folder)
    pixels = {name: _pixels(image.file) for name, image in images.items()}
    for reader, result in found.items():
        got = result["found"]
        if not isinstance(got, dict):
            yield f"{reader} failed: {got[-500:]}"
            continue
        if got.keys() != rows.keys():
            yield f"{reader} finds {len(got)} images, not {len(rows)}"
        for name in got.keys() & images.keys():
            row, digest = got[name]
            if digest != (pixels[name] if reader in PICTURES else None):
                yield f"{reader} reads other pixels of {name}"
            if not _same(row, rows[name], reader):
                yield f"{reader} reads another row of {name}: {row}"


def _same(row: dict[str, Any], expected: dict[str, Any], reader: str) -> bool:
    if reader == PROMPT_ONLY:
        return row == {"id": expected["id"], "prompt": expected["prompt"]}
    whole = reader in ROWS | {"ranges", "mlcroissant"}
    wanted = {k: v for k, v in expected.items() if whole or k not in PARQUET_ONLY}
    return row == wanted and all(type(row[name]) is type(wanted[name]) for name in wanted)


def _pixels(file: bytes) -> str:
    with Picture.open(io.BytesIO(file)) as image:
        rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()

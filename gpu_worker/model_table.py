"""The models of a worker: `MODELS`, and where the files of each are. Standard library only.

`MODELS` is a JSON object, or the path of a file that holds one. Its keys are the Horde's names, its
values are entries of the deployment's table (`models` of `settings/<stage>.json`), of which the
worker reads `source`, `revision`, `memory_gb` and `controlnets`. What it does not know it ignores:
an old worker takes a newer table. `bin/operator model env` prints the table of an endpoint.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_worker.model_files import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
"""The name of a model on Hugging Face's hub."""
REVISION = re.compile(r"[0-9a-f]{40}")
"""A commit of the hub."""
VOLUME = Path("/runpod-volume")
"""Where RunPod mounts an endpoint's network volume."""
CACHE = VOLUME / "huggingface-cache/hub"
"""Where RunPod puts the model that an endpoint names as its cached one, in the hub's own layout."""
SOURCE = "source.json"
"""The file of a converted model that says of what it was made."""
MAX_MODELS = 300
MAX_NAME_BYTES = 100
"""Bytes of a model's name that our horde takes."""
MAX_TABLE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the worker."""

    name: str
    """As the Horde calls it."""
    source: str
    """A directory, `/...` or `./...` beside the table's file; or a name on the hub."""
    revision: str = ""
    """The hub's commit; empty for the one that the cache has."""
    memory_gb: float = 0.0
    """Memory of a device that draws it without ControlNets, in 10^9 bytes; 0 if unknown."""
    controlnets: str = ""
    """A directory of its ControlNets, as `source` names one; empty for those of its family."""
    folder: Path = Path()
    """What `./` begins at."""

    def directory(self, cache: Path = CACHE) -> Path:
        """Return the directory of its files; raises ModelError if the hub's cache has none."""
        if not HUB.fullmatch(self.source):
            return self.folder / self.source
        return _cached(cache, self.source, self.revision)

    def own_controlnets(self) -> Path | None:
        """Return the directory of its own ControlNets, or None."""
        return self.folder / self.controlnets if self.controlnets else None


def read(text: str) -> list[Model]:
    """Return the models of `MODELS` in their order; raises ValueError, which says what is wrong."""
    folder = Path()
    if not text.lstrip().startswith("{"):
        file = Path(text)
        folder = file.parent
        try:
            with file.open("rb") as opened:
                text = opened.read(MAX_TABLE_BYTES + 1).decode("utf-8")
        except (OSError, ValueError) as error:
            message = f"MODELS: {file} cannot be read ({type(error).__name__})"
            raise ValueError(message) from None
    if len(text.encode()) > MAX_TABLE_BYTES:
        message = f"MODELS is larger than {MAX_TABLE_BYTES} bytes"
        raise ValueError(message)
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        message = "MODELS is no JSON"
        raise ValueError(message) from None
    if not isinstance(found, dict) or not 0 < len(found) <= MAX_MODELS:
        message = f"MODELS is no object of 1 to {MAX_MODELS} models"
        raise ValueError(message)
    return [_model(name, entry, folder) for name, entry in found.items()]


def _model(name: str, entry: Any, folder: Path) -> Model:
    if not name.strip() or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        _refuse(name, f"is not a name of 1 to {MAX_NAME_BYTES} bytes")
    if not isinstance(entry, dict):
        _refuse(name, "is no object")
    source, revision = _text(name, entry, "source"), _text(name, entry, "revision")
    if not source.startswith(("/", "./")) and not HUB.fullmatch(source):
        _refuse(name, "has a source that is neither /a/path, ./a/path nor ORG/NAME of the hub")
    controlnets = _text(name, entry, "controlnets")
    if controlnets and not controlnets.startswith(("/", "./")):
        _refuse(name, "has controlnets that are neither /a/path nor ./a/path")
    for key, path in (("a source", source), ("controlnets", controlnets)):
        if ".." in Path(path).parts:
            _refuse(name, f"has {key} with '..'")
    if revision and not REVISION.fullmatch(revision):
        _refuse(name, "has a revision that is not a commit of 40 hexadecimal digits")
    memory = entry.get("memory_gb") or 0
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not 0 <= memory < 1e4:  # noqa: PLR2004
        _refuse(name, "has a memory_gb that is not a number of gigabytes")
    return Model(
        name=name,
        source=source,
        revision=revision,
        memory_gb=float(memory),
        controlnets=controlnets,
        folder=folder,
    )


def _text(name: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key) or ""
    if not isinstance(value, str):
        _refuse(name, f"has a {key} that is no text")
    return str(value)


def _refuse(name: str, what: str) -> None:
    message = f"MODELS: {name[:MAX_NAME_BYTES]!r} {what}"
    raise ValueError(message)


def _cached(cache: Path, source: str, revision: str) -> Path:
    """Return a snapshot in the hub's cache: the commit that is named, or the one that is there."""
    wanted = f"models--{source.replace('/', '--')}"
    # The hub does not tell names apart by case, and the cache keeps what was asked for.
    names = [one for one in cache.glob("models--*") if one.name.lower() == wanted.lower()]
    snapshots = [one for name in names for one in (name / "snapshots").glob("*") if one.is_dir()]
    if revision:
        snapshots = [one for one in snapshots if one.name == revision]
    elif len(snapshots) > 1:
        refs = [one / "refs" / "main" for one in names]
        main = {ref.read_text("utf-8").strip() for ref in refs if ref.is_file()}
        snapshots = [one for one in snapshots if one.name in main]
        if len(snapshots) != 1:
            message = f"of {source} there are several commits in {cache}: name its revision"
            raise ModelError(message)
    if snapshots:
        return snapshots[0]
    what = f"{source} at {revision}" if revision else source
    message = f"of {what} there is none in {cache}: set it as the endpoint's cached model"
    raise ModelError(message)

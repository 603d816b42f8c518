"""A folder of LoRAs or textual inversions: the operator's own, or a network volume.

A file `neon.safetensors` is found as `neon`. A file `neon.json` beside it may say more:
`{"name": "Neon Signs", "model_id": 12, "version_id": 345, "triggers": ["neon sign of"],
"baseline": "stable_diffusion_1", "sha256": "..."}`, each of which may be left out. Names that
clients send are compared with those of the files; no path is ever made of one.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpu_worker.addons.asked import UnusableError
from gpu_worker.addons.found import BASELINES, Found, sha256

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".safetensors"
LOOK_AGAIN_S = 10.0
"""Seconds for which a listing of the folder is believed."""
MAX_JSON = 64 * 1024
"""Bytes of a file that says more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    names: frozenset[str]
    version: str
    found: Found
    sha256: str


class Folder:
    """The files of a folder, by name and number. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Take a folder, which may fill later."""
        self._path = path
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._listed = float("-inf")
        self._verified: set[str] = set()
        """Keys of the files whose SHA-256 was compared."""

    def find(self, name: str, *, is_version: bool = False) -> Found | None:
        """Return the file of a name, of CivitAI's number, or of a version's number.

        Raises UnusableError if its SHA-256 is not the one that the file beside it names.
        """
        wanted = name.strip().lower().removesuffix(SUFFIX)
        for entry in self._listing():
            if wanted != entry.version if is_version else wanted not in entry.names:
                continue
            if entry.sha256 and entry.found.key not in self._verified:
                if sha256(entry.path) != entry.sha256:
                    message = "has another SHA-256 than the file beside it says"
                    raise UnusableError("download_failed", message)
                self._verified.add(entry.found.key)
            return entry.found
        return None

    def _listing(self) -> list[_Entry]:
        with self._lock:
            if time.monotonic() - self._listed > LOOK_AGAIN_S:
                try:
                    files = sorted(self._path.glob(f"*{SUFFIX}"))
                    self._entries = [_entry(path) for path in files]
                except OSError as error:
                    log.warning("a folder of LoRAs is unreadable: %s", type(error).__name__)
                self._listed = time.monotonic()
            return self._entries


def _entry(path: Path) -> _Entry:
    said = _said(path.with_suffix(".json"))
    stat = path.stat()
    names = {path.stem.lower(), str(said.get("name") or "").lower(), _number(said, "model_id")}
    triggers = said.get("triggers")
    baseline = said.get("baseline")
    return _Entry(
        path,
        frozenset(names - {""}),
        _number(said, "version_id"),
        Found(
            path=path,
            key=f"{path} {stat.st_size} {stat.st_mtime_ns}",
            triggers=tuple(map(str, triggers)) if isinstance(triggers, list) else (),
            baseline=baseline if baseline in BASELINES else "",
        ),
        str(said.get("sha256") or "").lower(),
    )


def _number(said: dict[str, Any], field: str) -> str:
    found = said.get(field)
    return str(found) if type(found) is int else ""


def _said(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_JSON))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    log.warning("%s is no JSON object of at most %d bytes", path.name, MAX_JSON)
    return {}

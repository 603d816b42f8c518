"""``make down``: end the local clouds of this checkout, and whatever a killed one left."""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

from infra.local.processes import LOCAL, identity

PATIENCE_S = 20.0


def is_same(row: dict[str, object]) -> bool:
    """Say whether a recorded process still runs; its id may have been reused meanwhile."""
    pid, known = row["pid"], row["identity"]
    return isinstance(pid, int) and known is not None and identity(pid) == known


def end_run(folder: Path) -> int:
    """End one run and its parts; returns how many processes and groups were signalled."""
    try:
        record = json.loads((folder / "processes.json").read_text())
    except (OSError, ValueError):
        return 0
    ended = 0
    if is_same(record["run"]):
        # It ends its own parts.
        os.kill(record["run"]["pid"], signal.SIGTERM)
        ended += 1
        deadline = time.monotonic() + PATIENCE_S
        while is_same(record["run"]) and time.monotonic() < deadline:
            time.sleep(0.1)
    for row in record["parts"]:
        with contextlib.suppress(ProcessLookupError):
            if is_same(row) and os.getpgid(row["pid"]) == row["group"]:
                os.killpg(row["group"], signal.SIGKILL)
                ended += 1
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "processes.json").unlink(missing_ok=True)
    return ended


def main() -> None:
    """End every run of this checkout."""
    folders = sorted(path.parent for path in LOCAL.glob("*/processes.json"))
    ended = {folder.name: end_run(folder) for folder in folders}
    for name, count in ended.items():
        print(f"{name}: {f'ended {count}' if count else 'nothing was running'}")
    if not ended:
        print("no local cloud is running here")


if __name__ == "__main__":
    main()

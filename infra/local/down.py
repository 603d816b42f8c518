"""``make down``: end the local clouds of this checkout, and the leftovers of killed ones."""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

from infra.local.processes import LOCAL, identity

TIMEOUT_S = 20.0


def is_same(row: dict[str, object]) -> bool:
    """Return whether a recorded process still runs and its id was not reused by another one."""
    pid, known = row["pid"], row["identity"]
    return isinstance(pid, int) and known is not None and identity(pid) == known


def end_run(folder: Path) -> int:
    """End one run and its parts; returns how many processes and groups got a signal."""
    try:
        record = json.loads((folder / "processes.json").read_text())
    except (OSError, ValueError):
        return 0
    ended = 0
    if is_same(record["run"]):
        # The run ends its own parts.
        os.kill(record["run"]["pid"], signal.SIGTERM)
        ended += 1
        deadline = time.monotonic() + TIMEOUT_S
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

"""Runs Python in the environment of requirements/dataset-test.txt."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build" / "dataset-venv" / "bin" / "python"


def run(*arguments: object, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run its Python with arguments; caches and settings stay below ``cwd``."""
    assert PYTHON.exists(), "what loads the data set is not installed here: run 'make setup' first"
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "HF_", "COVERAGE"))
    }
    ours |= {"HF_HOME": str(cwd / "hf"), "HF_HUB_OFFLINE": "1", "MPLCONFIGDIR": str(cwd / "mpl")}
    return subprocess.run(
        [str(PYTHON), *map(str, arguments)],
        env={**ours, **({"PYTHONPATH": path} if path else {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )

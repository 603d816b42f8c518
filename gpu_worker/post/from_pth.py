"""`python -m gpu_worker.post.from_pth IN.pth OUT.safetensors`: convert weights.

They are those of an upscaler or a face fixer. A .pth file is a pickle, which can run code. Here
torch reads tensors alone from it, and what is written is read back as the worker will read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from gpu_worker.post import networks
from gpu_worker.post.engine import tensors


def convert(source: Path, target: Path) -> None:
    """Write a checkpoint's tensors as safetensors; raises networks.NetworkError, OSError."""
    part = target.with_name(f"{target.name}.part")
    try:
        save_file(tensors(source), part)
        networks.any_of(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    """Convert the file that the command line names."""
    if len(sys.argv) != 3:  # noqa: PLR2004
        sys.exit("usage: python -m gpu_worker.post.from_pth IN.pth OUT.safetensors")
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except (networks.NetworkError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

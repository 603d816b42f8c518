"""`strip_background`: makes transparent what is not the subject, with a network of the operator's.

The networks find the salient object of a picture; their files and what they expect are those that
the package rembg made common (u2net: arXiv 2005.09007; isnet: arXiv 2203.03041). ONNX holds no
code. The file is read from memory, so that it cannot name other files.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Floats = npt.NDArray[np.float32]

IMAGENET = (0.485, 0.456, 0.406)
HALVES = (0.5, 0.5, 0.5)
ONES = (1.0, 1.0, 1.0)
NETWORKS: Mapping[str, tuple[int, tuple[float, ...], tuple[float, ...]]] = {
    "u2net": (320, IMAGENET, (0.229, 0.224, 0.225)),
    "u2netp": (320, IMAGENET, (0.229, 0.224, 0.225)),
    "silueta": (320, IMAGENET, (0.229, 0.224, 0.225)),
    "isnet-general-use": (1024, HALVES, ONES),
    "isnet-anime": (1024, IMAGENET, ONES),
}
"""By the file's name: side in pixels, mean and deviation by colour, of what the network sees."""
MAX_FILE_BYTES = 500_000_000
"""Largest file that is read: isnet has 179 MB."""


class CutoutError(ValueError):
    """The file cannot be used; says why in one sentence."""


class Cutout:
    """One network, on the CPU. Several threads may call it; each takes one CPU."""

    def __init__(self, file: Path, *, at_once: int = 1) -> None:
        """Load a file that is named after its network; raises CutoutError, OSError."""
        if file.stem not in NETWORKS:
            message = f"{file.name}: a network of strip_background is one of {', '.join(NETWORKS)}"
            raise CutoutError(message)
        if file.stat().st_size > MAX_FILE_BYTES:
            message = f"{file.name} is larger than {MAX_FILE_BYTES} bytes"
            raise CutoutError(message)
        self._side, *colours = NETWORKS[file.stem]
        self._mean, self._deviation = (np.asarray(one, np.float32) for one in colours)
        self._turns = threading.BoundedSemaphore(at_once)
        # Imported late, since it is slow and few need it.
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(
                file.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            (taken,) = self._session.get_inputs()
            self._name = taken.name
            self._mask(Image.new("RGB", (8, 8)))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - it may raise anything
            message = f"{file.name} is no network that finds a subject ({type(error).__name__})"
            raise CutoutError(message) from None

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image as RGBA, transparent where the background is."""
        found = image.convert("RGB")
        with self._turns:
            mask = self._mask(found)
        found.putalpha(mask.resize(image.size, Image.Resampling.LANCZOS))
        return found

    def _mask(self, image: Image.Image) -> Image.Image:
        """Return what is kept, white, in the size of the network."""
        small = image.resize((self._side, self._side), Image.Resampling.LANCZOS)
        pixels = np.asarray(small, np.float32)
        pixels /= max(float(pixels.max()), 1.0)
        pixels = (pixels - self._mean) / self._deviation
        output: Any = self._session.run(None, {self._name: pixels.transpose(2, 0, 1)[None]})[0]
        mask: Floats = np.asarray(output, np.float32)[0, 0]
        if mask.shape != small.size or not np.isfinite(mask).all():
            message = "the network gave no mask"
            raise ValueError(message)
        low, high = float(mask.min()), float(mask.max())
        # As the networks are used: from the least to the most salient. A flat answer keeps all.
        spread = np.ones_like(mask) if high - low < 1e-6 else (mask - low) / (high - low)  # noqa: PLR2004
        return Image.fromarray((spread * 255 + 0.5).astype(np.uint8))

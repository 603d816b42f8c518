"""Face fixers: finds the faces of a picture, draws each anew with a network, and puts it back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from gpu_worker.post import align
from gpu_worker.post.networks import NetworkError, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_worker.post.face_detector import Detector
    from gpu_worker.post.kinds import Run
    from gpu_worker.post.networks import Network

MAX_FACES = 8
"""Faces of a picture that are fixed, the largest first; it bounds the time."""


class FaceFixer:
    """A network for faces, and what finds them. Threads may share it, if `run` takes one by one."""

    def __init__(self, net: Network, detector: Detector, device: str, cores: int = 1) -> None:
        """Move the network to its device, and measure it. Raises NetworkError.

        It runs in single precision: GFPGAN overflows in half.
        """
        self._net, self._detector, self._device = net.module.to(device), detector, device
        grey = Image.new("RGB", (align.SIDE, align.SIDE), (128, 128, 128))
        try:
            taken = cpu_seconds(lambda: self._fixed(grey)) / cores
            if device.startswith("cuda"):
                begun = time.monotonic()
                self._fixed(grey)
                taken = time.monotonic() - begun
        except MemoryError:
            message = "it does not fit into the device's memory"
            raise NetworkError(message) from None
        except (TypeError, RuntimeError, IndexError) as error:
            message = f"it makes no face of a face ({type(error).__name__})"
            raise NetworkError(message) from None
        self._face_seconds = taken

    def seconds(self) -> float:
        """Return about how long a picture with the most faces takes."""
        return self._face_seconds * MAX_FACES

    def fixed(
        self, image: Image.Image, strength: float, check: Callable[[], None], run: Run
    ) -> tuple[Image.Image, str]:
        """Return a picture whose faces are drawn anew, and what there is to say of it.

        `strength` is how much of a new face is painted over the old one, from 0 to 1. `run` calls
        the network. `check` is called before each face, and what it raises is raised. Raises
        MemoryError.
        """
        check()
        faces = self._detector(image)
        found = image.copy()
        for face in faces[:MAX_FACES]:
            check()
            place = align.Place.of(face.points)
            cut = place.cut(image)
            place.put(found, run(lambda cut=cut: self._fixed(cut)), strength)  # type: ignore[misc]
        if not faces:
            return image, "found no face"
        if len(faces) > MAX_FACES:
            return found, f"fixed the largest {MAX_FACES} of {len(faces)} faces"
        return found, ""

    def _fixed(self, cut: Image.Image) -> Image.Image:
        """Return a face of `align.SIDE` pixels a side, drawn anew."""
        pixels = torch.from_numpy(np.array(cut, np.float32)).to(self._device)
        try:
            with torch.inference_mode():
                # GFPGAN would add noise of its own, else each run made another face.
                made = self._net(
                    pixels.permute(2, 0, 1)[None] / 127.5 - 1,
                    return_rgb=False,
                    randomize_noise=False,
                )[0][0]
                if made.shape != (3, align.SIDE, align.SIDE):
                    message = "it makes a face of another size"
                    raise NetworkError(message)
                if not bool(made.isfinite().all()):
                    message = "it makes a face that is no numbers"
                    raise NetworkError(message)
                levels = ((made.float() + 1) * 127.5 + 0.5).clamp(0, 255).byte()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise MemoryError from None
        return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())

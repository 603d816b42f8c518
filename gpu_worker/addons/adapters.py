"""What a loaded model does with LoRAs and textual inversions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpu_worker.addons import inversion, layers, lora
from gpu_worker.addons.asked import UnusableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gpu_worker.addons.parts import LoraPart
    from gpu_worker.families.stable_diffusion import StableDiffusion

ENCODERS = ("text_encoder", "text_encoder_2")
"""The names of a model's text encoders, in their order."""


class Adapters:
    """Reads files for one model, by any thread, and changes the model, by the one that draws."""

    def __init__(self, model: StableDiffusion) -> None:
        """Take a model as it was loaded."""
        components = model.text2img.components
        named = layers.PARTS if model.takes_add_ons else ()
        parts = {part: components[part] for part in named if components.get(part)}
        self._model = model
        self._known = layers.places(parts)
        self._encoders = model.encoders
        self._merged = lora.Merged(parts)

    def lora(self, path: Path) -> lora.Weights:
        """Return a file's LoRA; raises UnusableError unless it fits the model."""
        return lora.read(path, self._known)

    def inversion(self, path: Path) -> inversion.Vectors:
        """Return a file's vectors for each encoder; raises UnusableError unless they fit."""
        if not self._encoders:
            message = "is not for this family of models, which takes LoRAs alone"
            raise UnusableError("baseline_mismatch", message)
        return inversion.read(path, [encoder.width for encoder in self._encoders])

    def use(self, loras: Sequence[LoraPart]) -> None:
        """Have the model draw with these LoRAs, and with no others."""
        for part in ENCODERS:
            # One that changes the UNet alone changes no embedding.
            by = [(one.key, one.clip) for one in loras if one.clip and part in one.weights.parts]
            self._model.changed_by(part, tuple(by))
        self._merged.use(loras)

    @property
    def originals(self) -> int:
        """The bytes of the CPU's memory that hold weights as they were before LoRAs."""
        return self._merged.kept

    def put_back(self) -> None:
        """Take LoRAs out of the weights, and let go of the originals; the next LoRA copies anew."""
        self.use([])
        self._merged.forget()

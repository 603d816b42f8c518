"""How many images of which size fit into the memory: measured once, when the worker starts.

The denoiser and the autoencoder are measured apart with one image of the model's own size. Both
need memory in proportion to the pixels, since torch's attention keeps no matrix of scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MARGIN = 0.85
"""Share of the free memory that is used: allocators leave gaps, and prompts may be longer than the
one that was measured (12 % more for Z-Image at 1024x1024)."""
GRAIN = 64 * 64
"""Pixels to which a size is rounded down: the Horde's sides are multiples of 64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What fits. Unknown needs are 0 and always fit."""

    free: float
    """Bytes for drawing, beside the weights."""
    denoising: float
    """Bytes for a pixel of an image, while a batch is denoised."""
    decoding: float
    """Bytes for a pixel of an image, while the autoencoder has it."""

    @property
    def max_pixels(self) -> int | None:
        """Pixels of the largest image that fits alone; None if that is unknown."""
        need = max(self.denoising, self.decoding)
        return int(MARGIN * self.free / need) // GRAIN * GRAIN if need else None

    def most(self, pixels: int) -> int | None:
        """Return how many images of a size fit into a pass, at least 1; None if it is unknown."""
        if not self.denoising:
            return None
        return max(1, int(MARGIN * self.free / (self.denoising * pixels)))

    def decodes(self, count: int, pixels: int) -> bool:
        """Return whether the autoencoder can have so many images of a size at once."""
        return 0 < self.decoding * count * pixels <= MARGIN * self.free


@dataclass(slots=True)
class Learnt:
    """What is known of a model in the device's memory; it outlives the model's stay there."""

    capacity: Capacity | None = None
    """What fits, once that is measured."""
    limits: dict[int, int] = field(default_factory=dict)
    """Most images of a pass that the memory took, by the pixels of each, where it was short."""

    @property
    def max_pixels(self) -> int | None:
        """Pixels of the largest image that fits alone; None if that is unknown."""
        return self.capacity.max_pixels if self.capacity else None

    def most(self, pixels: int, max_batch: int) -> int:
        """Return how many images of a size are drawn at once: fewer where memory is short."""
        known = [most for size, most in self.limits.items() if size <= pixels]
        fits = self.capacity.most(pixels) if self.capacity else None
        return min([max_batch, *known, *([fits] if fits else [])])

    def decodes(self, count: int, pixels: int) -> bool:
        """Return whether the autoencoder can have so many images of a size at once."""
        return self.capacity is not None and self.capacity.decodes(count, pixels)

"""What a worker must be able to do to draw an image, as a short text.

Images with the same needs wait in one queue. So a worker reads only queues whose images it can
draw, however many others wait. What depends on one worker or one image alone is no need: named
workers, blacklisted words, what a worker faulted, whether it was paid in full, the exact size
within a class, and which post-processor or ControlNet (``rules.matching.skip_reason``).
"""

from bisect import bisect_left

from horde.records import Generation, Offer, Worker, WorkerContext
from horde.rules import ruleset
from horde.rules.features import CONTROLS, LORA, POST_PROCESSORS, SDXL_CONTROL

SIZES = (2**18, 2**19, 2**20, 2**21, 2**22)
"""The largest images of each class of sizes but the last, in pixels: 512x512 to 2048x2048."""
SLOW_SPEED = 500_000
"""A worker below this speed, in pixelsteps per second, is slow (horde-api.md 2)."""
NSFW, IMG2IMG, PAINTING, TRUSTED, STEPS = "n", "i", "p", "t", "s"
LORAS, POST, CONTROL, CONTROL_XL = "l", "o", "c", "d"
FAST = "f"
"""Slow workers may not draw it."""
NOT_EXTRA_SLOW = "x"
"""Very slow workers may not draw it."""
REASONS = {
    NSFW: "nsfw",
    PAINTING: "painting",
    IMG2IMG: "img2img",
    TRUSTED: "untrusted",
    STEPS: "step_count",
    NOT_EXTRA_SLOW: "performance",
    FAST: "performance",
    LORAS: "lora",
    POST: "post-processing",
    CONTROL: "controlnet",
    CONTROL_XL: "controlnet",
}
"""The Horde's name of the reason why a worker cannot draw an image with this need."""


def needs(generation: Generation) -> str:
    """Return what an image needs: the class of its size, then a letter for each other need."""
    asked = generation.features
    letters = {
        NSFW: generation.nsfw,
        PAINTING: generation.painting,
        IMG2IMG: generation.img2img and not generation.painting,
        TRUSTED: generation.trusted_only,
        STEPS: generation.steps > (generation.max_steps or ruleset.IN_FORCE.max_steps),
        NOT_EXTRA_SLOW: not generation.extra_slow_workers,
        FAST: not generation.slow_workers,
        LORAS: LORA in asked,
        POST: any(name in asked for name in POST_PROCESSORS),
        CONTROL: any(name in asked for name in CONTROLS),
        CONTROL_XL: SDXL_CONTROL in asked,
    }
    size = bisect_left(SIZES, generation.pixels)
    return f"{size}{''.join(letter for letter, needed in letters.items() if needed)}"


def lacks(offer: Offer | Worker, *, trusted: bool, speed: int | None) -> str:
    """Return the letters of the needs that a worker does not meet.

    ``trusted`` says whether its owner is. ``speed`` is measured, in pixelsteps per second.
    """
    missing = {
        NSFW: not offer.nsfw,
        PAINTING: not offer.painting,
        IMG2IMG: not offer.img2img,
        TRUSTED: not trusted,
        STEPS: offer.limit_max_steps,
        NOT_EXTRA_SLOW: offer.extra_slow,
        FAST: speed is not None and speed < SLOW_SPEED,
        LORAS: not offer.lora,
        POST: not offer.post_processing,
        CONTROL: not offer.controlnet,
        CONTROL_XL: not offer.sdxl_controlnet,
    }
    return "".join(letter for letter, is_missing in missing.items() if is_missing)


def unmet(needed: str, worker: WorkerContext, offer: Offer) -> str | None:
    """Return the Horde's name of the first need that a worker does not meet; None if it meets all.

    ``offer`` is that of its present pop. A worker meets a class of sizes if it can draw the
    smallest images of that class.
    """
    if offer.max_pixels < smallest(needed):
        return "max_pixels"
    missing = lacks(offer, trusted=worker.owner.trusted, speed=worker.stats.speed)
    return next((REASONS[letter] for letter in needed[1:] if letter in missing), None)


def smallest(needed: str) -> int:
    """Return the pixels of the smallest image that has these needs."""
    size = int(needed[0])
    return SIZES[size - 1] + 1 if size else 1

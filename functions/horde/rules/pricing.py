"""What an image costs, what it pays its worker, and how long a worker may take.

Kudos are whole numbers. The price of one image is the closed form of the AI Horde (horde-api.md
3.2 b) with accurate steps, times the multipliers, rounded half up to at least 1. The flat tax comes
on top and is never multiplied.
"""

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from horde.records import ImageSpec
from horde.rules import ruleset

BASELINE_MULTIPLIER = {
    "stable_diffusion_xl": Decimal(2),
    "stable_cascade": Decimal(4),
    "flux_1": Decimal(8),
    "z_image_turbo": Decimal(8),
    "qwen_image": Decimal(12),
}
"""Times the base price, by model family (horde-api.md 3.2 c); every other family is 1."""
SLOW_BASELINES = frozenset({"flux_1", "qwen_image", "z_image_turbo"})
"""Families whose leases are three times as long (horde-api.md 2, TTL)."""

TWO_PASS_SAMPLERS = frozenset({"k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a"})
ADAPTIVE_STEPS = 50
IMG2IMG_STRENGTH = 0.8
"""``denoising_strength`` where image-to-image names none."""

TTL_MIN_S = 150


@dataclass(frozen=True, slots=True)
class Price:
    """What ``n`` images cost. All fields are whole kudos; ``price`` and ``tax`` are per image."""

    price: int
    tax: int
    n: int
    reward: int
    """What the worker gets for one image: the base price without surcharges."""

    @property
    def total(self) -> int:
        """The charge for all images, tax included; what the client sees as ``kudos``."""
        return (self.price + self.tax) * self.n


def accurate_steps(spec: ImageSpec) -> float:
    """Return the steps really computed: two-pass samplers count twice, the adaptive one as 50.

    Image-to-image computes only the share ``denoising_strength`` of them (horde-api.md 3.2 b).
    """
    steps = float(spec.steps)
    if spec.sampler_name == "k_dpm_adaptive":
        steps = ADAPTIVE_STEPS
    elif spec.sampler_name in TWO_PASS_SAMPLERS:
        steps *= 2
    if spec.img2img:
        steps *= spec.denoising_strength or IMG2IMG_STRENGTH
    return steps


def base_kudos(pixels: int, steps: float) -> Decimal:
    """Return the closed form: 512x512 at 50 steps is 10.83 kudos. ``pixels`` is width x height."""
    area = ((pixels - 64 * 64) / (1024 * 1024 - 64 * 64)) ** 1.75
    kudos = 0.1232 * steps + area * 0.1232 * steps * 8.75
    return Decimal(kudos).quantize(Decimal("0.01"), ROUND_HALF_UP)


def _whole(kudos: Decimal) -> int:
    return max(1, int(kudos.quantize(Decimal(1), ROUND_HALF_UP)))


def tax(*, shared: bool, rules: ruleset.Ruleset | None = None) -> int:
    """Return the kudos that are burned for each image; ``rules`` are those in force, or others."""
    rules = rules or ruleset.IN_FORCE
    return rules.tax_shared if shared else rules.tax_private


def quote(spec: ImageSpec, *, shared: bool, baseline: str = "") -> Price:
    """Price images by the rules in force; ``baseline`` is the model's family, '' if unknown."""
    rules = ruleset.IN_FORCE
    kudos = base_kudos(spec.pixels, accurate_steps(spec))
    kudos *= BASELINE_MULTIPLIER.get(baseline, Decimal(1))
    reward = _whole(kudos)
    if spec.img2img:
        kudos *= rules.source_image
    if not spec.slow_workers:
        kudos *= rules.fast_workers_only
    if spec.worker_blacklist:
        kudos *= rules.worker_blacklist
    return Price(price=_whole(kudos), tax=tax(shared=shared), n=spec.n, reward=reward)


def lease_seconds(spec: ImageSpec, *, baseline: str = "") -> int:
    """Return how long a worker may take for one image (horde-api.md 2, TTL), in seconds."""
    ttl = 30 + accurate_steps(spec) * 2 * spec.pixels / (512 * 512)
    if baseline in SLOW_BASELINES:
        ttl *= 3
    ttl = max(TTL_MIN_S, ttl)
    return math.ceil(ttl * 3 if spec.extra_slow_workers else ttl)

"""The price of an image, the reward of its worker, and the length of its lease.

Kudos are whole numbers. The base price of one image is the closed form of the AI Horde
(horde-api.md 3.2 b) with accurate steps. Its price is that times the multipliers, rounded half up,
and at least 1. The flat tax is added and never multiplied.
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
"""Multiplier of the base price, by model family (horde-api.md 3.2 c); 1 for all others."""
SLOW_BASELINES = frozenset({"flux_1", "qwen_image", "z_image_turbo"})
"""Model families with leases three times as long (horde-api.md 2, TTL)."""

TWO_PASS_SAMPLERS = frozenset({"k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a"})
ADAPTIVE_STEPS = 50
IMG2IMG_STRENGTH = 0.8
"""The default ``denoising_strength`` of image-to-image (horde-api.md 3.2 b)."""

MIN_TTL_S = 150


@dataclass(frozen=True, slots=True)
class Price:
    """The price of ``n`` images. Kudos are whole; ``price`` and ``tax`` are per image."""

    price: int
    tax: int
    n: int
    reward: int
    """Kudos that a worker earns for one image: the base price without surcharges."""

    @property
    def total(self) -> int:
        """The charge for all images, including tax; clients see it as ``kudos``."""
        return (self.price + self.tax) * self.n


def accurate_steps(spec: ImageSpec) -> float:
    """Return the steps that are really computed (horde-api.md 3.2 b).

    Two-pass samplers count twice, the adaptive sampler as 50. Image-to-image computes only the
    fraction ``denoising_strength`` of the steps.
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
    """Return the base price of an image by the Horde's closed form (horde-api.md 3.2 b).

    ``pixels`` is width times height. 512x512 at 50 steps costs 10.83 kudos.
    """
    area = ((pixels - 64 * 64) / (1024 * 1024 - 64 * 64)) ** 1.75
    kudos = 0.1232 * steps + area * 0.1232 * steps * 8.75
    return Decimal(kudos).quantize(Decimal("0.01"), ROUND_HALF_UP)


def _whole(kudos: Decimal) -> int:
    return max(1, int(kudos.quantize(Decimal(1), ROUND_HALF_UP)))


def tax(*, shared: bool, rules: ruleset.Ruleset | None = None) -> int:
    """Return the kudos burned for each image; ``rules`` defaults to the ruleset in force."""
    rules = rules or ruleset.IN_FORCE
    return rules.tax_shared if shared else rules.tax_private


def quote(spec: ImageSpec, *, shared: bool, baseline: str = "") -> Price:
    """Return the price of images by the rules in force.

    ``baseline`` is the model's family, or empty if unknown.
    """
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
    """Return the length of a lease for one image, in seconds (horde-api.md 2, TTL)."""
    ttl = 30 + accurate_steps(spec) * 2 * spec.pixels / (512 * 512)
    if baseline in SLOW_BASELINES:
        ttl *= 3
    ttl = max(MIN_TTL_S, ttl)
    return math.ceil(ttl * 3 if spec.extra_slow_workers else ttl)

"""The price of an image, the reward of its worker, and the length of its lease.

Kudos are whole numbers. The base price of one image is the closed form of the AI Horde
(horde-api.md 3.2 b) with accurate steps. Its price is that times the multipliers, rounded half up,
and at least 1. The flat tax is added and never multiplied.

Price, reward, lease, the limits of what needs no kudos upfront, and the speed of workers follow
from the same accurate steps, so they agree about the work. The numbers that may change are in the
ruleset, so that the audit can follow a request's price from its payload and its ruleset. A change
of the formula itself needs a field in the ruleset too.
"""

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from horde.records import ImageSpec
from horde.rules import ruleset
from horde.rules.features import UPSCALERS

SLOW_BASELINES = frozenset({"flux_1", "qwen_image", "z_image_turbo"})
"""Model families with leases three times as long (horde-api.md 2, TTL)."""

NATIVE_SIDE = {
    "stable_diffusion_2": 768,
    "stable_diffusion_2_768": 768,
    "stable_diffusion_xl": 1024,
    "stable_cascade": 1024,
    "flux_1": 1024,
    "z_image_turbo": 1024,
    "qwen_image": 1024,
}
"""Side in pixels of the images that a model was trained on, by family.

``hires_fix`` draws its first pass at this size (gpu-worker.md 4).
"""
NATIVE_SIDE_OTHERS = 512
"""The same for Stable Diffusion 1 and for unknown families."""
SIZE_STEP = 64
"""Widths and heights are multiples of this many pixels."""
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


def first_pass_pixels(spec: ImageSpec, *, baseline: str = "") -> int:
    """Return the pixels of the first pass of ``hires_fix``; 0 if there is none.

    Workers draw one only for text-to-image whose both sides exceed the model's native side. It
    scales the image so that its short side is native, in multiples of 64 (gpu-worker.md 4;
    ``gpu_worker.passes`` computes the same).
    """
    native = NATIVE_SIDE.get(baseline, NATIVE_SIDE_OTHERS)
    short = min(spec.width, spec.height)
    if not spec.hires_fix or spec.img2img or short <= native:
        return 0
    shrink = native / short
    width, height = (
        max(SIZE_STEP, round(side * shrink / SIZE_STEP) * SIZE_STEP)
        for side in (spec.width, spec.height)
    )
    return width * height


def accurate_steps(
    spec: ImageSpec, *, baseline: str = "", rules: ruleset.Ruleset | None = None
) -> float:
    """Return the steps that count, in steps of the full size (horde-api.md 3.2 b and 3.4).

    Two-pass samplers count twice, the adaptive sampler as a fixed number. Image-to-image computes
    only the fraction ``denoising_strength`` of the steps.

    The first pass of ``hires_fix`` adds its steps, at the fraction of the pixels that it draws: a
    quarter at twice the native side, almost all steps just above it. The closed form has no term
    for ``hires_fix``. What was measured lies between: the Horde's network prices 512x512 at 30
    steps 12.31 with it and 7.61 without, 1.62 times as much. The second pass counts all steps,
    although it computes fewer at a low ``hires_fix_denoising_strength``. The network does not see
    that strength either. And a worker that draws an unknown family in one pass computes them all.
    """
    rules = rules or ruleset.IN_FORCE
    steps = float(spec.steps)
    if spec.sampler_name == "k_dpm_adaptive":
        steps = rules.adaptive_steps
    elif spec.sampler_name in rules.two_pass_samplers:
        steps *= 2
    if spec.img2img:
        steps *= spec.denoising_strength or IMG2IMG_STRENGTH
    if rules.counts_hires_fix:
        steps *= 1 + first_pass_pixels(spec, baseline=baseline) / spec.pixels
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


def family_factor(spec: ImageSpec, *, baseline: str, rules: ruleset.Ruleset) -> Decimal:
    """Return the multiplier of the base price by the model's family (horde-api.md 3.2 c)."""
    factors = dict(rules.families)
    if first_pass_pixels(spec, baseline=baseline):
        factors |= dict(rules.families_hires_fix)
    return factors.get(baseline, Decimal(1))


def with_features(spec: ImageSpec, kudos: Decimal, rules: ruleset.Ruleset) -> Decimal:
    """Return a base price with its post-processors, ControlNet, LoRAs and textual inversions.

    The Horde rounds after each factor (horde-api.md 3.2 a and b).
    """
    factors = [rules.post_processor] * len(spec.post_processing)
    if spec.control_type and not spec.return_control_map:
        factors.append(rules.control)
    for factor in factors:
        kudos = (kudos * factor).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return kudos + rules.lora * spec.loras + (rules.tis if spec.tis else 0)


def quote(
    spec: ImageSpec, *, shared: bool, baseline: str = "", rules: ruleset.Ruleset | None = None
) -> Price:
    """Return the price of images; ``rules`` defaults to the ruleset in force.

    ``baseline`` is the model's family, or empty if unknown.
    """
    rules = rules or ruleset.IN_FORCE
    kudos = base_kudos(spec.pixels, accurate_steps(spec, baseline=baseline, rules=rules))
    kudos = with_features(spec, kudos, rules)
    kudos *= family_factor(spec, baseline=baseline, rules=rules)
    reward = _whole(kudos)
    for name in spec.post_processing:
        kudos *= rules.upscaler if name in UPSCALERS else 1
    if spec.img2img:
        kudos *= rules.source_image
    if not spec.slow_workers:
        kudos *= rules.fast_workers_only
    if spec.worker_blacklist:
        kudos *= rules.worker_blacklist
    return Price(price=_whole(kudos), tax=tax(shared=shared, rules=rules), n=spec.n, reward=reward)


def lease_seconds(spec: ImageSpec, *, baseline: str = "") -> int:
    """Return the length of a lease for one image, in seconds (horde-api.md 2, TTL)."""
    ttl = 30 + accurate_steps(spec, baseline=baseline) * 2 * spec.pixels / (512 * 512)
    if spec.control_type:
        ttl *= 2
    if baseline in SLOW_BASELINES:
        ttl *= 3
    ttl = max(MIN_TTL_S, ttl)
    return math.ceil(ttl * 3 if spec.extra_slow_workers else ttl)

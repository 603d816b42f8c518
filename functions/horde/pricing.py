"""What an image costs, what it pays its worker, and how long a worker may take. All pure.

Kudos are whole numbers. The price of one image is the closed form of the AI Horde
(shared/reference/horde-api.md 3.2 b) with accurate steps, times the multipliers, rounded half up
to at least 1; the flat tax comes on top and is never multiplied.
"""

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from horde.schema import GenerateRequest, Params

TAX_SHARED = 1
"""Kudos per image, burned, when the image goes into the open data set."""
TAX_PRIVATE = 3
"""Kudos per image, burned, when it does not."""

SOURCE_IMAGE = Decimal("1.3")
FAST_WORKERS_ONLY = Decimal("1.2")
WORKER_BLACKLIST = Decimal("1.1")
BASELINE_MULTIPLIER = {
    "stable_diffusion_xl": Decimal(2),
    "stable_cascade": Decimal(4),
    "flux_1": Decimal(8),
    "z_image_turbo": Decimal(8),
    "qwen_image": Decimal(12),
}
"""Times the base price, by model family (horde-api.md 3.2 c); every other family is 1."""
SLOW_BASELINES = frozenset({"flux_1", "qwen_image", "z_image_turbo"})

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


def accurate_steps(params: Params, *, img2img: bool) -> float:
    """Return the steps really computed: two-pass samplers count twice, the adaptive one as 50.

    Image-to-image computes only the share ``denoising_strength`` of them (horde-api.md 3.2 b).
    """
    steps = float(params.steps)
    if params.sampler_name == "k_dpm_adaptive":
        steps = ADAPTIVE_STEPS
    elif params.sampler_name in TWO_PASS_SAMPLERS:
        steps *= 2
    if img2img:
        steps *= params.denoising_strength or IMG2IMG_STRENGTH
    return steps


def base_kudos(pixels: int, steps: float) -> Decimal:
    """Return the closed form: 512x512 at 50 steps is 10.83 kudos. ``pixels`` is width x height."""
    area = ((pixels - 64 * 64) / (1024 * 1024 - 64 * 64)) ** 1.75
    kudos = 0.1232 * steps + area * 0.1232 * steps * 8.75
    return Decimal(kudos).quantize(Decimal("0.01"), ROUND_HALF_UP)


def _whole(kudos: Decimal) -> int:
    return max(1, int(kudos.quantize(Decimal(1), ROUND_HALF_UP)))


def quote(request: GenerateRequest, *, shared: bool, baseline: str = "") -> Price:
    """Price a request. ``baseline`` is the model's family, '' where it is unknown."""
    img2img = request.source_image is not None
    params = request.params
    steps = accurate_steps(params, img2img=img2img)
    kudos = base_kudos(params.width * params.height, steps)
    kudos *= BASELINE_MULTIPLIER.get(baseline, Decimal(1))
    reward = _whole(kudos)
    if img2img:
        kudos *= SOURCE_IMAGE
    if not request.slow_workers:
        kudos *= FAST_WORKERS_ONLY
    if request.worker_blacklist and request.workers:
        kudos *= WORKER_BLACKLIST
    tax = TAX_SHARED if shared else TAX_PRIVATE
    return Price(price=_whole(kudos), tax=tax, n=params.n, reward=reward)


def lease_seconds(
    params: Params, *, img2img: bool, baseline: str = "", patient: bool = False
) -> int:
    """Return how long a worker may take for one image (horde-api.md, TTL), in seconds.

    ``patient`` is the request's ``extra_slow_workers``.
    """
    pixels = params.width * params.height
    ttl = 30 + accurate_steps(params, img2img=img2img) * 2 * pixels / (512 * 512)
    if baseline in SLOW_BASELINES:
        ttl *= 3
    ttl = max(TTL_MIN_S, ttl)
    return math.ceil(ttl * 3 if patient else ttl)

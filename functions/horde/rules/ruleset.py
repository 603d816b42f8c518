"""The numbers of the rules by version: taxes, floors, rewards and limits.

Each request names the version it was accepted under, and ``bin/operator audit`` judges it by that
version. So to change a number, add a version. Never edit a version under which requests have been
accepted:

    THIRD = replace(SECOND, version="2027-01", tax_shared=2)
    RULESETS = (FIRST, SECOND, THIRD)

All texts that clients read (terms, news, OpenAPI, pages, the demo) take their numbers from here.
"""

import re
from dataclasses import asdict, dataclass, replace
from decimal import Decimal

from horde.records import FIRST_RULESET


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """One version of the numbers. Kudos are whole, sizes in pixels, times in seconds."""

    version: str

    # Taxes: per image, burned, never multiplied.
    tax_shared: int
    """For an image that goes into the open data set."""
    tax_private: int
    """For an image that does not."""

    # Balances (horde-api.md 3.3).
    floor: int
    """A registered account starts with this balance and never falls below it."""
    floor_anonymous: int
    """The anonymous account's balance, which sets its priority; it is never written."""

    # Work: which steps count (``rules.pricing.accurate_steps``).
    two_pass_samplers: tuple[str, ...]
    """Samplers whose steps count twice."""
    adaptive_steps: int
    """Steps of ``k_dpm_adaptive``, whatever the request says."""
    counts_hires_fix: bool
    """Whether the first pass of ``hires_fix`` counts."""

    # Prices: multipliers of the base price (horde-api.md 3.2).
    families: tuple[tuple[str, Decimal], ...]
    """By the model's family (``baseline``); 1 for all others."""
    families_hires_fix: tuple[tuple[str, Decimal], ...]
    """Those that differ for images drawn with ``hires_fix``."""
    post_processor: Decimal
    """For each post-processor; in the reward too."""
    control: Decimal
    """For a ControlNet, unless its map is all that is asked for; in the reward too."""
    lora: int
    """Kudos added to the base price for each LoRA."""
    tis: int
    """Kudos added to the base price for textual inversions, however many."""
    upscaler: Decimal
    source_image: Decimal
    fast_workers_only: Decimal
    worker_blacklist: Decimal

    # Rewards for ratings (horde-api.md 1.4).
    per_rating: int
    per_artifacts: int
    """Added for a rating that also rates the image's artifacts."""
    best_alone: int
    """For choosing the best image without rating any."""
    best_with_low_rating: int
    """Added for a single low rating that also names the best image."""
    per_pool_rating: int
    """For rating an image of others, by /v1/rating."""
    ratings_return_tax: bool
    """Whether ratings may earn back the tax, too, but for one kudo of the whole cost."""

    # Styles.
    style_reward: int
    """For the author of a style, for each delivered image that another account has paid for. It
    comes out of the image's tax, and is no more than the lower one: else two accounts could make
    kudos out of nothing."""

    # Limits of requests without kudos upfront (horde-api.md 3.4).
    max_steps: int
    """Accurate steps; also the limit of a worker with ``limit_max_steps``."""
    max_steps_lcm: int
    max_steps_control: int
    """Accurate steps with a ControlNet."""
    downgraded_steps: int
    """Accurate steps that ``allow_downgrade`` reduces to."""
    max_side: int
    """Upper bound of the side of the largest free square."""
    min_side: int
    """Lower bound of that side."""
    side_per_thread: int
    """The side grows by this for each thread of the fleet."""
    side_per_queued: float
    """The side shrinks by this for each waiting image."""

    # Waiting images (horde-api.md 3.4).
    concurrency: int
    """Waiting images of one account."""
    concurrency_anonymous: int
    """Waiting images of one model that all anonymous users have together."""

    # Lifetimes.
    max_faults: int
    """Faults of one image that end its request."""
    request_life_s: int
    """A request expires this long after its last pop or submit."""


FIRST = Ruleset(
    version=FIRST_RULESET,
    tax_shared=1,
    tax_private=3,
    floor=14,
    floor_anonymous=-50,
    two_pass_samplers=("k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a"),
    adaptive_steps=50,
    counts_hires_fix=False,
    families=(
        ("stable_diffusion_xl", Decimal(2)),
        ("stable_cascade", Decimal(4)),
        ("flux_1", Decimal(8)),
        ("z_image_turbo", Decimal(8)),
        ("qwen_image", Decimal(12)),
    ),
    families_hires_fix=(),
    post_processor=Decimal("1.2"),
    control=Decimal(3),
    lora=3,
    tis=1,
    upscaler=Decimal("1.05"),
    source_image=Decimal("1.3"),
    fast_workers_only=Decimal("1.2"),
    worker_blacklist=Decimal("1.1"),
    per_rating=5,
    per_artifacts=5,
    best_alone=15,
    best_with_low_rating=15,
    per_pool_rating=5,
    ratings_return_tax=True,
    style_reward=1,
    max_steps=40,
    max_steps_lcm=10,
    max_steps_control=20,
    downgraded_steps=30,
    max_side=1024,
    min_side=576,
    side_per_thread=10,
    side_per_queued=0.9,
    concurrency=30,
    concurrency_anonymous=500,
    max_faults=3,
    request_life_s=20 * 60,
)
SECOND = replace(
    FIRST,
    version="2026-12",
    # As the Horde counts them today (horde-api.md 3.4). It is also what the price follows: in 3.2 b
    # the adaptive sampler has 50, from the time when that was the limit of steps without kudos.
    two_pass_samplers=(*FIRST.two_pass_samplers, "k_dpmpp_sde"),
    adaptive_steps=40,
    counts_hires_fix=True,
    families_hires_fix=(("stable_cascade", Decimal(7)),),  # horde-api.md 3.2 c
    ratings_return_tax=False,
)
RULESETS = (FIRST, SECOND)
"""Every version, the oldest first; the last one is in force."""
IN_FORCE = RULESETS[-1]


def of(version: str) -> Ruleset:
    """Return the ruleset of a version; raises KeyError if this code does not know it."""
    for rules in RULESETS:
        if rules.version == version:
            return rules
    raise KeyError(version)


def numbers() -> dict[str, object]:
    """Return the numbers in force by the names that texts may use as placeholders."""
    return {**asdict(IN_FORCE), "request_life_minutes": IN_FORCE.request_life_s // 60}


def fill(text: str) -> str:
    """Return a text with placeholders such as ``{tax_shared}`` replaced by the numbers in force.

    Other names in braces are left unchanged.
    """
    known = numbers()
    return re.sub(r"\{(\w+)\}", lambda found: str(known.get(found[1], found[0])), text)

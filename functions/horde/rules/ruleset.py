"""The numbers in force: taxes, floors, rewards and limits, by version.

Each request names the version it was accepted under, and ``bin/operator audit`` judges it by that
one. So a number is changed by adding a version, never by editing one under which requests were
accepted:

    SECOND = replace(FIRST, version="2027-01", tax_shared=2)
    RULESETS = (FIRST, SECOND)

Texts that clients read (terms, news, OpenAPI, pages, the demo) take the numbers from here.
"""

import re
from dataclasses import asdict, dataclass
from decimal import Decimal

from horde.records import FIRST_RULESET


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """One version of the numbers. Kudos are whole; sizes are in pixels, times in seconds."""

    version: str

    # Taxes: per image, burned, never multiplied.
    tax_shared: int
    """For an image that goes into the open data set."""
    tax_private: int
    """For an image that does not."""

    # Balances (horde-api.md 3.3).
    floor: int
    """A registered account starts here, and never falls below."""
    floor_anonymous: int
    """The anonymous account's balance in the order of the queue; it is never written."""

    # Prices: multipliers of the base price (horde-api.md 3.2).
    source_image: Decimal
    fast_workers_only: Decimal
    worker_blacklist: Decimal

    # Rewards of ratings (horde-api.md 1.4).
    per_rating: int
    per_artifacts: int
    """More for a rating that also says how many artifacts an image has."""
    best_alone: int
    """For choosing the best image and rating none."""
    best_with_low_rating: int
    """More for one low rating that also names the best."""

    # Limits of what may be asked for without kudos upfront (horde-api.md 3.4).
    max_steps: int
    """Accurate steps; also the most of a worker with ``limit_max_steps``."""
    max_steps_lcm: int
    downgraded_steps: int
    """Accurate steps that ``allow_downgrade`` reduces to."""
    max_side: int
    """Bounds of the side of the largest free square."""
    min_side: int
    side_per_thread: int
    """The free square grows by this for each thread of the fleet,"""
    side_per_queued: float
    """and shrinks by this for each image that waits."""

    # How much an account may have waiting.
    concurrency: int
    """Images of one account."""
    concurrency_anonymous: int
    """Images of one model that all anonymous users have together."""

    # Lives.
    max_faults: int
    """This many faults of one image end its request."""
    request_life_s: int
    """A request ends this long after its last pop or submit."""


FIRST = Ruleset(
    version=FIRST_RULESET,
    tax_shared=1,
    tax_private=3,
    floor=14,
    floor_anonymous=-50,
    source_image=Decimal("1.3"),
    fast_workers_only=Decimal("1.2"),
    worker_blacklist=Decimal("1.1"),
    per_rating=5,
    per_artifacts=5,
    best_alone=15,
    best_with_low_rating=15,
    max_steps=40,
    max_steps_lcm=10,
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
RULESETS = (FIRST,)
"""Every version, the oldest first; the last one is in force."""
IN_FORCE = RULESETS[-1]


def of(version: str) -> Ruleset:
    """Return the rules of a version; raises KeyError where this code does not know it."""
    for rules in RULESETS:
        if rules.version == version:
            return rules
    raise KeyError(version)


def numbers() -> dict[str, object]:
    """Return the numbers in force by their names, as texts may name them."""
    return {**asdict(IN_FORCE), "request_life_minutes": IN_FORCE.request_life_s // 60}


def fill(text: str) -> str:
    """Return a text with the numbers in force for placeholders such as ``{tax_shared}``.

    What is in braces and names no number is left as it is.
    """
    known = numbers()
    return re.sub(r"\{(\w+)\}", lambda found: str(known.get(found[1], found[0])), text)

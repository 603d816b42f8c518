"""Who may rate the released images of others, what that earns, and who is believed.

Rating was farmed by scripts wherever it was rewarded (ratings-api.md 3). So a reward needs a
*proven* rater: one whose ratings were checked, and were right. There are two checks. A *gold* image
has an answer that the operator knows. Any other is checked once it has enough ratings by others:
who is far from what all others think has *diverged*. A rater who is wrong too often is
*distrusted*: it earns nothing, and its ratings are left out of the release until a moderator clears
it.

What a rater earns before it is proven is owed, up to a bound, and posted with its first rating
after. So an honest newcomer loses nothing, and a script that passes no check earns nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from horde.records import PoolImage, Rater
from horde.rules import ruleset
from horde.rules.dates import DAY_S

DATASET_ID = "18c2dcfb-fc36-5210-963e-6aa20a062540"
"""The UUID of the released images, the only data set that is rated here."""
ENOUGH = 5
"""Ratings after which an image needs no more (ratings-api.md 3)."""
MIN_OTHERS = ENOUGH - 1
"""Ratings by others that one is compared with, or more. With fewer, two against two would all have
diverged."""
MAX_DISTANCE = 3
"""A rating that is farther from the middle of the others has diverged."""
GOLD_DISTANCE = 2
"""A rating, or its artifacts, that is farther from the known answer is wrong."""
GOLD_LOW, GOLD_HIGH = 2, 9
"""A known answer is at most the one or at least the other: no constant answer passes both sorts."""
MIN_RIGHT = 3
"""Right answers to gold that prove a rater: good and bad images take turns, so some of both."""
MAX_WRONG = 3
"""Wrong checks from which on a rater is distrusted, if they are more than a third of all."""
MAX_OWED = 20
"""Ratings whose rewards wait for the proof; further ones earn nothing."""
GIVEN_S = 10 * 60
"""Seconds for which an account is given the same image, unless it rates it."""
PER_MINUTE, PER_DAY = 20, 500
"""Most ratings of one account; a look at an image takes some seconds."""
GOLD_SHARE, GOLD_SHARE_NEW = 0.1, 0.4
"""Share of gold among the images that a proven rater is given, and one that is not."""
POOL_S = 118 * DAY_S
"""Seconds after which an image leaves the pool; its file lives two days longer."""
SPREAD = 10**12
"""Places in the pool for the images with equal counts, by a hash."""


@dataclass(frozen=True, slots=True)
class Checks:
    """How a rater's checked ratings were."""

    right: int
    wrong: int

    @property
    def distrusted(self) -> bool:
        """Whether too many were wrong."""
        return self.wrong >= MAX_WRONG and 3 * self.wrong > self.right + self.wrong

    @property
    def good(self) -> bool:
        """Whether at least two thirds were right."""
        return 3 * self.wrong <= self.right + self.wrong


def gold_checks(rater: Rater) -> Checks:
    """Return how a rater's answers to gold were."""
    return Checks(rater.gold_right, rater.gold_wrong)


def checks(rater: Rater) -> Checks:
    """Return how all of a rater's checked ratings were."""
    return Checks(rater.gold_right + rater.agreed, rater.gold_wrong + rater.diverged)


def distrusted(rater: Rater) -> bool:
    """Return whether a rater's ratings neither earn nor count.

    Wrong answers to gold alone are enough: others may be as wrong as the rater is.
    """
    return gold_checks(rater).distrusted or checks(rater).distrusted


def proven(rater: Rater) -> bool:
    """Return whether a rater's ratings earn their reward at once.

    Only gold proves. Agreement does not: who always says 5 is never far from anybody.
    """
    gold = gold_checks(rater)
    return gold.right >= MIN_RIGHT and gold.good and checks(rater).good and not distrusted(rater)


def gold_is_good(rater: Rater) -> bool:
    """Return whether the next gold image of a rater is a good one: good and bad take turns."""
    return (rater.gold_right + rater.gold_wrong + rater.user_id) % 2 == 0


def place(image_id: str, ratings: int) -> int:
    """Return an image's place in the pool: the fewest ratings first, and then by a hash."""
    return ratings * SPREAD + int(hashlib.sha256(image_id.encode()).hexdigest()[:12], 16) % SPREAD


def is_open(image: PoolImage, now: int) -> bool:
    """Return whether an image may still be rated, by its age; ``now`` is in seconds."""
    return image.offered_at + POOL_S > now


def is_own(image: PoolImage, user_id: int) -> bool:
    """Return whether an account requested or drew an image."""
    return user_id in (image.user_id, image.worker_user)


def right_gold(image: PoolImage, rating: int, artifacts: int | None) -> bool:
    """Return whether a rating of a gold image is near the known answer."""
    if abs(rating - (image.gold or 0)) > GOLD_DISTANCE:
        return False
    if artifacts is None or image.gold_artifacts is None:
        return True
    return abs(artifacts - image.gold_artifacts) <= GOLD_DISTANCE


def diverges(rating: int, others: Sequence[int]) -> bool:
    """Return whether a rating is far from the median of the others.

    Of an even number, it must be far from both in the middle: so of five, two who agree with each
    other alone have diverged, and the other three have not. A mean would be moved by the two.
    """
    ordered = sorted(others)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return rating < low - MAX_DISTANCE or rating > high + MAX_DISTANCE


def judged(image: PoolImage, user_id: int, rating: int) -> dict[int, bool]:
    """Return by account whose ratings are compared now that this one is added, and who diverged.

    Each rating is compared once: with ``MIN_OTHERS`` others as soon as there are so many.
    """
    votes = [(int(user), int(given)) for user, _, given in (v.partition(":") for v in image.votes)]
    if len(votes) < MIN_OTHERS:
        return {}
    votes.append((user_id, rating))
    compared = votes if len(votes) == MIN_OTHERS + 1 else votes[-1:]
    return {
        user: diverges(given, [one for other, one in votes if other != user])
        for user, given in compared
    }


def too_fast(rater: Rater, now: int) -> int | None:
    """Return the seconds after which a rater may rate again, or None if it may now."""
    if rater.day == now // DAY_S and rater.in_day >= PER_DAY:
        return DAY_S - now % DAY_S
    if rater.minute == now // 60 and rater.in_minute >= PER_MINUTE:
        return 60 - now % 60
    return None


@dataclass(frozen=True, slots=True)
class Decision:
    """What one rating does."""

    rater: Rater
    """As this rating leaves it."""
    counted: bool
    """Whether it joins the image's counts."""
    others: dict[int, bool]
    """The earlier raters whose ratings are compared now, and whether they diverged."""
    pays: frozenset[str]
    """The images whose ratings are paid now: this one, and those that were owed."""

    @property
    def kudos(self) -> int:
        """The sum of the rewards."""
        return len(self.pays) * ruleset.IN_FORCE.per_pool_rating


def decide(
    image: PoolImage, rater: Rater, rating: int, artifacts: int | None, *, now: int, paid: bool
) -> Decision:
    """Return what a rating does; ``now`` is in seconds.

    ``paid`` says whether the account is in good standing: one that is not neither earns nor counts.
    """
    after, others = _checked(image, rater, rating, artifacts)
    believed = paid and not distrusted(after)
    pays, owed = _payment(after, image.id) if believed else (frozenset[str](), frozenset[str]())
    same_minute, same_day = rater.minute == now // 60, rater.day == now // DAY_S
    after = replace(
        after,
        given=None,
        given_at=0,
        ratings=rater.ratings + 1,
        minute=now // 60,
        in_minute=rater.in_minute + 1 if same_minute else 1,
        day=now // DAY_S,
        in_day=rater.in_day + 1 if same_day else 1,
        owed=owed,
        revision=rater.revision + 1,
    )
    return Decision(after, believed, others if believed else {}, pays)


def _checked(
    image: PoolImage, rater: Rater, rating: int, artifacts: int | None
) -> tuple[Rater, dict[int, bool]]:
    """Return the rater with the checks of this rating, and the verdicts on earlier raters."""
    if image.gold is not None:
        if right_gold(image, rating, artifacts):
            return replace(rater, gold_right=rater.gold_right + 1), {}
        return replace(rater, gold_wrong=rater.gold_wrong + 1), {}
    verdicts = judged(image, rater.user_id, rating)
    mine = verdicts.pop(rater.user_id, None)
    if mine is None:
        return rater, verdicts
    if mine:
        return replace(rater, diverged=rater.diverged + 1), verdicts
    return replace(rater, agreed=rater.agreed + 1), verdicts


def _payment(rater: Rater, image_id: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the images whose ratings are paid now, and those that are owed from now on."""
    if proven(rater):
        return rater.owed | {image_id}, frozenset()
    return frozenset(), rater.owed | {image_id} if len(rater.owed) < MAX_OWED else rater.owed


def cleared(rater: Rater) -> dict[str, int]:
    """Return the changes by which a moderator believes a rater again, who then starts anew."""
    checked = dict.fromkeys(("gold_right", "gold_wrong", "agreed", "diverged"), 0)
    return {**checked, "cleared": rater.cleared + 1}

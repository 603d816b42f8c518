"""Places: how many images are before one, from a sample of its queue.

A sample is taken every few seconds and shared, so that clients that ask for their place do not read
the queues that workers need.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

EXACT = 100
"""Images of a queue whose places are kept one by one."""
STEP = 10
"""After those, every so manieth is kept."""
MAX_SAMPLED = 1000
"""Most images of a model that are read for a sample; further places are estimated."""
MIN_LIFE_MS = 2000
LIFE_PER_IMAGE_MS = 20
"""A sample lasts so long for each image read: the reads of one model stay level."""
MAX_PLACE = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The best images of one queue."""

    points: tuple[int, ...]
    """Priorities, the highest first: of the first ``EXACT`` images, then of every ``STEP``-th."""
    count: int
    """Images that were read."""
    whole: bool
    """Whether these are all of its images."""


def sample(priorities: Sequence[int], *, whole: bool) -> Sample:
    """Return the sample of a queue whose best images have these priorities, highest first."""
    points = (*priorities[:EXACT], *priorities[EXACT + STEP - 1 :: STEP])
    return Sample(points, len(priorities), whole)


def life_ms(samples: Sequence[Sample]) -> int:
    """Return how long the samples of a model's queues last, in milliseconds."""
    images = sum(one.count for one in samples)
    return max(MIN_LIFE_MS, images * LIFE_PER_IMAGE_MS)


def ahead(samples: Sequence[Sample], priority: int) -> int:
    """Return how many images of a model's queues have a higher priority.

    It is exact among the first ``EXACT`` of each queue. Beyond what was read it is estimated: as
    many images as before have come in the same time.
    """
    return min(MAX_PLACE, sum(_ahead_in(one, priority) for one in samples))


def _ahead_in(found: Sample, priority: int) -> int:
    better = bisect_left(found.points, -priority, key=lambda point: -point)
    if better < len(found.points):
        return _rank(better)
    if found.whole:
        return found.count
    half = len(found.points) // 2
    spread = found.points[half] - found.points[-1]
    images = found.count - _rank(half)
    further = images * (found.points[-1] - priority) // spread if spread > 0 else 0
    return found.count + further


def _rank(points: int) -> int:
    """Return how many images so many points stand for."""
    return points if points <= EXACT else EXACT + (points - EXACT) * STEP

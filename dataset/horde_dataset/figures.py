"""What a scorer is worth: rank correlation, its interval, and what noise allows at most."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 2000
SIMULATIONS = 200
LEAST_REPEATS = 50
"""Fewest ratings beyond the first of each image that say how far raters disagree."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Show both."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ranks(values: Floats) -> Floats:
    """Return the ranks from 0; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Floats = ends - (counts + 1) / 2
    return middle[inverse]


def spearman(one: Floats, other: Floats) -> float:
    """Return the rank correlation; 0 where one of both is constant."""
    a, b = (ranks(values) - (len(values) - 1) / 2 for values in (one, other))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def interval(one: Floats, other: Floats, groups: Ints, seed: int) -> Interval:
    """Return the rank correlation with the percentile interval of a bootstrap.

    Whole groups (numbers from 0) are drawn, since the images of one request are alike.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(groups))[:-1])
    drawn = np.empty(RESAMPLES)
    for at in range(RESAMPLES):
        chosen = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[group] for group in chosen])
        drawn[at] = spearman(one[rows], other[rows])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(spearman(one, other), float(low), float(high))


def ceiling(means: Floats, numbers: Ints, spreads: Floats, shown: Ints, seed: int) -> float | None:
    """Return the rank correlation that a scorer without any error would have; None: unknown.

    Raters disagree, so means of few ratings are off. How far is estimated from the ratings within
    images (``spreads``: sums of squared distances from the mean of ``numbers`` ratings), and
    simulated for images with ``shown`` ratings.
    """
    repeats = int((numbers - 1).sum())
    if repeats < LEAST_REPEATS or not np.isfinite(spreads).all():
        return None
    within = float(spreads.sum()) / repeats
    between = max(0.0, float(means.var(ddof=1)) - within * float((1 / numbers).mean()))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(SIMULATIONS):
        truth = rng.normal(0, np.sqrt(between), len(shown))
        seen = truth + rng.normal(0, 1, len(shown)) * np.sqrt(within / shown)
        found.append(spearman(truth, seen))
    return float(np.mean(found))

"""What a scorer is worth: rank correlation, its interval, and what noise allows at most."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 2000
SIMULATIONS = 200
AT_ONCE = 2**20
"""Weights that are held in memory at once."""
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


def spearman(one: Floats, other: Floats) -> float:
    """Return the rank correlation; 0 where one of both is constant."""
    return float(_weighted(one, other, np.ones((1, len(one))))[0])


def _weighted(one: Floats, other: Floats, weights: Floats) -> Floats:
    """Return the rank correlation for each row of weights: how often each pair is there."""
    total = weights.sum(1, keepdims=True)
    a, b = (_ranks(values, weights) - total / 2 for values in (one, other))
    scale = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    both: Floats = (weights * a * b).sum(1)
    found: Floats = np.divide(both, scale, out=np.zeros_like(both), where=scale > 0)
    return found


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Return each value's mean rank in each row; equal values share theirs."""
    _, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(inverse.max() + 1))
    equal = np.add.reduceat(weights[:, order], starts, axis=1)
    middle: Floats = np.cumsum(equal, axis=1) - equal / 2
    return middle[:, inverse]


def interval(one: Floats, other: Floats, groups: Ints, seed: int) -> Interval:
    """Return the rank correlation with the percentile interval of a bootstrap.

    Whole groups (numbers from 0) are drawn, since the images of one request are alike.
    """
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    at_once = max(1, AT_ONCE // len(one))
    drawn = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, at_once):
        some = drawn[start : start + at_once]
        chosen = rng.multinomial(count, np.full(count, 1 / count), len(some))
        some[:] = _weighted(one, other, chosen[:, groups].astype(float))
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

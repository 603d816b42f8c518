"""Ridge regression in closed form, with its strength by cross-validation."""

from dataclasses import dataclass

import numpy as np

from horde_dataset.figures import Floats, Ints, spearman
from horde_dataset.graph import Head

STRENGTHS = np.logspace(-4, 3, 29)
"""Of the penalty, for standardised columns and a mean squared error."""
FOLDS = 5
CONSTANT = 1e-6
"""Deviation, as a share of the mean, up to which a column says nothing."""


@dataclass(frozen=True)
class Fit:
    """A head, and what cross-validation said of it."""

    head: Head
    strength: float
    cross_validated: float
    """Rank correlation within a fold, of a head that had not seen it; the mean of all folds.

    All folds together would be off: a head knows its own images' mean, which is the lower the
    higher that of the fold is.
    """


def fit(embeddings: Floats, ratings: Floats, weights: Floats, folds: Ints) -> Fit:
    """Fit ``[N, D]`` to ratings, weighted. Images of one fold (numbers) are left out together."""
    predicted = np.empty((len(STRENGTHS), len(ratings)))
    for fold in np.unique(folds):
        rest = folds != fold
        heads = _heads(embeddings[rest], ratings[rest], weights[rest])
        for row, head in zip(predicted, heads, strict=True):
            row[~rest] = head.predict(embeddings[~rest])
    errors = ((predicted - ratings) ** 2 @ weights) / weights.sum()
    best = int(np.argmin(errors))
    head = _heads(embeddings, ratings, weights)[best]
    within = [
        spearman(predicted[best][folds == fold], ratings[folds == fold])
        for fold in np.unique(folds)
    ]
    return Fit(head, float(STRENGTHS[best]), float(np.mean(within)))


def _heads(embeddings: Floats, ratings: Floats, weights: Floats) -> list[Head]:
    """Return the head of each strength."""
    share = weights / weights.sum()
    mean = share @ embeddings
    deviation = np.sqrt(share @ (embeddings - mean) ** 2)
    constant = deviation <= CONSTANT * np.maximum(1, np.abs(mean))
    deviation = np.where(constant, 1.0, deviation)
    x = np.where(constant, 0.0, (embeddings - mean) / deviation)
    centre = float(share @ ratings)
    values, axes = np.linalg.eigh(x.T @ (x * share[:, None]))
    along = axes.T @ (x.T @ (share * (ratings - centre)))
    return [
        Head(mean, deviation, axes @ (along / (np.maximum(values, 0) + strength)), centre)
        for strength in STRENGTHS
    ]

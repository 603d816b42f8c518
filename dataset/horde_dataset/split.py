"""Which images are held out: whole groups of alike images, by a hash."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from horde_dataset.figures import Ints

COMMON = 0.05
"""A prompt of more than this share of the images makes no group: it says little of them."""
LEAST = 10
"""Fewest groups that anything is measured on."""
TOO_MANY = 1.5
"""How far a group may take what is held out beyond its share."""


def groups(keys: Sequence[tuple[str, str, str]]) -> tuple[Ints, list[str]]:
    """Return the group of each image, as numbers from 0, and the name of each group.

    ``keys`` are the request, the prompt and the SHA-256 of each image. Images with one of them in
    common are in one group: seeds of one prompt are alike, and a scorer that knows one image knows
    the others.
    """
    prompts = Counter(prompt for _, prompt, _ in keys)
    most = max(2.0, COMMON * len(keys))
    parent = list(range(len(keys)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    first: dict[tuple[int, str], int] = {}
    for at, (request, prompt, sha256) in enumerate(keys):
        wanted = (request, prompt if prompts[prompt] <= most else "", sha256)
        for key in ((kind, value) for kind, value in enumerate(wanted) if value):
            other = first.setdefault(key, at)
            parent[root(at)] = root(other)
    roots = [root(at) for at in range(len(keys))]
    names: dict[int, str] = {}
    for at, its_root in enumerate(roots):
        name = keys[at][2]
        names[its_root] = min(names.get(its_root, name), name)
    numbers = {its_root: number for number, its_root in enumerate(names)}
    return np.array([numbers[each] for each in roots], np.int64), list(names.values())


def held_out(group: Ints, names: Sequence[str], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which images are held out: about ``share`` of them, in whole groups.

    Where that would be fewer than LEAST groups, more are, up to half of the images. Groups are
    taken in the order of a hash, so that a later release holds out almost the same ones.
    """
    sizes = np.bincount(group)
    wanted, taken = share * len(group), 0
    chosen = np.zeros(len(sizes), bool)
    for number in _shuffled(names, f"held out {seed}"):
        few = chosen.sum() < LEAST
        if taken >= wanted and not few:
            break
        if taken + sizes[number] <= (len(group) / 2 if few else TOO_MANY * wanted):
            chosen[number] = True
            taken += int(sizes[number])
    return chosen[group]


def folds(group: Ints, names: Sequence[str], count: int, seed: int) -> Ints:
    """Return a fold for each image, from 0 to ``count`` - 1; groups stay whole."""
    sizes = np.bincount(group, minlength=len(names))
    filled = [0] * count
    fold = np.zeros(len(names), np.int64)
    for number in _shuffled(names, f"fold {seed}"):
        fold[number] = int(np.argmin(filled))
        filled[fold[number]] += int(sizes[number])
    return fold[group]


def _shuffled(names: Sequence[str], salt: str) -> list[int]:
    hashes = [hashlib.sha256(f"{salt} {name}".encode()).digest() for name in names]
    return sorted(range(len(names)), key=lambda number: hashes[number])

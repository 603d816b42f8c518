"""What a worker does with each of its models, and which of them one pop may offer.

A pop has one list of models and says once how large images may be, and whether they may have LoRAs
or ControlNets. So a pop offers models that do the same. Where several such groups have their turn,
they are offered one after the other; one for which nothing waited is asked for less often, at most
`MAX_SKIPPED` pops later. No clock, no network, no torch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpu_worker import control
from gpu_worker.annotators.without_weights import WITHOUT_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping, Sequence

    from gpu_worker.horde_client import Payload

MIN_PIXELS = 64 * 64
"""The smallest image of the Horde."""
MAX_SKIPPED = 8
"""Pops by which a group waits longer for its turn, because nothing waited for it before."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What a worker does with a model; None: what it does with all."""

    max_pixels: int | None = None
    """Width times height of the largest image."""
    lora: bool | None = None
    """Whether it draws with LoRAs and textual inversions."""
    controls: tuple[str, ...] | None = None
    """The control types whose ControlNets it has."""
    xl: bool = False
    """Whether these are of Stable Diffusion XL, which the Horde tells apart."""


class Abilities:
    """The abilities of all models. The drawing thread changes them, others read them."""

    def __init__(
        self,
        abilities: Mapping[str, Ability] | None = None,
        annotators: Mapping[str, control.Annotator] = WITHOUT_WEIGHTS,
    ) -> None:
        """Take those that are known; a model that is not named does what the worker does."""
        self.annotators = annotators
        """What makes the maps of ControlNets, by control type."""
        self._of = dict(abilities or {})
        self._turn = 0
        self._empty: dict[Hashable, int] = {}
        """Pops of a group in a row for which nothing waited."""
        self._due: dict[Hashable, int] = {}
        """The turn from which a group is offered again."""

    def of(self, name: str) -> Ability:
        """Return what the worker does with a model."""
        return self._of.get(name, Ability())

    def shrink(self, name: str, pixels: int) -> None:
        """Offer a model for images of fewer pixels than these: not even one fits the memory."""
        most = self.of(name).max_pixels
        found = max(MIN_PIXELS, pixels - 1 if most is None else min(pixels - 1, most))
        self._of[name] = replace(self.of(name), max_pixels=found)
        log.warning("from now on at most %d pixels are popped for %r", found, name)

    def limit(self, name: str, pixels: int) -> None:
        """Offer a model for images of at most so many pixels: no more fit by the measured memory.

        What did not fit already counts if it is less.
        """
        most = self.of(name).max_pixels
        found = pixels if most is None else min(pixels, most)
        self._of[name] = replace(self.of(name), max_pixels=max(MIN_PIXELS, found))
        log.info("by the measured memory, at most %d pixels are popped for %r", found, name)

    def lose(self, name: str, kind: str) -> None:
        """Offer a control type no more."""
        ability = self.of(name)
        left = tuple(one for one in ability.controls or () if one != kind)
        self._of[name] = replace(ability, controls=left)
        log.warning("from now on nothing is popped for %r that is guided by %s", name, kind)

    def fields(self, names: Collection[str]) -> Payload:
        """Return the fields of a pop that offers these models, which are all of a group."""
        abilities = [self.of(name) for name in names]
        if not abilities:
            return {}
        one = abilities[0]
        found: dict[str, object] = {}
        if one.max_pixels is not None:
            found["max_pixels"] = one.max_pixels
        if one.lora is not None:
            found["allow_lora"] = one.lora
        if one.controls is not None:
            # Of the others no image asks for it.
            found |= control.offer(one.controls, xl=any(ability.xl for ability in abilities))
        return found

    def alike(self, names: Sequence[str], in_vain: Collection[str]) -> list[str]:
        """Return those of some models whose turn it is, which do the same.

        `in_vain` are those for which nothing waited; they come last.
        """
        groups: dict[Hashable, list[str]] = {}
        for name in names:
            groups.setdefault(self._group(name), []).append(name)
        waiting = {
            key: group
            for key, group in groups.items()
            if any(name not in in_vain for name in group)
        }
        candidates = waiting or groups
        if not candidates:
            return []
        return candidates[min(candidates, key=lambda key: self._due.get(key, 0))]

    def answered(self, offered: Sequence[str], *, given: bool) -> None:
        """Record the pop of a group, and whether images came."""
        if not offered:
            return
        key = self._group(offered[0])
        self._turn += 1
        self._empty[key] = 0 if given else self._empty.get(key, 0) + 1
        skipped = 0 if given else min(MAX_SKIPPED, 1 << self._empty[key])
        self._due[key] = self._turn + skipped

    def _group(self, name: str) -> Hashable:
        ability = self.of(name)
        return ability.max_pixels, ability.lora, ability.controls

"""Which models a worker with several offers in its next pop. No clock, no network, no torch.

A swap costs seconds in which nothing is drawn. So the models in memory are offered alone while
images wait for them. Two things let the others in:

- A pop of the models in memory came back empty. Then all are offered, and the Horde's priority
  chooses.
- They have been drawn for so long that a swap is `SHARE` of that time, or for `MAX_TURN_S`. Then
  those of the others are offered that had no turn yet in this round, so each model for which images
  wait has its turn within `MAX_TURN_S` times the number of models, whatever their priorities.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SHARE = 0.1
"""The part of the time that swaps may take while images of several models wait."""
MAX_TURN_S = 120.0
"""Longest turn of the models in memory while others may wait, in seconds; a tenth of the life of a
request, so that ten models that swap slowly are all drawn before requests expire."""


class Models(Protocol):
    """The models that a worker can draw: `model_cache.ModelCache`."""

    @property
    def usable(self) -> tuple[str, ...]:
        """Return the names of all of them."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """Return the names of those in memory."""

    @property
    def swap_s(self) -> float:
        """Return the seconds that it takes to load another one."""

    def prefer(self, name: str) -> None:
        """Load this model if none is loaded, or another one; raises ModelError if none can be."""


class OneModel:
    """The one model of a worker, which stays in memory."""

    swap_s = 0.0

    def __init__(self, name: str) -> None:
        self.usable = self.loaded = (name,)

    def prefer(self, _name: str) -> None:
        """Do nothing: it is loaded."""


def turn_s(swap_s: float) -> float:
    """Return the seconds for which the models in memory are drawn, if others may wait."""
    return min(MAX_TURN_S, swap_s / SHARE)


@dataclass(slots=True)
class Offers:
    """Whose turn it is and was. Times are `time.monotonic()`.

    `resident` are the models in memory, and those that popped images will bring there; `in_vain`
    are those that a ticket was offered nothing for, since it last got images.
    """

    began: float = 0.0
    """When the turn of the models in memory began."""
    served: set[str] = field(default_factory=set)
    """Models that had their turn in this round."""

    def next(
        self,
        usable: Sequence[str],
        resident: Collection[str],
        in_vain: set[str],
        *,
        swap_s: float,
        now: float,
    ) -> list[str]:
        """Return the models to offer; empty if nothing waits for any of them."""
        here = [name for name in usable if name in resident]
        others = [name for name in usable if name not in resident]
        if in_vain.issuperset(usable):
            return []
        if not here or not others or in_vain.issuperset(here):
            return here + others
        if now - self.began < turn_s(swap_s):
            return here
        waiting = [name for name in others if name not in in_vain]
        if not waiting:  # nobody's turn: the models in memory have another one
            self.began = now
            in_vain.difference_update(others)
            return here
        if self.served.issuperset(waiting):
            self.served.clear()
        return [name for name in waiting if name not in self.served]

    def answered(
        self,
        offered: Collection[str],
        given: Collection[str],
        resident: Collection[str],
        in_vain: set[str],
        *,
        now: float,
    ) -> None:
        """Record a pop: the models that were offered, and those of the images that came."""
        if not given:
            in_vain.update(offered)
            return
        in_vain.clear()
        if any(name not in resident for name in given):
            self.began = now
            self.served.update(resident, given)

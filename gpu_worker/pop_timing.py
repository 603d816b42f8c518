"""When the next batch is popped: so early that the GPU never waits for it, and no earlier."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpu_worker.horde_client import MIN_TTL_S

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gpu_worker.horde_client import Job

LEAD = 2
"""The next batch is popped when the drawing in hand lasts this many times as long as the slowest of
the last pops. An image's place in the queue is decided when it is popped, so popping earlier is
unfair to what is asked for meanwhile."""
MAX_LEAD_S = MIN_TTL_S / 10
"""Most drawing in hand, in seconds, at which a batch is popped, however slow the pops are. So a
batch waits for the GPU for a tenth of the shortest ttl, unless the estimate is wrong."""
MAX_AHEAD = 2
"""Batches that are popped, or being popped, and not yet drawn: the bound if the estimate is
wrong."""
MAX_UNFINISHED = 8
"""Batches that are popped and not yet all submitted. With more, nothing is popped, so that images
do not pile up in memory and past their ttl if the CPU or the network is slower than the GPU."""
SLOW_S = 1.0
"""Seconds after its pop from which a batch without all its source images and LoRAs is not counted
as in hand."""
RECENT = 8
"""Batches whose seconds are remembered."""


@dataclass(slots=True, eq=False)
class Batch:
    """A batch in hand: from the decision to pop it until it is drawn."""

    work: float
    """Its `work_of`; until it is popped, that of the last one."""
    asked: float = field(default_factory=time.monotonic)
    ready: bool = False
    """Whether its source images and add-ons are there."""
    loading: float = 0.0
    """Seconds that its add-ons took."""
    began: float | None = None
    """When its drawing began; only the drawing thread writes it."""
    models: Collection[str] = ()
    """Those of its jobs; until it is popped, those that were offered."""
    jobs: list[Job] = field(default_factory=list)


class Hand:
    """The batches of a worker that are not drawn yet, and how long the last ones took.

    Times are `time.monotonic()`.
    """

    def __init__(self) -> None:
        """Start with nothing in hand."""
        self.batches: list[Batch] = []
        """Popped, or being popped, and not yet drawn; oldest first."""
        self.finishing = 0
        """Batches that are drawn and not yet all submitted."""
        self.rates: deque[float] = deque(maxlen=RECENT)
        """Seconds for a unit of `work_of`."""
        self.latencies: deque[float] = deque(maxlen=RECENT)
        """Seconds from a pop until its batch can be drawn."""

    def is_wanted(self, now: float, *, failing: bool) -> bool:
        """Whether the next batch must be popped now, so that the GPU never waits for it."""
        if len(self.batches) + self.finishing >= MAX_UNFINISHED:
            return False
        if failing:  # the GPU may be broken
            return not self.batches
        latency = LEAD * max(self.latencies, default=math.inf)
        # Others wait for a slow source image or LoRA, and do not keep the GPU busy.
        slow = max(SLOW_S, latency) if self.latencies else SLOW_S
        near = [batch for batch in self.batches if batch.ready or now - batch.asked <= slow]
        waiting = sum(batch.began is None for batch in near)
        if not self.rates:  # during the first drawing
            return waiting == 0
        rate = min(self.rates)
        in_hand = sum(
            max(0.0, batch.work * rate - (0 if batch.began is None else now - batch.began))
            for batch in near
        )
        return waiting < MAX_AHEAD and (not near or in_hand <= min(MAX_LEAD_S, latency))


def work_of(jobs: Sequence[Job]) -> float:
    """Return how much drawing jobs are, in pixel steps; what cannot be drawn is nothing."""
    found = 0.0
    for job in jobs:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            sizes = (float(job.payload[key]) for key in ("width", "height", "ddim_steps"))
            found += math.prod(sizes)
    return found

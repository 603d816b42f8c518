"""Doubles the clock: time passes when a test says so, on a fast machine as on a slow one.

Every test starts at the same moment, far from midnight. Each look at the clock takes a millisecond,
so that what happens later has a later time; nothing else moves it.
"""

from itertools import count

START_MS = 1_800_000_000_000
"""2027-01-15 08:00 UTC."""


class Clock:
    """A time in ms since the epoch, and what a test let pass."""

    def __init__(self) -> None:
        self.offset_ms = 0
        self._start, self._looks = START_MS, count()
        self._frozen = False

    def now_ms(self) -> int:
        return self._start + self.offset_ms + (0 if self._frozen else next(self._looks))

    def freeze(self, at_ms: int | None = None) -> None:
        """Stand still, at a time or now; only ``pass_seconds`` moves it on."""
        now = self.now_ms() if at_ms is None else at_ms
        self._start, self.offset_ms, self._frozen = now, 0, True

    def set(self, at_ms: int) -> None:
        """Jump to a time, and go on from there."""
        self._start, self.offset_ms, self._frozen = at_ms, 0, False

    def pass_seconds(self, seconds: float) -> None:
        self.offset_ms += int(seconds * 1000)

"""Doubles the clock: time passes when a test says so.

It runs on from the real time, so that presigned URLs stay valid for whoever checks them in real
time, unless a test freezes it.
"""

from horde import clock


class Clock:
    """The real time plus what a test let pass, in ms since the epoch."""

    def __init__(self) -> None:
        self.offset_ms = 0
        self._real = clock.now_ms

    def now_ms(self) -> int:
        return self._real() + self.offset_ms

    def freeze(self, at_ms: int) -> None:
        """Stand still at a time; only ``pass_seconds`` moves it on."""
        self._real, self.offset_ms = lambda: at_ms, 0

    def pass_seconds(self, seconds: float) -> None:
        self.offset_ms += int(seconds * 1000)

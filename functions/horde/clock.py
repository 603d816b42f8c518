"""The clock. No other module reads the time, so tests can move it."""

import time


def now_ms() -> int:
    """Return milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def now() -> int:
    """Return whole seconds since the epoch, rounded down."""
    return now_ms() // 1000

"""The one place that reads the time, so that tests can move it."""

import time
from datetime import UTC, datetime

DAY_S = 24 * 3600


def now_ms() -> int:
    """Return milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def now() -> int:
    """Return whole seconds since the epoch, rounded down."""
    return now_ms() // 1000


def month_start(at: int) -> int:
    """Return when a moment's month (UTC) began; both in seconds since the epoch."""
    day = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0)
    return int(day.timestamp())


def iso(ms: int) -> str:
    """Return a UTC timestamp such as ``2026-11-23T05:42:00.123Z``; sorts as text."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"

"""Moments as text and as days and months. All in UTC; nothing here reads the clock."""

from datetime import UTC, datetime

HOUR_S = 3600
DAY_S = 24 * HOUR_S


def iso(ms: int) -> str:
    """Return a timestamp such as ``2026-11-23T05:42:00.123Z``; sorts as text."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def minute(ms: int) -> str:
    """Return the minute of a moment, such as ``2026-11-23T05:42``."""
    return iso(ms)[:16]


def day(ms: int) -> str:
    """Return the day of a moment, such as ``2026-11-23``."""
    return iso(ms)[:10]


def month_start(at: int) -> int:
    """Return when a moment's month began; both in seconds since the epoch."""
    first = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0)
    return int(first.timestamp())

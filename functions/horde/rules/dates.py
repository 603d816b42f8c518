"""Timestamps, minutes, days and months, all in UTC. Nothing here reads the clock."""

from datetime import UTC, datetime

HOUR_S = 3600
DAY_S = 24 * HOUR_S


def iso(ms: int) -> str:
    """Return a time as text such as ``2026-11-23T05:42:00.123Z``, which sorts by time."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def hour(at: int) -> str:
    """Return the hour of a time in seconds, such as ``2026-11-23T05``."""
    return iso(at * 1000)[:13]


def minute(ms: int) -> str:
    """Return the minute of a time, such as ``2026-11-23T05:42``."""
    return iso(ms)[:16]


def day(ms: int) -> str:
    """Return the day of a time, such as ``2026-11-23``."""
    return iso(ms)[:10]


def month_start(at: int) -> int:
    """Return when the month of a time began; both are in seconds since the epoch."""
    first = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0)
    return int(first.timestamp())

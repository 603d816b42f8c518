"""Counters of the rate limits that must hold across processes."""

from collections.abc import Sequence

from horde.store.items import TTL, Kind, key_of, partition
from horde.store.table import Table


class RateLimits:
    """One item per caller, route and window."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def count(self, subject: str, windows: Sequence[int], now: int) -> list[int]:
        """Count one request of ``subject`` in fixed windows of so many seconds, in one write.

        ``now`` is in seconds; returns each window's count, this request included.
        """
        longest = max(windows)
        counters = [f"w{seconds}_{now % longest // seconds}" for seconds in windows]
        window = partition(Kind.RATELIMIT, f"{subject}#{longest}#{now // longest}")
        counted = self._table.add(
            key_of((window, Kind.RATELIMIT)),
            f"SET {TTL} = :gone ADD " + ", ".join(f"{counter} :one" for counter in counters),
            {"one": 1, "gone": now + 2 * longest},
        )
        return [int(counted[counter]["N"]) for counter in counters]

"""Counters of the rate limits that hold across processes."""

from collections.abc import Sequence

from horde.store.items import TTL, Kind, key_of, partition
from horde.store.table import Table


class RateLimits:
    """One item per caller, route and window."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def count(self, subject: str, windows: Sequence[int], now: int) -> list[int]:
        """Count one request of ``subject`` in several fixed windows, in one write.

        ``windows`` are their lengths in seconds, ``now`` is in seconds since the epoch. Returns the
        count of each window, including this request.
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

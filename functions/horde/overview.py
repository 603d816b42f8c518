"""The last census and the operator's modes, cached in each process.

The cache is up to ``CACHE_S`` seconds behind the table, and the census up to a minute behind the
queue.
"""

from dataclasses import dataclass

from horde import clock
from horde.records import Census
from horde.store import Store

CACHE_S = 10
STALE_S = 5 * 60
"""Age in seconds from which a census is treated as empty."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the whole horde: its last census, and whether it is in maintenance."""

    census: Census
    maintenance: bool


_cached: dict[Store, tuple[int, Overview]] = {}


def overview(store: Store) -> Overview:
    """Return the last census and the modes, which each process reads every ``CACHE_S`` seconds.

    A stale census is treated as empty.
    """
    now = clock.now()
    cached = _cached.get(store)
    if cached is not None and cached[0] > now - CACHE_S:
        return cached[1]
    census, maintenance = store.census.read()
    if census.at <= now - STALE_S:
        census = Census()
    _cached[store] = (now, Overview(census, maintenance))
    return _cached[store][1]


def clear_cache() -> None:
    """Drop this process's cache, for tests."""
    _cached.clear()

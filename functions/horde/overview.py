"""The last census and the operator's modes, cached in each process: the only state of a process.

What is answered is up to ``CACHE_S`` seconds older than the table, and the census itself up to a
minute older than the queue.
"""

from dataclasses import dataclass

from horde import clock
from horde.records import Census
from horde.store import Store

CACHE_S = 10
STALE_S = 5 * 60
"""An older census is treated as an empty one, in seconds."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What each function may know of the whole."""

    census: Census
    maintenance: bool


_cached: dict[Store, tuple[int, Overview]] = {}


def overview(store: Store) -> Overview:
    """Return the last census and the modes, read every ten seconds by each process.

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
    """Drop what this process has read, for tests."""
    _cached.clear()

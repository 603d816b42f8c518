"""Finds the released images that were withdrawn with all others of their account or request.

The tables of a release have a keyed hash of the account, which changes each year, and one of the
request. Rows of an account that were written before there were such hashes have none: they are all
looked at. What decides is the private record of each image, never a hash.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from horde import clock
from horde.records import Shared
from horde.release import tables
from horde.rules.dates import day
from horde.rules.hashes import Purpose, keyed
from horde.store import Store
from horde.store.releases import Tombstone
from horde.store.withdrawals import Withdrawal

FIRST_YEAR = 2025
"""No image was shared before."""
MAX_PENDING = 1000
"""Most withdrawals that one run works off, the oldest first."""
MAX_MARKED = 50_000
"""Most images that one run marks: some minutes. The next run goes on."""
MAX_KEPT = 1000
THREADS = 8
BATCH = 100


def candidates(
    parts: Sequence[Path], pending: Iterable[Withdrawal], secret: bytes
) -> Iterator[str]:
    """Yield the ids of the images in some parts' tables that may be meant."""
    sets, authors = set[str](), set[str]()
    for one in pending:
        if one.request_id:
            sets.add(keyed(secret, Purpose.REQUEST, one.request_id))
            continue
        for year in range(FIRST_YEAR, int(day(one.before)[:4]) + 1):
            authors.add(keyed(secret, Purpose.AUTHOR, f"{year} {one.user_id}"))
    yield from tables.of_authors(parts, sets, authors)


def marked(store: Store, pending: Sequence[Withdrawal], ids: Iterable[str]) -> dict[str, Tombstone]:
    """Mark those of these images that were withdrawn, and take what is worked off from its list.

    Images that are kept back are looked at too. Returns the tombstones of all that are marked,
    those of an earlier run that died included. Idempotent: each step may be done again.
    """
    found: dict[str, Tombstone] = {}
    kept = (one.id for one in store.releases.kept_back(MAX_KEPT))
    wanted = [*dict.fromkeys((*ids, *kept))]
    for start in range(0, len(wanted), BATCH):
        some = wanted[start : start + BATCH]
        hits = [
            (shared, withdrawal)
            for shared in store.sharing.get_many(some).values()
            for withdrawal in [_that_has(shared, pending)]
            if withdrawal is not None
        ]
        fresh = [hit for hit in hits if hit[0].withdrawn_at is None]
        if len(found) + len(fresh) > MAX_MARKED:
            return found
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda hit: store.sharing.mark_withdrawn(hit[0], hit[1].reason), fresh))
        for shared, withdrawal in hits:
            at = shared.withdrawn_at or clock.now_ms()
            name = shared.generation_id
            found[name] = Tombstone(name, shared.date, withdrawal.reason, at)
    for one in pending:
        store.withdrawals.done(one)
    return found


def _that_has(shared: Shared, pending: Sequence[Withdrawal]) -> Withdrawal | None:
    return next((one for one in pending if one.has(shared)), None)

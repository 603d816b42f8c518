"""What the releases of the data set need to know: who makes one, what is kept back, what left it.

One run at a time makes a release. It holds ``RELEASE`` for ``HOLD_S`` at most; a run that died is
taken over with the same id, so what it has done is used. A run that ends gives it up.

A withdrawal is a tombstone in the list of ``TOMBSTONES`` until a release is published that no
longer has the image; so whatever a run had read before, the next one finds it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from horde import clock
from horde.records import Shared
from horde.rules.dates import DAY_S, HOUR_S, iso
from horde.store.items import (
    KEPT_BACK,
    LISTED,
    TOMBSTONES,
    TTL,
    WITHDRAWALS,
    Item,
    Kind,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    listed,
)
from horde.store.table import Table
from horde.store.transaction import EXISTS, update

HOLD_S = 4 * HOUR_S
"""Seconds after which a run that says nothing is taken for dead: each step of one has as long as a
function may run, and is tried some times."""
KEPT_DAYS = 30
"""Days after which an image that is kept back is deleted, if the operator does nothing."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """An image that was withdrawn; ``date`` is the day of its delivery, ``removed_at`` in ms."""

    id: str
    date: str
    reason: str
    removed_at: int

    def row(self) -> dict[str, str]:
        """Return what is published of it."""
        return {"id": self.id, "removed_on": iso(self.removed_at)[:10], "reason": self.reason}


@dataclass(frozen=True, slots=True)
class KeptBack:
    """An image that screening kept back, for the operator."""

    id: str
    date: str
    reasons: str
    nsfw_score: str
    """As text: DynamoDB's numbers are no floats."""


class Releases:
    """The state of the releases."""

    def __init__(self, table: Table) -> None:
        self._table = table

    # --- one run at a time ------------------------------------------------------------------

    def begin(self, run: str, fresh: str) -> str | None:
        """Let a run make a release; returns its id, or None if another run makes one.

        A release that was begun and not ended goes on; else ``fresh`` is begun.
        """
        place = key(Kind.RELEASE, "state")
        now = clock.now()
        item = self._table.get(place)
        is_open = item is not None and "open_release" in item
        chosen = item["open_release"]["S"] if item is not None and is_open else fresh
        free = "attribute_not_exists(run_until) OR run_until < :now OR run_id = :run"
        same = "open_release = :release" if is_open else "attribute_not_exists(open_release)"
        taken = self._table.try_update(
            place,
            "SET open_release = :release, run_id = :run, run_until = :until",
            f"({free}) AND {same}",
            encode_all({"release": chosen, "run": run, "now": now, "until": now + HOLD_S}),
        )
        return None if taken is None else chosen

    def goes_on(self, run: str, release: str) -> bool:
        """Let a run publish its release; returns False if it is ended, or another's by now.

        The run gets ``HOLD_S`` from now, longer than a function may run: nobody else publishes.
        """
        taken = self._table.try_update(
            key(Kind.RELEASE, "state"),
            "SET run_until = :until",
            "run_id = :run AND open_release = :release",
            encode_all({"run": run, "release": release, "until": clock.now() + HOLD_S}),
        )
        return taken is not None

    def last(self) -> str | None:
        """Return the id of the last release that was ended, or None."""
        item = self._table.get(key(Kind.RELEASE, "state"))
        return item["last_release"]["S"] if item and "last_release" in item else None

    def until(self) -> int:
        """Return when the files were copied, at the latest, that the last release has, in ms."""
        item = self._table.get(key(Kind.RELEASE, "state"))
        return int(item["released_until"]["N"]) if item and "released_until" in item else 0

    def give_up(self, run: str) -> None:
        """Let another run go on at once. Idempotent."""
        self._table.try_update(
            key(Kind.RELEASE, "state"),
            "REMOVE run_until",
            "run_id = :run",
            encode_all({"run": run}),
        )

    def end(self, run: str, release: str, until: int | None = None) -> None:
        """Record that a release is published. Idempotent.

        ``until`` is when the files were copied that it has, in ms; None if some are left out.
        """
        more = {} if until is None else {"until": until}
        told = ", released_until = :until" if more else ""
        self._table.try_update(
            key(Kind.RELEASE, "state"),
            f"SET last_release = :release{told} REMOVE open_release, run_until",
            "run_id = :run AND open_release = :release",
            encode_all({"run": run, "release": release, **more}),
        )

    # --- what may be in it ------------------------------------------------------------------

    def judged(self, ids: Iterable[str]) -> tuple[dict[str, Shared], set[str]]:
        """Return which of these images may be released, with their records, and which may not.

        Those are recorded as shared; the others are withdrawn or kept back. What has no record yet
        is in neither. Read with strong consistency, a hundred in a call. Whether an image was
        withdrawn with all of its account or request, ``withdrawals.among`` tells.
        """
        good, bad = dict[str, Shared](), set[str]()
        for item in self._table.batch(key(Kind.SHARED, one) for one in ids):
            if item.keys() & {"withdrawn_at", "kept_back"}:
                bad.add(id_of(item))
            else:
                good[id_of(item)] = from_item(Shared, item)
        return good, bad

    # --- what is kept back ------------------------------------------------------------------

    def keep_back(self, image: KeptBack) -> bool:
        """Record that an image is kept back; returns False if it is withdrawn or was never shared.

        Idempotent.
        """
        item = {
            **key(Kind.KEPT, image.id),
            "date": {"S": image.date},
            "reasons": {"S": image.reasons},
            "nsfw_score": {"S": image.nsfw_score},
            TTL: encode(clock.now() + KEPT_DAYS * DAY_S),
            **listed(KEPT_BACK, clock.now()),
        }
        may_be = f"{EXISTS} AND attribute_not_exists(withdrawn_at)"
        mark = update(
            key(Kind.SHARED, image.id),
            "SET kept_back = :reasons",
            may_be,
            encode_all({"reasons": image.reasons}),
        )
        return self._table.try_transact([mark, {"Put": {"Item": item}}])

    def kept_back(self, limit: int) -> list[KeptBack]:
        """Return images that are kept back, oldest first."""
        rows = self._table.read_list(KEPT_BACK, limit)
        items = self._table.batch(key(Kind.KEPT, id_of(row)) for row in rows)
        found = {id_of(item): _kept(item) for item in items}
        return [found[id_of(row)] for row in rows if id_of(row) in found]

    def kept(self, generation_id: str) -> KeptBack | None:
        """Return an image that is kept back, or None."""
        item = self._table.get(key(Kind.KEPT, generation_id))
        return _kept(item) if item else None

    def let_go(self, generation_id: str) -> bool:
        """Record that an image is no longer kept back; returns False if it was not. Idempotent."""
        return self._table.try_transact(
            [
                update(key(Kind.SHARED, generation_id), "REMOVE kept_back", EXISTS, {}),
                {"Delete": {"Key": key(Kind.KEPT, generation_id)}},
            ]
        )

    # --- what left it -----------------------------------------------------------------------

    def tombstones(self) -> Iterator[Tombstone]:
        """Yield the withdrawals that no release has heeded yet, oldest first."""
        for page in self._table.list_pages(TOMBSTONES):
            for item in self._table.batch(key(Kind.REMOVED, id_of(row)) for row in page):
                if LISTED.partition in item:
                    yield Tombstone(
                        id_of(item),
                        item["date"]["S"],
                        item["reason"]["S"],
                        int(item["removed_at"]["N"]),
                    )

    def waiting_since(self) -> int | None:
        """Return when the oldest withdrawal was asked for that no release has heeded, in ms."""
        rows = [row for name in (TOMBSTONES, WITHDRAWALS) for row in self._table.read_list(name, 1)]
        return min((int(row[LISTED.sort]["N"]) for row in rows), default=None)

    def heeded(self, generation_id: str, release: str) -> None:
        """Record that a release without a withdrawn image is published. Idempotent."""
        self._table.try_update(
            key(Kind.REMOVED, generation_id),
            f"SET heeded_in = :release REMOVE {LISTED.attributes}",
            EXISTS,
            encode_all({"release": release}),
        )


def _kept(item: Item) -> KeptBack:
    texts = (item[name]["S"] for name in ("date", "reasons", "nsfw_score"))
    return KeptBack(id_of(item), *texts)

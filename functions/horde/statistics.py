"""What is counted from the table's stream, and into which counters. Pure.

A settlement is a ``REWARD`` entry of the ledger, a request its own item; both are written once, in
the transaction of what they record. Counters are by the time of the event, not of the counting.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from horde import clock
from horde.fleet import MEMORY, Record
from horde.model import ANONYMOUS

HOUR_S = 3600
MONTH_DAYS = 31
"""A month is this day and the thirty before it (UTC)."""

Row = tuple[str, str]
"""``pk`` and ``sk`` of an item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A delivered image. Times are in ms since the epoch."""

    entry: Row
    """Its entry in the ledger of the worker's owner."""
    worker_id: str
    user_id: int
    """Who asked for it."""
    model: str
    pixelsteps: int
    claimed_at: int
    settled_at: int
    kudos: int
    """Its worker's reward."""
    tax: int

    @property
    def owner_id(self) -> int:
        """Who is paid."""
        return int(self.entry[0].partition("#")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of the anonymous account."""

    request_id: str
    images: int


Event = Settled | Asked


def read(image: Mapping[str, Any]) -> Event | None:
    """Return what a new item's stream image tells; None if it counts nowhere.

    Raises KeyError or ValueError for an item that is not as this system writes it.
    """
    if image["sk"]["S"] == "REQUEST":
        if int(image["user_id"]["N"]) != ANONYMOUS.id:
            return None  # an account's own requests are counted with its balance
        return Asked(request_id=image["id"]["S"], images=int(image["n"]["N"]))
    return Settled(
        entry=(image["pk"]["S"], image["sk"]["S"]),
        worker_id=image["worker_id"]["S"],
        user_id=int(image["user_id"]["N"]),
        model=image["model"]["S"],
        pixelsteps=int(image["pixelsteps"]["N"]),
        claimed_at=int(image["claimed_at"]["N"]),
        settled_at=int(image["settled_at"]["N"]),
        kudos=int(image["amount"]["N"]),
        tax=int(image["tax"]["N"]),
    )


def minute(ms: int) -> str:
    """Return the key of a minute's counter."""
    return f"MINUTE#{clock.iso(ms)[:16]}"


def day(ms: int) -> str:
    """Return the key of a day's counter."""
    return f"DAY#{clock.iso(ms)[:10]}"


@dataclass(slots=True)
class Counter:
    """What to add to one item, and when that item may go (seconds), 0 for never."""

    add: dict[str, int] = field(default_factory=dict)
    gone_at: int = 0
    model: str = ""

    def count(self, **numbers: int) -> None:
        """Add up."""
        for name, number in numbers.items():
            self.add[name] = self.add.get(name, 0) + number


def counters(events: Iterable[Event]) -> dict[Row, Counter]:
    """Return what all events together add to which items."""
    found: dict[Row, Counter] = {}

    def at(*row: str) -> Counter:
        pk, sk = row
        return found.setdefault((pk, sk), Counter())

    for event in events:
        anonymous = at(f"USER#{ANONYMOUS.id}", "RECORD") if _is_anonymous(event) else None
        if isinstance(event, Asked):
            if anonymous:
                anonymous.count(requests=1, asked_images=event.images)
            continue
        if anonymous:
            anonymous.count(images=1, pixelsteps=event.pixelsteps, taxes=event.tax)
        work = {"images": 1, "pixelsteps": event.pixelsteps}
        at(f"WORKER#{event.worker_id}", "RECORD").count(**work, kudos=event.kudos)
        short = at("STATS", minute(event.settled_at))
        short.count(**work)
        short.gone_at = event.settled_at // 1000 + 2 * HOUR_S
        at("STATS", day(event.settled_at)).count(**work)
        at("STATS", "TOTAL").count(**work)
        # A model's name may be longer than a sort key.
        name = hashlib.sha256(event.model.encode()).hexdigest()[:32]
        for sk in (f"MODEL{day(event.settled_at)}#{name}", f"MODEL#{name}"):
            by_model = at("STATS", sk)
            by_model.count(images=1)
            by_model.model = event.model
    return found


def _is_anonymous(event: Event) -> bool:
    return isinstance(event, Asked) or event.user_id == ANONYMOUS.id


def pace(record: Record, events: Iterable[Settled]) -> dict[str, int]:
    """Return a worker's speed after more images, as fields of its record.

    A worker is busy from a claim, or the settlement before, to the settlement: a batch is claimed
    at once and settled one by one, and its seconds must not count for each of its images. Old
    images weigh ever less. An image that arrives out of order adds its work and no time.
    """
    ps, ms, last = float(record.recent_ps), float(record.recent_ms), record.settled_at
    for event in sorted(events, key=lambda event: event.settled_at):
        busy = event.settled_at - max(event.claimed_at, last)
        ps = ps * MEMORY + event.pixelsteps
        ms = ms * MEMORY + max(0, busy)
        last = max(last, event.settled_at)
    return {"recent_ps": round(ps), "recent_ms": max(1, round(ms)), "settled_at": last}


@dataclass(frozen=True, slots=True)
class Amount:
    """Images and their pixelsteps."""

    images: int = 0
    pixelsteps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What was drawn.

    In the last full minute, in the 60 minutes until now, on this day (UTC), on this day and the
    thirty before it, and ever.
    """

    minute: Amount
    hour: Amount
    day: Amount
    month: Amount
    total: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounts:
    """Images by model: on this day (UTC), on this day and the thirty before it, and ever."""

    day: dict[str, int]
    month: dict[str, int]
    total: dict[str, int]

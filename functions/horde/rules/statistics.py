"""Which counters an event adds to, by the time of the event and not of its counting."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from horde.records import ANONYMOUS_ID, AnonymousRequest, Event, Settlement
from horde.rules.dates import HOUR_S, day, minute

MONTH_DAYS = 31
"""A month is this day and the thirty days before it (UTC)."""


class Scope(StrEnum):
    """What a series counts by."""

    WORKER = "worker"
    ANONYMOUS = "anonymous"
    MINUTE = "minute"
    DAY = "day"
    TOTAL = "total"
    MODEL_DAY = "model by day"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Series:
    """One series of counts: of a worker, a minute, a day, a model and so on."""

    scope: Scope
    name: str = ""
    """The worker's id or the model's name."""
    period: str = ""
    """The day or minute, in the form of ``rules.dates``."""


@dataclass(slots=True)
class Counter:
    """The numbers to add to a series, and its item's TTL (seconds since the epoch; 0 for none)."""

    add: dict[str, int] = field(default_factory=dict)
    gone_at: int = 0

    def count(self, **numbers: int) -> None:
        """Add to the numbers."""
        for name, number in numbers.items():
            self.add[name] = self.add.get(name, 0) + number


def counters(events: Iterable[Event]) -> dict[Series, Counter]:
    """Return what events add to each series, in total."""
    found: dict[Series, Counter] = {}

    def at(scope: Scope, name: str = "", period: str = "") -> Counter:
        return found.setdefault(Series(scope, name, period), Counter())

    for event in events:
        if isinstance(event, AnonymousRequest):
            at(Scope.ANONYMOUS).count(requests=1, asked_images=event.images)
        else:
            _settled(event, at)
    return found


def _settled(event: Settlement, at: Callable[..., Counter]) -> None:
    work = {"images": 1, "pixelsteps": event.pixelsteps}
    if event.user_id == ANONYMOUS_ID:
        at(Scope.ANONYMOUS).count(**work, taxes=event.tax)
    at(Scope.WORKER, event.worker_id).count(**work, kudos=event.reward)
    last_minutes = at(Scope.MINUTE, period=minute(event.settled_at))
    last_minutes.count(**work)
    last_minutes.gone_at = event.settled_at // 1000 + 2 * HOUR_S
    at(Scope.DAY, period=day(event.settled_at)).count(**work)
    at(Scope.TOTAL).count(**work)
    at(Scope.MODEL_DAY, event.model, day(event.settled_at)).count(images=1)
    at(Scope.MODEL, event.model).count(images=1)

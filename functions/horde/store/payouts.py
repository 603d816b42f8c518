"""Posting: pay rewards and count events, each exactly once.

The transaction that pays and counts an event also flags it as posted, and takes a delivered image
out of the open ones of whoever asked for it. A settlement is flagged in
its ledger entry. An anonymous request is flagged by an item of its own, since other code writes the
request.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar

from horde import clock
from horde.records import (
    ANONYMOUS_ID,
    NO_STATS,
    AnonymousRequest,
    Event,
    Settlement,
    User,
    WorkerStats,
)
from horde.rules import kudos, statistics
from horde.rules.estimates import moving_speed
from horde.rules.statistics import Scope, Series
from horde.store import counters
from horde.store.counts import no_longer_open, opened
from horde.store.items import (
    KEEP_S,
    SK,
    TTL,
    Item,
    Kind,
    Row,
    encode,
    from_item,
    id_of,
    key,
    key_of,
    partition,
    stats_key,
)
from horde.store.ledger import append_entry, apply_to_balance, needs_place
from horde.store.settlements import POSTED, POSTING, row_of_settlement, settlement_of
from horde.store.styles import style_used
from horde.store.table import BATCH, ConditionFailed, Table
from horde.store.transaction import EXISTS, new, update

K = TypeVar("K")


class Payouts:
    """The second half of a settlement."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def post(self, events: Sequence[Event]) -> int:
        """Pay and count the events that are not posted yet; returns how many they are.

        Raises ConditionFailed if an owner has no account.
        """
        left = list({_flag_row(event): event for event in events}.values())
        while left:
            counts = statistics.counters(left)
            owners = _settlements_by(attrgetter("owner_id"), left)
            ended = _settlements_by(attrgetter("user_id", "part"), left)
            accounts = {(owner_id, None) for owner_id in owners} | ended.keys()
            styled = _styled(left)
            accounts |= {(entry.user_id, None) for entry, _ in styled}
            uses = Counter(event.style_id for event in _settlements(left) if event.style_id)
            size = len(left) + len(counts) + len(accounts) + len(styled) + len(uses)
            if len(left) > 1 and size > BATCH:
                half = len(left) // 2
                return self.post(left[:half]) + self.post(left[half:])
            flags = [_flag(event) for event in left]
            speeds, to_place = self._known(left)
            pay = _pay(owners, to_place, ended, styled)
            pay += [append_entry(entry, reference=image) for entry, image in styled]
            pay += [style_used(style_id, images) for style_id, images in uses.items()]
            counted = [
                counters.add(series, counter, speeds.get(series))
                for series, counter in counts.items()
            ]
            try:
                self._table.transact([*flags, *pay, *counted])
            except ConditionFailed as failed:
                if min(failed.which) >= len(flags):
                    raise  # an owner without an account
                left = [event for i, event in enumerate(left) if i not in failed.which]
            else:
                return len(left)
        return 0

    def pending(self, owner_id: int, entry_id: str) -> Settlement | None:
        """Read a settlement by its owner and its entry's sort key."""
        item = self._table.get(key_of((partition(Kind.USER, owner_id), entry_id)))
        return settlement_of(item) if item else None

    def _known(self, events: Sequence[Event]) -> tuple[dict[Series, dict[str, int]], set[int]]:
        """Return each worker's speed after these images, and the owners that need a new place.

        A speed is given as fields of the worker's statistics.
        """
        drawn = _settlements_by(attrgetter("worker_id"), events)
        owners = _settlements_by(attrgetter("owner_id"), events)
        authors = {entry.user_id for entry, _ in _styled(events)}
        keys = [stats_key(Kind.WORKER, worker_id) for worker_id in drawn]
        keys += [key(Kind.USER, owner_id) for owner_id in owners.keys() | authors]
        known, to_place = dict[str, WorkerStats](), set[int]()
        for item in self._table.batch(keys):
            if item[SK]["S"] == Kind.STATS:
                known[id_of(item)] = from_item(WorkerStats, item)
            elif needs_place(from_item(User, item)):
                to_place.add(int(id_of(item)))
        speeds = {
            Series(Scope.WORKER, worker_id): moving_speed(known.get(worker_id, NO_STATS), images)
            for worker_id, images in drawn.items()
        }
        return speeds, to_place


def _settlements_by(
    whose: Callable[[Settlement], K], events: Iterable[Event]
) -> dict[K, list[Settlement]]:
    """Return the settlements among events, grouped."""
    found: dict[K, list[Settlement]] = {}
    for event in _settlements(events):
        found.setdefault(whose(event), []).append(event)
    return found


def _settlements(events: Iterable[Event]) -> list[Settlement]:
    return [event for event in events if isinstance(event, Settlement)]


def _styled(events: Iterable[Event]) -> list[tuple[kudos.Entry, str]]:
    """Return the rewards of the authors of styles, each with the image that it is for."""
    return [
        (kudos.style_reward(event.style_owner, event.style_reward), event.generation_id)
        for event in _settlements(events)
        if event.style_owner is not None and event.style_reward is not None
    ]


def _flag_row(event: Event) -> Row:
    if isinstance(event, AnonymousRequest):
        return Row(partition(Kind.COUNTED, event.request_id), Kind.COUNTED)
    return row_of_settlement(event)


def _flag(event: Event) -> Item:
    if isinstance(event, AnonymousRequest):
        gone = {TTL: encode(clock.now() + KEEP_S)}
        return new({**key(Kind.COUNTED, event.request_id), **gone})
    not_posted = f"{EXISTS} AND attribute_not_exists({POSTED})"
    return update(key_of(_flag_row(event)), POSTING, not_posted, {":true": encode(value=True)})


def _pay(
    owners: Mapping[int, Sequence[Settlement]],
    to_place: Collection[int],
    ended: Mapping[tuple[int, int | None], Sequence[Settlement]],
    styled: Sequence[tuple[kudos.Entry, str]],
) -> list[Item]:
    """Return the parts, one per account, that pay rewards whose entries already exist.

    The owners of ``to_place`` also get a new place in the list of users. ``ended`` are delivered
    images by who asked for them: the account and, of the anonymous one, its part. ``styled`` are
    the rewards of styles, whose entries are appended beside.
    """
    authors: dict[int, list[kudos.Entry]] = {}
    for entry, _ in styled:
        authors.setdefault(entry.user_id, []).append(entry)
    images = {who: [one.generation_id for one in theirs] for who, theirs in ended.items()}
    parts = []
    for owner_id, settlements in owners.items():
        entries = [kudos.reward(owner_id, settlement.reward) for settlement in settlements]
        entries += authors.pop(owner_id, [])
        pixelsteps = sum(settlement.pixelsteps for settlement in settlements)
        parts.append(
            apply_to_balance(
                entries,
                place=owner_id in to_place,
                counts={"fulfilled": len(settlements), "contributed": pixelsteps},
                # An account may draw its own images, and an item is written once.
                taken=opened(images.pop((owner_id, None), [])),
            )
        )
    for author, entries in authors.items():
        taken = opened(images.pop((author, None), []))
        parts.append(apply_to_balance(entries, place=author in to_place, taken=taken))
    for (user_id, part), generation_ids in images.items():
        if user_id != ANONYMOUS_ID or part is not None:
            parts.append(no_longer_open(user_id, part, generation_ids))
    return parts

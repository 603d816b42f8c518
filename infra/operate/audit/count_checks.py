"""The counters of the statistics, against what was posted."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from horde.records import Settlement
from horde.rules import statistics
from horde.rules.dates import DAY_S
from horde.rules.statistics import Scope, Series
from horde.store import counters
from horde.store.counters import STATS_KEEP_S, scope_of
from horde.store.items import Row
from infra.operate.audit.findings import STATS, Finding, Findings, Rule, View, item_name

FIELDS = {
    Scope.WORKER: ("images", "pixelsteps", "kudos"),
    Scope.ANONYMOUS: ("images", "pixelsteps", "taxes"),
}
"""The numbers in the statistics of workers and of the anonymous account.

All other statistics have images and pixelsteps.
"""


def counts(view: View) -> Findings:
    """Compare the counters, read before and after all entries, with the posted rewards.

    The transaction that counts a reward also marks it posted. So the sum of the marked rewards is
    at least the counters before and at most the counters after. Without concurrent writes, all
    three are equal.
    """
    books = view.books
    posted = [entry.settlement for entry in books.entries.values() if entry.posted]
    flagged = [settlement for settlement in posted if settlement is not None]
    sums = {counters.row(series): one for series, one in statistics.counters(flagged).items()}
    restarted = _restarted(flagged, view.now)
    for row in {*books.before, *books.after, *sums}:
        scope = scope_of(row)
        if scope is Scope.WORKER and row not in books.after:
            continue  # deleted: images that it still submits start new statistics
        before, after = books.before.get(row, {}), books.after.get(row, {})
        expires = scope is Scope.MINUTE or row in restarted
        for name in FIELDS.get(scope, ("images", "pixelsteps")):
            total = sums[row].add.get(name, 0) if row in sums else 0
            lower, upper = before.get(name, 0), after.get(name, 0)
            if total < lower or (total > upper and not expires):
                yield _miscounted(row, name, total, lower if total < lower else upper)
    anonymous = counters.row(Series(Scope.ANONYMOUS))
    requested = books.after.get(anonymous, {}).get("requests", 0)
    if requested < len(books.counted):
        yield _miscounted(anonymous, "requests", len(books.counted), requested)


def _miscounted(row: Row, name: str, expected: int, found: int) -> Finding:
    return Finding(
        rule=Rule.COUNTED,
        item=item_name(row),
        what=name,
        expected=expected,
        found=found,
        about=frozenset({STATS}),
    )


def _restarted(settlements: Iterable[Settlement], now: int) -> set[Row]:
    """Return the rows of workers whose statistics TTL may have deleted during a long pause."""
    times: dict[str, list[int]] = defaultdict(list)
    for settlement in settlements:
        times[settlement.worker_id].append(settlement.settled_at // 1000)
    pause = STATS_KEEP_S - DAY_S
    found = set()
    for worker_id, settled in times.items():
        moments = pairwise([*sorted(settled), now])
        if any(after - before > pause for before, after in moments):
            found.add(counters.row(Series(Scope.WORKER, worker_id)))
    return found

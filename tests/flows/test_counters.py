"""The counters, read at the borders of their minutes, days and months."""

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from horde.edge.bodies import MAX_MODEL_BYTES, MAX_PIXELS_STORED
from horde.records import Amount, Census, Drawer, Load, ModelCounts, Totals, WorkerStats
from horde.rules.dates import DAY_S, HOUR_S, day, minute
from horde.rules.estimates import MAX_MODELS
from horde.rules.needs import REASONS
from horde.rules.statistics import MONTH_DAYS, Counter, Scope, Series
from horde.store import counters
from horde.store.items import WORKER_SHARDS, key_of
from sweep import MAX_WORKERS
from tests.support.clock import START_MS
from tests.support.cloud import Cloud
from tests.support.units import size_of

MINUTE_MS, DAY_MS = 60_000, DAY_S * 1000
NOTHING = Amount()


@pytest.fixture
def count(cloud: Cloud) -> Callable[..., None]:
    """Counts images in a series, and takes them away before the books are audited."""

    def add(series: Series, images: int = 1) -> None:
        work = {"images": images, "pixelsteps": images * 10}
        cloud.store.table.transact([counters.add(series, Counter(work))])

    return add


def forget(cloud: Cloud, *series: Series) -> None:
    for each in series:
        cloud.db.delete_item(TableName=cloud.table, Key=key_of(counters.row(each)))


@pytest.mark.parametrize("into_the_minute_ms", [0, 59_999])
def test_a_total_covers_its_span_and_nothing_before_it(
    cloud: Cloud, count: Callable[..., None], into_the_minute_ms: int
) -> None:
    now = START_MS + into_the_minute_ms
    spans = [
        Series(Scope.MINUTE, period=minute(now - HOUR_S * 1000 - MINUTE_MS)),
        Series(Scope.MINUTE, period=minute(now - HOUR_S * 1000)),
        Series(Scope.MINUTE, period=minute(now - MINUTE_MS)),
        Series(Scope.MINUTE, period=minute(now)),
        Series(Scope.MINUTE, period=minute(now + MINUTE_MS)),
        Series(Scope.DAY, period=day(now - MONTH_DAYS * DAY_MS)),
        Series(Scope.DAY, period=day(now - (MONTH_DAYS - 1) * DAY_MS)),
        Series(Scope.DAY, period=day(now)),
        Series(Scope.DAY, period=day(now + DAY_MS)),
        Series(Scope.TOTAL),
    ]
    for power, series in enumerate(spans):
        count(series, 2**power)
    assert cloud.store.counters.totals(now) == Totals(
        minute=Amount(4, 40),
        hour=Amount(2 + 4 + 8, 140),
        day=Amount(128, 1280),
        month=Amount(64 + 128, 1920),
        total=Amount(512, 5120),
    )
    forget(cloud, *spans)
    assert cloud.store.counters.totals(now) == Totals(
        minute=NOTHING, hour=NOTHING, day=NOTHING, month=NOTHING, total=NOTHING
    )


def test_models_are_counted_by_day_month_and_ever(cloud: Cloud, count: Callable[..., None]) -> None:
    now = START_MS
    series = [
        Series(Scope.MODEL_DAY, "m", day(now)),
        Series(Scope.MODEL_DAY, "m", day(now - DAY_MS)),
        Series(Scope.MODEL_DAY, "n", day(now - (MONTH_DAYS - 1) * DAY_MS)),
        Series(Scope.MODEL_DAY, "n", day(now - MONTH_DAYS * DAY_MS)),
        Series(Scope.MODEL_DAY, "n", day(now + DAY_MS)),
        Series(Scope.MODEL, "m"),
        Series(Scope.MODEL, "n"),
    ]
    for power, each in enumerate(series):
        count(each, 2**power)
    assert cloud.store.counters.by_model(now) == ModelCounts(
        day={"m": 1}, month={"m": 1 + 2, "n": 4}, total={"m": 32, "n": 64}
    )
    forget(cloud, *series)


def test_a_workers_statistics_are_kept_90_days_and_a_minutes_until_they_are_of_no_use(
    cloud: Cloud,
) -> None:
    cloud.clock.freeze(START_MS)
    now = START_MS // 1000
    worker, total = Series(Scope.WORKER, "w"), Series(Scope.TOTAL)
    of_minute = Series(Scope.MINUTE, period="p")
    changes = {"recent_ps": 7, "recent_ms": 9, "settled_at": 5}
    cloud.store.table.transact(
        [
            counters.add(worker, Counter({"images": 1}), changes),
            counters.add(of_minute, Counter({"images": 1}, gone_at=33)),
            counters.add(total, Counter({"images": 1})),
        ]
    )

    def gone_at(series: Series) -> str | None:
        item = cloud.store.table.get(key_of(counters.row(series)))
        assert item is not None
        found: str | None = item.get("gone_at", {}).get("N")
        return found

    assert gone_at(worker) == str(now + 90 * DAY_S)
    assert (gone_at(of_minute), gone_at(total)) == ("33", None)
    forget(cloud, worker, of_minute, total)


def test_the_anonymous_account_begins_without_statistics(cloud: Cloud) -> None:
    assert cloud.store.counters.anonymous() == WorkerStats()


def test_a_census_reads_back_whole(cloud: Cloud) -> None:
    load = Load(images=1, requests=2, pixelsteps=3, workers=4, threads=5, measured=6, speed=7)
    models = {"füchse": load, "n": Load()}
    drawers = (
        Drawer("w", 11, "nt", fleet=True, models=2),
        Drawer("v", 0, "", fleet=False, models=0),
    )
    census = Census(at=8, workers=9, threads=10, models=models, drawers=drawers)
    assert cloud.store.census.read() == (Census(), False)
    cloud.store.census.put(census)
    assert cloud.store.census.read() == (census, False)
    cloud.store.census.set_maintenance(on=True)
    assert cloud.store.census.read() == (census, True)
    assert {item["pk"]["S"] for name in ("CENSUS", "MODES") for item in cloud.rows(name)} == {
        "FLEET"
    }
    (modes,) = cloud.rows("MODES")
    assert int(modes["changed_at"]["N"]) >= START_MS // 1000
    cloud.store.census.set_maintenance(on=False)
    assert cloud.store.census.read() == (census, False)
    before = replace(census, drawers=None)  # as an earlier version wrote it
    cloud.store.census.put(before)
    assert cloud.store.census.read() == (before, False)


def test_the_largest_census_fits_an_item(cloud: Cloud) -> None:
    load = Load(**dict.fromkeys(Load.__dataclass_fields__, 10**12))
    names = [f"{number:03}".ljust(MAX_MODEL_BYTES, "\x01") for number in range(MAX_MODELS)]
    largest = Census(
        at=1,
        workers=1,
        models=dict.fromkeys(names, load),
        drawers=tuple(
            Drawer(
                id=str(uuid4()),
                max_pixels=MAX_PIXELS_STORED,
                lacks="".join(REASONS),
                fleet=True,
                models=2**MAX_MODELS - 1,
            )
            for _ in range(WORKER_SHARDS * MAX_WORKERS)
        ),
    )
    cloud.store.census.put(largest)
    assert cloud.store.census.read()[0] == largest
    (row,) = cloud.rows("CENSUS")
    assert size_of(row) < 400_000

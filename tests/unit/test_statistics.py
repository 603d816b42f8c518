"""Which counters an image adds to."""

from dataclasses import replace

from horde.records import ANONYMOUS_ID, AnonymousRequest, Settlement
from horde.rules.statistics import Counter, Scope, Series, counters

AT = 1_795_412_527_000
"""2026-11-23T05:42:07Z, in ms."""
IMAGE = Settlement(
    entry_id="e",
    owner_id=2,
    worker_id="w",
    user_id=1,
    generation_id="g",
    model="m",
    pixelsteps=70,
    claimed_at=AT - 9000,
    settled_at=AT,
    reward=5,
    tax=3,
)
WORK = {"images": 1, "pixelsteps": 70}


def test_an_image_counts_for_its_worker_its_model_and_each_period_of_its_settlement() -> None:
    assert counters([IMAGE]) == {
        Series(Scope.WORKER, "w"): Counter({**WORK, "kudos": 5}),
        Series(Scope.MINUTE, period="2026-11-23T05:42"): Counter(WORK, AT // 1000 + 7200),
        Series(Scope.DAY, period="2026-11-23"): Counter(WORK),
        Series(Scope.TOTAL): Counter(WORK),
        Series(Scope.MODEL_DAY, "m", "2026-11-23"): Counter({"images": 1}),
        Series(Scope.MODEL, "m"): Counter({"images": 1}),
    }


def test_an_anonymous_image_also_counts_its_tax() -> None:
    found = counters([replace(IMAGE, user_id=ANONYMOUS_ID)])
    assert found[Series(Scope.ANONYMOUS)] == Counter({**WORK, "taxes": 3})


def test_the_numbers_of_several_events_are_added() -> None:
    asked = AnonymousRequest(request_id="r", images=4)
    found = counters([IMAGE, asked, IMAGE, asked])
    assert found[Series(Scope.TOTAL)].add == {"images": 2, "pixelsteps": 140}
    assert found[Series(Scope.WORKER, "w")].add == {"images": 2, "pixelsteps": 140, "kudos": 10}
    assert found[Series(Scope.ANONYMOUS)].add == {"requests": 2, "asked_images": 8}

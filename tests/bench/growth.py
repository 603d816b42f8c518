"""What requests and the sweep ask of AWS while so many images wait.

The images are copies of two that were asked for: those that the worker can draw, and those that it
cannot, since they are NSFW. Their requests are there too. All have a better place than the two.
"""

from typing import Any

from tests.bench.meter import Meter, metered
from tests.bench.sparse import sparse
from tests.support.cloud import Cloud


def figures(meter: Meter) -> tuple[int, int, float, int]:
    """Return calls, items read, read units and write units."""
    return meter.asked, meter.items, meter.read_units, meter.write_units


def _accepted(cloud: Cloud, key: str, *, nsfw: bool = False) -> str:
    answer = cloud.generate(key, nsfw=nsfw, censor_nsfw=False)
    assert answer.status == 202, answer
    return str(answer.body["id"])


def measure(cloud: Cloud, waiting: int, *, drawable: bool, sweep: bool = False) -> dict[str, Meter]:
    """Return what each step asks for with so many waiting images before it.

    The first check of a second reads what others are then told.
    ``sweep``: also what the sweep asks for; moto makes all that it counts, which takes seconds.
    """
    _, crowd = cloud.register("crowd")
    _, key = cloud.register("one")
    worker = cloud.new_worker("operator", fleet=True)
    offer = {"nsfw": False}
    _accepted(cloud, key)
    cloud.draw(worker, **offer)
    found: dict[str, Meter] = {}

    def step(name: str, act: Any) -> Any:
        with metered() as meter:
            answer = act()
        found[name] = meter
        return answer

    with sparse(cloud.table) as table:
        last = _accepted(cloud, crowd, nsfw=not drawable)
        request = cloud.store.requests.get(last)
        assert request
        kinds = {f"GENERATION#{request.generations[0]}", f"REQUEST#{last}"}
        for item in [one for one in cloud.items() if one["pk"]["S"] in kinds]:
            table.copies(item, waiting, step=1)
        if not drawable:  # behind all of them
            _accepted(cloud, key)
        step("accept", lambda: _accepted(cloud, key))
        step("first check", lambda: cloud.check(last))
        assert step("check", lambda: cloud.check(last)).body["waiting"] == 1
        job = step("pop", lambda: cloud.pop(worker, **offer)).body
        found["pop"].found = bool(job["id"])
        if job["id"]:
            cloud.upload(job["r2_upload"])
            assert step("submit", lambda: cloud.submit(worker, job["id"])).status == 200
        if sweep:
            step("sweep", cloud.sweep)
    return found

"""A bounded load test: clients and workers at once, on loopback and in process.

Each client asks for images one after the other and polls; each worker pops, uploads and submits.
On loopback they speak HTTP with the local cloud: API, functions, table, queues and buckets are
those of the real stack, on MiniStack. In process the handlers run on moto, one after the other.
Neither is AWS: the figures show that nothing fails, is lost or is counted twice, and how this
machine's throughput moves from commit to commit.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from horde.log import logger
from horde.store.audit import AuditStore
from infra.local.api_client import Client
from infra.local.local_cloud import TINY_MODEL, LocalCloud
from infra.operate import account_commands
from infra.operate.audit.run import audit
from tests.support.cloud import fresh_cloud
from tests.support.images import webp
from tests.support.moto_aws import moto_clients
from tests.support.template import synthesize

Say = Callable[[str], None]
CLIENTS, WORKERS = 4, 4
LOOPBACK_S = 20.0
LIVES = 150
MODEL = "bench"
"""No endpoint draws it, so that the test's own workers do all."""
SMALL = {"n": 1, "width": 64, "height": 64, "steps": 1}


@dataclass
class Times:
    """How long each kind of request took, in seconds, and what went wrong."""

    took: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    delivered: int = 0
    lasted: float = 0

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Time one request; an exception is an error and ends it."""
        begun = time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - counted
            self.errors.append(f"{kind}: {error!r}"[:200])
        else:
            self.took.setdefault(kind, []).append(time.perf_counter() - begun)

    def facts(self, findings: int) -> dict[str, Any]:
        """Return what the report shows."""
        every = [second for kind in self.took.values() for second in kind]
        cuts = {
            kind: statistics.quantiles(values, n=100, method="inclusive")
            for kind, values in {**self.took, "all": every}.items()
            if len(values) > 1
        }
        return {
            "requests": len(every),
            "seconds": self.lasted,
            "per_second": len(every) / self.lasted,
            "images": self.delivered,
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
            "findings": findings,
            "ms": {
                kind: {f"p{at}": 1000 * found[at - 1] for at in (50, 95, 99)}
                for kind, found in cuts.items()
            },
        }


def in_process(say: Say) -> dict[str, Any]:
    """Run whole lives through the handlers, and audit the table after them."""
    say("load in process: the handlers on moto")
    level = logger.log_level
    logger.setLevel("ERROR")
    times = Times()
    with moto_clients() as clients, fresh_cloud(synthesize(), clients) as cloud:
        keys = [cloud.register(f"client{number}")[1] for number in range(CLIENTS)]
        workers = [cloud.new_worker(f"operator{n}", fleet=True) for n in range(WORKERS)]
        begun = time.perf_counter()
        for number in range(LIVES):
            with times.of("accept"):
                answer = cloud.generate(keys[number % CLIENTS], params=SMALL)
                assert answer.status == 202, answer
            with times.of("check"):
                assert cloud.check(answer.body["id"]).status == 200
            worker = workers[number % WORKERS]
            with times.of("pop"):
                job = cloud.pop(worker, name=f"w{number % WORKERS}").body
            cloud.upload(job["r2_upload"], webp("red", 64))
            with times.of("submit"):
                assert cloud.submit(worker, job["id"]).status == 200
            with times.of("status"):
                assert cloud.status(answer.body["id"]).body["done"]
            times.delivered += 1
        times.lasted = time.perf_counter() - begun
        cloud.settle_async()
        cloud.pay()
        report = audit(AuditStore(cloud.store.table), segments=1, pauses=(0,))
    logger.setLevel(level)
    return times.facts(len(report.findings))


def on_loopback(say: Say) -> dict[str, Any]:
    """Start the local cloud, load it for ``LOOPBACK_S``, and audit its table.

    Raises LocalCloudError where it does not start.
    """
    say("load on loopback: starting the local cloud, a minute or two")
    times = Times()
    with LocalCloud("bench", model=TINY_MODEL, rate_limits=False) as cloud:
        clients = [
            cloud.client(cloud.client().register(f"c{n}")["api_key"]) for n in range(CLIENTS)
        ]
        owner, _ = account_commands.register(cloud.store, "volunteers")
        assert cloud.store.accounts.change(owner, {"trusted": True})
        workers = [
            cloud.client(account_commands.worker_key(cloud.store, owner.username, fleet=True))
            for _ in range(WORKERS)
        ]
        stop = threading.Event()
        begun = time.perf_counter()
        say(f"load on loopback: {CLIENTS} clients and {WORKERS} workers for {LOOPBACK_S:.0f} s")
        with ThreadPoolExecutor(CLIENTS + WORKERS) as pool:
            asking = [pool.submit(_asks, times, one, begun + LOOPBACK_S) for one in clients]
            drawing = [pool.submit(_draws, times, one, stop) for one in workers]
            for one in asking:
                one.result()
            times.lasted = time.perf_counter() - begun
            stop.set()
            for one in drawing:
                one.result()
        say("load on loopback: the audit")
        report = audit(AuditStore(cloud.store.table), segments=1, pauses=(0.2, 1, 3, 10, 20, 40))
    return times.facts(len(report.findings))


def _asks(times: Times, client: Client, until: float) -> None:
    """Ask for an image, wait for it, get it, and begin again."""
    body = {"prompt": "a fox", "models": [MODEL], "params": SMALL, "nsfw": False}
    while time.perf_counter() < until:
        request = None
        with times.of("accept"):
            request = client.generate(body)["id"]
        if request is None:
            continue
        done = False
        while not done and time.perf_counter() < until + LOOPBACK_S:
            with times.of("check"):
                done = client.check(request)["done"]
        with times.of("status"):
            found = client.status(request)
            assert found["done"], "not done in time"
            times.delivered += 1


def _draws(times: Times, worker: Client, stop: threading.Event) -> None:
    """Pop, upload and submit until all have stopped asking."""
    picture = webp("red", 64)
    while not stop.is_set():
        job: Any = {"id": None}
        with times.of("pop"):
            job = worker.pop(models=[MODEL], max_pixels=4194304)
        if job["id"] is None:
            time.sleep(0.05)
            continue
        with times.of("upload"):
            sent = worker.fetch("PUT", job["r2_upload"], picture)
            assert sent.status == 200, sent
        with times.of("submit"):
            answer = worker.submit(job["id"])
            assert answer.status == 200, answer

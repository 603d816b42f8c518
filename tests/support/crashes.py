"""Crash points: every flow, cut at every call in every way; then the system helps itself.

A flow prepares a world and acts in it. Its act is run once whole, which records the calls its
functions make; then once for each crash point, from the same world. After the cut nobody helps but
those who would: clients that ask again (or do not), queues and streams that deliver again, the
minutely sweep, a GPU for each ticket that RunPod has. Then ``proof.wrong_in`` looks at everything.

Worlds are moto's memory, kept as bytes: to go back to one costs milliseconds. Two points that leave
the same world behind are recovered once.
"""

import hashlib
import json
import logging
import pickle
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import moto.backends
import pytest
import requests
from moto.dynamodb.models.table import StreamShard, Table

from horde import detector
from horde.records import OPEN, Generation, State
from horde.store import attempts
from horde.store.items import from_item
from tests.support import direct, proof
from tests.support.api_calls import Reply, key_of
from tests.support.clock import START_MS
from tests.support.cloud import Cloud, cloud_of, new_processes
from tests.support.cuts import Dead, Errors, Made, Point, Wire, hooked, points, seeded
from tests.support.numbers import OVER_S
from tests.support.releasing import HOLD_S, age
from tests.support.step_functions import ExecutionFailed, Machine

HOOK = "https://93.184.216.34"
"""A client's webhook; nobody is called."""
ROUNDS = 14
TRIES = 3
"""How often a client that asks again asks."""
MINUTE_S = 61
Facts = dict[str, Any]
get_backend: Any = moto.backends.get_backend
BACKENDS = ("dynamodb", "sqs", "s3")
BUCKETS = ("Outputs", "Sources", "Laion", "Held", "Gallery", "ReleasesWork")
OF_RELEASES = ("release", "screen", "pack")
"""The functions that Step Functions run, which run them again."""
OURS = (
    "pending",
    "dead",
    "dead_records",
    "uncounted",
    "called",
    "tickets",
    "heard",
    "runs",
    "releases",
    "gpu_key",
    "gpu_owner",
)
"""What a world keeps beside moto."""


class World(Cloud):
    """A cloud whose processes can die, and that can be put back to what it was."""

    def __init__(self, *args: Any) -> None:
        self.wire, self.random = Wire(), random.Random(0)
        self.tickets: list[tuple[str | None, int]] = []
        """Those that RunPod took: of which request, for how many images."""
        self.called: list[str] = []
        """The images whose webhooks were called."""
        self.heard: list[Reply] = []
        """What the flow's clients were answered at last."""
        self.runs: Counter[str] = Counter()
        """Of functions: each has ids of its own, the same whatever else was cut."""
        self.releases = 0
        """How many runs of the release there were."""
        self.raised = ""
        """What a function raised that should have said which of its records failed."""
        self.repeats = True
        """Whether clients ask again when they are answered 5xx or not at all."""
        self.gpu_key = self.gpu_owner = ""
        super().__init__(*args)
        self.clock.freeze(START_MS)

    # --- processes that die -------------------------------------------------------------------

    def invoke(self, file: str, event: dict[str, Any]) -> Any:
        """Run one Lambda; if it dies or raises, answer as what called it would take it."""
        name = event.get("routeKey", file)
        self.runs[name] += 1
        self.random.seed(f"{name} {self.runs[name]}")
        random.seed(self.runs[name])
        with self.wire.inside(file):
            try:
                return self._heard_throttle(file, super().invoke(file, event))
            except Dead:
                new_processes()
            except Exception as error:
                if not self.wire.armed or "Records" not in event:
                    raise
                self.raised = f"{file} raised {error!r}: its whole batch comes again"
        records = event.get("Records", [])
        if file in self.handed or file in OF_RELEASES:
            message = f"{file} died"
            raise RuntimeError(message)
        if "routeKey" in event:
            headers = {"Content-Type": "application/json"}
            return {"statusCode": 500, "headers": headers, "body": '{"message":"Internal"}'}
        if records and "dynamodb" in records[0]:
            first = records[0]["dynamodb"]["SequenceNumber"]
            return {"batchItemFailures": [{"itemIdentifier": first}]}
        return {"batchItemFailures": [{"itemIdentifier": r["messageId"]} for r in records]}

    def _heard_throttle(self, file: str, answer: Any) -> Any:
        """Return an answer; note one to a throttled call that is not the documented one."""
        if self.wire.throttled and "statusCode" in answer and answer["statusCode"] >= 500:
            told = answer["statusCode"], json.loads(answer["body"]).get("rc")
            if told != (503, "Throttled") or "Retry-After" not in answer["headers"]:
                self.raised = f"{file} answered {told}"
        return answer

    def ask(self, send: Callable[[], Reply]) -> Reply:
        """Send as a client does, again while it is answered 5xx if it is one that repeats."""
        for _ in range(TRIES if self.repeats else 1):
            reply = send()
            if reply.status < 500:
                break
        self.heard.append(reply)
        return reply

    def sweep_once(self) -> None:
        """Run the sweep as its minute does: nobody hears of what it raises but the alarm."""
        try:
            self.sweep()
        except Exception:  # the next minute's sweep is not so lucky: it is proven
            if not self.wire.armed:
                raise

    def pop(self, key: str, **fields: Any) -> Reply:
        """Pop as a worker does, which can get the source images it is given."""
        answer = super().pop(key, **fields)
        urls = [answer.body.get(name) for name in ("source_image", "source_mask")]
        missing = {key_of(url) for url in urls if url} - self.objects("Sources").keys()
        assert not missing, f"a worker is to draw from what is not there: {missing}"
        return answer

    def put(self, url: str) -> bool:
        """PUT an image as a worker does, with its own tries; says whether it was answered."""
        picture = self.picture(url)
        for _ in range(TRIES if self.repeats else 1):
            try:
                with self.wire.inside("gpu_worker"):
                    self.wire.call(PUT, lambda: self.upload(url, picture), PUT_ERRORS)
            except OSError:
                continue
            return True
        return False

    def work(self, key: str, *, careful: bool = True, **fields: Any) -> None:
        """Draw once, as a worker does; it may die at its PUT.

        One that is not ``careful`` submits what it could not upload.
        """
        job = self.ask(lambda: self.pop(key, **fields))
        if job.status != 200 or job.body["id"] is None:
            return
        try:
            uploaded = self.put(job.body["r2_upload"])
        except Dead:
            return
        state = "ok" if uploaded or not careful else "faulted"
        self.ask(lambda: self.submit(key, job.body["id"], state=state))

    def deliver(self, file: str, *, twice: bool = False) -> int:
        """Deliver what is in a function's queue, if anything is."""
        name = self._queue_of(file)[0].rpartition("/")[2]
        if not self.pending[file] and not self._backend("sqs").queues[name]._messages:
            return 0
        return super().deliver(file, twice=twice)

    # --- the rest of the world, after the cut -------------------------------------------------

    def recover(self, *, gpus: bool) -> None:
        """Let time pass until every image has ended and every request is closed.

        With ``gpus`` each ticket that RunPod has starts one; without, nothing is ever drawn.
        """
        new_processes()
        for _ in range(ROUNDS):
            self.move(gpus=gpus)
            still = [g for g in self.records("GENERATION", Generation) if g.state in OPEN]
            if not still:
                break
            now = self.clock.now_ms() // 1000
            leases = [
                g.lease_until + 1 - now
                for g in still
                if g.lease_until is not None and g.state is State.PROCESSING
            ]
            waits = len(leases) < len(still)
            minute = MINUTE_S if gpus else OVER_S
            self.clock.pass_seconds(max(1, min([*leases, *([minute] if waits else [])])))
            self.sweep()
        self.clock.pass_seconds(OVER_S)
        self.sweep()
        self.move(gpus=gpus)

    def move(self, *, gpus: bool) -> None:
        """Move every async edge; a message that has failed or came too early comes again."""
        for _ in range(2):
            self.stream()
            self.deliver("dispatch")
            while self.runpod.jobs:
                ticket = self.runpod.jobs.pop()["input"]
                self.tickets.append((ticket["request_id"], ticket["images"]))
                if gpus:
                    self.draw(self.gpu_key, name="a gpu")
            self.stream()
            for file in ("webhook", "share"):
                self.deliver(file)

    def release(self) -> None:
        """Let Step Functions make a release; nobody hears of a failure but the alarm."""
        self.releases += 1
        with suppress(ExecutionFailed):
            Machine(self).run(f"run {self.releases}")

    def release_daily(self) -> None:
        """Let the releases of the next two days be made, which must not fail."""
        for _ in range(2):
            self.clock.pass_seconds(HOLD_S)
            age(self)
            self.releases += 1
            Machine(self).run(f"run {self.releases}")

    # --- reading it, past the API ----------------------------------------------------------------

    def _backend(self, name: str) -> Any:
        ((_, regions),) = [found for found in get_backend(name).items() if found[1]]
        return regions["aws" if name == "s3" else "us-east-1"]

    def _table(self) -> Table:
        table: Table = self._backend("dynamodb").tables[self.table]
        return table

    def records(self, kind: str, record: type[Any]) -> list[Any]:
        """Return all records of a kind."""
        return [from_item(record, i) for i in self.items() if i["sk"]["S"] == kind]

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Return all objects of a bucket."""
        keys = self._backend("s3").buckets[self.bucket(bucket)].keys
        return {name: key.value for name, key in keys.items()}

    def records_of_the_stream(self, *, again: bool = False) -> list[dict[str, Any]]:
        """Take the stream's records out of it: a transaction that fails copies the table."""
        assert not again, "they are gone"
        shard = self._shard()
        found = [record.to_json() for record in shard.items]
        shard.starting_sequence_number += len(found)
        shard.items.clear()
        return found

    def _shard(self) -> StreamShard:
        shard = self._table().stream_shard
        assert shard is not None
        return shard

    # --- keeping and comparing --------------------------------------------------------------

    def keep(self, facts: Facts) -> bytes:
        """Return all that there is."""
        moto = [(name, self._backend(name)) for name in BACKENDS]
        ours = {name: getattr(self, name) for name in OURS}
        runpod = (self.runpod.jobs, self.runpod.mode, self.runpod.in_progress)
        return direct.frozen((moto, ours, runpod, self.clock.offset_ms, self.wire.tokens, facts))

    def back(self, kept: bytes) -> Facts:
        """Make everything as it was kept; the processes are new ones."""
        moto, ours, runpod, self.clock.offset_ms, self.wire.tokens, facts = pickle.loads(kept)
        for name, backend in moto:
            get_backend(name)[backend.account_id][backend.region_name] = backend
        for name, value in ours.items():
            setattr(self, name, value)
        self.runpod.jobs, self.runpod.mode, self.runpod.in_progress = runpod
        new_processes()
        return facts  # type: ignore[no-any-return]

    def fingerprint(self, facts: Facts) -> bytes:
        """Return what two worlds have alike that go on alike."""
        parts = [
            sorted(map(_text, self.items())),
            [_text(record.to_json()["dynamodb"].get("NewImage")) for record in self._shard().items],
            [(url, sorted(_told(message.body) for message in queue._messages))
             for url, queue in self._backend("sqs").queues.items()],
            [sorted(self.objects(name).items()) for name in BUCKETS],
            [[(file, [(_told(m.body), m.receives) for m in found]) for file, found in kept.items()]
             for kept in (self.pending, self.dead)],
            [len(self.dead_records), len(self.uncounted), self.called, self.tickets],
            [reply.status < 500 and (reply.status, _unsigned(reply.body)) for reply in self.heard],
            [self.runpod.jobs, self.clock.offset_ms, facts],
        ]  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).digest()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=sorted)


def _unsigned(body: Any) -> str:
    """Return an answer without the real time that is in presigned URLs."""
    return re.sub(r"\?X-Amz[^\"]*", "", _text(body))


def _told(body: str) -> str:
    """Return a message without what S3 says of the time."""
    records = json.loads(body).get("Records")
    return body if records is None else _text([record["s3"]["object"]["key"] for record in records])


class _PutErrors(Errors):
    def failed(self) -> Exception:
        return requests.ConnectionError("cut")

    lost = failed


PUT = Made("gpu_worker", "PUT presigned", changes=True, again=False)
PUT_ERRORS = _PutErrors()


# --- flows ---------------------------------------------------------------------------------------


After = Callable[[World, Facts], list[str]]


def nothing_more(_world: World, _facts: Facts) -> list[str]:
    """Find nothing wrong beside what always is."""
    return []


@dataclass(frozen=True, slots=True)
class Flow:
    """What happens in a world, as far as it is cut (``act``), and before (``before``).

    ``before`` returns what ``act`` and ``after`` need to know: plain data, as the world is put
    back for each point. ``after`` says what else is wrong in the end, beside what always is.
    """

    name: str
    before: Callable[[World], Facts]
    act: Callable[[World, Facts], None]
    after: After = nothing_more
    repeats: bool = True
    """Whether its clients ask again."""
    expires: bool = False
    """Whether its requests run out of time whoever draws."""
    releases: bool = False
    """Whether releases are made of what it leaves."""


@dataclass
class Report:
    """What became of a flow's points."""

    flow: Flow
    made: list[Made] = field(default_factory=list)
    points: int = 0
    worlds: int = 0
    """Different ones that were recovered."""
    wrong: list[str] = field(default_factory=list)


@contextmanager
def _silent() -> Iterator[None]:
    """Have the functions log nothing: they log every cut."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _no_pauses() -> Iterator[None]:
    """Have writes that are tried again wait for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "pause", lambda _attempt: None)
        yield


class _Serial(ThreadPoolExecutor):
    """Runs everything at once in the thread that asks: the order of calls is always the same."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        done = Future[Any]()
        try:
            done.set_result(fn(*args, **more))
        except BaseException as error:  # noqa: BLE001 - as a pool does
            done.set_exception(error)
        return done


@contextmanager
def _one_after_another() -> Iterator[None]:
    """Have releases make their calls in one thread, and the detector find nothing."""
    with pytest.MonkeyPatch.context() as patch:
        rooms = ("batches", "commit", "afterwards", "dataset_files", "resolving")
        for module in ("screen", "pack", *(f"horde.release.{room}" for room in rooms)):
            patch.setattr(import_module(module), "ThreadPoolExecutor", _Serial)
        patch.setattr(detector, "_detector", lambda _name: lambda *_: (0.01, "none 1"))
        yield


@contextmanager
def worlds(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[World]:
    """Make a world with hooks on its wires."""
    with cloud_of(World, template, clients) as world:

        def called(url: str, body: bytes) -> None:
            assert url.startswith(HOOK)
            world.called.append(json.loads(body)["id"])

        with (
            direct.quick(),
            hooked(world.wire, called),
            seeded(world.random),
            _silent(),
            _no_pauses(),
            _one_after_another(),
        ):
            owner, world.gpu_owner = world.register("gpus")
            world.set_flags(owner, trusted=True, fleet=True)
            world.gpu_key = world.worker_key(owner)
            world.overrides["ADMINS"] = str(owner)
            yield world


Chosen = Callable[[Made, Point], bool]


def everything(_made: Made, _point: Point) -> bool:
    """Choose every point."""
    return True


def calls(world: World, flow: Flow) -> list[Made]:
    """Return the calls that a flow's functions make when nothing is cut."""
    with _prepared(world, flow) as start:
        _acted(world, flow, start, None)
        return world.wire.made


def run(world: World, flow: Flow, chosen: Chosen = everything) -> Report:
    """Run a flow whole and at each of its crash points that is ``chosen``."""
    report, seen = Report(flow), set[bytes]()
    with _prepared(world, flow) as start:
        report.wrong += _one(world, flow, start, None, seen)
        report.made = world.wire.made
        for point in points(report.made):
            if chosen(report.made[point.number], point):
                report.points += 1
                where = f"{point.number} {report.made[point.number]}, {point.mode}"
                wrong = _one(world, flow, start, point, seen)
                report.wrong += [f"{where} {what}" for what in wrong]
                same = slice(point.number + 1)
                assert world.wire.made[same] == report.made[same], "not the same run"
    report.worlds = len(seen)
    return report


@contextmanager
def _prepared(world: World, flow: Flow) -> Iterator[bytes]:
    """Make the world in which a flow begins; afterwards it is again as it was."""
    world.repeats = flow.repeats
    fresh = world.keep({})
    try:
        yield world.keep(flow.before(world))
    finally:
        world.back(fresh)


def _acted(world: World, flow: Flow, start: bytes, point: Point | None) -> Facts:
    """Do what is cut, from its beginning."""
    facts, world.raised = world.back(start), ""
    world.wire.record(point)
    try:
        flow.act(world, facts)
    finally:
        world.wire.armed = False
    return facts


def _one(
    world: World, flow: Flow, start: bytes, point: Point | None, seen: set[bytes]
) -> list[str]:
    """Run a flow cut at one point; returns what is wrong in the end, unless it was ``seen``."""
    facts = _acted(world, flow, start, point)
    wrong = [world.raised] if world.raised else []
    found = world.fingerprint(facts)
    if found in seen:
        return wrong
    seen.add(found)
    cut = world.keep(facts)
    waits = any(image.state in OPEN for image in world.records("GENERATION", Generation))
    for gpus in (True, False) if waits else (True,):
        then = "drawn" if gpus else "nobody draws"
        wrong += [f"({then}): {what}" for what in _proven(world, flow, cut, gpus=gpus)]
    return wrong


def _proven(world: World, flow: Flow, cut: bytes, *, gpus: bool) -> list[str]:
    """Let a world help itself; returns what is wrong in the end."""
    facts = world.back(cut)
    try:
        world.recover(gpus=gpus)
        if flow.releases:
            world.release_daily()
        wrong = proof.wrong_in(world, gpus=gpus, expires=flow.expires, released=flow.releases)
        return [*wrong, *flow.after(world, facts)]
    except Exception as error:  # noqa: BLE001 - it is what is reported
        return [f"the recovery failed: {error!r}"]

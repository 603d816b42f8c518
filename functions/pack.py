"""Step Functions -> pack: write one part of a release, or write one anew without some images.

A part is a shard and its table. Both are streamed, so memory does not grow with the shard. Only
images whose batch was screened, and whose record says that they are neither withdrawn nor kept
back, are in it. An image that was withdrawn with all others of its account or request is marked
here. The record is read just before the part is written; what is withdrawn after that is a
tombstone, which the same run or the next one heeds.

The result is written last. A run that dies before has written a part that nothing names, which the
next run overwrites.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from horde import dataset, startup
from horde.log import logger
from horde.release import tables, work
from horde.release.names import File, Part
from horde.release.shard import ShardWriter, Upload, put, samples, stored
from horde.release.work import Folder
from horde.rules.columns import AT_INTAKE, IN_SHARD, SCORES, checked
from horde.store import connect

THREADS, AHEAD = 8, 32
"""Images that are read at once, and most that are held in memory."""
Row = dict[str, Any]
Sample = tuple[bytes, Row, Row]
"""An image, its row, and its scores, which the table alone has."""


class Settings(work.Settings):
    """The names of this function's resources."""


def pack(release: str, name: str) -> dict[str, Any]:
    """Write a part of the images that passed; returns its result."""
    settings = Settings.load()
    bench = work.Bench(settings.work_bucket, release)
    done = bench.read(Folder.PACKED.of(name))
    if done is not None:
        return done
    passed: list[dict[str, Any]] = []
    kept: Counter[str] = Counter()
    waiting = 0
    for batch in bench.must_read(Folder.PARTS.of(name))["batches"]:
        result = bench.read(Folder.SCREENED.of(batch))
        if result is None:
            waiting += 1
            continue
        passed += result["passed"]
        kept.update(result["kept_back"])
    store = connect(settings.table_name)
    good, bad = store.releases.judged(one["id"] for one in passed)
    for shared, withdrawal in store.withdrawals.among(good.values()):
        store.sharing.mark_withdrawn(shared, withdrawal.reason)
        bad.add(shared.generation_id)
    for one in passed:
        if one["id"] in bad:  # a copy that a withdrawal missed, or that came after it
            dataset.delete(work.bucket(), settings.laion_bucket, one["key"])
    chosen = [one for one in passed if one["id"] in good.keys() - bad]
    files, ids = _written(Part.parse(name), _read(chosen))
    done = {
        "files": [one._asdict() for one in files],
        "ids": ids,
        "kept_back": dict(kept),
        "waiting": waiting,
    }
    bench.write(Folder.PACKED.of(name), done)
    return done


def rewrite(release: str, name: str) -> dict[str, Any]:
    """Write a part anew without the images that were withdrawn; returns its result."""
    settings = Settings.load()
    bench = work.Bench(settings.work_bucket, release)
    done = bench.read(Folder.REWRITTEN.of(name))
    if done is not None:
        return done
    job = bench.must_read(Folder.REWRITES.of(name))
    gone = set(job["ids"])
    old = Part.parse(job["part"])
    stream = work.bucket().get_object(Bucket=settings.laion_bucket, Key=old.shard)["Body"]
    scores = _scores(old)
    left = (
        (file, row, checked(scores.get(row["id"], {}), SCORES))
        for file, row in samples(stream)
        if row["id"] not in gone
    )
    files, ids = _written(Part.parse(name), left)
    done = {"files": [one._asdict() for one in files], "ids": ids}
    bench.write(Folder.REWRITTEN.of(name), done)
    return done


def _scores(part: Part) -> dict[str, Row]:
    """Return the scores of a written part's images, by id: its shard has none."""
    with TemporaryDirectory() as folder:
        return tables.scores(work.fetch(part.table, Path(folder) / "rows.parquet"))


def _written(part: Part, found: Iterable[Sample]) -> tuple[list[File], list[str]]:
    """Write the shard and the table of a part; returns both and the ids; nothing for no image."""
    settings, client = Settings.load(), work.bucket()
    ids: list[str] = []
    with TemporaryDirectory() as folder:
        lines, table = Path(folder) / "rows.jsonl", Path(folder) / "rows.parquet"

        def write(upload: Upload) -> File | None:
            with lines.open("w", encoding="utf-8") as rows:
                writer = ShardWriter(upload, part.shard, rows)
                for file, row, scores in found:
                    writer.add(file, row, scores)
                    ids.append(row["id"])
                return writer.close() if ids else None

        upload = Upload(client, settings.laion_bucket, part.shard, "application/x-tar")
        shard = stored(write, upload)
        if shard is None:
            return [], []
        tables.from_lines(lines, table)
        target = Upload(client, settings.laion_bucket, part.table, tables.KIND)
        rows = put(target, table, len(ids))
    return [shard, rows], ids


def _read(chosen: Iterable[dict[str, Any]]) -> Iterator[Sample]:
    """Yield the images and their rows in order, a few read ahead; those that are gone are not."""
    pending: deque[Future[Sample | None]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for one in chosen:
            pending.append(pool.submit(_sample, one))
            if len(pending) >= AHEAD:
                sample = pending.popleft().result()
                if sample is not None:
                    yield sample
        while pending:
            sample = pending.popleft().result()
            if sample is not None:
                yield sample


def _sample(one: dict[str, Any]) -> Sample | None:
    archive = work.read(one["key"])
    if archive is None:
        return None
    file, row = dataset.unpack(archive)
    seen = {name: one[name] for name in ("nsfw_score", "screened_by", "md5", "phash")}
    return file, checked({**checked(row, AT_INTAKE), **seen}, IN_SHARD), checked(one, SCORES)


startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point: a part, or a part to write anew, by its key in the work bucket."""
    write = rewrite if f"/{Folder.REWRITES}/" in event["key"] else pack
    done = write(event["release"], work.name_of(event["key"]))
    found = {"images": len(done["ids"]), "waiting": done.get("waiting", 0)}
    logger.info("packed", extra=found)
    return found

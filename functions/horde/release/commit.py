"""The commit of a release: what it has beside its parts, and last of all its manifest."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from horde import clock
from horde.release import contact_sheet, dataset_files, documents, shard, tables, work
from horde.release.dataset_files import THREADS
from horde.release.names import (
    CARD,
    CROISSANT,
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
    removed_table,
)
from horde.release.work import Folder
from horde.rules.dates import iso

KINDS = {
    CARD: "text/markdown",
    LICENSE_FILE: "text/plain",
    CROISSANT: "application/json",
    SHEET: "image/webp",
}


def write(
    manifest: Manifest,
    release: str,
    packed: dict[str, dict[str, Any]],
    anew: dict[str, dict[str, Any] | None],
    chosen: dict[str, Any],
    ratings: dict[str, tuple[Path, int]],
    url: str,
) -> Manifest:
    """Write what a release has beside its parts, and the manifest last; returns that.

    ``url`` is the address of the bucket, as the documents name it.
    """
    replaced = {Part.parse(old) for old, done in anew.items() if done is not None}
    lists = [*packed.values(), *(done for done in anew.values() if done is not None)]
    files = [*manifest.of_images(), *(File(**one) for done in lists for one in done["files"])]
    files = [one for one in files if Part.parse(one.path) not in replaced]
    gone = {id_ for old in replaced for id_ in withdrawn_from(release, chosen, old.name)}
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
            target = dataset_files.upload(removed_table(release), tables.KIND)
            files.append(shard.put(target, path, len(tombstones)))
        parts = sorted(one.path for one in files if one.path.startswith("metadata/"))
        rows = home / METADATA
        tables.combined(dataset_files.fetched(parts, home), rows)
        statistics = tables.statistics(rows)
        target = dataset_files.upload(beside(release, METADATA), tables.KIND)
        files.append(_at(shard.put(target, rows, statistics["images"]), METADATA))
        shown = _shown(rows, statistics["images"])
    for name, (table, count) in ratings.items():
        target = dataset_files.upload(beside(release, name), tables.KIND)
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
        CROISSANT: documents.croissant(new, url),
        **({SHEET: shown} if shown else {}),
    }
    for name, body in texts.items():
        files.append(_at(dataset_files.put_bytes(body, beside(release, name), KINDS[name]), name))
    new = replace(new, files=tuple(files))
    for name in (history(release), MANIFEST):
        dataset_files.put_bytes(new.dump(), name, "application/json")
    return new


def _at(file: File, path: str) -> File:
    return file._replace(path=path, at=file.path)


def withdrawn_from(release: str, chosen: dict[str, Any], old: str) -> list[str]:
    """Return the ids of the images that a part is written anew without."""
    bench = work.Bench(work.Settings.load().work_bucket, release)
    found: list[str] = bench.must_read(Folder.REWRITES.of(chosen["rewrites"][old]))["ids"]
    return found


def _shown(rows: Path, count: int) -> bytes:
    """Return the contact sheet: images that are evenly spread over all; empty for none."""
    chosen = tables.rows(rows, contact_sheet.spread(count))
    with ThreadPoolExecutor(THREADS) as pool:
        files = list(pool.map(dataset_files.image, chosen))
    return contact_sheet.sheet(files) if files else b""

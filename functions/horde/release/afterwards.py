"""What follows the commit of a release: copies, deletions, tombstones, and images to rate."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from horde import aws, dataset, gallery
from horde.release import contact_sheet, dataset_files, tables, work
from horde.release.commit import withdrawn_from
from horde.release.dataset_files import THREADS
from horde.release.names import HISTORY, Part, beside
from horde.store import Store

OFFERED = 200
"""Images of a release that are offered to raters: each needs five ratings."""


def end(
    store: Store,
    release: str,
    packed: dict[str, dict[str, Any]],
    anew: dict[str, dict[str, Any] | None],
    chosen: dict[str, Any],
    gallery_bucket: str,
) -> None:
    """End a run after its manifest: delete what it took and replaced, heed tombstones."""
    _copy_to_paths(release)
    for name, done in packed.items():
        date = Part.parse(name).date
        dataset_files.delete([dataset.object_key(date, one) for one in done["ids"]])
    unwritten = set[str]()
    for old, written in anew.items():
        if written is None:
            unwritten |= set(withdrawn_from(release, chosen, old))
        else:
            part = Part.parse(old)
            dataset_files.delete([part.shard, part.table])
    _clear(store, chosen["heeded"], chosen.get("waiting", []), gallery_bucket)
    for one in chosen["heeded"]:
        if one not in unwritten:
            store.releases.heeded(one, release)


def _clear(store: Store, ids: list[str], waiting: list[str], gallery_bucket: str) -> None:
    """Delete what there is of withdrawn images beside the parts. Idempotent.

    ``waiting`` are the keys of their files in ``incoming/``. The others are the copies that are
    held or kept back, and those of the gallery.
    """
    settings, s3 = work.Settings.load(), aws.s3()
    dataset_files.delete(waiting)

    def clear(one: str) -> None:
        for key in (dataset.held_key(one), work.kept(one)):
            dataset.delete(s3, settings.held_bucket, key)
        store.held.remove(one)
        gallery.remove(store, s3, gallery_bucket, one)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(clear, ids))


def _copy_to_paths(release: str) -> None:
    """Copy what a release has anew to where readers without a manifest look for it.

    Then delete what the release before had: its table holds the rows of what was withdrawn.
    """
    client, bucket = work.bucket(), work.Settings.load().laion_bucket
    manifest = dataset_files.manifest()
    if manifest.release != release:
        return
    for file in manifest.files:
        if file.at is not None:
            source = {"Bucket": bucket, "Key": file.at}
            client.copy_object(Bucket=bucket, Key=file.path, CopySource=source)
    here = beside(release, "")
    old = [one["Key"] for one in dataset_files.listed(HISTORY) if one["Key"].count("/") > 1]
    dataset_files.delete([key for key in old if not key.startswith(here)])


def offer(store: Store, packed: dict[str, dict[str, Any]], gallery_bucket: str) -> None:
    """Offer some of the new images to raters, evenly spread. Idempotent."""
    parts = [part for part in dataset_files.manifest().parts() if part.name in packed]
    for part in parts:
        count = len(packed[part.name]["ids"])
        numbers = contact_sheet.spread(count, -(-OFFERED // len(parts)))
        with TemporaryDirectory() as folder:
            (table,) = dataset_files.fetched([part.table], Path(folder))
            chosen = tables.rows(table, numbers)
        records = store.sharing.get_many(row["id"] for row in chosen)
        for row in chosen:
            shared = records.get(row["id"])
            if shared is not None:
                gallery.offer(
                    store,
                    aws.s3(),
                    gallery_bucket,
                    image_id=row["id"],
                    body=dataset_files.image(row),
                    row=row,
                    user_id=shared.user_id,
                    worker_user=shared.worker_user or 0,
                )

"""The plan of a release: which images that wait in ``incoming/`` make its batches and parts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from horde import dataset
from horde.release import dataset_files, shard, work
from horde.release.dataset_files import THREADS
from horde.release.names import INCOMING, Manifest, Part
from horde.release.work import Folder

BATCH = 250
"""Most images of a batch to screen: with the default detector half a minute of CPU."""


def plan(bench: work.Bench, manifest: Manifest, before: int) -> dict[str, Any]:
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
    for one in dataset_files.listed(INCOMING):
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


def _not_released(
    manifest: Manifest, date: str, waiting: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the images of a day that are in no part; deletes the files of the others."""
    released = set[str]()
    for part in manifest.parts():
        if part.date == date:
            released |= set(dataset_files.ids(part))
    over = [one["key"] for one in waiting if work.id_of(one["key"]) in released]
    dataset_files.delete(over)
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

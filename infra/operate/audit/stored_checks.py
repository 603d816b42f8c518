"""The data set's bucket, against the private record of what was shared."""

from horde.rules.sharing import PROMISED_S
from horde.store import items
from horde.store.audit_rows import PublishedRow
from horde.store.items import partition
from infra.operate.audit.findings import (
    SLACK_S,
    Finding,
    Findings,
    Rule,
    View,
    finding_of,
    generation_key,
    object_key,
    own_item,
)
from infra.operate.audit.objects import StoredObject

STORED = "in the bucket"


def stored(view: View) -> Findings:
    """Check that the bucket has each shared image once, and no others, if it was listed.

    It waits in ``incoming/``, or is in one shard of the release, or is kept back. While a release
    is published it may be in both. A file without a record is a finding after an hour: until then
    its message may still be on its way to be delivered again.
    """
    objects = view.books.objects
    if objects is None:
        return
    known: set[str] = set()
    for name in view.books.published:
        known.update(view.books.published[name].objects)
        yield from _recorded(view, name, objects)
    yield from _released(view)
    for key, one in objects.items():
        if key not in known and one.modified_at + SLACK_S < view.now:
            image = key.rpartition("/")[2].partition(".")[0]
            shared = partition(items.Kind.SHARED, image)
            yield Finding(
                rule=Rule.STORED,
                item=key,
                what="its record",
                expected=own_item(shared),
                found="no such item",
                about=frozenset({shared, object_key(key)}),
            )


def _released(view: View) -> Findings:
    """Check the release: its files are there, and each of its images is shared and in one shard."""
    released = view.books.released
    for path in released.broken:
        yield Finding(
            rule=Rule.STORED,
            item=path,
            what="the file",
            expected="as the manifest names it",
            found="none, or another length",
            about=frozenset({object_key(path)}),
        )
    for name, paths in released.parts.items():
        record = view.books.published.get(name)
        shared = partition(items.Kind.SHARED, name)
        finding = finding_of(own_item(shared), frozenset({shared, *map(object_key, paths)}))
        if len(paths) > 1:
            yield finding(Rule.STORED, "shards", 1, len(paths))
        if record is None:
            yield finding(Rule.STORED, "its record", own_item(shared), "no such item")
        elif record.kept_back is not None:
            yield finding(Rule.STORED, "shards", "none, since it is kept back", len(paths))
        elif record.withdrawn and _is_late(view, record):
            yield finding(Rule.STORED, "shards", "none, since it was withdrawn", len(paths))


def _is_late(view: View, record: PublishedRow) -> bool:
    """Return whether a withdrawn image should have left by now."""
    return (record.withdrawn_at or 0) // 1000 + PROMISED_S < view.now


def _recorded(view: View, name: str, objects: dict[str, StoredObject]) -> Findings:
    record, image = view.books.published[name], view.books.images.get(name)
    shared = partition(items.Kind.SHARED, name)
    about = {shared, generation_key(name), *map(object_key, record.objects)}
    finding = finding_of(own_item(shared), frozenset(about))
    elsewhere = name in view.books.released.parts or record.kept_back is not None
    for key in record.objects:
        if record.withdrawn and not _is_late(view, record):
            continue  # its owner's mark comes first, and the next release deletes the file
        expected = "none, since it was withdrawn" if record.withdrawn else STORED
        if (key in objects) is record.withdrawn and not (elsewhere and not record.withdrawn):
            yield finding(Rule.STORED, key, expected, STORED if record.withdrawn else "none")
    one = objects.get(record.object_key)
    if one is None or image is None or record.withdrawn:
        return
    size = record.size or image.size  # of the one object of both, or of the image's own
    if size is not None and one.size != size:
        yield finding(Rule.STORED, "size in bytes", size, one.size)
    if image.sha256 is not None and one.sha256 and one.sha256 != image.sha256:
        yield finding(Rule.STORED, "sha256", image.sha256, one.sha256)

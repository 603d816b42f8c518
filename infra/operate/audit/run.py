"""The audit itself: read the whole table, and report what breaks a rule.

The table is read once, in parallel parts, while it may change. An entry may be written to a part
that has been read already, and its balance be read after that. So anything suspicious is re-read
three times over a few seconds before it is reported. A finding must appear every time, and by the
same amount the last two times. Apart from the mark of a posted reward, entries never change. So
only the end of a ledger and its pending rewards are read again.

On a table that changes, two correct items may be reported. One is an account, or its shared key,
that is written between every two reads, by the same amount each time. The other is an item that is
written during two sweeps that take over an hour. Deleted items cannot be checked: for requests that
ended over two days ago, only the sums of the ledger are.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from horde import clock
from horde.rules.kudos import Kind
from horde.store import items
from horde.store.audit import AuditStore, ledger_from
from horde.store.audit_rows import kind_of, name_of
from horde.store.counts import full_id
from horde.store.items import Item, Row, partition
from infra.operate.audit.books import Books
from infra.operate.audit.checks import Check, judge
from infra.operate.audit.findings import (
    HELD,
    OBJECT,
    STATS,
    TRANSFERS,
    Finding,
    View,
    generation_key,
    part_key,
)
from infra.operate.audit.objects import PREFIX, Bucket, StoredObject

SEGMENTS = 4
PAUSES_S = (0.2, 1.0, 3.0)
"""Pauses before suspicious items are read again, in seconds."""
TAIL_MS = 10 * 60 * 1000
"""Age, in ms, from which entries were in the table before the audit began."""
QUIET_TRIES = 5
"""Tries to read an account and its ledger without a write in between."""

WHOLE = {items.Kind.POOL, items.Kind.RATING}
"""The kinds whose partitions are read again as a whole."""

Progress = Callable[[int], object]
"""Called with the number of items, or files, just read."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an audit."""

    books: Books
    findings: tuple[Finding, ...]

    def lines(self) -> list[str]:
        """Return a line for each finding, and a summary."""
        books = self.books
        counts = (
            f"{books.items} items: {len(books.accounts)} accounts, {len(books.entries)} entries, "
            f"{len(books.requests)} requests, {len(books.images)} images"
        )
        if books.objects is not None:
            counts += f", {len(books.objects)} files"
        wrong = f"{len(self.findings)} findings" if self.findings else "all in order"
        return [*map(str, self.findings), f"{wrong}; {counts}"]


def audit(
    store: AuditStore,
    *,
    segments: int = SEGMENTS,
    pauses: Sequence[float] = PAUSES_S,
    progress: Progress = lambda _items: None,
    bucket: Bucket | None = None,
    listed: Progress = lambda _files: None,
) -> Report:
    """Audit the table, and the data set's bucket if there is one; report what stays wrong.

    A finding is reported if it appears on every read. ``segments`` parts of the table are read in
    parallel; ``pauses`` are in seconds. ``listed`` is called with the number of files just listed.
    Raises botocore's errors.
    """
    since = clock.now_ms() - TAIL_MS
    books = Books(before=store.counted())
    for page in pages(store, segments):
        for item in page:
            books.put(item)
        books.items += len(page)
        progress(len(page))
    books.after = store.counted(books.before)
    if bucket is not None:
        list_bucket(bucket, books, segments, listed)
    suspicious = list(judge(View(books, clock.now())))
    seen = {finding.key for _, finding in suspicious}
    for pause in pauses:
        if not suspicious:
            break
        time.sleep(pause)
        seen = {finding.key for _, finding in suspicious}
        read_again(store, books, (finding for _, finding in suspicious), since, bucket)
        suspicious = still_found(suspicious, View(books, clock.now()))
    return Report(books, tuple(finding for _, finding in suspicious if finding.key in seen))


def still_found(suspicious: list[tuple[Check, Finding]], view: View) -> list[tuple[Check, Finding]]:
    """Return the findings that appear again. New ones are dropped: their rows were read in part."""
    places = {finding.place for _, finding in suspicious}
    checks = list(dict.fromkeys(check for check, _ in suspicious))
    return [found for found in judge(view, checks) if found[1].place in places]


def pages(store: AuditStore, segments: int) -> Iterable[list[Item]]:
    """Yield the whole table in pages, with one reading thread per part."""
    if segments == 1:
        yield from store.scan()
        return
    read: SimpleQueue[list[Item] | None] = SimpleQueue()
    stopped = threading.Event()

    def part(segment: int) -> None:
        try:
            for page in store.scan(segment, segments):
                if stopped.is_set():
                    return
                read.put(page)
        finally:
            read.put(None)

    with ThreadPoolExecutor(segments) as pool:
        parts = [pool.submit(part, segment) for segment in range(segments)]
        try:
            for _ in parts:
                while (page := read.get()) is not None:
                    yield page
        finally:
            stopped.set()
        for one in parts:
            one.result()


def list_bucket(bucket: Bucket, books: Books, parallel: int, listed: Progress) -> None:
    """List the bucket after the table, so that every file of a record that was read is there.

    A list shows no metadata. They are read of the images whose settlement names their sha256.
    """
    objects: dict[str, StoredObject] = {}
    for page in bucket.pages():
        objects |= {one.key: one for one in page}
        listed(len(page))
    keys = []
    for name, record in books.published.items():
        image = books.images.get(name)
        if image is not None and image.sha256 is not None and record.object_key in objects:
            keys.append(record.object_key)
    with ThreadPoolExecutor(parallel) as pool:
        objects |= {one.key: one for one in pool.map(bucket.read, keys) if one is not None}
    books.objects = objects
    books.released = bucket.released()


def read_again(
    store: AuditStore,
    books: Books,
    findings: Iterable[Finding],
    since: int,
    bucket: Bucket | None = None,
) -> None:
    """Read again what findings depend on; ``since`` is in ms since the epoch."""
    about = frozenset[str]().union(*(finding.about for finding in findings))
    if STATS in about:
        uncounted = [
            entry.row
            for entry in books.entries.values()
            if entry.kind == Kind.REWARD and not entry.posted
        ]
        books.refresh(uncounted, store.rows(uncounted))
        books.after = store.counted()
    if TRANSFERS in about:
        for item in store.transfers_since(since):
            books.put(item)
    names = {pk: pk.partition("#")[::2] for pk in about if "#" in pk}
    users = {
        pk for pk, (kind, name) in names.items() if kind == items.Kind.USER and name.isdecimal()
    }
    files = {pk: name for pk, (kind, name) in names.items() if kind == OBJECT}
    whole = {pk for pk, (kind, _) in names.items() if kind in WHOLE}
    rows = [
        Row(partition(items.Kind.WORKER, name), items.Kind.STATS) if kind == HELD else Row(pk, kind)
        for pk, (kind, name) in names.items()
        if pk not in users | files.keys() | whole
    ]
    books.refresh(rows, store.rows(rows))
    books.refresh(books.rows_of(whole), store.partitions(sorted(whole)))
    if bucket is not None and books.objects is not None and files:
        _list_again(bucket, books, books.objects, files.values())
    start = ledger_from(since)
    ledgers = [*books.entries, *books.unreadable]
    for row in [row for row in ledgers if row.pk in users and row.sk >= start]:
        books.drop(row)
    for pk in users:
        _read_account(store, books, int(pk.partition("#")[2]), since)
    parts = (name_of(row) for row in rows if kind_of(row) == items.Kind.ANONYMOUS)
    for name in filter(str.isdecimal, parts):
        _read_part(store, books, int(name))


def _list_again(
    bucket: Bucket, books: Books, objects: dict[str, StoredObject], keys: Iterable[str]
) -> None:
    for key in keys:
        objects.pop(key, None)
        file = bucket.read(key) if key.startswith(PREFIX) else None
        if file is not None:
            objects[key] = file
    books.released = bucket.released()


def _read_account(store: AuditStore, books: Books, user_id: int, since: int) -> None:
    """Read an account and what it counts, and the end of its ledger, without a write in between.

    It counts its shared keys' kudos and its waiting images. No read of several items is a snapshot.
    But each write of either changes the account, so the account is read before and after, up to
    ``QUIET_TRIES`` times.
    """
    row = Row(partition(items.Kind.USER, user_id), items.Kind.USER)
    pending = [  # may be older than the end of the ledger, and posted by now
        entry.row
        for entry in books.entries.values()
        if entry.user_id == user_id and entry.kind == Kind.REWARD and not entry.posted
    ]
    for _ in range(QUIET_TRIES):
        before = store.rows([row])
        books.refresh([row], before)
        account = books.accounts.get(user_id)
        keys = [_row_of_key(key.id) for key in books.sharedkeys.values() if key.user_id == user_id]
        keys += [_row_of_key(key) for key in (account.user.sharedkey_ids if account else ())]
        found_keys, found_pending = store.rows(keys), store.rows(pending)
        tail = store.account_since(user_id, since)
        _read_reasons(store, books, tail)
        _read_open(store, books, account.user.open_images if account else ())
        if store.rows([row]) == before:
            break
    books.refresh(keys, found_keys)
    books.refresh(pending, found_pending)
    books.refresh([row], tail)


def _read_reasons(store: AuditStore, books: Books, tail: list[Item]) -> None:
    """Read the requests of new charges, which a shared key may have paid, and their images."""
    charges = [
        item["reference"]["S"] for item in tail if item.get("kind", {}).get("S") == Kind.ACCEPT
    ]
    new = [name for name in charges if name not in books.requests]
    rows = [Row(partition(items.Kind.REQUEST, name), items.Kind.REQUEST) for name in new]
    books.refresh(rows, store.rows(rows))
    found = [books.requests[name] for name in charges if name in books.requests]
    rows = [
        _row_of_image(name)
        for request in found
        for name in request.request.generations
        if name not in books.images
    ]
    books.refresh(rows, store.rows(rows))


def _read_part(store: AuditStore, books: Books, part: int) -> None:
    """Read a part of the anonymous account and what it counts, without a write in between."""
    row = Row(part_key(part), items.Kind.ANONYMOUS)
    for _ in range(QUIET_TRIES):
        before = store.rows([row])
        books.refresh([row], before)
        found = books.parts.get(part)
        _read_open(store, books, found.open_images if found else ())
        if store.rows([row]) == before:
            break


def _read_open(store: AuditStore, books: Books, open_images: Iterable[str]) -> None:
    """Read the open images of an account again, as its own item lists them."""
    rows = [_row_of_image(full_id(name)) for name in open_images]
    books.refresh(rows, store.rows(rows))


def _row_of_image(name: str) -> Row:
    return Row(generation_key(name), items.Kind.GENERATION)


def _row_of_key(key_id: str) -> Row:
    return Row(partition(items.Kind.SHAREDKEY, key_id), items.Kind.SHAREDKEY)

"""The sets that limit what an account has open and what a worker holds.

Images that the operator's own workers hold are not in the second.
"""

from collections import defaultdict
from collections.abc import Iterator

from horde.records import OPEN, Generation, State
from horde.rules.kudos import Kind
from horde.store import items
from horde.store.counts import full_id
from horde.store.items import Row, partition
from infra.operate.audit.findings import (
    SLACK_S,
    Findings,
    Rule,
    View,
    finding_of,
    generation_key,
    held_key,
    item_name,
    own_item,
    part_key,
    user_key,
)


def open_images(view: View) -> Findings:
    """Compare each account's open images, and each anonymous part's, with its images.

    What has grown within ``SLACK_S`` is not judged: the images that were accepted meanwhile may not
    have been read. A delivered image may still be there for as long as its reward is pending.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for name, image in view.books.images.items():
        if image.generation.state in OPEN:
            found[_opener(image.generation)].add(name)
    pending = {
        entry.reference
        for entry in view.books.entries.values()
        if entry.kind == Kind.REWARD and not entry.posted
    }
    listed = [
        *(
            (user_key(a.user.id), a.user.open_images, a.user.opened_at)
            for a in view.books.accounts.values()
        ),
        *((part_key(p.part), p.open_images, p.opened_at) for p in view.books.parts.values()),
    ]
    for opener, names, grew_at in listed:
        if grew_at >= view.now - SLACK_S:
            continue
        images = {full_id(name) for name in names}
        for name in sorted((images ^ found[opener]) - (pending & images)):
            about = frozenset({opener, generation_key(name), *_drawn_by(view, name)})
            finding = finding_of(own_item(opener), about)
            right, wrong = ("there", "missing")[:: -1 if name in images else 1]
            yield finding(Rule.OPEN_IMAGES, name, right, wrong)


def _opener(image: Generation) -> str:
    """Return the partition of the item that lists an image while it is open."""
    return user_key(image.user_id) if image.part is None else part_key(image.part)


def _drawn_by(view: View, image: str) -> Iterator[str]:
    """Yield the account whose ledger has the reward of an image, pending or posted."""
    row = view.books.images.get(image)
    if row is not None and row.generation.worker_user is not None:
        yield user_key(row.generation.worker_user)


def held(view: View) -> Findings:
    """Compare the images that each worker's statistics list with those that it holds."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, image in view.books.images.items():
        worker_id = image.generation.worker_id
        if image.held and image.generation.state is State.PROCESSING and worker_id is not None:
            found[worker_id].add(name)
    for worker_id in found.keys() | view.books.held.keys():
        in_stats = view.books.held.get(worker_id, frozenset[str]())
        worker = partition(items.Kind.WORKER, worker_id)
        for name in sorted(in_stats ^ found[worker_id]):
            about = frozenset({held_key(worker_id), generation_key(name)})
            finding = finding_of(item_name(Row(worker, items.Kind.STATS)), about)
            right, wrong = ("there", "missing")[:: -1 if name in in_stats else 1]
            yield finding(Rule.HELD, name, right, wrong)

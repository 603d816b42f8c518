"""The counts that limit what an account has waiting and what a worker holds.

Both count only images that say so: those that the operator's own workers hold, and those from
before there were counts, do not.
"""

from collections import defaultdict

from horde.records import Generation, State
from horde.store import items
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


def waiting(view: View) -> Findings:
    """Compare each account's count of waiting images, and each anonymous part's, with its images.

    A count that has grown within ``SLACK_S`` is not judged: the images that began to wait meanwhile
    may not have been read.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for name, image in view.books.images.items():
        if image.counted and image.generation.state is State.WAITING:
            found[_counter(image.generation)].add(name)
    counted = [
        *(
            (user_key(a.user.id), a.waiting, a.user.waiting_at)
            for a in view.books.accounts.values()
        ),
        *((part_key(p.part), p.waiting, p.waiting_at) for p in view.books.parts.values()),
    ]
    for counter, count, grew_at in counted:
        images = found[counter]
        if grew_at < view.now - SLACK_S and count != len(images):
            about = frozenset({counter, *map(generation_key, images)})
            finding = finding_of(own_item(counter), about)
            yield finding(Rule.COUNTED_WAITING, "waiting", len(images), count)


def _counter(image: Generation) -> str:
    """Return the partition of the item that counts an image while it waits."""
    return user_key(image.user_id) if image.part is None else part_key(image.part)


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

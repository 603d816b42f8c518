"""Single images: those marked as CSAM, those kept back by screening, and known answers."""

import argparse
from collections.abc import Mapping
from typing import Any

from horde.records import ANONYMOUS_ID, User
from horde.rules import raters
from horde.rules.dates import iso
from horde.store import Store
from infra.operate import OperatorError, keeping, withdrawing
from infra.operate.deployed import need_bucket

MAX_FLAGGED = 1000
"""Most CSAM marks that ``flagged`` lists."""


def flagged(store: Store) -> list[str]:
    """Return a line for each image that a worker marked as CSAM, newest first."""
    marks = store.csam.newest(MAX_FLAGGED)
    if not marks:
        return ["no image is marked as CSAM"]
    authors = store.accounts.get_many({mark.user_id for mark in marks} - {ANONYMOUS_ID})
    owners = store.accounts.get_many(mark.worker_user for mark in marks)

    def name(found: Mapping[int, User], user_id: int) -> str:
        if user_id == ANONYMOUS_ID:
            return "anonymous"
        return found[user_id].username if user_id in found else f"#{user_id}"

    return [
        f"{iso(mark.marked_at)}  image {mark.generation_id}  request {mark.request_id}  "
        f"by {name(authors, mark.user_id)}  "
        f"drawn by {mark.worker_name!r} of {name(owners, mark.worker_user)}"
        for mark in marks
    ]


def clear_flag(store: Store, generation_id: str) -> str:
    """Remove an image from the list of ``flagged``; raises OperatorError."""
    if not store.csam.clear(generation_id.lower()):
        message = f"image {generation_id!r} is not marked"
        raise OperatorError(message)
    return f"{generation_id} is off the list; its request stays unpublished"


def kept(store: Store, buckets: withdrawing.Buckets, options: argparse.Namespace) -> str:
    """List what screening kept back, or release or destroy one of it; returns what to print.

    Raises OperatorError.
    """
    if not (options.release or options.destroy):
        return "\n".join(keeping.listed(store))
    need_bucket(options.command, buckets.laion and buckets.held)
    id_ = (options.release or options.destroy).lower()
    act, done = (
        (keeping.release, "waits for the next release")
        if options.release
        else (keeping.destroy, "is destroyed")
    )
    if not act(store, buckets, id_):
        message = f"image {id_!r} is not kept back"
        raise OperatorError(message)
    return f"{id_} {done}"


def gold(store: Store, image_id: str, rating: int, artifacts: int | None = None) -> str:
    """Record the known answer of an image in the pool, which checks raters; raises OperatorError.

    Only a clearly good or bad image will do: an answer in the middle tells nobody from a script.
    """
    if raters.GOLD_LOW < rating < raters.GOLD_HIGH:
        message = (
            f"{rating} tells nobody from a script: choose an image that everybody rates at most "
            f"{raters.GOLD_LOW} or at least {raters.GOLD_HIGH}"
        )
        raise OperatorError(message)
    image = store.pool.get(image_id.lower())
    if image is None or not store.pool.mark_gold(image, rating, artifacts):
        message = f"no image {image_id!r} is in the pool"
        raise OperatorError(message)
    counts = store.pool.gold_images()
    return f"{image.id} is gold now; there are {counts['good']} good and {counts['bad']} bad ones"


def add_parsers(commands: Any) -> None:
    """Add the commands to the parser of ``bin/operator``."""
    add = commands.add_parser("kept", help="list the images that screening kept back")
    which = add.add_mutually_exclusive_group()
    which.add_argument("--release", metavar="image-id", help="let one into the next release")
    which.add_argument("--destroy", metavar="image-id", help="withdraw one and delete it")
    add = commands.add_parser("flagged", help="list the images that workers marked as CSAM")
    add.add_argument("--clear", metavar="image-id", help="take an image off the list")
    add = commands.add_parser("gold", help="record the known rating of an image, to check raters")
    add.add_argument("image", metavar="image-id")
    add.add_argument("rating", type=int, choices=range(1, 11), metavar="1-10")
    add.add_argument("artifacts", type=int, choices=range(6), metavar="0-5", nargs="?")

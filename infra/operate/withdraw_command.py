"""``bin/operator withdraw``: its options, and the images that they name."""

import argparse
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tqdm import tqdm

from horde import dataset
from horde.records import Shared
from horde.rules.screening import HashList
from horde.rules.sharing import Removal
from horde.store import Store
from infra.operate import OperatorError, withdrawing
from infra.operate.account_commands import find
from infra.operate.deployed import need_bucket


def withdraw(
    store: Store,
    client: Any,
    bucket: str,
    what: str,
    reason: Removal = Removal.OPERATOR,
) -> int:
    """Remove an image (by its id), or all of a user's images (``alias#id``), from the data set.

    Returns the number of images removed; raises OperatorError.
    """
    buckets = withdrawing.Buckets(client, bucket)
    if "#" in what:
        store.withdrawals.of_account(find(store, what), reason)
    return _remove(store, buckets, _named(store, what), reason)


def run(store: Store, buckets: withdrawing.Buckets, options: argparse.Namespace) -> list[str]:
    """Run the command; returns the lines to print. Raises OperatorError."""
    need_bucket(options.command, buckets.laion)
    reason = Removal(options.reason)
    if "#" in (options.what or "") and not options.dry_run:
        store.withdrawals.of_account(find(store, options.what), reason)
    images = _asked_for(store, buckets, options)
    if options.dry_run:
        ids = [image.generation_id for image in images if image.withdrawn_at is None]
        return [*ids, f"{len(ids)} images would be withdrawn"]
    return [f"{_remove(store, buckets, images, reason)} images withdrawn"]


def _asked_for(
    store: Store, buckets: withdrawing.Buckets, options: argparse.Namespace
) -> Iterable[Shared]:
    try:
        if options.what is not None:
            return _named(store, options.what)
        if options.worker is not None:
            return store.sharing.drawn_by(find(store, options.worker).id)
        if options.date is not None:
            return store.sharing.of_days(*options.date)
        if options.words is not None:
            return withdrawing.of_words(store, buckets, _words(options.words))
        # Read at once: a list with a wrong line withdraws nothing.
        text = Path(options.hashes).read_text("utf-8")
        return withdrawing.of_hashes(store, buckets, HashList.parse(text))
    except (OSError, ValueError) as error:
        raise OperatorError(str(error)) from None


def _named(store: Store, what: str) -> Iterable[Shared]:
    """Return an image by its id, or an account's images by its name; raises OperatorError."""
    if "#" in what:
        return store.sharing.of_user(find(store, what).id)
    one = dataset.record_of(store, what.lower())
    if one is None:
        message = f"no image {what!r} is in the data set, or on its way there"
        raise OperatorError(message)
    if one.withdrawn_at is not None:  # named alone, so the next release looks once more
        store.sharing.mark_withdrawn(one)
    return [one]


def _words(given: Sequence[str]) -> list[str]:
    """Return words and phrases: those of a file, one in each line, or the given ones."""
    if len(given) == 1 and Path(given[0]).is_file():
        lines = Path(given[0]).read_text("utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return list(given)


def _remove(
    store: Store, buckets: withdrawing.Buckets, images: Iterable[Shared], reason: Removal
) -> int:
    """Withdraw images that were not withdrawn before; returns how many."""
    count = 0
    with tqdm(unit=" withdrawn", disable=None, leave=False) as bar:
        for image in images:
            if image.withdrawn_at is None:
                withdrawing.remove(store, buckets, image, reason)
                count += 1
                bar.update(1)
    return count


def add_parser(commands: Any) -> None:
    """Add the command to the parser of ``bin/operator``."""
    add = commands.add_parser(
        "withdraw",
        help="remove shared images from the data set",
        description=withdrawing.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = add.add_mutually_exclusive_group(required=True)
    which.add_argument("what", metavar="image-id|alias#id", nargs="?")
    which.add_argument(
        "--words",
        nargs="+",
        metavar="FILE|WORD",
        help="images whose prompts have one of these words, or of those in the lines of a file",
    )
    which.add_argument("--hashes", metavar="FILE", help="images on a list, as the screening's")
    which.add_argument("--date", type=_days, metavar="A..B", help="images delivered on these days")
    which.add_argument("--worker", metavar="alias#id", help="images that its workers drew")
    add.add_argument(
        "--reason",
        choices=[reason.value for reason in Removal],
        default=Removal.OPERATOR.value,
        help="what the tombstones say (default: %(default)s)",
    )
    add.add_argument("--dry-run", action="store_true", help="only list the images")


def _days(text: str) -> tuple[str, str]:
    """Return the first and the last of some days, as ``2026-11-25..2026-11-28`` or one alone."""
    first, _, last = text.partition("..")
    try:
        return date.fromisoformat(first).isoformat(), date.fromisoformat(last or first).isoformat()
    except ValueError:
        message = f"{text!r} is not a range of days such as 2026-11-25..2026-11-28"
        raise argparse.ArgumentTypeError(message) from None

"""The operator's commands: accounts, kudos, API keys and the audit of a deployed stack.

Example: ``bin/operator grant 'alias#7' 1000``. ``bin/operator --help`` lists all commands. They use
the same credentials and region as the AWS tools.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from horde import aws, clock, dataset
from horde.edge.auth import key_hash, new_key
from horde.records import ANONYMOUS_ID, ApiKey, Shared, User
from horde.rules import raters, ruleset
from horde.rules.accounts import user_number
from horde.rules.dates import iso
from horde.rules.screening import HashList
from horde.rules.sharing import Removal
from horde.store import Store
from horde.store.audit import AuditStore
from horde.wire.over_botocore import over
from horde.wire.seam import AwsError
from infra.operate import keeping, laion_policy, model_commands, scorer, undo, withdrawing
from infra.operate.audit.objects import Bucket
from infra.operate.audit.run import SEGMENTS, audit
from infra.operate.models_file import ModelsError
from infra.operate.undo import undo_worker
from infra.stages import ROOT, SettingsError, default_stage, load, stack_of

if TYPE_CHECKING:
    from infra.settings import StackSettings

MAX_SEGMENTS = 64
MAX_FLAGGED = 1000
"""Most CSAM marks that ``flagged`` lists."""
PARALLEL = Config(max_pool_connections=MAX_SEGMENTS)


class OperatorError(Exception):
    """The command cannot be carried out; the message says why."""


def find(store: Store, username: str) -> User:
    """Return the account with a name such as ``alias#7``; raises OperatorError."""
    alias, mark, digits = username.rpartition("#")
    number = user_number(digits)
    if not mark or number is None:
        message = f"{username!r} is not a user name; it looks like 'alias#7'"
        raise OperatorError(message)
    user = store.accounts.get(number)
    if user is not None and user.anonymous:
        message = f"{username!r} is the anonymous account, which is never written"
        raise OperatorError(message)
    if user is None or user.alias != alias:
        known = f"; account {number} is {user.username!r}" if user else ""
        message = f"there is no user {username!r}{known}"
        raise OperatorError(message)
    return user


def register(store: Store, alias: str) -> tuple[User, str]:
    """Open an account; returns it and its API key, which is never shown again."""
    api_key = new_key()
    return store.accounts.register(alias, key_hash(api_key)), api_key


def grant(store: Store, username: str, amount: int) -> User:
    """Give kudos, or take them if negative; returns the new account. Raises OperatorError."""
    user = find(store, username)
    if not amount:
        message = "the amount must not be 0"
        raise OperatorError(message)
    if not store.accounts.grant(user.id, amount):
        message = (
            f"{amount} would take {username!r} below its floor: at most "
            f"{user.kudos - user.floor} of its {user.kudos} kudos can be taken"
        )
        raise OperatorError(message)
    return find(store, username)


def worker_key(store: Store, username: str, *, fleet: bool = False, name: str | None = None) -> str:
    """Create a worker key, which is never shown again; raises OperatorError.

    ``fleet``: for the operator's own endpoints. The account is marked so and trusted, in the same
    transaction. Without it the key is a volunteer's, and the account stays as it is.
    """
    user, api_key = find(store, username), new_key()
    made = ApiKey(
        hash=key_hash(api_key), user_id=user.id, worker=True, created_at=clock.now(), name=name
    )
    if not store.keys.add_worker_key(made, fleet=fleet):
        message = f"{username!r} has been removed meanwhile"
        raise OperatorError(message)
    return api_key


def keys(store: Store, username: str, *, adopt: bool = False) -> list[str]:
    """Return a line for each API key of an account; raises OperatorError.

    ``adopt`` first scans the whole table and lists the keys, of all accounts, that were made before
    keys were listed. Once per table is enough.
    """
    user = find(store, username)
    for key in store.keys.unlisted() if adopt else ():
        store.keys.adopt(key)
    return [_line(key, user) for key in store.keys.of_user(user.id)]


def _line(key: ApiKey, user: User) -> str:
    kind = ("fleet key" if user.fleet else "worker key") if key.worker else "account key"
    made = iso(key.created_at * 1000)[:10] if key.created_at else "unknown"
    return f"{key.id}  {kind:<11}  {made:<10}  {key.name or ''}".rstrip()


def revoke_key(store: Store, username: str, key_id: str) -> None:
    """Revoke a key, which stops working at once; raises OperatorError."""
    key = _key(store, username, key_id)
    if store.keys.revoke(key):
        return
    if store.keys.get(key.hash) is None:
        message = f"{username!r} has no key {key_id!r} any more"
        raise OperatorError(message)
    message = f"{key_id!r} is the last account key of {username!r}; rotate-key replaces it"
    raise OperatorError(message)


def rotate_key(store: Store, username: str, key_id: str) -> str:
    """Replace a key by a new one of the same kind, which is never shown again.

    The old one stops working at once. Raises OperatorError.
    """
    api_key = new_key()
    if store.keys.rotate(_key(store, username, key_id), key_hash(api_key)) is None:
        message = f"{username!r} has no key {key_id!r} any more"
        raise OperatorError(message)
    return api_key


def _key(store: Store, username: str, key_id: str) -> ApiKey:
    """Return a key of an account by its id; raises OperatorError."""
    for key in store.keys.of_user(find(store, username).id):
        if key.id == key_id.lower():
            return key
    message = f"{username!r} has no key {key_id!r}; bin/operator keys lists them"
    raise OperatorError(message)


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


def withdraw_all(
    store: Store, buckets: withdrawing.Buckets, options: argparse.Namespace
) -> list[str]:
    """Carry out ``bin/operator withdraw``; returns the lines to print. Raises OperatorError."""
    _need_bucket(options.command, buckets.laion)
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


def _words(given: Sequence[str]) -> list[str]:
    """Return words and phrases: those of a file, one in each line, or the given ones."""
    if len(given) == 1 and Path(given[0]).is_file():
        lines = Path(given[0]).read_text("utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return list(given)


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


def print_audit(store: Store, segments: int, bucket: Bucket | None = None) -> bool:
    """Audit the whole table, and the data set's bucket if one is given; print the report.

    It has a line for each finding and a summary. ``segments`` parts of the table are read in
    parallel. Returns whether there are no findings.
    """
    reads = AuditStore(store.table)
    with (
        tqdm(total=reads.size() or None, unit=" items", disable=None, leave=False) as bar,
        tqdm(unit=" files", disable=None if bucket else True, leave=False) as files,
    ):
        report = audit(
            reads, segments=segments, progress=bar.update, bucket=bucket, listed=files.update
        )
    print("\n".join(report.lines()))
    return not report.findings


def numbers(version: str) -> list[str]:
    """Return a title line, and a line for each number of a ruleset."""
    rules = ruleset.of(version)
    of = "in force" if rules == ruleset.IN_FORCE else "of earlier requests"
    width = max(len(spec.name) for spec in fields(rules))
    lines = [f"{name:<{width}}  {_shown(value)}" for name, value in asdict(rules).items()]
    return [f"the ruleset {of}", *lines]


def _shown(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    pairs = [one if isinstance(one, tuple) else (one,) for one in value]
    return ", ".join(" ".join(map(str, pair)) for pair in pairs) or "none"


def outputs_of(session: boto3.Session, stack: str) -> dict[str, str]:
    """Return a stack's outputs; raises OperatorError."""
    try:
        found = session.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            message = f"there is no stack {stack!r} in this account and region"
            raise OperatorError(message) from None
        raise
    outputs = {one["OutputKey"]: str(one["OutputValue"]) for one in found[0].get("Outputs", [])}
    if "TableName" not in outputs:
        message = f"the stack {stack!r} has no output TableName: is its deployment complete?"
        raise OperatorError(message)
    return outputs


def laion_client(session: boto3.Session, outputs: Mapping[str, str], **more: Any) -> Any:
    """Return the client of the data set's bucket, wherever the stack's outputs say that it is.

    If it is LAION's, its role lets in the stack's role for operators, and nobody of this account.
    """
    region = outputs.get("LaionRegion") or session.region_name
    if "LaionRole" in outputs:
        own = session._session  # noqa: SLF001 - botocore's, of which boto3 has no other name
        operator = aws.assume(own, outputs["LaionOperatorRole"])
        external_id = outputs.get("LaionExternalId", "")
        session = boto3.Session(
            botocore_session=aws.assume(operator, outputs["LaionRole"], external_id)
        )
    return session.client("s3", region_name=region, **more)


def print_laion_policy(options: argparse.Namespace, session: boto3.Session) -> None:
    """Print both sides' policies and settings: of what is deployed, or of what is to be."""
    stack = options.stack or stack_of(options.stage)
    settings: StackSettings | None = None
    if not options.stack:
        settings = load(ROOT / "settings" / f"{options.stage}.json")
    names = ("account", "region", "bucket", "bucket_region", "role", "external_id")
    given = {name: getattr(options, name) for name in names}
    outputs: dict[str, str] = {}
    try:
        outputs = outputs_of(session, stack)
        caller = session.client("sts").get_caller_identity()
        given["account"] = given["account"] or caller["Account"]
        given["region"] = given["region"] or session.region_name
    except (OperatorError, BotoCoreError, ClientError) as error:
        print(f"# {stack} cannot be read, so this is for a stack to come: {error}", file=sys.stderr)
    print(laion_policy.text(laion_policy.known(stack, given, settings, outputs)))


def run(  # noqa: C901, PLR0911 - a flat list of commands
    store: Store,
    options: argparse.Namespace,
    bucket: str = "",
    client: Any = None,
    held: str = "",
    gallery: str = "",
    own: Any = None,
) -> str:
    """Run one command and return the text to print; raises OperatorError."""
    buckets = withdrawing.Buckets(client, bucket, held, gallery, own)
    match options.command:
        case "register":
            user, api_key = register(store, options.alias)
            return f"user     {user.username}\nkudos    {user.kudos}\napi key  {api_key}"
        case "user":
            user = find(store, options.username)
            return f"user     {user.username}\nkudos    {user.kudos} (floor {user.floor})"
        case "grant":
            user = grant(store, options.username, options.amount)
            return f"{user.username} has {user.kudos} kudos now"
        case "withdraw":
            return "\n".join(withdraw_all(store, buckets, options))
        case "undo-worker":
            _need_bucket(options.command, bucket)
            user = find(store, options.username)
            with tqdm(unit=" undone", disable=None, leave=False) as bar:
                undone = undo_worker(
                    store,
                    user,
                    partial(withdrawing.remove, store, buckets),
                    dry_run=options.dry_run,
                    progress=bar.update,
                )
            return undone.text(user, dry_run=options.dry_run)
        case "kept":
            return _kept(store, buckets, options)
        case "flagged":
            return clear_flag(store, options.clear) if options.clear else "\n".join(flagged(store))
        case "gold":
            return gold(store, options.image, options.rating, options.artifacts)
        case "keys":
            return "\n".join(keys(store, options.username, adopt=options.adopt))
        case "revoke-key":
            revoke_key(store, options.username, options.key)
            return f"the key {options.key} is revoked"
        case "rotate-key":
            return rotate_key(store, options.username, options.key)
        case _:
            return worker_key(store, options.username, fleet=options.fleet, name=options.name)


def _kept(store: Store, buckets: withdrawing.Buckets, options: argparse.Namespace) -> str:
    if not (options.release or options.destroy):
        return "\n".join(keeping.listed(store))
    _need_bucket(options.command, buckets.laion and buckets.held)
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


def upload_scorer(client: Any, bucket: str, file: Path) -> str:
    """Upload an aesthetic scorer; returns what to print. Raises OperatorError."""
    if not bucket:
        message = "scorer needs --stage or --stack, whose outputs name the work bucket"
        raise OperatorError(message)
    try:
        key = scorer.upload(client, bucket, file)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    return f'uploaded; the setting "aesthetic_scorer": "{key}" and a deploy bring it into use'


def _need_bucket(command: str, bucket: str) -> None:
    if not bucket:
        message = f"{command} needs --stage or --stack, whose outputs name the LAION bucket"
        raise OperatorError(message)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(prog="bin/operator", description=__doc__)
    where = top.add_mutually_exclusive_group()
    where.add_argument(
        "--stage",
        default=default_stage(),
        help="the stage, as in settings/<stage>.json (default: %(default)s, from cdk.json)",
    )
    where.add_argument("--stack", help="the name of the stack, if it is not the stage's")
    where.add_argument("--table", help="the name of the table, without reading a stack's outputs")
    commands = top.add_subparsers(dest="command", required=True)
    add: Any = commands.add_parser("register", help="open an account and print its API key")
    add.add_argument("alias")
    add = commands.add_parser("user", help="show an account")
    add.add_argument("username", metavar="alias#id")
    add = commands.add_parser("grant", help="give kudos; a negative amount takes them")
    add.add_argument("username", metavar="alias#id")
    add.add_argument("amount", type=int)
    _add_keys(commands)
    _add_withdraw(commands)
    add = commands.add_parser(
        "undo-worker",
        help="revoke an account's worker keys, take its rewards back, withdraw what it drew",
        description=undo.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("username", metavar="alias#id")
    add.add_argument("--dry-run", action="store_true", help="only say what it would do")
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
    add = commands.add_parser("scorer", help="upload an aesthetic scorer for the releases")
    add.add_argument("file", type=Path, metavar="scorer.onnx")
    add = commands.add_parser("rules", help="print the taxes, floors, rewards and limits in force")
    add.add_argument(
        "version",
        nargs="?",
        choices=[rules.version for rules in ruleset.RULESETS],
        default=ruleset.IN_FORCE.version,
        help="an earlier version (default: %(default)s)",
    )
    add = commands.add_parser("audit", help="check the whole table's kudos and report findings")
    add.add_argument(
        "--segments",
        type=_segments,
        metavar="N",
        default=SEGMENTS,
        help=f"parts that are read in parallel, 1 to {MAX_SEGMENTS} (default: %(default)s)",
    )
    add.add_argument(
        "--bucket",
        nargs="?",
        const="",
        metavar="NAME",
        help="also compare the data set's bucket with the table (default: the stack's)",
    )
    _add_laion_policy(commands)
    model_commands.add_parser(commands)
    return top


def _add_withdraw(commands: Any) -> None:
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


def _add_laion_policy(commands: Any) -> None:
    add = commands.add_parser(
        "laion-policy",
        help="print what LAION sets on its side: policies of a role or of readers, as JSON",
        description="What the stack's outputs and settings/<stage>.json do not say, options do.",
    )
    add.add_argument("--account", metavar="ID", help="our account, if the stack is not deployed")
    add.add_argument("--region", help="our region, if the stack is not deployed")
    add.add_argument("--bucket", metavar="NAME", help="LAION's own bucket, which we are to write")
    add.add_argument("--bucket-region", metavar="REGION", help="its region, if not ours")
    add.add_argument("--role", metavar="ARN", help="the role of LAION's account that writes it")
    add.add_argument("--external-id", metavar="TEXT", help="what that role asks for")


def _add_keys(commands: Any) -> None:
    """Add the commands for API keys."""
    add = commands.add_parser("worker-key", help="create and print a key that may pop and submit")
    add.add_argument("username", metavar="alias#id")
    add.add_argument(
        "--fleet",
        action="store_true",
        help="for your own endpoints: the account is trusted, so its workers also draw requests "
        "that ask for trusted workers; without it the key is a volunteer's, and changes nothing "
        "else of the account",
    )
    add.add_argument("--name", help="a label, to know the key by")
    add = commands.add_parser("keys", help="list an account's API keys, by the start of their hash")
    add.add_argument("username", metavar="alias#id")
    add.add_argument(
        "--adopt",
        action="store_true",
        help="first scan the table for keys made before keys were listed; once is enough",
    )
    for name, what in (
        ("revoke-key", "revoke a key, which stops working at once"),
        ("rotate-key", "replace a key by a new one of the same kind, and print it"),
    ):
        add = commands.add_parser(name, help=what)
        add.add_argument("username", metavar="alias#id")
        add.add_argument("key", metavar="key-id")


def bucket_of(name: str | None, outputs: dict[str, str], client: Any) -> Bucket | None:
    """Return the bucket that ``--bucket`` names; empty is the stack's. Raises OperatorError."""
    if name is None:
        return None
    found = name or outputs.get("LaionBucket", "")
    if not found:
        message = (
            "--bucket needs a name, or --stage or --stack, whose outputs name the LAION bucket"
        )
        raise OperatorError(message)
    return Bucket(client, found)


def _segments(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_SEGMENTS:
        message = f"{text!r} is not a number from 1 to {MAX_SEGMENTS}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parser().parse_args(arguments)
    if options.command == "rules":
        print("\n".join(numbers(options.version)))
        return
    try:
        if options.command == "model":
            model_commands.run(options)
            return
        # The AWS tools also read AWS_REGION, but boto3 does not.
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        if options.command == "laion-policy":
            print_laion_policy(options, session)
            return
        if options.table:
            outputs = {"TableName": options.table}
        else:
            outputs = outputs_of(session, options.stack or stack_of(options.stage))
        if options.command == "scorer":
            bucket_name = outputs.get("WorkBucket", "")
            print(upload_scorer(session.client("s3"), bucket_name, options.file))
            return
        store = Store(outputs["TableName"], over(session.client("dynamodb", config=PARALLEL)))
        if options.command == "audit":
            client = laion_client(session, outputs, config=PARALLEL)
            bucket = bucket_of(options.bucket, outputs, client)
            sys.exit(0 if print_audit(store, options.segments, bucket) else 1)
        names = ("LaionBucket", "HeldBucket", "GalleryBucket")
        laion, held, gallery = (outputs.get(name, "") for name in names)
        own = session.client("s3")
        print(run(store, options, laion, laion_client(session, outputs), held, gallery, own))
    except (
        OperatorError,
        ModelsError,
        SettingsError,
        BotoCoreError,
        ClientError,
        AwsError,
    ) as error:
        # AWS's own messages are clear: no credentials, no region, no such table.
        sys.exit(f"{parser().prog}: {error}")


if __name__ == "__main__":
    main()

"""The operator's commands: accounts, kudos, worker keys and the audit of a deployed stack.

Example: ``bin/operator grant 'alias#7' 1000``. ``bin/operator --help`` lists all commands. They use
the same credentials and region as the AWS tools.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from horde.edge.auth import key_hash, new_key
from horde.records import User
from horde.rules import ruleset
from horde.rules.accounts import user_number
from horde.store import Store
from horde.store.audit import AuditStore
from infra.operate.audit.objects import Bucket
from infra.operate.audit.run import SEGMENTS, audit
from infra.stages import default_stage, stack_of

MAX_SEGMENTS = 64
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


def worker_key(store: Store, username: str) -> str:
    """Create a worker key, which is never shown again; raises OperatorError."""
    user, api_key = find(store, username), new_key()
    if not store.accounts.add_worker_key(user.id, key_hash(api_key)):
        message = f"{username!r} has been removed meanwhile"
        raise OperatorError(message)
    return api_key


def withdraw(store: Store, client: Any, bucket: str, what: str) -> int:
    """Remove an image (by its id), or all of a user's images (``alias#id``), from the data set.

    Returns the number of images removed; raises OperatorError. An interrupted run can be repeated,
    since an image is marked only after both of its files are gone. Copies made by others stay.
    """
    if "#" in what:
        found = list(store.sharing.of_user(find(store, what).id))
    else:
        one = store.sharing.get(what.lower())
        if one is None:
            message = f"no image {what!r} is in the data set"
            raise OperatorError(message)
        found = [one]
    for shared in found:
        if shared.withdrawn_at is None:
            for key in (shared.object_key, shared.object_key.removesuffix("webp") + "json"):
                client.delete_object(Bucket=bucket, Key=key)
            store.sharing.mark_withdrawn(shared)
    return sum(shared.withdrawn_at is None for shared in found)


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


def run(store: Store, options: argparse.Namespace, bucket: str = "", client: Any = None) -> str:
    """Run one command and return the text to print; raises OperatorError."""
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
            if not bucket:
                message = "withdraw needs --stage or --stack, whose outputs name the LAION bucket"
                raise OperatorError(message)
            return f"{withdraw(store, client, bucket, options.what)} images withdrawn"
        case _:
            return worker_key(store, options.username)


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
    add = commands.add_parser("worker-key", help="create and print a key that may pop and submit")
    add.add_argument("username", metavar="alias#id")
    add = commands.add_parser("withdraw", help="remove shared images from the data set")
    add.add_argument("what", metavar="image-id|alias#id")
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
    return top


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
        # The AWS tools also read AWS_REGION, but boto3 does not.
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        if options.table:
            outputs = {"TableName": options.table}
        else:
            outputs = outputs_of(session, options.stack or stack_of(options.stage))
        store = Store(outputs["TableName"], session.client("dynamodb", config=PARALLEL))
        if options.command == "audit":
            bucket = bucket_of(options.bucket, outputs, session.client("s3", config=PARALLEL))
            sys.exit(0 if print_audit(store, options.segments, bucket) else 1)
        print(run(store, options, outputs.get("LaionBucket", ""), session.client("s3")))
    except (OperatorError, BotoCoreError, ClientError) as error:
        # botocore's own messages are clear: no credentials, no region, no such table.
        sys.exit(f"{parser().prog}: {error}")


if __name__ == "__main__":
    main()

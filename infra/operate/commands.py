"""The operator's commands: accounts, kudos, API keys and the audit of a deployed stack.

Example: ``bin/operator grant 'alias#7' 1000``. ``bin/operator --help`` lists all commands. They use
the same credentials and region as the AWS tools.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from horde.rules import ruleset
from horde.store import Store
from horde.store.audit import AuditStore
from horde.wire.over_botocore import over
from horde.wire.seam import AwsError
from infra.operate import (
    OperatorError,
    account_commands,
    deployed,
    image_commands,
    laion_policy,
    model_commands,
    scorer,
    undo,
    withdraw_command,
    withdrawing,
)
from infra.operate.audit.objects import Bucket
from infra.operate.audit.run import SEGMENTS, audit
from infra.operate.models_file import ModelsError
from infra.operate.undo import undo_worker
from infra.stages import SettingsError, default_stage, stack_of

MAX_SEGMENTS = 64
PARALLEL = Config(max_pool_connections=MAX_SEGMENTS)


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
            user, api_key = account_commands.register(store, options.alias)
            return f"user     {user.username}\nkudos    {user.kudos}\napi key  {api_key}"
        case "user":
            user = account_commands.find(store, options.username)
            return f"user     {user.username}\nkudos    {user.kudos} (floor {user.floor})"
        case "grant":
            user = account_commands.grant(store, options.username, options.amount)
            return f"{user.username} has {user.kudos} kudos now"
        case "withdraw":
            return "\n".join(withdraw_command.run(store, buckets, options))
        case "undo-worker":
            deployed.need_bucket(options.command, bucket)
            user = account_commands.find(store, options.username)
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
            return image_commands.kept(store, buckets, options)
        case "flagged":
            return (
                image_commands.clear_flag(store, options.clear)
                if options.clear
                else "\n".join(image_commands.flagged(store))
            )
        case "gold":
            return image_commands.gold(store, options.image, options.rating, options.artifacts)
        case "keys":
            return "\n".join(account_commands.keys(store, options.username, adopt=options.adopt))
        case "revoke-key":
            account_commands.revoke_key(store, options.username, options.key)
            return f"the key {options.key} is revoked"
        case "rotate-key":
            return account_commands.rotate_key(store, options.username, options.key)
        case _:
            return account_commands.worker_key(
                store, options.username, fleet=options.fleet, name=options.name
            )


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
    account_commands.add_parsers(commands)
    withdraw_command.add_parser(commands)
    add: Any = commands.add_parser(
        "undo-worker",
        help="revoke an account's worker keys, take its rewards back, withdraw what it drew",
        description=undo.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("username", metavar="alias#id")
    add.add_argument("--dry-run", action="store_true", help="only say what it would do")
    image_commands.add_parsers(commands)
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
    laion_policy.add_parser(commands)
    model_commands.add_parser(commands)
    return top


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
            laion_policy.run(options, session)
            return
        if options.table:
            outputs = {"TableName": options.table}
        else:
            outputs = deployed.outputs_of(session, options.stack or stack_of(options.stage))
        if options.command == "scorer":
            bucket_name = outputs.get("WorkBucket", "")
            print(upload_scorer(session.client("s3"), bucket_name, options.file))
            return
        store = Store(outputs["TableName"], over(session.client("dynamodb", config=PARALLEL)))
        if options.command == "audit":
            client = deployed.laion_client(session, outputs, config=PARALLEL)
            bucket = deployed.bucket_of(options.bucket, outputs, client)
            sys.exit(0 if print_audit(store, options.segments, bucket) else 1)
        names = ("LaionBucket", "HeldBucket", "GalleryBucket")
        laion, held, gallery = (outputs.get(name, "") for name in names)
        own = session.client("s3")
        print(
            run(store, options, laion, deployed.laion_client(session, outputs), held, gallery, own)
        )
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

"""``bin/operator laion-policy``: what LAION sets on its side, and what we set on ours.

What is not known yet is a placeholder in capitals, and is said to be one.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from infra import policies
from infra.operate import OperatorError, deployed
from infra.stages import ROOT, load, stack_of

if TYPE_CHECKING:
    from infra.settings import StackSettings

ACCOUNT, REGION, BUCKET = "OUR-ACCOUNT-ID", "OUR-REGION", "THE-BUCKET"
ROLE, EXTERNAL_ID = "arn:aws:iam::LAION-ACCOUNT-ID:role/THE-ROLE", "AN-EXTERNAL-ID"
READER = "LAION-ACCOUNT-ID"
PLACEHOLDERS = (ACCOUNT, REGION, BUCKET, "LAION-ACCOUNT-ID", "THE-ROLE", EXTERNAL_ID)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of both sides; a placeholder is what is not."""

    stack: str
    theirs: bool
    """Whether the bucket is LAION's; else it is the stack's own."""
    account: str = ACCOUNT
    """Ours."""
    region: str = REGION
    """The stack's."""
    bucket: str = BUCKET
    bucket_region: str = ""
    """Empty if it is the stack's."""
    role: str = ROLE
    external_id: str = EXTERNAL_ID
    readers: list[str] = field(default_factory=lambda: [READER])
    requester_pays: bool = False

    @property
    def partition(self) -> str:
        """The part of AWS that the stack's region is in."""
        for start, name in (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov")):
            if self.region.startswith(start):
                return name
        return "aws"

    @property
    def arn(self) -> str:
        """The bucket's ARN."""
        return f"arn:{self.partition}:s3:::{self.bucket}"


def known(
    stack: str, given: Mapping[str, Any], settings: Any | None, outputs: Mapping[str, str]
) -> Facts:
    """Return the facts: options before the stack's outputs, these before the stage's settings.

    ``given`` are options by the names of ``Facts``; None is not given.
    """
    found: dict[str, Any] = {}
    if settings is not None:
        found |= {
            "bucket": settings.laion_bucket,
            "bucket_region": settings.laion_region,
            "role": settings.laion_role,
            "external_id": settings.laion_external_id,
            "readers": settings.laion_readers,
            "requester_pays": settings.laion_requester_pays,
        }
    theirs = bool(found.get("bucket") or given.get("bucket") or outputs.get("LaionRole"))
    of_outputs = {
        "bucket": "LaionBucket",
        "bucket_region": "LaionRegion",
        "role": "LaionRole",
        "external_id": "LaionExternalId",
    }
    if not theirs or not (found.get("bucket") or given.get("bucket")):
        found |= {name: outputs[key] for name, key in of_outputs.items() if key in outputs}
    found |= {name: value for name, value in given.items() if value}
    kept = {name: value for name, value in found.items() if value}
    return Facts(stack=stack, theirs=theirs, **kept)


def text(facts: Facts) -> str:
    """Return what to print."""
    parts = _theirs(facts) if facts.theirs else _ours(facts)
    body = "\n\n".join(parts)
    missing = [one for one in PLACEHOLDERS if one in body]
    if missing:
        body += f"\n\n# PLACEHOLDERS, to be replaced: {', '.join(missing)}"
    return body


def _block(title: str, content: Any) -> str:
    return f"# {title}\n{json.dumps(content, indent=2)}"


def _theirs(facts: Facts) -> list[str]:
    """Return the parts for a bucket of LAION's, which we write through a role of its account."""
    publishers = policies.publisher_name(facts.stack, facts.region, policies.ALL)
    settings = {
        "laion_bucket": facts.bucket,
        "laion_region": facts.bucket_region or None,
        "laion_role": facts.role,
        "laion_external_id": facts.external_id,
    }
    trust = policies.trust(facts.account, publishers, facts.external_id, facts.partition)
    return [
        _block(f"LAION: the trust policy of the role {facts.role}", trust),
        _block("LAION: the permission policy of that role", policies.writing(facts.arn)),
        _block(
            f"LAION: the lifecycle of {facts.bucket}. Bucket owner enforced, all public access "
            "blocked, encryption SSE-S3 (with a KMS key the role needs kms:GenerateDataKey and "
            "kms:Decrypt too), and best no versioning",
            policies.LIFECYCLE,
        ),
        _block("We: settings of the stage", settings),
    ]


def _ours(facts: Facts) -> list[str]:
    """Return the parts for the stack's own bucket, which LAION reads."""
    settings = {
        "laion_readers": facts.readers,
        "laion_requester_pays": facts.requester_pays,
    }
    pays = " --request-payer requester" if facts.requester_pays else ""
    get = f"aws s3 cp s3://{facts.bucket}/manifest.json - --region {facts.region}{pays}"
    policy = policies.bucket_policy(facts.arn, facts.readers, facts.partition)
    return [
        _block("LAION: a policy of the users or roles that read", policies.reader(facts.arn)),
        f"# LAION: try it\n{get}",
        _block("We: settings of the stage", settings),
        _block(f"Ours, which the stack makes of them: the policy of {facts.bucket}", policy),
    ]


def run(options: argparse.Namespace, session: boto3.Session) -> None:
    """Print both sides' policies and settings: of what is deployed, or of what is to be."""
    stack = options.stack or stack_of(options.stage)
    settings: StackSettings | None = None
    if not options.stack:
        settings = load(ROOT / "settings" / f"{options.stage}.json")
    names = ("account", "region", "bucket", "bucket_region", "role", "external_id")
    given = {name: getattr(options, name) for name in names}
    outputs: dict[str, str] = {}
    try:
        outputs = deployed.outputs_of(session, stack)
        caller = session.client("sts").get_caller_identity()
        given["account"] = given["account"] or caller["Account"]
        given["region"] = given["region"] or session.region_name
    except (OperatorError, BotoCoreError, ClientError) as error:
        print(f"# {stack} cannot be read, so this is for a stack to come: {error}", file=sys.stderr)
    print(text(known(stack, given, settings, outputs)))


def add_parser(commands: Any) -> None:
    """Add the command to the parser of ``bin/operator``."""
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

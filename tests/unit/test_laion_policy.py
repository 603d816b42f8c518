"""``bin/operator laion-policy``: what LAION sets on its side, as text that can be pasted."""

import json
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError

from horde import dataset, laion
from infra import policies
from infra.models import ModelSettings
from infra.operate import commands, deployed, laion_policy
from infra.operate.laion_policy import PLACEHOLDERS, Facts, known, text
from infra.settings import StackSettings

MODELS = {"sdxl": ModelSettings(endpoint=None, baseline="stable_diffusion_xl")}
ROLE = "arn:aws:iam::999999999999:role/horde-writer"
THEIRS = Facts(
    stack="HordeCommons",
    theirs=True,
    account="123456789012",
    region="us-east-1",
    bucket="laion-art",
    bucket_region="eu-west-1",
    role=ROLE,
    external_id="horde-7",
)
OURS = Facts(
    stack="HordeCommons",
    theirs=False,
    account="123456789012",
    region="us-east-1",
    bucket="ours",
    readers=["999999999999"],
)


def blocks(printed: str) -> dict[str, Any]:
    """Return the JSON of each part by its title."""
    parts = re.findall(r"^# ([^\n]+)\n(\{.*?^\})", printed, re.MULTILINE | re.DOTALL)
    return {title: json.loads(body) for title, body in parts}


def part(printed: str, words: str) -> Any:
    (found,) = [body for title, body in blocks(printed).items() if words in title]
    return found


def test_the_trust_policy_lets_in_the_stacks_named_roles_with_the_external_id_alone() -> None:
    (statement,) = part(text(THEIRS), "trust policy")["Statement"]
    assert statement["Principal"] == {"AWS": "arn:aws:iam::123456789012:root"}
    assert statement["Condition"]["StringEquals"] == {"sts:ExternalId": "horde-7"}
    pattern = statement["Condition"]["ArnLike"]["aws:PrincipalArn"]
    for file in ("share", "operator", "release"):
        name = policies.publisher_name("HordeCommons", "us-east-1", file)
        assert fnmatchcase(f"arn:aws:iam::123456789012:role/{name}", pattern)
    others = (
        "arn:aws:iam::123456789012:role/HordeCommons-FunctionsShareServiceRole-1A",
        "arn:aws:iam::123456789012:role/HordeCommons-dev-us-east-1-share",
        "arn:aws:iam::123456789012:user/HordeCommons-us-east-1-share",
        "arn:aws:iam::999999999999:role/HordeCommons-us-east-1-share",
    )
    assert not [one for one in others if fnmatchcase(one, pattern)]


def test_laions_role_may_do_what_our_functions_and_commands_do() -> None:
    objects, bucket = part(text(THEIRS), "permission policy")["Statement"]
    assert set(objects["Action"]) >= {"s3:PutObject", "s3:GetObject", "s3:DeleteObject"}
    assert fnmatchcase(
        f"arn:aws:s3:::laion-art/{dataset.object_key('2026-11-27', 'x')}", objects["Resource"]
    )
    assert "s3:ListBucket" in bucket["Action"]
    assert not [one for one in (*objects["Action"], *bucket["Action"]) if "*" in one]


def test_what_is_deleted_in_laions_bucket_leaves_no_version() -> None:
    (rule,) = part(text(THEIRS), "lifecycle")["Rules"]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}


@pytest.mark.parametrize("facts", [THEIRS, OURS])
def test_the_settings_that_are_printed_are_taken_as_they_are(facts: Facts) -> None:
    settings = part(text(facts), "settings of the stage")
    assert StackSettings(models=MODELS, **settings)
    assert "PLACEHOLDERS" not in text(facts)


def test_a_reader_is_told_of_what_is_published_and_not_of_incoming() -> None:
    printed = text(OURS)
    for title in ("users or roles that read", "Ours"):
        get, where, browse = part(printed, title)["Statement"]
        keys = {one.removeprefix("arn:aws:s3:::ours/") for one in get["Resource"]}
        assert keys == set(browse["Condition"]["StringLike"]["s3:prefix"])
        assert {one.removesuffix("*") for one in keys} == set(laion.PUBLISHED)
        assert where["Action"] == "s3:GetBucketLocation"
    assert "incoming" not in printed
    assert "--request-payer" not in printed


def test_a_reader_who_pays_is_told_how() -> None:
    facts = Facts(stack="S", theirs=False, bucket="ours", region="r", requester_pays=True)
    assert "--request-payer requester" in text(facts)


def test_what_is_not_known_is_a_placeholder_and_said_to_be_one() -> None:
    for theirs in (True, False):
        printed = text(Facts(stack="HordeCommons", theirs=theirs))
        used = {one for one in PLACEHOLDERS if one in printed.partition("# PLACEHOLDERS")[0]}
        assert used
        assert printed.endswith(", ".join(one for one in PLACEHOLDERS if one in used))


def test_options_come_before_outputs_and_these_before_settings() -> None:
    settings = StackSettings(
        models=MODELS, laion_bucket="planned", laion_role=ROLE, laion_external_id="planned-id"
    )
    facts = known("S", {"external_id": "given-id", "account": None}, settings, {})
    assert (facts.bucket, facts.external_id, facts.theirs) == ("planned", "given-id", True)
    assert facts.account == laion_policy.ACCOUNT
    outputs = {"LaionBucket": "deployed", "LaionRole": ROLE, "LaionExternalId": "deployed-id"}
    facts = known("S", {}, None, outputs)
    assert (facts.bucket, facts.external_id, facts.theirs) == ("deployed", "deployed-id", True)


def test_settings_for_laions_bucket_are_not_overruled_by_the_stacks_own_that_is_deployed() -> None:
    settings = StackSettings(models=MODELS, laion_bucket="laion-art", laion_role=ROLE)
    facts = known("S", {}, settings, {"LaionBucket": "ours-of-before"})
    assert facts.bucket == "laion-art"


@pytest.mark.parametrize(
    ("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_arns_are_of_the_stacks_partition(region: str, partition: str) -> None:
    printed = text(Facts(stack="S", theirs=False, bucket="b", region=region, readers=["1" * 12]))
    assert f"arn:{partition}:s3:::b/manifest.json" in printed
    assert f"arn:{partition}:iam::{'1' * 12}:root" in printed


def test_the_command_needs_neither_a_stack_nor_credentials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> dict[str, str]:
        raise NoCredentialsError

    monkeypatch.setattr(deployed, "outputs_of", refuse)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    words = ["laion-policy", "--account", "123456789012", "--region", "us-east-1"]
    commands.main([*words, "--bucket", "laion-art", "--role", ROLE, "--external-id", "horde-7"])
    said = capsys.readouterr()
    assert "for a stack to come" in said.err
    assert part(said.out, "trust policy")
    assert "PLACEHOLDERS" not in said.out


def test_the_command_takes_the_account_and_region_of_a_deployed_stack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moto import mock_aws

    outputs = {"TableName": "t", "LaionBucket": "ours"}
    monkeypatch.setattr(deployed, "outputs_of", lambda *_: outputs)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        commands.main(["laion-policy"])
    assert "s3://ours/manifest.json - --region us-east-1" in capsys.readouterr().out

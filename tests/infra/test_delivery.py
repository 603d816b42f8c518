"""How LAION gets the data set: from our bucket, or into its own; template and policies."""

import json
from typing import Any

import pytest

from horde import laion
from infra.policies import publisher_name
from tests.support.template import actions, functions, of_type, synthesize

Template = dict[str, Any]
ROLE = "arn:aws:iam::999999999999:role/horde-writer"
THEIRS = {
    "laion_bucket": "laion-art",
    "laion_region": "eu-west-1",
    "laion_role": ROLE,
    "laion_external_id": "horde-7",
}
READERS = ["111122223333", "arn:aws:iam::444455556666:role/data/reader"]


@pytest.fixture(scope="module")
def theirs() -> Template:
    return synthesize(**THEIRS)


@pytest.fixture(scope="module")
def read() -> Template:
    return synthesize(laion_readers=READERS, laion_requester_pays=True)


def statements(template: Template, kind: str = "AWS::S3::BucketPolicy") -> list[dict[str, Any]]:
    """Return what the policies of the data set's bucket say beside their refusal of plain HTTP."""
    return [
        one
        for policy in of_type(template, kind).values()
        if policy["Properties"]["Bucket"].get("Ref", "").startswith("Laion")
        for one in policy["Properties"]["PolicyDocument"]["Statement"]
        if one["Effect"] == "Allow"
    ]


def role_of(template: Template, file: str) -> tuple[str, dict[str, Any]]:
    name = functions(template)[file][1]["Role"]["Fn::GetAtt"][0]
    return name, template["Resources"][name]["Properties"]


def text(value: Any) -> str:
    """Return a template's text with its references by name."""
    if isinstance(value, str):
        return value
    ((kind, inner),) = value.items()
    if kind == "Fn::Join":
        return str(inner[0]).join(map(text, inner[1]))
    return f"<{inner if kind == 'Ref' else inner[0]}>"


# --- our bucket -----------------------------------------------------------------------------------


def test_nobody_may_read_our_bucket_unless_a_setting_says_so(template: Template) -> None:
    assert statements(template) == []
    assert of_type(template, "Custom::RequestPayment") == {}


@pytest.mark.slow
def test_the_named_readers_alone_may_read(read: Template) -> None:
    for statement in statements(read):
        named = {text(one) for one in statement["Principal"]["AWS"]}
        assert named == {"arn:<AWS::Partition>:iam::111122223333:root", READERS[1]}


@pytest.mark.slow
def test_readers_get_and_list_the_releases_and_never_what_has_no_release_yet(
    read: Template,
) -> None:
    by_action = {one["Action"]: one for one in statements(read)}
    assert set(by_action) == {"s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"}
    gets = {text(one).partition("/")[2] for one in by_action["s3:GetObject"]["Resource"]}
    listed = set(by_action["s3:ListBucket"]["Condition"]["StringLike"]["s3:prefix"])
    published = {f"{one}*" if one.endswith("/") else one for one in laion.PUBLISHED}
    assert gets == listed == published
    assert not any(pattern.startswith(("incoming", "*")) for pattern in gets)


@pytest.mark.slow
def test_readers_pay_if_a_setting_says_so_and_not_once_it_is_taken_back(read: Template) -> None:
    (found,) = of_type(read, "Custom::RequestPayment").values()
    calls = {name: found["Properties"][name] for name in ("Create", "Update", "Delete")}
    payers = {
        name: "Requester" if "Requester" in json.dumps(call) else "BucketOwner"
        for name, call in calls.items()
    }
    assert payers == {"Create": "Requester", "Update": "Requester", "Delete": "BucketOwner"}
    assert all("putBucketRequestPayment" in json.dumps(call) for call in calls.values())
    asked = [
        one
        for policy in of_type(read, "AWS::IAM::Policy").values()
        for one in policy["Properties"]["PolicyDocument"]["Statement"]
        if one["Action"] == "s3:PutBucketRequestPayment"
    ]
    assert [text(one["Resource"]).startswith("<Laion") for one in asked] == [True]


# --- LAION's own bucket ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_laion_bucket_may_belong_to_another_account(theirs: Template) -> None:
    assert not [name for name in of_type(theirs, "AWS::S3::Bucket") if name.startswith("Laion")]
    env = functions(theirs)["share"][1]["Environment"]["Variables"]
    assert {key: env[key] for key in env if key.startswith("LAION")} == {
        "LAION_BUCKET": "laion-art",
        "LAION_REGION": "eu-west-1",
        "LAION_ROLE": ROLE,
        "LAION_EXTERNAL_ID": "horde-7",
    }
    assert "sts:AssumeRole" in actions(theirs, "share")
    assert "laion-art" not in json.dumps(of_type(theirs, "AWS::IAM::Policy"))


@pytest.mark.slow
def test_whatever_comes_to_laions_role_has_a_stable_name(theirs: Template) -> None:
    named = "HordeCommons-<AWS::Region>-{}"
    _, share = role_of(theirs, "share")
    assert text(share["RoleName"]) == named.format("share")
    assuming = {
        policy["Properties"]["Roles"][0]["Ref"]
        for policy in of_type(theirs, "AWS::IAM::Policy").values()
        for one in policy["Properties"]["PolicyDocument"]["Statement"]
        if one["Action"] == "sts:AssumeRole" and one["Resource"] == ROLE
    }
    roles = of_type(theirs, "AWS::IAM::Role")
    names = {text(roles[name]["Properties"]["RoleName"]) for name in assuming}
    files = ("share", "release", "screen", "pack", "operator")
    assert names == {named.format(file) for file in files}


@pytest.mark.slow
def test_the_operator_comes_to_laions_bucket_by_what_the_stacks_outputs_say(
    theirs: Template,
) -> None:
    outputs = {name: one["Value"] for name, one in theirs["Outputs"].items()}
    assert outputs["LaionBucket"] == "laion-art"
    assert (outputs["LaionRole"], outputs["LaionExternalId"]) == (ROLE, "horde-7")
    assert outputs["LaionRegion"] == "eu-west-1"
    operator = theirs["Resources"][outputs["LaionOperatorRole"]["Fn::GetAtt"][0]]["Properties"]
    (trust,) = operator["AssumeRolePolicyDocument"]["Statement"]
    assert text(trust["Principal"]["AWS"]).endswith(":iam::<AWS::AccountId>:root")


def test_without_a_role_of_laion_there_is_none_for_the_operator(template: Template) -> None:
    assert not {"LaionRole", "LaionOperatorRole", "LaionRegion"} & set(template["Outputs"])
    assert "sts:AssumeRole" not in actions(template, "share")


@pytest.mark.parametrize("stage", ["HordeCommons", "HordeCommons-" + 31 * "x"])
def test_a_roles_name_has_at_most_64_characters_in_any_region(stage: str) -> None:
    for region in ("us-east-1", "us-isof-south-1"):
        assert len(publisher_name(stage, region, "operator")) <= 64
    assert publisher_name(stage, "r", "share") != publisher_name(stage + "y", "r", "share")

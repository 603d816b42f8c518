"""Who may do what in the data set's bucket, as IAM's own JSON: the stack's, and for LAION's side.

``bin/operator laion-policy`` prints what LAION sets. This module does not import the CDK.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from infra.contract import PUBLISHED

Statement = dict[str, Any]
LONGEST_STACK = 39
"""Characters of a stack's name in a role's, which has 64: two hyphens, a region and a function."""
ALL = "*"
"""Stands for all functions in a role's name."""


def publisher_name(stack: str, region: str, function: str) -> str:
    """Return the name of the role of a function that touches the data set's bucket.

    A stack's name that is too long is cut and gets a hash.
    """
    if len(stack) > LONGEST_STACK:
        stack = f"{stack[: LONGEST_STACK - 9]}-{hashlib.sha256(stack.encode()).hexdigest()[:8]}"
    return f"{stack}-{region}-{function}"


def patterns() -> list[str]:
    """Return the patterns of the keys that readers may read."""
    return [f"{one}*" if one.endswith("/") else one for one in PUBLISHED]


def reading(bucket_arn: str) -> list[Statement]:
    """Return what a reader may do: get and list what is published, and never ``incoming/``."""
    return [
        {
            "Sid": "ReadReleases",
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": [f"{bucket_arn}/{pattern}" for pattern in patterns()],
        },
        {
            "Sid": "FindBucket",
            "Effect": "Allow",
            "Action": "s3:GetBucketLocation",
            "Resource": bucket_arn,
        },
        {
            "Sid": "ListReleases",
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": bucket_arn,
            "Condition": {"StringLike": {"s3:prefix": patterns()}},
        },
    ]


def trust(account: str, role_name: str, external_id: str, partition: str = "aws") -> Statement:
    """Return the trust policy of LAION's role: our named roles alone, with the external id.

    It names our account, and the roles in a condition: a role that is named as a principal must
    exist when the policy is saved, and is another one after it was made anew.
    """
    ours = f"arn:{partition}:iam::{account}"
    return _policy(
        {
            "Sid": "HordeCommons",
            "Effect": "Allow",
            "Principal": {"AWS": f"{ours}:root"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "ArnLike": {"aws:PrincipalArn": f"{ours}:role/{role_name}"},
                "StringEquals": {"sts:ExternalId": external_id},
            },
        }
    )


def writing(bucket_arn: str) -> Statement:
    """Return what LAION's role may do: write, read, delete and list objects and their versions."""
    return _policy(
        {
            "Sid": "Objects",
            "Effect": "Allow",
            "Action": [
                "s3:PutObject",
                "s3:GetObject",
                "s3:DeleteObject",
                "s3:DeleteObjectVersion",
                "s3:AbortMultipartUpload",
            ],
            "Resource": f"{bucket_arn}/*",
        },
        {
            "Sid": "Bucket",
            "Effect": "Allow",
            "Action": ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketLocation"],
            "Resource": bucket_arn,
        },
    )


def reader(bucket_arn: str) -> Statement:
    """Return the policy that a reader's own account gives its users or roles."""
    return _policy(*reading(bucket_arn))


def bucket_policy(bucket_arn: str, readers: Sequence[str], partition: str = "aws") -> Statement:
    """Return what the stack's bucket says of its readers; account ids stand for their roots."""
    principals = [f"arn:{partition}:iam::{one}:root" if one.isdecimal() else one for one in readers]
    named = {"Principal": {"AWS": principals}}
    return _policy(*({**statement, **named} for statement in reading(bucket_arn)))


LIFECYCLE = {
    "Rules": [
        {
            "ID": "what-was-deleted-is-gone",
            "Status": "Enabled",
            "Filter": {},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            "Expiration": {"ExpiredObjectDeleteMarker": True},
        }
    ]
}
"""The lifecycle of LAION's bucket: a version would outlive the withdrawal of an image."""


def _policy(*statements: Statement) -> Statement:
    return {"Version": "2012-10-17", "Statement": list(statements)}

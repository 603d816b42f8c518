"""What is deployed: a stack's outputs, and the data set's bucket that they name."""

from collections.abc import Mapping
from typing import Any

import boto3
from botocore.exceptions import ClientError

from horde import aws
from infra.operate import OperatorError
from infra.operate.audit.objects import Bucket


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


def need_bucket(command: str, bucket: str) -> None:
    """Raise OperatorError if the name of the data set's bucket is not known."""
    if not bucket:
        message = f"{command} needs --stage or --stack, whose outputs name the LAION bucket"
        raise OperatorError(message)

"""Re-apply, by API, the properties of a template that MiniStack's CloudFormation drops.

The deployed template is the source. A property that MiniStack has applied itself is not touched. On
AWS none of this is needed.
"""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

Aws = Callable[[str], Any]
Properties = dict[str, Any]

API_NAMES = ("AllowCredentials", "AllowHeaders", "AllowMethods", "AllowOrigins", "MaxAge")


def apply(aws: Aws, stack: str) -> list[str]:
    """Set the properties that a stack's template has and its resources lack; returns which.

    Raises RuntimeError if a property cannot be set.
    """
    cloudformation = aws("cloudformation")
    template = cloudformation.get_template(StackName=stack)["TemplateBody"]
    resources = cloudformation.get_paginator("list_stack_resources")
    names = {
        row["LogicalResourceId"]: row["PhysicalResourceId"]
        for page in resources.paginate(StackName=stack)
        for row in page["StackResourceSummaries"]
    }
    done = []
    for logical, resource in template["Resources"].items():
        fixes = FIXES.get(resource["Type"], ())
        for fix in fixes:
            wanted, read, write = fix(aws, names[logical], resource.get("Properties", {}))
            if wanted is None or read() == wanted:
                continue
            write()
            if read() != wanted:
                message = f"{fix.__name__} of {logical} cannot be set: {read()!r}"
                raise RuntimeError(message)
            done.append(f"{fix.__name__} of {logical}")
    return done


Fix = tuple[Any, Callable[[], Any], Callable[[], Any]]
"""The wanted value (or None), a function that reads the value, and one that sets it."""


def time_to_live(aws: Aws, table: str, properties: Properties) -> Fix:
    """Set the attribute by which items expire."""
    client = aws("dynamodb")
    name = properties.get("TimeToLiveSpecification", {}).get("AttributeName")

    def read() -> Any:
        found = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        return found.get("AttributeName")

    def write() -> None:
        wanted = {"AttributeName": name, "Enabled": True}
        client.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)

    return name, read, write


def point_in_time_recovery(aws: Aws, table: str, properties: Properties) -> Fix:
    """Switch continuous backups on."""
    client = aws("dynamodb")
    key = "PointInTimeRecoverySpecification"
    places = [properties, *properties.get("Replicas", [])]
    on = any(place.get(key, {}).get("PointInTimeRecoveryEnabled") for place in places)

    def read() -> str:
        found = client.describe_continuous_backups(TableName=table)
        inner = found["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
        return str(inner["PointInTimeRecoveryStatus"])

    def write() -> None:
        wanted = {"PointInTimeRecoveryEnabled": True}
        client.update_continuous_backups(TableName=table, PointInTimeRecoverySpecification=wanted)

    return "ENABLED" if on else None, read, write


def lifecycle(aws: Aws, bucket: str, properties: Properties) -> Fix:
    """Set the rules by which objects and incomplete uploads expire."""
    client = aws("s3")
    rules = [
        {
            "ID": f"rule-{number}",
            "Status": rule["Status"],
            "Filter": {"Prefix": rule.get("Prefix", "")},
            **(
                {"Expiration": {"Days": rule["ExpirationInDays"]}}
                if "ExpirationInDays" in rule
                else {}
            ),
            **{name: rule[name] for name in ("AbortIncompleteMultipartUpload",) if name in rule},
        }
        for number, rule in enumerate(properties.get("LifecycleConfiguration", {}).get("Rules", []))
    ]

    def read() -> Any:
        try:
            return client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration":
                return []
            raise

    def write() -> None:
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": rules}
        )

    return rules or None, read, write


def cors(aws: Aws, api: str, properties: Properties) -> Fix:
    """Set the response to browsers' preflight requests."""
    client = aws("apigatewayv2")
    template = properties.get("CorsConfiguration")
    wanted = {name: template[name] for name in API_NAMES if name in template} if template else None

    def read() -> Any:
        found = client.get_api(ApiId=api).get("CorsConfiguration", {})
        return {name: found[name] for name in wanted or () if name in found}

    def write() -> None:
        client.update_api(ApiId=api, CorsConfiguration=wanted)

    return wanted, read, write


FIXES: dict[str, tuple[Callable[[Aws, str, Properties], Fix], ...]] = {
    "AWS::DynamoDB::GlobalTable": (time_to_live, point_in_time_recovery),
    "AWS::DynamoDB::Table": (time_to_live, point_in_time_recovery),
    "AWS::S3::Bucket": (lifecycle,),
    "AWS::ApiGatewayV2::Api": (cors,),
}

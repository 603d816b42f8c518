"""The bucket of the open data set: the stack's own, or LAION's in another account or region.

Each function that touches it gets a role of a stable name, by which LAION's account can name it.
"""

from collections.abc import Sequence
from typing import cast

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import custom_resources as custom
from constructs import Construct

from infra.parts.buckets import bucket_of
from infra.policies import publisher_name, reading
from infra.settings import StackSettings

INCOMING = "incoming/*"


class LaionBucket(Construct):
    """The bucket, who may read it, and what writes it."""

    def __init__(self, scope: Construct, name: str, settings: StackSettings) -> None:
        super().__init__(scope, name)
        self._settings = settings
        own = settings.laion_bucket is None
        self.bucket: s3.IBucket = (
            self._own() if own else s3.Bucket.from_bucket_name(self, "Bucket", self._named)
        )
        self.env = {
            "LAION_BUCKET": self.bucket.bucket_name,
            "LAION_REGION": settings.laion_region or "",
            "LAION_ROLE": settings.laion_role or "",
            "LAION_EXTERNAL_ID": settings.laion_external_id or "",
        }
        """The environment of a function that writes the data set (``horde.laion``)."""
        self.outputs = {
            "LaionBucket": self.bucket.bucket_name,
            **({"LaionRegion": settings.laion_region} if settings.laion_region else {}),
            **(self._operator() if settings.laion_role else {}),
        }
        """The stack's outputs, from which ``bin/operator`` knows how to reach the bucket."""

    @property
    def address(self) -> str:
        """The bucket's address, as the documents of the data set name it; it ends without a slash.

        A bucket in a partition of its own is named as in the commercial one: readers need access.
        """
        region = self._settings.laion_region or Stack.of(self).region
        return f"https://{self.bucket.bucket_name}.s3.{region}.amazonaws.com"

    @property
    def _named(self) -> str:
        return str(self._settings.laion_bucket)

    def _own(self) -> s3.Bucket:
        """Return a bucket of the stack, which outlives it; named accounts may read the releases."""
        abort = s3.LifecycleRule(abort_incomplete_multipart_upload_after=Duration.days(1))
        removal = RemovalPolicy.RETAIN
        bucket = bucket_of(self, "Bucket", removal=removal, lifecycle_rules=[abort])
        readers = [_principal(one) for one in self._settings.laion_readers]
        if readers:
            for allowed in reading(bucket.bucket_arn):
                statement = iam.PolicyStatement.from_json(allowed)
                statement.add_principals(*readers)
                bucket.add_to_resource_policy(statement)
        if self._settings.laion_requester_pays:
            self._have_readers_pay(bucket)
        return bucket

    def _have_readers_pay(self, bucket: s3.Bucket) -> None:
        """Have readers pay for what they ask: CloudFormation has no property for it."""

        def payer(who: str) -> custom.AwsSdkCall:
            return custom.AwsSdkCall(
                service="S3",
                action="putBucketRequestPayment",
                parameters={
                    "Bucket": bucket.bucket_name,
                    "RequestPaymentConfiguration": {"Payer": who},
                },
                physical_resource_id=custom.PhysicalResourceId.of("RequestPayment"),
            )

        allowed = iam.PolicyStatement(
            actions=["s3:PutBucketRequestPayment"], resources=[bucket.bucket_arn]
        )
        custom.AwsCustomResource(
            self,
            "ReadersPay",
            resource_type="Custom::RequestPayment",
            on_create=payer("Requester"),
            on_update=payer("Requester"),
            on_delete=payer("BucketOwner"),
            policy=custom.AwsCustomResourcePolicy.from_statements([allowed]),
            install_latest_aws_sdk=False,
        )

    def _operator(self) -> dict[str, str]:
        """Make the role by which ``bin/operator`` comes to LAION's; returns the stack's outputs.

        Who may assume it is up to the policies of this account.
        """
        stack, settings = Stack.of(self), self._settings
        operator = iam.Role(
            self,
            "Operator",
            role_name=publisher_name(stack.stack_name, stack.region, "operator"),
            assumed_by=iam.AccountRootPrincipal(),
            description="bin/operator: withdraw, undo-worker and audit --bucket",
        )
        operator.add_to_policy(self._assuming())
        found = {"LaionRole": str(settings.laion_role), "LaionOperatorRole": operator.role_arn}
        if settings.laion_external_id:
            found["LaionExternalId"] = settings.laion_external_id
        return found

    def _assuming(self) -> iam.PolicyStatement:
        return iam.PolicyStatement(
            actions=["sts:AssumeRole"], resources=[str(self._settings.laion_role)]
        )

    def allow(
        self,
        function: lambda_.Function,
        *,
        write: Sequence[str] = (INCOMING,),
        read: Sequence[str] = (),
    ) -> None:
        """Let a function put and delete some of the bucket's objects, and list and get others.

        ``write`` and ``read`` are patterns of keys, such as ``incoming/*``. With a role of LAION's
        account, what it may do is what that role may.
        """
        stack, file = Stack.of(self), function.node.id.lower()
        role = cast("iam.CfnRole", function.role.node.default_child)  # type: ignore[union-attr]
        role.role_name = publisher_name(stack.stack_name, stack.region, file)
        if self._settings.laion_role:
            function.add_to_role_policy(self._assuming())
            return
        for pattern in write:
            self.bucket.grant_put(function, pattern)
            self.bucket.grant_delete(function, pattern)
        for pattern in read:
            self.bucket.grant_read(function, pattern)


def _principal(reader: str) -> iam.IPrincipal:
    if reader.isdecimal():
        return cast("iam.IPrincipal", iam.AccountPrincipal(reader))
    return cast("iam.IPrincipal", iam.ArnPrincipal(reader))

"""Buckets: private ones whose objects expire, and the one for the open data set."""

from typing import Any

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_notifications as notifications
from constructs import Construct

from infra.contract import PRIVATE, SHARED, UPLOADS
from infra.parts.queues import WorkQueue


def private_bucket(scope: Construct, name: str, *, days: int) -> s3.Bucket:
    """Return a private bucket, reachable only by presigned URL; objects expire after ``days``."""
    everywhere = s3.CorsRule(
        allowed_methods=[s3.HttpMethods.GET], allowed_origins=["*"], allowed_headers=["*"]
    )
    expire = s3.LifecycleRule(
        expiration=Duration.days(days),
        abort_incomplete_multipart_upload_after=Duration.days(1),
    )
    return _bucket(
        scope,
        name,
        removal=RemovalPolicy.DESTROY,
        lifecycle_rules=[expire],
        cors=[everywhere],
    )


def open_data_bucket(scope: Construct, name: str, *, existing: str | None) -> s3.IBucket:
    """Return the LAION bucket: an ``existing`` one, maybe in another account, or our own."""
    if existing:
        return s3.Bucket.from_bucket_name(scope, name, existing)
    return _bucket(scope, name, removal=RemovalPolicy.RETAIN)


def _bucket(scope: Construct, name: str, *, removal: RemovalPolicy, **more: Any) -> s3.Bucket:
    return s3.Bucket(
        scope,
        name,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        removal_policy=removal,
        **more,
    )


def announce_shared(bucket: s3.Bucket, work: WorkQueue) -> None:
    """Send a message for every delivered file of a shared request; S3 retries by itself."""
    bucket.add_event_notification(
        s3.EventType.OBJECT_CREATED,
        notifications.SqsDestination(work.queue),
        s3.NotificationKeyFilter(prefix=SHARED),
    )


def allow_submits(function: lambda_.Function, bucket: s3.Bucket) -> None:
    """Let a function sign uploads, read and delete them, and write what is delivered."""
    for prefix in (UPLOADS, SHARED, PRIVATE):
        bucket.grant_put(function, f"{prefix}*")
    bucket.grant_read(function, f"{UPLOADS}*")
    bucket.grant_delete(function, f"{UPLOADS}*")


def allow_downloads(function: lambda_.Function, bucket: s3.Bucket) -> None:
    """Let a function read what is delivered, and sign downloads of it."""
    for prefix in (SHARED, PRIVATE):
        bucket.grant_read(function, f"{prefix}*")


def allow_sharing(function: lambda_.Function, bucket: s3.Bucket) -> None:
    """Let a function read what was delivered of shared requests."""
    bucket.grant_read(function, f"{SHARED}*")


def allow_holding(function: lambda_.Function, bucket: s3.Bucket) -> None:
    """Let a function hold images back, read them again, and release or drop them."""
    bucket.grant_read(function)
    bucket.grant_put(function)
    bucket.grant_delete(function)


def publishing_env(laion: s3.IBucket, role: str | None) -> dict[str, str]:
    """Return the environment of the function that writes the open data set."""
    return {"LAION_BUCKET": laion.bucket_name, "LAION_ROLE": role or ""}


def allow_publishing(function: lambda_.Function, bucket: s3.IBucket, *, role: str | None) -> None:
    """Let a function write the open data set, through another account's ``role`` if given."""
    if role:
        function.add_to_role_policy(
            iam.PolicyStatement(actions=["sts:AssumeRole"], resources=[role])
        )
    else:
        bucket.grant_put(function, "incoming/*")
        bucket.grant_delete(function, "incoming/*")

"""Private buckets, whose objects expire. ``laion_bucket`` has the one of the open data set."""

from typing import Any

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_notifications as notifications
from constructs import Construct

from infra.contract import PRIVATE, SHARED, SHARED_DAYS, UPLOADS
from infra.parts.functions import run_every_hour
from infra.parts.queues import DeadLetters, WorkQueue


def private_bucket(scope: Construct, name: str, *, days: int, prefix: str = "") -> s3.Bucket:
    """Return a private bucket, reachable only by presigned URL; objects expire after ``days``.

    With a prefix, those alone whose keys begin with it.
    """
    rule = s3.LifecycleRule(expiration=Duration.days(days), prefix=prefix or None)
    return _expiring(scope, name, rule)


def outputs_bucket(scope: Construct, name: str, *, announce: WorkQueue) -> s3.Bucket:
    """Return the bucket of drawn images, which sends a message for each one to be shared.

    They expire after a day. A shared one stays for as long as its copy may be lost: ``recover``
    deletes it earlier, once it is copied.
    """
    kept = {UPLOADS: 1, PRIVATE: 1, SHARED: SHARED_DAYS}
    expiring = [
        s3.LifecycleRule(prefix=prefix, expiration=Duration.days(days))
        for prefix, days in kept.items()
    ]
    bucket = _expiring(scope, name, *expiring)
    bucket.add_event_notification(  # S3 retries by itself
        s3.EventType.OBJECT_CREATED,
        notifications.SqsDestination(announce.queue),
        s3.NotificationKeyFilter(prefix=SHARED),
    )
    return bucket


def _expiring(scope: Construct, name: str, *rules: s3.LifecycleRule) -> s3.Bucket:
    everywhere = s3.CorsRule(
        allowed_methods=[s3.HttpMethods.GET], allowed_origins=["*"], allowed_headers=["*"]
    )
    abort = s3.LifecycleRule(abort_incomplete_multipart_upload_after=Duration.days(1))
    return bucket_of(
        scope,
        name,
        removal=RemovalPolicy.DESTROY,
        lifecycle_rules=[*rules, abort],
        cors=[everywhere],
    )


def bucket_of(scope: Construct, name: str, *, removal: RemovalPolicy, **more: Any) -> s3.Bucket:
    """Return a bucket that nobody reads in public: TLS alone, S3's own encryption, no versions.

    A version would outlive the deletion of what was withdrawn.
    """
    return s3.Bucket(
        scope,
        name,
        encryption=s3.BucketEncryption.S3_MANAGED,
        versioned=False,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        removal_policy=removal,
        **more,
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


def allow_sharing(function: lambda_.Function, outputs: s3.Bucket, held: s3.Bucket) -> None:
    """Let a function read what was delivered of shared requests, and hold images back.

    It reads again what is held, and releases or drops it.
    """
    outputs.grant_read(function, f"{SHARED}*")
    held.grant_read(function)
    held.grant_put(function)
    held.grant_delete(function)


def recover_hourly(
    function: lambda_.Function, outputs: s3.Bucket, uploads: WorkQueue, *, dead: DeadLetters
) -> None:
    """Let a function list what is delivered and shared, ask for its copy, and delete it."""
    run_every_hour(function, dead=dead)
    function.add_to_role_policy(
        iam.PolicyStatement(
            actions=["s3:ListBucket"],
            resources=[outputs.bucket_arn],
            conditions={"StringEquals": {"s3:prefix": SHARED}},
        )
    )
    outputs.grant_delete(function, f"{SHARED}*")
    uploads.queue.grant_send_messages(function)

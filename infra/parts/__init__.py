"""The parts that the stack is made of, each with everything that it always needs."""

from aws_cdk import CfnOutput, Stack
from aws_cdk import aws_s3 as s3

from infra.parts.alarms import Alarms
from infra.parts.api import Api
from infra.parts.buckets import (
    allow_downloads,
    allow_sharing,
    allow_submits,
    outputs_bucket,
    private_bucket,
    recover_hourly,
)
from infra.parts.environment import (
    api_env,
    holding_env,
    models_env,
    runpod_env,
    sweep_env,
    worker_env,
)
from infra.parts.functions import Functions, allow_secret, run_every_minute
from infra.parts.hash_secret import HashSecret
from infra.parts.horde_table import (
    ACCEPT,
    COUNT,
    MANAGE,
    MANAGE_LISTS,
    PAY,
    PUBLISH,
    READ,
    READ_ITEM,
    READ_WRITE,
    READ_WRITE_ITEM,
    RECOVER,
    SETTLE,
    WITHDRAW,
    HordeTable,
)
from infra.parts.laion_bucket import LaionBucket
from infra.parts.publishing import Places, Releases
from infra.parts.queues import DeadLetters, HandOver, WorkQueue, allow_handing, allow_sending
from infra.parts.ratings_api import RatingsPart

__all__ = [
    "ACCEPT",
    "COUNT",
    "MANAGE",
    "MANAGE_LISTS",
    "PAY",
    "PUBLISH",
    "READ",
    "READ_ITEM",
    "READ_WRITE",
    "READ_WRITE_ITEM",
    "RECOVER",
    "SETTLE",
    "WITHDRAW",
    "Alarms",
    "Api",
    "DeadLetters",
    "Functions",
    "HandOver",
    "HashSecret",
    "HordeTable",
    "LaionBucket",
    "Places",
    "RatingsPart",
    "Releases",
    "WorkQueue",
    "allow_downloads",
    "allow_handing",
    "allow_secret",
    "allow_sending",
    "allow_sharing",
    "allow_submits",
    "api_env",
    "holding_env",
    "models_env",
    "outputs_bucket",
    "private_bucket",
    "recover_hourly",
    "run_every_minute",
    "runpod_env",
    "show",
    "sweep_env",
    "worker_env",
]


def show(
    stack: Stack, api: Api, table: HordeTable, laion: LaionBucket, **buckets: s3.IBucket
) -> None:
    """Add the stack's outputs; ``buckets`` are by the first part of an output's name."""
    values = {
        "ApiUrl": f"{api.http.api_endpoint}/api/v2",
        "ApiId": api.http.api_id,
        "TableName": table.table.table_name,
        **{f"{name}Bucket": bucket.bucket_name for name, bucket in buckets.items()},
        **laion.outputs,
    }
    for name, value in values.items():
        CfnOutput(stack, name, value=value)

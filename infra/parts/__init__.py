"""The parts that the stack is made of, each with everything that it always needs."""

from aws_cdk import CfnOutput, Stack

from infra.parts.alarms import Alarms
from infra.parts.api import Api
from infra.parts.buckets import (
    allow_downloads,
    allow_holding,
    allow_publishing,
    allow_sharing,
    allow_submits,
    announce_shared,
    open_data_bucket,
    private_bucket,
    publishing_env,
)
from infra.parts.environment import api_env, holding_env, models_env, runpod_env, trust_env
from infra.parts.functions import Functions, allow_secret, run_every_minute
from infra.parts.hash_secret import HashSecret
from infra.parts.horde_table import (
    ACCEPT,
    MANAGE,
    MANAGE_KEYS,
    PAY,
    PUBLISH,
    READ,
    READ_ITEM,
    READ_WRITE,
    READ_WRITE_ITEM,
    SETTLE,
    HordeTable,
)
from infra.parts.queues import DeadLetters, HandOver, WorkQueue, allow_handing, allow_sending

__all__ = [
    "ACCEPT",
    "MANAGE",
    "MANAGE_KEYS",
    "PAY",
    "PUBLISH",
    "READ",
    "READ_ITEM",
    "READ_WRITE",
    "READ_WRITE_ITEM",
    "SETTLE",
    "Alarms",
    "Api",
    "DeadLetters",
    "Functions",
    "HandOver",
    "HashSecret",
    "HordeTable",
    "WorkQueue",
    "allow_downloads",
    "allow_handing",
    "allow_holding",
    "allow_publishing",
    "allow_secret",
    "allow_sending",
    "allow_sharing",
    "allow_submits",
    "announce_shared",
    "api_env",
    "holding_env",
    "models_env",
    "open_data_bucket",
    "private_bucket",
    "publishing_env",
    "run_every_minute",
    "runpod_env",
    "show",
    "trust_env",
]


def show(stack: Stack, **values: str) -> None:
    """Add the stack's outputs."""
    for name, value in values.items():
        CfnOutput(stack, name, value=value)

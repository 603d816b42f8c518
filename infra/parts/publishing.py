"""The daily release of the data set: three functions, run in turn by Step Functions.

    plan -> screen each batch -> pack each part -> select -> rewrite each part -> publish

Distributed maps read the batches and parts from a private bucket, so a day of a million images is
worked off like one of ten, within Lambda's 15 minutes for each. What fails is tried again; what
keeps failing is left out, and the run fails after it has published the rest.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from aws_cdk import ArnFormat, Aws, CfnOutput, Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.contract import BATCHES, PARTS, REWRITES
from infra.parts.alarms import Alarms
from infra.parts.buckets import private_bucket
from infra.parts.environment import screening_env
from infra.parts.hash_secret import HashSecret
from infra.parts.laion_bucket import LaionBucket
from infra.parts.queues import DeadLetters
from infra.parts.ratings_api import RatingsPart
from infra.settings import StackSettings

SCREENED_AT_ONCE, PACKED_AT_ONCE = 40, 10
"""Most functions of a kind that run at once; an account has 1,000 for everything, new ones 10."""
TRIES = 3
WORK_DAYS = 14
"""Days that the steps' results are kept: a run that died is taken over within that time."""
RELEASES = "2"
"""How releases begin, which are days. What the operator has uploaded beside them stays."""
MINUTES = 15
DISK, PART_DISK = 10_240, 4096
"""MB of ``/tmp``: Lambda's most, for the tables of all parts; and for the rows of one part, which
may have a gigabyte of prompts, twice."""


class Places(NamedTuple):
    """What releases are made of and with."""

    laion: LaionBucket
    held: s3.IBucket
    hashes: HashSecret
    ratings: RatingsPart
    dead: DeadLetters
    """Takes a run that never starts."""


class Releases(Construct):
    """The functions ``release``, ``screen`` and ``pack``, and the state machine that runs them."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        settings: StackSettings,
        make: Callable[..., lambda_.Function],
        table_env: dict[str, str],
        places: Places,
        alarms: Alarms,
    ) -> None:
        super().__init__(scope, name)
        laion, held, hashes, ratings, dead = places
        self._work = private_bucket(self, "Work", days=WORK_DAYS, prefix=RELEASES)
        CfnOutput(Stack.of(self), "WorkBucket", value=self._work.bucket_name)
        env = (
            table_env,
            laion.env,
            {"HELD_BUCKET": held.bucket_name, "WORK_BUCKET": self._work.bucket_name},
        )
        address = laion.address
        rules = {"DATASET_URL": address, "HOLD_HOURS": str(settings.hold_hours)}
        slow: dict[str, Any] = {"seconds": MINUTES * 60}
        keep = ("GetItem", "BatchGetItem", "PutItem", "UpdateItem")
        lead = (*keep, "Query", "DeleteItem", "ConditionCheckItem")
        self.release = make(
            "release",
            *env,
            hashes.env,
            ratings.env,
            rules,
            memory=2048,
            disk=DISK,
            layer="release",
            may=lead,
            **slow,
        )
        self.pack = make(
            "pack", *env, memory=1024, disk=PART_DISK, layer="release", may=keep, **slow
        )
        screening = screening_env(settings)
        self.screen = make(
            "screen", *env, screening, memory=1769, layer="screening", may=keep, **slow
        )
        for function in (self.release, self.pack, self.screen):
            self._work.grant_read(function)
            self._work.grant_put(function)
            laion.allow(function, write=("*",), read=("*",))
        hashes.allow(self.release)
        ratings.allow_offering(self.release)
        held.grant_put(self.screen, "kept/*")
        held.grant_delete(self.screen, "kept/*")
        held.grant_delete(self.release)
        self.machine = self._machine()
        failed = self.machine.metric_failed(statistic="Sum")
        alarms.on(
            "NotReleased", failed, "a release is not whole: see NotReleased in docs/operations.md"
        )
        events.Rule(
            self,
            "EveryDay",
            schedule=events.Schedule.cron(hour="3", minute="17"),
            targets=[targets.SfnStateMachine(self.machine, dead_letter_queue=dead.queue)],
        )

    def _machine(self) -> sfn.StateMachine:
        functions = (self.release, self.screen, self.pack)
        machine = sfn.StateMachine(
            self,
            "Machine",
            # Not the CDK's JSON, which drops what is null.
            definition_body=sfn.DefinitionBody.from_string(json.dumps(self._definition())),
            timeout=Duration.hours(20),
        )
        for function in functions:
            function.grant_invoke(machine)
        self._work.grant_read(machine)
        here = Stack.of(self).format_arn(
            service="states",
            resource="stateMachine",
            resource_name="*",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        runs = Stack.of(self).format_arn(
            service="states",
            resource="execution",
            resource_name="*",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        machine.role.add_to_principal_policy(
            iam.PolicyStatement(actions=["states:StartExecution"], resources=[here])
        )
        machine.role.add_to_principal_policy(
            iam.PolicyStatement(
                actions=["states:DescribeExecution", "states:StopExecution"], resources=[runs]
            )
        )
        return machine

    def _definition(self) -> dict[str, Any]:
        """Return the state machine in Amazon States Language."""
        caught = [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "GiveUp"}]
        run = "$$.Execution.Id"

        def step(name: str, then: str, **payload: str) -> dict[str, Any]:
            return {
                **self._task(self.release, {"step": name, **payload}),
                "Catch": caught,
                "Next": then,
            }

        def each(
            function: lambda_.Function, folder: str, at_once: int, then: str
        ) -> dict[str, Any]:
            return {**self._map(function, folder, at_once), "Catch": caught, "Next": then}

        release = {"release.$": "$.release"}
        return {
            "StartAt": "Plan",
            "States": {
                "Plan": step("plan", "AnotherRuns", **{"run.$": run}),
                "AnotherRuns": _if("$.release", {"StringEquals": ""}, "Nothing", "AnyBatch"),
                "AnyBatch": _if("$.batches", {"NumericEquals": 0}, "Select", "Screen"),
                "Screen": each(self.screen, BATCHES, SCREENED_AT_ONCE, "Pack"),
                "Pack": each(self.pack, PARTS, PACKED_AT_ONCE, "Select"),
                "Select": step("select", "AnyRewrite", **release),
                "AnyRewrite": _if("$.rewrites", {"NumericEquals": 0}, "Publish", "Rewrite"),
                "Rewrite": each(self.pack, REWRITES, PACKED_AT_ONCE, "Publish"),
                "Publish": step("publish", "Nothing", **release, **{"run.$": run}),
                "Nothing": {"Type": "Succeed"},
                "GiveUp": {
                    **self._task(self.release, {"step": "give up", "run.$": run}),
                    "Next": "Failed",
                },
                "Failed": {"Type": "Fail", "Error": "NotReleased"},
            },
        }

    def _task(self, function: lambda_.Function, payload: dict[str, str]) -> dict[str, Any]:
        return {
            "Type": "Task",
            "Resource": f"arn:{Aws.PARTITION}:states:::lambda:invoke",
            "Parameters": {"FunctionName": function.function_arn, "Payload": payload},
            "OutputPath": "$.Payload",
            "Retry": [
                {"ErrorEquals": ["NotWholeError"], "MaxAttempts": 0},
                {
                    "ErrorEquals": ["States.ALL"],
                    "MaxAttempts": TRIES - 1,
                    "IntervalSeconds": 20,
                    "BackoffRate": 3,
                },
            ],
        }

    def _map(self, function: lambda_.Function, folder: str, at_once: int) -> dict[str, Any]:
        """Return a distributed map over the objects of a folder; what fails at last is left out."""
        payload = {"release.$": "$.release", "key.$": "$.key"}
        return {
            "Type": "Map",
            "ItemReader": {
                "Resource": f"arn:{Aws.PARTITION}:states:::s3:listObjectsV2",
                "Parameters": {
                    "Bucket": self._work.bucket_name,
                    "Prefix.$": f"States.Format('{{}}/{folder}/', $.release)",
                },
            },
            "ItemSelector": {"release.$": "$.release", "key.$": "$$.Map.Item.Value.Key"},
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
                "StartAt": "Each",
                "States": {"Each": {**self._task(function, payload), "End": True}},
            },
            "MaxConcurrency": at_once,
            "ToleratedFailurePercentage": 100,
            "ResultPath": None,
        }


def _if(what: str, is_so: dict[str, Any], then: str, otherwise: str) -> dict[str, Any]:
    return {
        "Type": "Choice",
        "Choices": [{"Variable": what, **is_so, "Next": then}],
        "Default": otherwise,
    }

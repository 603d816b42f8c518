"""Find the local cloud that runs in this checkout, and its deployed functions and queues.

``LocalCloud`` writes ``.local/<name>/cloud.json`` once it is up. Everything else comes from the AWS
API of the emulator.
"""

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from infra.local.dev.run_handler import DevError
from infra.local.processes import LOCAL, identity
from infra.stages import stack_of

ROOT = Path(__file__).resolve().parents[3]
LAYER = ROOT / "build" / "layer" / "host" / "python"
STACK = stack_of("local")
REGION = "us-east-1"
PREFERRED = "up"
_QUEUE = re.compile(r"(\w+)Queue[0-9A-F]{8}")
"""CDK's logical id of a queue: the names of its constructs, ``Queue`` and a hash."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the stack; its name is that in ``infra/stack.py``."""

    name: str
    url: str
    arn: str
    waiting: int
    """Messages that can be received now, approximately."""
    hidden: int
    """Messages that were received and not yet deleted, approximately."""
    source: "Queue | None" = None
    """The queue whose dead letters it holds; None for a work queue or a function's own."""


@dataclass(frozen=True)
class Cloud:
    """A running local cloud."""

    name: str
    endpoint: str
    worker_key: str

    def aws(self, service: str) -> Any:
        """Return a boto3 client with all rights."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106 - any pair is the emulator's root
        )

    @cached_property
    def functions(self) -> dict[str, dict[str, Any]]:
        """The configuration of each deployed function, by its file in ``functions/``."""
        pages = self.aws("lambda").get_paginator("list_functions").paginate()
        found = {
            function["Handler"].removesuffix(".handler"): function
            for page in pages
            for function in page["Functions"]
        }
        # CDK's custom resources are functions too; they have no file here.
        return {
            name: function
            for name, function in sorted(found.items())
            if (ROOT / "functions" / f"{name}.py").exists()
        }

    def function(self, name: str) -> dict[str, Any]:
        """Return one function's configuration; raises DevError."""
        if name not in self.functions:
            message = f"no function {name!r} is deployed; there are {', '.join(self.functions)}"
            raise DevError(message)
        return self.functions[name]

    def environment(self, name: str) -> dict[str, str]:
        """Return a function's environment, with credentials of its role for an hour.

        With ``AUTH=1`` these credentials allow only what the stack grants the function.
        """
        function = self.function(name)
        session = self.aws("sts").assume_role(RoleArn=function["Role"], RoleSessionName="bin-dev")
        role = session["Credentials"]
        kept = ("HOME", "LANG", "LC_ALL", "PATH", "TERM", "TMPDIR", "PYTHONBREAKPOINT")
        return {
            **{variable: os.environ[variable] for variable in kept if variable in os.environ},
            **function["Environment"]["Variables"],
            "AWS_ACCESS_KEY_ID": role["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
            "AWS_SESSION_TOKEN": role["SessionToken"],
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_LAMBDA_FUNCTION_NAME": function["FunctionName"],
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function["MemorySize"]),
            "NO_PROXY": "127.0.0.1,localhost",
            "WORKER_KEY": self.worker_key,
            "PYTHONPATH": os.pathsep.join(map(str, (LAYER, ROOT / "functions", ROOT))),
        }

    def source(self, name: str) -> dict[str, Any]:
        """Return a function's event source mapping; raises DevError if it has none."""
        arn = self.function(name)["FunctionName"]
        found = self.aws("lambda").list_event_source_mappings(FunctionName=arn)
        if not found["EventSourceMappings"]:
            message = (
                f"{name} has no queue and no stream to record from; write an event yourself, "
                "like those in infra/local/events/"
            )
            raise DevError(message)
        mapping: dict[str, Any] = found["EventSourceMappings"][0]
        return mapping

    def queues(self) -> list[Queue]:
        """Return the stack's queues; dead-letter queues have their source."""
        sqs = self.aws("sqs")
        pages = self.aws("cloudformation").get_paginator("list_stack_resources")
        made: dict[str, Queue] = {}
        targets: dict[str, str] = {}
        for page in pages.paginate(StackName=STACK):
            for row in page["StackResourceSummaries"]:
                match = _QUEUE.fullmatch(row["LogicalResourceId"])
                if row["ResourceType"] != "AWS::SQS::Queue" or match is None:
                    continue
                url = row["PhysicalResourceId"]
                found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
                made[found["QueueArn"]] = Queue(
                    name=match[1],
                    url=url,
                    arn=found["QueueArn"],
                    waiting=int(found["ApproximateNumberOfMessages"]),
                    hidden=int(found["ApproximateNumberOfMessagesNotVisible"]),
                )
                if "RedrivePolicy" in found:
                    policy = json.loads(found["RedrivePolicy"])
                    targets[policy["deadLetterTargetArn"]] = found["QueueArn"]
        return [
            Queue(
                name=f"{made[targets[arn]].name}Dead" if arn in targets else queue.name,
                url=queue.url,
                arn=arn,
                waiting=queue.waiting,
                hidden=queue.hidden,
                source=made[targets[arn]] if arn in targets else None,
            )
            for arn, queue in made.items()
        ]

    def dead_queues(self) -> list[Queue]:
        """Return the queues that hold dead letters."""
        queues = self.queues()
        sources = {queue.source.arn for queue in queues if queue.source is not None}
        return [queue for queue in queues if queue.arn not in sources]


def _is_up(folder: Path) -> bool:
    try:
        run = json.loads((folder / "processes.json").read_text())["run"]
    except (OSError, ValueError, KeyError):
        return False
    return run["identity"] is not None and identity(run["pid"]) == run["identity"]


def find(name: str | None = None, folder: Path = LOCAL) -> Cloud:
    """Return the named cloud, else that of ``make up``, else the only one; raises DevError."""
    up = {
        path.parent.name: path
        for path in sorted(folder.glob("*/cloud.json"))
        if _is_up(path.parent)
    }
    if name is None:
        name = PREFERRED if PREFERRED in up else next(iter(up), None)
        if len(up) > 1 and name != PREFERRED:
            message = f"several local clouds run here: choose with --cloud {'|'.join(up)}"
            raise DevError(message)
    if name is None:
        message = "no local cloud is up in this checkout; 'make up' starts one"
        raise DevError(message)
    if name not in up:
        known = f"; there is {', '.join(up)}" if up else ""
        message = f"no local cloud {name!r} is up in this checkout{known}"
        raise DevError(message)
    return Cloud(name=name, **json.loads(up[name].read_text()))

"""Releases of a local cloud's data set: the state machine, the hold, the list of hashes."""

import time
from typing import Any

from horde.release import work
from infra.local.local_cloud import LocalCloud
from infra.local.processes import BEAT_S, LocalCloudError, say

PATIENCE_S = 1800
HOLD = "HOLD_HOURS"


class Releasing:
    """What an operator has of a cloud's releases."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        self.bucket = cloud.outputs["LaionBucket"]
        self.work_bucket = self._environment()["WORK_BUCKET"]

    def _environment(self) -> dict[str, str]:
        found: dict[str, str] = self._cloud.aws("lambda").get_function_configuration(
            FunctionName=self._cloud.function("release")
        )["Environment"]["Variables"]
        return found

    def set_hold(self, hours: int) -> int:
        """Set the hours of the hold, even to 0, which the settings forbid; returns the old ones.

        Nothing else on this machine makes images a day older: the times of objects are S3's.
        """
        before = self._environment()
        self._cloud.aws("lambda").update_function_configuration(
            FunctionName=self._cloud.function("release"),
            Environment={"Variables": {**before, HOLD: str(hours)}},
        )
        return int(before[HOLD])

    def list_hashes(self, hashes: list[str]) -> None:
        """Write the operator's list of hashes."""
        lines = "\n".join(["# listed by make dataset", *hashes, ""])
        self._cloud.aws("s3").put_object(
            Bucket=self.work_bucket, Key=work.HASHES, Body=lines.encode()
        )

    def run(self) -> str:
        """Run the state machine to its end, by its ARN; returns how long each state took.

        Raises LocalCloudError where it does not succeed.
        """
        steps = self._cloud.aws("stepfunctions")
        (machine,) = [
            one for one in steps.list_state_machines()["stateMachines"] if "Releases" in one["name"]
        ]
        run = steps.start_execution(stateMachineArn=machine["stateMachineArn"])["executionArn"]
        begun = said = time.monotonic()
        while (found := steps.describe_execution(executionArn=run))["status"] == "RUNNING":
            if time.monotonic() > begun + PATIENCE_S:
                message = f"the release was not made within {PATIENCE_S} s"
                raise LocalCloudError(message)
            if time.monotonic() > said + BEAT_S:
                said = time.monotonic()
                say(f"  ... {self._progress()}")
            time.sleep(0.5)
        if found["status"] != "SUCCEEDED":
            message = f"the release {found['status']}: {found.get('error')} {found.get('cause')}"
            raise LocalCloudError(message, self._cloud.folder / "logs" / "ministack.log")
        return f"{time.monotonic() - begun:.1f} s: {_states(steps, run)}"

    def _progress(self) -> str:
        found = self._cloud.aws("s3").list_objects_v2(Bucket=self.work_bucket).get("Contents", [])
        folders = [one["Key"].partition("/")[2].partition("/")[0] for one in found]
        names = ("batches", "screened", "parts", "packed", "rewrites", "rewritten")
        return ", ".join(f"{folders.count(name)} {name}" for name in names if name in folders)


def _states(steps: Any, run: str) -> str:
    """Return the states that a run entered, in order."""
    pages = steps.get_paginator("get_execution_history").paginate(executionArn=run)
    events = [event for page in pages for event in page["events"]]
    names = [
        event["stateEnteredEventDetails"]["name"]
        for event in events
        if "stateEnteredEventDetails" in event
    ]
    return " -> ".join(names)

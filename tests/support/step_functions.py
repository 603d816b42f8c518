"""Doubles Step Functions: runs the state machine of the template on the Lambdas of a cloud.

It knows what the release uses: tasks that invoke a function, choices, distributed maps over the
objects of a bucket, retries without their pauses, and what is caught. Items of a map run in the
order of their keys. ``upset`` is called before each invocation, for tests that let one fail.
"""

import json
from collections.abc import Callable
from typing import Any

from tests.support import template as templates
from tests.support.cloud import Cloud

Upset = Callable[[str, dict[str, Any]], None]
LIMIT = 100


class ExecutionFailed(Exception):  # noqa: N818 - a state's name
    """The state machine ended in a state that fails."""


class Machine:
    """The state machine of a cloud's template."""

    def __init__(self, cloud: Cloud, upset: Upset = lambda _file, _event: None) -> None:
        self._cloud, self._upset = cloud, upset
        ((_, found),) = templates.of_type(
            cloud.template, "AWS::StepFunctions::StateMachine"
        ).items()
        text = "".join(
            part if isinstance(part, str) else self._name(part)
            for part in found["Properties"]["DefinitionString"]["Fn::Join"][1]
        )
        self.definition: dict[str, Any] = json.loads(text)
        self.runs = 0
        self.errors: list[Exception] = []

    def _name(self, reference: dict[str, Any]) -> str:
        """Return the file of a function, or the name of a bucket."""
        ((_, inner),) = reference.items()
        name = inner[0] if isinstance(inner, list) else inner
        return {"AWS::Partition": "aws"}.get(name) or self._cloud.names[name]

    def run(self, name: str = "") -> dict[str, Any]:
        """Run it to its end; returns its output. Raises ExecutionFailed."""
        self.runs += 1
        run = name or f"arn:execution:{self.runs}"
        try:
            return self._states(self.definition, {}, run)
        except ExecutionFailed:
            raise
        except Exception as error:
            raise ExecutionFailed("nothing catches it") from error

    def _states(self, machine: dict[str, Any], given: dict[str, Any], run: str) -> dict[str, Any]:
        current, value = machine["StartAt"], given
        for _ in range(LIMIT):
            state = machine["States"][current]
            kind = state["Type"]
            if kind == "Succeed":
                return value
            if kind == "Fail":
                raise ExecutionFailed(state["Error"]) from self.errors[-1]
            if kind == "Choice":
                current = _chosen(state, value)
                continue
            try:
                value = self._work(state, value, run)
            except Exception as error:
                self.errors.append(error)
                if "Catch" not in state:
                    raise
                current = state["Catch"][0]["Next"]
                continue
            if state.get("End"):
                return value
            current = state["Next"]
        raise AssertionError("it does not end")

    def _work(self, state: dict[str, Any], value: dict[str, Any], run: str) -> dict[str, Any]:
        if state["Type"] == "Task":
            return self._task(state, value, run)
        assert state["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED"
        where = state["ItemReader"]["Parameters"]
        prefix = where["Prefix.$"].removeprefix("States.Format('").partition("'")[0]
        prefix = prefix.replace("{}", value["release"])
        listed = self._cloud.s3.list_objects_v2(Bucket=where["Bucket"], Prefix=prefix)
        for one in listed.get("Contents", []):
            item = {"release": value["release"], "key": one["Key"]}
            try:
                self._states(state["ItemProcessor"], item, run)
            except Exception as error:  # noqa: BLE001 - as Step Functions does
                self.errors.append(error)
                assert state["ToleratedFailurePercentage"] == 100
        assert state["ResultPath"] is None
        return value

    def _task(self, state: dict[str, Any], value: dict[str, Any], run: str) -> dict[str, Any]:
        asked = state["Parameters"]
        event = {
            name.removesuffix(".$"): _path(text, value, run) if name.endswith(".$") else text
            for name, text in asked["Payload"].items()
        }
        tries = 1 + max(retry["MaxAttempts"] for retry in state["Retry"])
        never = {
            name
            for retry in state["Retry"]
            if not retry["MaxAttempts"]
            for name in retry["ErrorEquals"]
        }
        for left in reversed(range(tries)):
            try:
                self._upset(asked["FunctionName"], event)
                found = self._cloud.invoke(asked["FunctionName"], event)
            except Exception as error:
                if not left or type(error).__name__ in never:
                    raise
            else:
                return json.loads(json.dumps(found))  # type: ignore[no-any-return]
        raise AssertionError


def _path(text: str, value: dict[str, Any], run: str) -> Any:
    return run if text == "$$.Execution.Id" else value[text.removeprefix("$.")]


def _chosen(state: dict[str, Any], value: dict[str, Any]) -> str:
    for choice in state["Choices"]:
        found = value[choice["Variable"].removeprefix("$.")]
        (wanted,) = [choice[name] for name in ("StringEquals", "NumericEquals") if name in choice]
        if found == wanted:
            return str(choice["Next"])
    return str(state["Default"])

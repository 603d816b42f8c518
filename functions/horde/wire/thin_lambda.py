"""The thin client of Lambda: events that are handed to another function, which runs later."""

from typing import Any

from horde.wire.sockets import Request
from horde.wire.thin import ThinClient


class ThinLambda(ThinClient):
    """A client of Lambda."""

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Invoke a function by its name, which needs no escape in a path; raises AwsError."""
        if (operation, params["InvocationType"]) != ("Invoke", "Event"):
            raise NotImplementedError(operation)
        headers = {"x-amz-invocation-type": "Event"}
        path = f"/2015-03-31/functions/{params['FunctionName']}/invocations"
        self._tried(Request(self._origin, "POST", path, headers, params["Payload"]))
        return {}

"""What the thin client and botocore's have in common: how they are called, and their errors.

A client is called as botocore's are: ``client.get_item(TableName=..., Key=...)``. Each such method
is one ``call``. Clients of S3 also have ``generate_presigned_url`` and ``generate_presigned_post``.
"""

from collections.abc import Callable
from typing import Any


class AwsError(Exception):
    """AWS refused a call.

    ``code`` is its error code, such as ``NoSuchKey``; ``status`` the HTTP status. ``reasons`` are
    the codes of a cancelled transaction, one for each of its parts.
    """

    def __init__(
        self, code: str, message: str = "", *, status: int = 400, body: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status
        found = (body or {}).get("CancellationReasons") or ()
        self.reasons = tuple(str(reason.get("Code", "None")) for reason in found)


class NoAnswerError(AwsError):
    """AWS did not answer, after all tries; the call may have been made all the same."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__("NoAnswer", message, status=0)
        self.timed_out = timed_out


class Client:
    """A client of one service."""

    service: str

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make one call; raises AwsError."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        """Return the method of an operation: ``get_item`` calls ``GetItem``."""
        if name.startswith("_"):
            raise AttributeError(name)
        operation = "".join(map(str.capitalize, name.split("_")))

        def method(**params: Any) -> dict[str, Any]:
            return self.call(operation, params)

        setattr(self, name, method)
        return method

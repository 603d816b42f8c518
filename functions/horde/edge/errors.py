"""What is wrong with an HTTP request itself, before any rule has looked at it.

Refusals with a reason of the horde's own are in ``rules.refusals``; both are turned into
responses in ``edge.http``.
"""

from http import HTTPStatus
from typing import Any

from horde.rules.refusals import HordeError

MAX_BODY_MB = 6
"""Of a request's body: as much as a Lambda takes."""


class PayloadError(HordeError):
    """The body does not fit the schema: dotted paths, all errors at once, no ``rc``."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__("Input payload validation failed")
        self.errors = errors

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        return {"errors": self.errors, "message": self.message}


class MalformedBody(HordeError):
    """The body is not JSON at all."""

    def __init__(self) -> None:
        super().__init__(
            "The browser (or proxy) sent a request that this server could not understand."
        )

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        return {"message": self.message}


class UnsupportedMediaType(MalformedBody):
    """The body is announced as something other than JSON (or, for a form, than a form)."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE

    def __init__(self, what: str = "JSON", kind: str = "application/json") -> None:
        HordeError.__init__(
            self,
            f"Did not attempt to load {what} data because the request Content-Type was not "
            f"'{kind}'.",
        )


class BodyTooLarge(MalformedBody):
    """The body is larger than a Lambda takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self) -> None:
        HordeError.__init__(
            self, f"The request body is larger than this server takes ({MAX_BODY_MB} MB)."
        )


class NulByteInPayload(HordeError):
    """A NUL byte in a string that would be stored."""

    rc = "NulByteInPayload"

    def __init__(self) -> None:
        super().__init__("The payload contains a NUL byte, which is not allowed.")


class TooManyRequests(MalformedBody):
    """A rate limit is reached: the limit as message and no ``rc``, as the Horde answers."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, limit: str, headers: dict[str, str]) -> None:
        HordeError.__init__(self, limit)
        self.headers = headers


class MethodNotAllowed(MalformedBody):
    """The path exists, with other methods."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, allowed: str) -> None:
        HordeError.__init__(self, "The method is not allowed for the requested URL.")
        self.headers = {"Allow": allowed}


class RouteNotFound(HordeError):
    """No such route."""

    status, rc = HTTPStatus.NOT_FOUND, "NotFound"

    def __init__(self) -> None:
        super().__init__(
            "The requested URL was not found on the server. If you entered the URL manually "
            "please check your spelling and try again."
        )

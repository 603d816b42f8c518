"""Errors in the HTTP request itself, found before any rule is applied.

Refusals by the horde's rules are in ``rules.refusals``; ``edge.http`` turns both into responses.
"""

from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any

from horde.rules.refusals import HordeError

MAX_ERRORS = 50
"""Errors that an answer lists; the schema of the largest body has fewer fields."""
MAX_PATH, MAX_ERROR = 200, 500
"""Longest path and text of a listed error, in characters."""


class PayloadError(HordeError):
    """The body does not fit the schema: its errors by dotted path, and no ``rc``.

    The list is bounded: one item of a body costs a client two bytes, and its error hundreds.
    """

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("Input payload validation failed")
        self.errors = {
            path[:MAX_PATH]: text[:MAX_ERROR] for path, text in islice(errors.items(), MAX_ERRORS)
        }
        if len(errors) > MAX_ERRORS:
            self.errors["..."] = f"{len(errors) - MAX_ERRORS} more errors are not listed"

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        return {"errors": self.errors, "message": self.message}


class MalformedBody(HordeError):
    """The body is not valid JSON."""

    def __init__(self) -> None:
        super().__init__(
            "The browser (or proxy) sent a request that this server could not understand."
        )

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        return {"message": self.message}


class UnsupportedMediaType(MalformedBody):
    """The ``Content-Type`` is not JSON (for a form: not a form)."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE

    def __init__(self, what: str = "JSON", kind: str = "application/json") -> None:
        HordeError.__init__(
            self,
            f"Did not attempt to load {what} data because the request Content-Type was not "
            f"'{kind}'.",
        )


class BodyTooLarge(MalformedBody):
    """The body is larger than its route accepts."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int) -> None:
        HordeError.__init__(
            self, f"The request body is larger than this route accepts ({limit // 1000} KB)."
        )


class NulByteInPayload(HordeError):
    """The body contains a NUL byte, which must not be stored."""

    rc = "NulByteInPayload"

    def __init__(self) -> None:
        super().__init__("The payload contains a NUL byte, which is not allowed.")


class TooManyRequests(MalformedBody):
    """A rate limit is reached. As in the Horde, the message is the limit and there is no ``rc``."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, limit: str, headers: dict[str, str]) -> None:
        HordeError.__init__(self, limit)
        self.headers = headers


class MethodNotAllowed(MalformedBody):
    """The path exists, but not with this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, allowed: str) -> None:
        HordeError.__init__(self, "The method is not allowed for the requested URL.")
        self.headers = {"Allow": allowed}


class RouteNotFound(HordeError):
    """There is no such route."""

    status, rc = HTTPStatus.NOT_FOUND, "NotFound"

    def __init__(self) -> None:
        super().__init__(
            "The requested URL was not found on the server. If you entered the URL manually "
            "please check your spelling and try again."
        )

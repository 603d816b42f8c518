"""Why a request is refused: every refusal with its sentence, HTTP status and the Horde's ``rc``.

Raised by rules, store and handlers, and turned into a response once, in ``edge.http``. What is
wrong with the HTTP request itself is in ``edge.errors``. Codes and names follow the AI Horde's API
(horde-api.md 1.0 and 1.7).
"""

from http import HTTPStatus
from typing import Any, ClassVar


class HordeError(Exception):
    """A refusal the client can understand: ``{"message": str, "rc": str}``."""

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    rc: ClassVar[str] = "BadRequest"

    def __init__(self, message: str, *, rc: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers: dict[str, str] = {}
        self._rc = rc or type(self).rc

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        return {"message": self.message, "rc": self._rc}


class TooManyPrompts(HordeError):
    """An account has as many images waiting as it may."""

    status, rc = HTTPStatus.TOO_MANY_REQUESTS, "TooManyPrompts"


class Unsupported(HordeError):
    """Something the API knows that no endpoint here can draw yet."""

    rc = "UnsupportedModel"


class MissingPrompt(HordeError):
    """The prompt is empty."""

    rc = "MissingPrompt"

    def __init__(self) -> None:
        super().__init__("You cannot specify an empty prompt.")


class InvalidPromptSize(HordeError):
    """The prompt has too many words."""

    rc = "InvalidPromptSize"


class ImageValidationFailed(HordeError):
    """The source image cannot be used; ``rc`` says why."""

    rc = "ImageValidationFailed"


class RequiresTrust(HordeError):
    """Something reserved for trusted users."""

    rc = "RequiresTrust"


class InvalidAPIKey(HordeError):
    """No user or worker has this key."""

    status, rc = HTTPStatus.UNAUTHORIZED, "InvalidAPIKey"

    def __init__(self) -> None:
        super().__init__(
            "No user matching sent API Key. Have you remembered to register at /api/register?"
        )


class AestheticsError(HordeError):
    """Images that cannot be rated, or not so; ``rc`` says why."""

    rc = "InvalidAestheticAttempt"


class DeletedUser(HordeError):
    """The account was deleted by its owner."""

    status, rc = HTTPStatus.FORBIDDEN, "DeletedUser"

    def __init__(self) -> None:
        super().__init__("This account has been deleted.")


class NotModerator(HordeError):
    """Reserved for moderators."""

    status, rc = HTTPStatus.FORBIDDEN, "NotModerator"

    def __init__(self) -> None:
        super().__init__("Only moderators may do this.")


class NotAdmin(HordeError):
    """Reserved for those the operator named."""

    status, rc = HTTPStatus.FORBIDDEN, "NotAdmin"

    def __init__(self) -> None:
        super().__init__("Only admins may do this.")


class NotOwner(HordeError):
    """Reserved for the owner of the thing, and moderators."""

    status, rc = HTTPStatus.FORBIDDEN, "NotOwner"

    def __init__(self) -> None:
        super().__init__("You may only do this to what is yours.")


class KudosUpfront(HordeError):
    """A heavy request from an account that cannot pay for it."""

    status, rc = HTTPStatus.FORBIDDEN, "KudosUpfront"


class KudosTransferRefused(HordeError):
    """Kudos that cannot be moved so; ``rc`` says why."""

    rc = "KudosTransferNotEnough"


class NotAllowedAwards(HordeError):
    """Only the horde's first account gives awards."""

    status, rc = HTTPStatus.FORBIDDEN, "NotAllowedAwards"

    def __init__(self) -> None:
        super().__init__("This user is not allowed to award kudos.")


class NoUserModSelected(HordeError):
    """A change of an account that changes nothing."""

    rc = "NoUserModSelected"

    def __init__(self) -> None:
        super().__init__("Nothing to change was given.")


class AnonForbiddenUserMod(HordeError):
    """Nobody changes the anonymous account."""

    status, rc = HTTPStatus.FORBIDDEN, "AnonForbiddenUserMod"

    def __init__(self) -> None:
        super().__init__("The anonymous account cannot be changed.")


class TooLongUserName(HordeError):
    """A user name that is too long."""

    rc = "TooLongUserName"


class UserChangeRefused(HordeError):
    """A change of an account that cannot be made here."""


class SharedKeyEmpty(HordeError):
    """The shared key has nothing left to spend."""

    status, rc = HTTPStatus.FORBIDDEN, "SharedKeyEmpty"

    def __init__(self) -> None:
        super().__init__("This shared key has no kudos left to spend.")


class SharedKeyExpired(HordeError):
    """The shared key's time is over."""

    status, rc = HTTPStatus.FORBIDDEN, "SharedKeyExpired"

    def __init__(self) -> None:
        super().__init__("This shared key has expired.")


class SharedKeyInsufficientKudos(HordeError):
    """The request costs more than the shared key has left."""

    status, rc = HTTPStatus.FORBIDDEN, "SharedKeyInsufficientKudos"


class SharedKeyLimit(HordeError):
    """Larger, or with more steps, than the shared key allows."""


class SharedKeyNotFound(HordeError):
    """No such shared key."""

    status, rc = HTTPStatus.NOT_FOUND, "SharedKeyNotFound"

    def __init__(self) -> None:
        super().__init__("There is no such shared key.")


class NoSharedKeyModSelected(HordeError):
    """A change of a shared key that changes nothing."""

    rc = "NoSharedKeyModSelected"

    def __init__(self) -> None:
        super().__init__("Nothing to change was given.")


class TooManySharedKeys(HordeError):
    """An account has as many shared keys as it may."""

    status, rc = HTTPStatus.FORBIDDEN, "Forbidden"

    def __init__(self, most: int) -> None:
        super().__init__(f"You cannot have more than {most} shared keys.")


class AnonForbidden(HordeError):
    """Not for the anonymous account."""

    status, rc = HTTPStatus.FORBIDDEN, "AnonForbidden"

    def __init__(self) -> None:
        super().__init__("The anonymous account cannot do this. Please register first.")


class WrongCredentials(HordeError):
    """A worker submits what another one drew."""

    status, rc = HTTPStatus.FORBIDDEN, "WrongCredentials"


class WorkerMaintenance(HordeError):
    """The worker is in maintenance, paused, or its owner is flagged; it gets nothing to draw."""

    status, rc = HTTPStatus.FORBIDDEN, "WorkerMaintenance"

    def __init__(self, reason: str, *, rc: str | None = None) -> None:
        # horde-worker-reGen looks for "maintenance mode".
        super().__init__(f"This worker has been put into maintenance mode. Reason: {reason}", rc=rc)


class PolymorphicNameConflict(HordeError):
    """A worker of this name exists already."""

    rc = "PolymorphicNameConflict"

    def __init__(self, name: str) -> None:
        super().__init__(f"The worker name '{name}' is already taken. Please choose another.")


class InvalidPriorityUsername(HordeError):
    """A name to be served first is not of the form alias#id."""

    rc = "InvalidPriorityUsername"


class NothingToChange(HordeError):
    """A change that changes nothing; ``rc`` says of what."""


class AnonForbiddenWorker(HordeError):
    """Workers need a worker key."""

    status, rc = HTTPStatus.FORBIDDEN, "AnonForbiddenWorker"

    def __init__(self) -> None:
        super().__init__("Anonymous users cannot run workers; ask the operator for a worker key.")


class NotPrivileged(HordeError):
    """The key is valid, but it is not a worker key."""

    status, rc = HTTPStatus.FORBIDDEN, "NotPrivileged"


class RequestNotFound(HordeError):
    """No such request, or it has expired."""

    status, rc = HTTPStatus.NOT_FOUND, "RequestNotFound"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"Image Waiting Prompt with ID '{request_id}' not found.")


class UserNotFound(HordeError):
    """No such user."""

    status, rc = HTTPStatus.NOT_FOUND, "UserNotFound"


class WorkerNotFound(HordeError):
    """No such worker."""

    status, rc = HTTPStatus.NOT_FOUND, "WorkerNotFound"

    def __init__(self, key: str, *, by: str = "ID") -> None:
        super().__init__(f"Worker with {by} '{key[:100]}' not found.")


class StyleNotFound(HordeError):
    """No such style."""

    status, rc = HTTPStatus.NOT_FOUND, "StyleNotFound"


class InvalidJobID(HordeError):
    """No such generation, or its request has expired."""

    status, rc = HTTPStatus.NOT_FOUND, "InvalidJobID"

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"Processing Job with ID {generation_id} does not exist.")


class DuplicateGen(HordeError):
    """The generation was submitted before; exactly one submit wins."""

    rc = "DuplicateGen"

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"Processing Job with ID {generation_id} already submitted.")


class AbortedGen(HordeError):
    """The lease ran out, or the job was given to another worker."""

    rc = "AbortedGen"

    def __init__(self, generation_id: str) -> None:
        super().__init__(
            f"Processing Job with ID {generation_id} took too long to process and has been "
            "aborted! Please check your worker speed and do not onload models between jobs!"
        )


class NotUploaded(HordeError):
    """A submit with ``generation: R2`` before the image was uploaded."""

    def __init__(self, generation_id: str) -> None:
        super().__init__(
            f"The image of job {generation_id} is not in the bucket as a WebP file. Upload it to "
            "r2_upload and submit again."
        )


class MaintenanceMode(HordeError):
    """The operator takes no new requests for now; what waits is still drawn."""

    status, rc = HTTPStatus.SERVICE_UNAVAILABLE, "MaintenanceMode"

    def __init__(self) -> None:
        super().__init__(
            "This horde is in maintenance mode and takes no new requests; nothing was charged. "
            "Please try again later."
        )
        self.headers = {"Retry-After": "60"}


class Busy(HordeError):
    """Our own store refused to take the write in time; the client should try again."""

    status, rc = HTTPStatus.SERVICE_UNAVAILABLE, "Locked"

    def __init__(self) -> None:
        super().__init__("The server is busy with this account; nothing was changed. Try again.")

"""The refusals: each with its message, HTTP status and the Horde's ``rc``.

Rules, store and handlers raise them, and ``edge.http`` turns them into responses. Errors in the
HTTP request itself are in ``edge.errors``. Names and codes are the AI Horde's (horde-api.md 1.0 and
1.7).
"""

from http import HTTPStatus
from typing import Any, ClassVar


class HordeError(Exception):
    """A refusal that the client gets as ``{"message": str, "rc": str}``."""

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
    """The account has as many images waiting as it may have."""

    status, rc = HTTPStatus.TOO_MANY_REQUESTS, "TooManyPrompts"


class Unsupported(HordeError):
    """The API knows this feature, but no endpoint here can draw it yet."""

    rc = "UnsupportedModel"


class MissingPrompt(HordeError):
    """The prompt is empty."""

    rc = "MissingPrompt"

    def __init__(self) -> None:
        super().__init__("You cannot specify an empty prompt.")


class InvalidPromptSize(HordeError):
    """The prompt is too long."""

    rc = "InvalidPromptSize"


class ImageValidationFailed(HordeError):
    """The source image cannot be used; ``rc`` says why."""

    rc = "ImageValidationFailed"


class RequiresTrust(HordeError):
    """Only trusted users may do this."""

    rc = "RequiresTrust"


class InvalidAPIKey(HordeError):
    """No user has this API key."""

    status, rc = HTTPStatus.UNAUTHORIZED, "InvalidAPIKey"

    def __init__(self) -> None:
        super().__init__(
            "No user matching sent API Key. Have you remembered to register at /api/register?"
        )


class AestheticsError(HordeError):
    """The images cannot be rated, or not like this; ``rc`` says why."""

    rc = "InvalidAestheticAttempt"


class DeletedUser(HordeError):
    """The account has been deleted."""

    status, rc = HTTPStatus.FORBIDDEN, "DeletedUser"

    def __init__(self) -> None:
        super().__init__("This account has been deleted.")


class NothingToRate(HordeError):
    """There is no image that the caller may rate."""

    status, rc = HTTPStatus.NOT_FOUND, "NothingToRate"

    def __init__(self) -> None:
        super().__init__("There is no image for you to rate right now. Please come back later.")


class UnknownDataset(HordeError):
    """There is no such data set."""

    status, rc = HTTPStatus.NOT_FOUND, "UnknownDataset"

    def __init__(self) -> None:
        super().__init__("There is no such data set. GET /api/v1/datasets lists them.")


class ImageNotFound(HordeError):
    """There is no such image among those that are rated."""

    status, rc = HTTPStatus.NOT_FOUND, "ImageNotFound"

    def __init__(self) -> None:
        super().__init__("There is no such image among those that can be rated.")


class RatingRefused(HordeError):
    """The rating is not taken; ``rc`` says why."""

    rc = "RatingRefused"


class NotRatedYet(HordeError):
    """An image's ratings are shown to moderators, and to who has rated it."""

    status, rc = HTTPStatus.FORBIDDEN, "NotRatedYet"

    def __init__(self) -> None:
        super().__init__("You see the ratings of an image after you have rated it yourself.")


class NotModerator(HordeError):
    """Only moderators may do this."""

    status, rc = HTTPStatus.FORBIDDEN, "NotModerator"

    def __init__(self) -> None:
        super().__init__("Only moderators may do this.")


class NotAdmin(HordeError):
    """Only admins, whom the operator names, may do this."""

    status, rc = HTTPStatus.FORBIDDEN, "NotAdmin"

    def __init__(self) -> None:
        super().__init__("Only admins may do this.")


class NotOwner(HordeError):
    """Only the owner may do this; for accounts and workers, moderators may too."""

    status, rc = HTTPStatus.FORBIDDEN, "NotOwner"

    def __init__(self) -> None:
        super().__init__("Only the owner may do this.")


class KudosUpfront(HordeError):
    """The request needs its kudos upfront, and the account does not have them."""

    status, rc = HTTPStatus.FORBIDDEN, "KudosUpfront"


class KudosTransferRefused(HordeError):
    """The kudos cannot be transferred or awarded; ``rc`` says why."""

    rc = "KudosTransferNotEnough"


class NotAllowedAwards(HordeError):
    """Only admins, whom the operator names, may award kudos."""

    status, rc = HTTPStatus.FORBIDDEN, "NotAllowedAwards"

    def __init__(self) -> None:
        super().__init__("This user is not allowed to award kudos.")


class NoUserModSelected(HordeError):
    """The call changes nothing of the account."""

    rc = "NoUserModSelected"

    def __init__(self) -> None:
        super().__init__("No change to the account was specified.")


class AnonForbiddenUserMod(HordeError):
    """The anonymous account cannot be changed."""

    status, rc = HTTPStatus.FORBIDDEN, "AnonForbiddenUserMod"

    def __init__(self) -> None:
        super().__init__("The anonymous account cannot be changed.")


class TooLongUserName(HordeError):
    """The user name is too long."""

    rc = "TooLongUserName"


class UserChangeRefused(HordeError):
    """The horde does not support this change of an account."""


class SharedKeyEmpty(HordeError):
    """The shared key has no kudos left to spend."""

    status, rc = HTTPStatus.FORBIDDEN, "SharedKeyEmpty"

    def __init__(self) -> None:
        super().__init__("This shared key has no kudos left to spend.")


class SharedKeyExpired(HordeError):
    """The shared key has expired."""

    status, rc = HTTPStatus.FORBIDDEN, "SharedKeyExpired"

    def __init__(self) -> None:
        super().__init__("This shared key has expired.")


class SharedKeyInsufficientKudos(HordeError):
    """The request costs more than the shared key has left."""

    status, rc = HTTPStatus.FORBIDDEN, "SharedKeyInsufficientKudos"


class SharedKeyLimit(HordeError):
    """The images are larger, or have more steps, than the shared key allows."""


class SharedKeyNotFound(HordeError):
    """There is no such shared key."""

    status, rc = HTTPStatus.NOT_FOUND, "SharedKeyNotFound"

    def __init__(self) -> None:
        super().__init__("There is no such shared key.")


class NoSharedKeyModSelected(HordeError):
    """The call changes nothing of the shared key."""

    rc = "NoSharedKeyModSelected"

    def __init__(self) -> None:
        super().__init__("No change to the shared key was specified.")


class TooManySharedKeys(HordeError):
    """The account has as many shared keys as it may have."""

    status, rc = HTTPStatus.FORBIDDEN, "Forbidden"

    def __init__(self, limit: int) -> None:
        super().__init__(f"You cannot have more than {limit} shared keys.")


class AnonForbidden(HordeError):
    """The anonymous account cannot do this."""

    status, rc = HTTPStatus.FORBIDDEN, "AnonForbidden"

    def __init__(self) -> None:
        super().__init__("The anonymous account cannot do this. Please register first.")


class KeyNotFound(HordeError):
    """The account has no such API key."""

    status, rc = HTTPStatus.NOT_FOUND, "KeyNotFound"

    def __init__(self) -> None:
        super().__init__("You have no such API key.")


class LastAccountKey(HordeError):
    """The last account key of an account cannot be revoked, only rotated."""

    status, rc = HTTPStatus.FORBIDDEN, "LastAccountKey"

    def __init__(self) -> None:
        super().__init__(
            "This is the last key of the account, and without one there is no way into it. Rotate "
            "it instead, or add another one first."
        )


class TooManyKeys(HordeError):
    """The account has as many account keys as it may have."""

    status, rc = HTTPStatus.FORBIDDEN, "TooManyKeys"

    def __init__(self, limit: int) -> None:
        super().__init__(f"You cannot have more than {limit} account keys.")


class WrongCredentials(HordeError):
    """The image was claimed by a worker of another user."""

    status, rc = HTTPStatus.FORBIDDEN, "WrongCredentials"


class WorkerMaintenance(HordeError):
    """The worker gets no images: it is in maintenance or paused, or its owner is flagged."""

    status, rc = HTTPStatus.FORBIDDEN, "WorkerMaintenance"

    def __init__(self, reason: str, *, rc: str | None = None) -> None:
        # horde-worker-reGen searches the message for "maintenance mode".
        super().__init__(f"This worker has been put into maintenance mode. Reason: {reason}", rc=rc)


class TooManyWorkers(HordeError):
    """The account has as many workers as it may have."""

    status, rc = HTTPStatus.FORBIDDEN, "TooManyWorkers"


class WorkerHoldsImages(HordeError):
    """The worker holds images, so it cannot be deleted yet."""

    status, rc = HTTPStatus.CONFLICT, "WorkerHoldsImages"

    def __init__(self) -> None:
        super().__init__(
            "This worker still has images to draw, so it cannot be deleted. Please put it into "
            "maintenance, and delete it when it has submitted them or their leases have ended."
        )


class PolymorphicNameConflict(HordeError):
    """The worker name is already taken."""

    rc = "PolymorphicNameConflict"

    def __init__(self, name: str) -> None:
        super().__init__(f"The worker name '{name}' is already taken. Please choose another.")


class InvalidPriorityUsername(HordeError):
    """A priority username does not have the form alias#id."""

    rc = "InvalidPriorityUsername"


class NothingToChange(HordeError):
    """The call changes nothing; ``rc`` names what it would change."""


class AnonForbiddenWorker(HordeError):
    """The anonymous account cannot run workers."""

    status, rc = HTTPStatus.FORBIDDEN, "AnonForbiddenWorker"

    def __init__(self) -> None:
        super().__init__("Anonymous users cannot run workers; ask the operator for a worker key.")


class NotPrivileged(HordeError):
    """A worker key pops and submits, and nothing else; only a worker key does."""

    status, rc = HTTPStatus.FORBIDDEN, "NotPrivileged"


class RequestNotFound(HordeError):
    """There is no such request, or it has expired."""

    status, rc = HTTPStatus.NOT_FOUND, "RequestNotFound"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"Image Waiting Prompt with ID '{request_id}' not found.")


class SharedImageNotFound(HordeError):
    """There is no such image, it is not shared, or it is not the caller's."""

    status, rc = HTTPStatus.NOT_FOUND, "SharedImageNotFound"

    def __init__(self) -> None:
        super().__init__("You have shared no image with this id.")


class UserNotFound(HordeError):
    """There is no such user."""

    status, rc = HTTPStatus.NOT_FOUND, "UserNotFound"


class WorkerNotFound(HordeError):
    """There is no such worker."""

    status, rc = HTTPStatus.NOT_FOUND, "WorkerNotFound"

    def __init__(self, key: str, *, by: str = "ID") -> None:
        super().__init__(f"Worker with {by} '{key[:100]}' not found.")


class StyleNotFound(HordeError):
    """There is no such style."""

    status, rc = HTTPStatus.NOT_FOUND, "StyleNotFound"


class StyleRefused(HordeError):
    """The style, or its example, cannot be made or changed; ``rc`` says why."""

    rc = "StyleRefused"


class InvalidJobID(HordeError):
    """There is no such generation, or its request has expired."""

    status, rc = HTTPStatus.NOT_FOUND, "InvalidJobID"

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"Processing Job with ID {generation_id} does not exist.")


class DuplicateGen(HordeError):
    """The image has already been submitted; exactly one submit succeeds."""

    rc = "DuplicateGen"

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"Processing Job with ID {generation_id} already submitted.")


class AbortedGen(HordeError):
    """The lease has expired, and the image may be with another worker."""

    rc = "AbortedGen"

    def __init__(self, generation_id: str) -> None:
        super().__init__(
            f"Processing Job with ID {generation_id} took too long to process and has been "
            "aborted! Please check your worker speed and do not onload models between jobs!"
        )


class ImageRefused(HordeError):
    """The submitted image is not the one that was asked for; the job counts as faulted."""

    rc = "ImageRefused"

    def __init__(self, reason: str) -> None:
        # horde-worker-reGen searches the message for the texts of other refusals: none is in it.
        super().__init__(
            f"The submitted image was refused: {reason}. The job counts as faulted and goes back "
            "to the queue."
        )


class NotUploaded(HordeError):
    """The submitted image is not in the bucket."""

    def __init__(self, generation_id: str) -> None:
        super().__init__(
            f"The image of job {generation_id} was not uploaded. Upload it as a WebP file to "
            "r2_upload and submit again."
        )


class MaintenanceMode(HordeError):
    """The horde accepts no new requests for now; waiting images are still drawn."""

    status, rc = HTTPStatus.SERVICE_UNAVAILABLE, "MaintenanceMode"

    def __init__(self) -> None:
        super().__init__(
            "This horde is in maintenance mode and accepts no new requests. Nothing was charged. "
            "Please try again later."
        )
        self.headers = {"Retry-After": "60"}


class Busy(HordeError):
    """The table did not accept the write in time; the client should try again."""

    status, rc = HTTPStatus.SERVICE_UNAVAILABLE, "Locked"

    def __init__(self) -> None:
        super().__init__("The server is too busy. Nothing was changed. Please try again.")


class Throttled(Busy):
    """AWS refused the horde a call because too many came at once; the client should try again."""

    rc = "Throttled"

    def __init__(self) -> None:
        HordeError.__init__(
            self,
            "This horde is asked for more than it can answer right now. Please try again in a few "
            "seconds.",
        )
        self.headers = {"Retry-After": "2"}

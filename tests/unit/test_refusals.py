"""A refusal says in its text, too, what its answer says."""

import inspect

import pytest

from horde.rules import refusals

CODES = {
    "AbortedGen": (400, "AbortedGen"),
    "AestheticsError": (400, "InvalidAestheticAttempt"),
    "AnonForbidden": (403, "AnonForbidden"),
    "AnonForbiddenUserMod": (403, "AnonForbiddenUserMod"),
    "AnonForbiddenWorker": (403, "AnonForbiddenWorker"),
    "Busy": (503, "Locked"),
    "DeletedUser": (403, "DeletedUser"),
    "DuplicateGen": (400, "DuplicateGen"),
    "ImageNotFound": (404, "ImageNotFound"),
    "ImageRefused": (400, "ImageRefused"),
    "ImageValidationFailed": (400, "ImageValidationFailed"),
    "InvalidAPIKey": (401, "InvalidAPIKey"),
    "InvalidJobID": (404, "InvalidJobID"),
    "InvalidPriorityUsername": (400, "InvalidPriorityUsername"),
    "InvalidPromptSize": (400, "InvalidPromptSize"),
    "KeyNotFound": (404, "KeyNotFound"),
    "KudosTransferRefused": (400, "KudosTransferNotEnough"),
    "KudosUpfront": (403, "KudosUpfront"),
    "LastAccountKey": (403, "LastAccountKey"),
    "MaintenanceMode": (503, "MaintenanceMode"),
    "MissingPrompt": (400, "MissingPrompt"),
    "NoSharedKeyModSelected": (400, "NoSharedKeyModSelected"),
    "NoUserModSelected": (400, "NoUserModSelected"),
    "NotAdmin": (403, "NotAdmin"),
    "NotAllowedAwards": (403, "NotAllowedAwards"),
    "NotModerator": (403, "NotModerator"),
    "NotOwner": (403, "NotOwner"),
    "NotPrivileged": (403, "NotPrivileged"),
    "NotRatedYet": (403, "NotRatedYet"),
    "NotUploaded": (400, "BadRequest"),
    "NothingToChange": (400, "BadRequest"),
    "NothingToRate": (404, "NothingToRate"),
    "PolymorphicNameConflict": (400, "PolymorphicNameConflict"),
    "RatingRefused": (400, "RatingRefused"),
    "RequestNotFound": (404, "RequestNotFound"),
    "RequiresTrust": (400, "RequiresTrust"),
    "SharedImageNotFound": (404, "SharedImageNotFound"),
    "SharedKeyEmpty": (403, "SharedKeyEmpty"),
    "SharedKeyExpired": (403, "SharedKeyExpired"),
    "SharedKeyInsufficientKudos": (403, "SharedKeyInsufficientKudos"),
    "SharedKeyLimit": (400, "BadRequest"),
    "SharedKeyNotFound": (404, "SharedKeyNotFound"),
    "StyleNotFound": (404, "StyleNotFound"),
    "StyleRefused": (400, "StyleRefused"),
    "Throttled": (503, "Throttled"),
    "TooLongUserName": (400, "TooLongUserName"),
    "TooManyKeys": (403, "TooManyKeys"),
    "TooManyPrompts": (429, "TooManyPrompts"),
    "TooManySharedKeys": (403, "Forbidden"),
    "TooManyWorkers": (403, "TooManyWorkers"),
    "UnknownDataset": (404, "UnknownDataset"),
    "Unsupported": (400, "UnsupportedModel"),
    "UserChangeRefused": (400, "BadRequest"),
    "UserNotFound": (404, "UserNotFound"),
    "WorkerHoldsImages": (409, "WorkerHoldsImages"),
    "WorkerMaintenance": (403, "WorkerMaintenance"),
    "WorkerNotFound": (404, "WorkerNotFound"),
    "WrongCredentials": (403, "WrongCredentials"),
}
"""The status and the code of each refusal, unless it is raised with a closer one."""


@pytest.mark.parametrize("name", CODES)
def test_a_refusal_has_the_status_and_the_code_that_clients_know(name: str) -> None:
    kind = getattr(refusals, name)
    assert (kind.status, kind.rc) == CODES[name]


def test_every_refusal_is_in_that_list() -> None:
    kinds = [kind for _, kind in inspect.getmembers(refusals, inspect.isclass)]
    base = refusals.HordeError
    assert {k.__name__ for k in kinds if issubclass(k, base) and k is not base} == set(CODES)


def test_a_refusal_reads_as_its_message() -> None:
    error = refusals.RequestNotFound("r")
    assert str(error) == error.message == "Image Waiting Prompt with ID 'r' not found."
    assert error.body() == {"message": error.message, "rc": "RequestNotFound"}


def test_a_worker_is_not_found_by_its_id_unless_said_otherwise() -> None:
    assert refusals.WorkerNotFound("w").message == "Worker with ID 'w' not found."
    assert refusals.WorkerNotFound("w", by="name").message == "Worker with name 'w' not found."

"""A refusal says in its text, too, what its answer says."""

from horde.rules import refusals


def test_a_refusal_reads_as_its_message() -> None:
    error = refusals.RequestNotFound("r")
    assert str(error) == error.message == "Image Waiting Prompt with ID 'r' not found."
    assert error.body() == {"message": error.message, "rc": "RequestNotFound"}


def test_a_worker_is_not_found_by_its_id_unless_said_otherwise() -> None:
    assert refusals.WorkerNotFound("w").message == "Worker with ID 'w' not found."
    assert refusals.WorkerNotFound("w", by="name").message == "Worker with name 'w' not found."

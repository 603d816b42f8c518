"""Whether an image goes into the open data set, and why. Pure; the rules table of design.md."""

from dataclasses import dataclass
from enum import StrEnum

from horde.model import Generation, Request, State

LICENSE = "CC0-1.0"
TERMS_VERSION = "2026-11"
"""Of ``horde/documents``; goes with every shared image."""


class Reason(StrEnum):
    """Why an image is shared or not."""

    REQUESTED = "requested"
    NOT_REQUESTED = "not requested"
    ANONYMOUS = "anonymous text-to-image is always shared"
    SOURCE_IMAGE = "image-to-image is never shared"


MESSAGES = {
    Reason.ANONYMOUS: (
        "Anonymous text-to-image is always shared with LAION as an open data set (CC0). "
        "Register at /api/register to decide for yourself."
    ),
    Reason.SOURCE_IMAGE: (
        "This request will not be shared: images made from a source image never are. "
        "It pays the tax of an unshared image."
    ),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, its reason, and what to tell the client if its flag was overruled."""

    shared: bool
    reason: Reason
    message: str | None


MAYBE = frozenset({State.WAITING, State.PROCESSING, State.OK})


def reaches_data_set(request: Request, generations: list[Generation]) -> bool:
    """Say whether any of these images of a request is in the data set, or still may be.

    A censored image is not shared, nor one that was cancelled, expired or faulted.
    """
    return request.shared and any(generation.state in MAYBE for generation in generations)


def decide(*, flag: bool, anonymous: bool, uses_images: bool) -> Decision:
    """Decide for one request.

    ``flag`` is the literal ``shared`` of the body; ``uses_images`` says that any source image,
    mask, extra source image or control image came with it (``source_processing`` alone does not
    count: clients send it on plain text-to-image).
    """
    if uses_images:
        shared, reason = False, Reason.SOURCE_IMAGE
    elif anonymous:
        shared, reason = True, Reason.ANONYMOUS
    else:
        shared, reason = flag, Reason.REQUESTED if flag else Reason.NOT_REQUESTED
    message = MESSAGES[reason] if shared is not flag else None
    return Decision(shared, reason, message)

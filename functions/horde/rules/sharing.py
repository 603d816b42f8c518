"""Which requests are shared and why, and which of their images reach the open data set.

Anonymous text-to-image is always shared. An account's is shared if the request says so. Images made
from a source image are never shared.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from horde.records import Generation, Request, Shared, State, User
from horde.rules.columns import AT_INTAKE, checked
from horde.rules.dates import DAY_S, day
from horde.rules.features import delivered_size
from horde.rules.hashes import Purpose, keyed

LICENSE = "CC0-1.0"
ACCEPTED = "accepted"
"""The verdict on an image that passed the gate (``images.checked``)."""
TERMS_VERSION = "2026-12.3"
"""The version of ``edge/documents``, recorded with every shared image."""


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
        "This request will not be shared, since images made from a source image never are. "
        "It pays the tax of an unshared image."
    ),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request is shared, why, and the message if its flag was overruled."""

    shared: bool
    reason: Reason
    message: str | None


MAY_BE_SHARED = frozenset({State.WAITING, State.PROCESSING, State.OK})


def reaches_data_set(request: Request, generations: list[Generation]) -> bool:
    """Return whether any of these images of a request is in the data set or may still get there.

    Censored, cancelled, expired and faulted images are not shared, nor those of a request that was
    withdrawn.
    """
    if not request.shared or request.withdrawn_at is not None:
        return False
    return any(generation.state in MAY_BE_SHARED for generation in generations)


def decide(*, flag: bool, anonymous: bool, uses_images: bool) -> Decision:
    """Decide whether a request is shared.

    ``flag`` is ``shared`` in the body, as sent. ``uses_images`` says whether the request has a
    source image, mask or extra source image. ``source_processing`` alone does not count, since
    clients send it with plain text-to-image (horde-clients.md 1.2).
    """
    if uses_images:
        shared, reason = False, Reason.SOURCE_IMAGE
    elif anonymous:
        shared, reason = True, Reason.ANONYMOUS
    else:
        shared, reason = flag, Reason.REQUESTED if flag else Reason.NOT_REQUESTED
    message = MESSAGES[reason] if shared is not flag else None
    return Decision(shared, reason, message)


class Verdict(StrEnum):
    """What to do with a delivered file."""

    SHARE = "share"
    HOLD = "hold"
    """Keep it until its worker's owner is trusted."""
    LATER = "later"
    NEVER = "never"


def shareable(request: Request, state: State) -> bool:
    """Return whether an image that is delivered in this state may reach the data set."""
    return request.shared and state is State.OK


class Removal(StrEnum):
    """For whom an image was taken out of the data set, as its tombstone says."""

    OWNER = "owner"
    ACCOUNT = "account"
    """Its author's account was deleted."""
    OPERATOR = "operator"
    SAFETY = "safety"
    """It was marked as CSAM, or looked at and destroyed."""


PROMISED_S = 3 * DAY_S
"""Seconds from a withdrawal to a release without the image, as the terms promise."""
SLACK_MS = 60_000
"""A withdrawal of all images has a time; what was copied so long after it may be older than that:
two processes have two clocks, and its write takes a moment."""


def withdrawn_with_all(shared: Shared, before: int) -> bool:
    """Return whether an image in the data set is among all that its author withdrew at a time.

    ``before`` is in ms. An image that was copied later, but requested before, is no question here:
    ``forbidden`` kept it out.
    """
    return (shared.shared_at or 0) <= before + SLACK_MS


class DrawnBy(StrEnum):
    """Who drew a shared image, as its row says."""

    ENDPOINT = "endpoint"
    """One of the operator's own endpoints."""
    TRUSTED = "trusted volunteer"
    UNTRUSTED = "untrusted volunteer"


TRUSTED_AFTER_S = 7 * DAY_S
"""Age of an account before it can earn trust by drawing (horde-api.md 3.3)."""


def drawn_by(owner: User | None) -> DrawnBy:
    """Return who drew an image, by its worker's owner; None is an account that is gone."""
    if owner is None:
        return DrawnBy.UNTRUSTED
    if owner.fleet:
        return DrawnBy.ENDPOINT
    return DrawnBy.TRUSTED if owner.trusted else DrawnBy.UNTRUSTED


def earns_trust(owner: User, *, images: int | None, now: int) -> bool:
    """Return whether an account becomes trusted for what its workers drew.

    ``images`` is how many it takes, or None if only the operator's word counts. As in the Horde
    (horde-api.md 3.3), the account must be a week old and in good standing. ``now`` is in seconds.
    """
    if images is None or owner.deleted or owner.flagged:
        return False
    return owner.fulfilled >= images and owner.created_at + TRUSTED_AFTER_S <= now


@dataclass(frozen=True, slots=True)
class Context:
    """What decides on the publication of an image, beside its own record; None is gone."""

    request: Request | None
    author: User | None
    """Who requested it."""
    owner: User | None
    """Who owns the worker that drew it."""
    shared: Shared | None
    """Its record in the data set."""
    agent: str = ""
    """What drew it, as its worker says: ``name:version:url``."""
    requested_at: int | None = None
    """When it was requested, in ms, if its request is gone and somebody else knows."""
    request_withdrawn: bool = False
    """Whether its request was withdrawn when it was gone already."""


def forbidden(context: Context) -> bool:
    """Return whether an image may not be in the data set, whatever its own record says.

    Its request was marked as CSAM or withdrawn, its author's account is deleted or withdrew all
    that it had requested by then, or its worker's owner is flagged. A request is gone two days
    after it has ended; its marks were acted on by then. When an image was requested whose request
    is gone may be unknown: then it is taken for withdrawn.
    """
    request, author, owner = context.request, context.author, context.owner
    if author is None or author.deleted or owner is None or owner.flagged:
        return True
    if request is not None and (request.csam or request.withdrawn_at is not None):
        return True
    if context.request_withdrawn:
        return True
    at = request.created_at if request is not None else context.requested_at
    before = author.withdrawn_before
    return before is not None and (at is None or at <= before)


def removal(context: Context) -> Removal:
    """Return for whom a forbidden image is withdrawn, as its tombstone says."""
    request, author, owner = context.request, context.author, context.owner
    if request is not None and request.csam:
        return Removal.SAFETY
    if author is None or author.deleted:
        return Removal.ACCOUNT
    return Removal.OPERATOR if owner is None or owner.flagged else Removal.OWNER


def judge_context(context: Context, *, hold: bool) -> Verdict:
    """Decide whether an image is published, held or dropped, by its request and who is behind it.

    ``hold`` says whether images of untrusted volunteers are held back.
    """
    if forbidden(context):
        return Verdict.NEVER
    untrusted = drawn_by(context.owner) is DrawnBy.UNTRUSTED
    return Verdict.HOLD if hold and untrusted else Verdict.SHARE


def judge(request: Request | None, generation: Generation | None, sha256: str) -> Verdict:
    """Decide whether a file is what was delivered, and for sharing: now, later or never.

    ``sha256`` is the file's. Of two submits that race, each stores its file, and the settlement
    names the one that was delivered. What has no verdict is not published. ``forbidden`` says what
    may not be published all the same: a file that was written before that was known is deleted.
    """
    if request is None or generation is None or not request.shared:
        return Verdict.NEVER
    if generation.state is State.PROCESSING:
        return Verdict.LATER
    if not shareable(request, generation.state) or generation.screened != ACCEPTED:
        return Verdict.NEVER
    return Verdict.SHARE if sha256 == generation.sha256 else Verdict.NEVER


def created_on(request: Request, generation: Generation) -> str:
    """Return the day, in UTC, on which an image was delivered."""
    return day(generation.settled_at or request.created_at)


class Weights(NamedTuple):
    """What the operator says of a model's weights; empty is unknown."""

    sha256: str = ""
    license: str = ""


BACKENDS = frozenset(
    {
        "Horde Commons gpu_worker",
        "AI Horde Worker",
        "AI Horde Worker reGen",
        "SD-WebUI Stable Horde Worker Bridge",
    }
)
"""Names of workers that are told. Any other text could name a person."""
VERSION = re.compile(r"v?\d{1,4}(\.\d{1,4}){0,3}")


def backend(agent: str) -> tuple[str, str]:
    """Return the name and version of the software that drew an image, as its worker says it."""
    name, version, *_ = [*agent.split(":"), ""]
    if name not in BACKENDS:
        return "other", ""
    return name, version if VERSION.fullmatch(version) else ""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What is known of an image file; hashes are in hexadecimal, ``size`` is in bytes."""

    sha256: str
    md5: str
    phash: str
    """The ``dhash`` of its picture."""
    size: int


def row(
    request: Request,
    generation: Generation,
    *,
    drawn: DrawnBy,
    agent: str,
    weights: Weights,
    file: ImageFile,
    secret: bytes,
) -> dict[str, Any]:
    """Return what is known of a shared image at its delivery (``columns.AT_INTAKE``).

    Nothing in it identifies a person: no user, key, address, client or worker. A request's id lets
    anybody cancel and rate it, so ``set`` is its hash under ``secret``: images of one request have
    the same. So is ``user_hash`` of an account, with a new one each year. The time of delivery
    beside the public statistics names authors, so only its day is told. Raises columns.RowError.
    """
    payload = request.payload
    prompt, _, negative = payload["prompt"].partition("###")
    width, height = delivered_size(payload)
    seed = generation.drawn_seed if generation.drawn_seed is not None else generation.seed
    anonymous_default = request.share_reason == Reason.ANONYMOUS
    name, version = backend(agent)
    author = f"{created_on(request, generation)[:4]} {request.user_id}"
    found = {
        "id": generation.id,
        "set": keyed(secret, Purpose.REQUEST, request.id),
        "batch_index": generation.index,
        "created_on": created_on(request, generation),
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        "seed": _int64(seed),
        "steps": payload["ddim_steps"],
        "cfg_scale": float(payload["cfg_scale"]),
        "sampler": payload["sampler_name"],
        "karras": payload["karras"],
        "clip_skip": payload["clip_skip"],
        "hires_fix": payload["hires_fix"],
        "tiling": payload["tiling"],
        "width": width,
        "height": height,
        "model": generation.model,
        "model_sha256": weights.sha256,
        "model_license": weights.license,
        "backend": name,
        "backend_version": version,
        "post_processing": ", ".join(payload.get("post_processing") or ()),
        "loras": ", ".join(
            f"{one['name']}:{one['model']:g}:{one['clip']:g}" for one in payload.get("loras") or ()
        ),
        "tis": ", ".join(f"{one['name']}:{one['strength']:g}" for one in payload.get("tis") or ()),
        "drawn_by": drawn,
        "user_hash": "" if request.anonymous else keyed(secret, Purpose.AUTHOR, author),
        "user_type": "anon" if request.anonymous else "pseudonymous",
        "consent": "anonymous-default" if anonymous_default else "request-flag",
        "terms_version": TERMS_VERSION,
        "license": LICENSE,
        "nsfw_requested": request.nsfw,
        "censored": False,
        "sha256": file.sha256,
        "md5": file.md5,
        "phash": file.phash,
        "bytes": file.size,
        "format": "webp",
        "file_name": f"{generation.id}.webp",
    }
    return checked(found, AT_INTAKE)


def _int64(seed: int) -> int:
    """Return a seed as a signed number of 64 bits, which all tools of data sets read.

    A worker may name one of up to 2^64; generators take both numbers for the same bits.
    """
    return (seed + 2**63) % 2**64 - 2**63

"""POST /v2/generate/pop and submit: the worker API, for RunPod's workers and volunteers alike.

A pop claims images one by one, each by a condition. Crash windows: claimed, but the answer is
lost: the lease runs out and the sweep requeues. Settled, but the answer is lost: the worker
submits again and hears DuplicateGen, and keeps its reward.
"""

import random
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

from horde import auth, aws, clock, ending, images, rates, store
from horde.answers import Job, Popped, Submitted
from horde.errors import (
    AbortedGen,
    AnonForbiddenWorker,
    Busy,
    DuplicateGen,
    ImageValidationFailed,
    InvalidJobID,
    NotPrivileged,
    NotUploaded,
    WrongCredentials,
)
from horde.http import Answer, ApiSettings, Call, Key, Route, is_uuid, serve
from horde.model import (
    DELIVERED,
    REQUEST_LIFE_S,
    Generation,
    Request,
    State,
    why_not,
)
from horde.schema import PopRequest, SubmitRequest, parse
from horde.store import Store

WINDOW = 32
"""Waiting images looked at a time."""
WINDOWS = 50
"""Windows a pop reads at the most, so that it ends in time."""
SEEN_EVERY_S = 60
WORKER_NAMESPACE = uuid.UUID("6b0bd1c0-6ee5-4a1a-8f0c-3b1a3a7b6c55")

_seen: dict[str, int] = {}


class Settings(ApiSettings):
    """Names of what this function uses."""

    table_name: str
    outputs_bucket: str
    sources_bucket: str


def pop(call: Call) -> Answer:
    """Give a worker the best images it can draw."""
    table = store.connect(Settings.load().table_name)
    owner = auth.worker_owner(table, call.required_key())
    wants = parse(PopRequest, call.json())
    worker_id = str(uuid.uuid5(WORKER_NAMESPACE, f"{owner}/{wants.name}"))
    _remember(table, worker_id, owner, wants)
    skipped: Counter[str] = Counter()
    claims = claim(table, worker_id, owner, wants, skipped)
    # A pop keeps its requests alive: their end slides. A request that was closed meanwhile has
    # no open image, so none of the claims is its.
    until = clock.now() + REQUEST_LIFE_S
    requests = {
        request_id: table.slide(request_id, until)
        for request_id in dict.fromkeys(generation.request_id for generation in claims)
    }
    jobs = [
        (request, generation)
        for generation in claims
        if (request := requests[generation.request_id]) is not None
    ]
    return Answer(_popped(jobs, wants, dict(skipped)))


def claim(
    table: Store, worker_id: str, owner: int, wants: PopRequest, skipped: "Counter[str]"
) -> list[Generation]:
    """Claim the best waiting image and its batch mates, up to ``amount``.

    The best first; a worker that loses the race for it goes on at a random place of the window,
    so that many workers at once do not all run after the same head (design.md), and then to the
    next window: a pop is empty only when nothing waits for it.
    """
    for window in _windows(table, wants.models):
        fits = []
        for generation in window:
            reason = why_not(generation, worker_id, wants)
            if reason:
                skipped[reason] += 1
            else:
                fits.append(generation)
        head, rest = fits[:1], fits[1:]
        random.shuffle(rest)
        for lead in [*head, *rest]:
            claims = _claim(table, lead, worker_id, owner, wants.name)
            if claims:
                mates = [g for g in fits if g.id != lead.id and _together(lead, g, wants)]
                for mate in mates:
                    if len(claims) >= wants.amount:
                        break
                    claims += _claim(table, mate, worker_id, owner, wants.name)
                return claims
    return []


def _windows(table: Store, models: list[str]) -> Iterator[list[Generation]]:
    """Yield what waits for any of a worker's models, best first."""
    feeds = [table.waiting(model, WINDOW) for model in dict.fromkeys(models)]
    for _ in range(WINDOWS):
        pages = [next(feed, None) for feed in feeds]
        feeds = [feed for feed, page in zip(feeds, pages, strict=True) if page is not None]
        if not feeds:
            return
        merged = [generation for page in pages for generation in page or []]
        yield sorted(merged, key=lambda generation: -generation.priority)


def _together(lead: Generation, other: Generation, wants: PopRequest) -> bool:
    """Say whether two images fit one pass; a plain horde worker takes one request at a time."""
    return other.batch_key == lead.batch_key and (
        wants.mixed_batch or other.request_id == lead.request_id
    )


def _claim(
    table: Store, generation: Generation, worker_id: str, owner: int, name: str
) -> list[Generation]:
    claimed = table.claim(
        generation,
        worker_id=worker_id,
        name=name,
        user_id=owner,
        lease_until=clock.now() + generation.ttl,
    )
    return [claimed] if claimed else []


def _remember(table: Store, worker_id: str, owner: int, wants: PopRequest) -> None:
    if _seen.get(worker_id, 0) <= clock.now() - SEEN_EVERY_S:
        table.seen_worker(worker_id, wants.name, owner, wants.models)
        _seen[worker_id] = clock.now()


def _job(request: Request, generation: Generation) -> Job:
    settings = Settings.load()

    def given(key: str | None) -> str | None:
        return images.download_url(aws.s3(), settings.sources_bucket, key) if key else None

    return Job(
        id=generation.id,
        model=generation.model,
        ttl=generation.ttl,
        payload={
            **request.payload,
            "seed": str(generation.seed),
            "n_iter": 1,
            "post_processing": [],
        },
        r2_upload=images.upload_url(aws.s3(), settings.outputs_bucket, generation.image_key),
        shared=request.shared,
        source_image=given(request.source_key),
        source_processing=request.source_processing,
        source_mask=given(request.mask_key),
    )


def _popped(
    claims: list[tuple[Request, Generation]], wants: PopRequest, skipped: dict[str, int]
) -> Popped:
    """Return the Horde's answer: the first request's images, and all of them under ``jobs``."""
    if not claims:
        return Popped(id=None, ids=[], payload={}, skipped=skipped, messages=[])
    jobs = [_job(request, generation) for request, generation in claims]
    first = claims[0][0].id
    same = [job for job, (request, _) in zip(jobs, claims, strict=True) if request.id == first]
    lead = jobs[0]
    return Popped(
        id=lead.id,
        ids=[job.id for job in same],
        payload={**lead.payload, "n_iter": len(same)},
        skipped=skipped,
        messages=[],
        model=lead.model,
        ttl=lead.ttl,
        r2_upload=lead.r2_upload,
        r2_uploads=[job.r2_upload for job in same],
        shared=lead.shared,
        source_image=lead.source_image,
        source_processing=lead.source_processing,
        source_mask=lead.source_mask,
        jobs=jobs if wants.mixed_batch else None,
    )


def submit(call: Call) -> Answer:
    """Take one drawn image; exactly one submit of a generation wins."""
    settings = Settings.load()
    table = store.connect(settings.table_name)
    owner = auth.worker_owner(table, call.required_key())
    done = parse(SubmitRequest, call.json())
    generation, request = _held(table, done.id, owner)
    if done.state == "faulted":
        ending.fault(table, request, generation)
        return Answer(Submitted(reward=0))

    if done.generation != "R2":
        body = images.submitted_webp(done.generation, generation.id)
        images.put_webp(aws.s3(), settings.outputs_bucket, generation.image_key, body)
    else:
        images.check_uploaded(
            aws.s3(), settings.outputs_bucket, generation.image_key, generation.id
        )
    won = table.settle(
        request,
        generation,
        state=State.CENSORED if _is_censored(done) else State.OK,
        seed=done.seed,
        gen_metadata=[remark.model_dump(exclude_none=True) for remark in done.gen_metadata],
    )
    if not won:
        _held(table, done.id, owner)  # says what became of it
        raise AbortedGen(done.id)
    table.slide(request.id, clock.now() + REQUEST_LIFE_S)
    return Answer(Submitted(reward=request.reward))


def _held(table: Store, generation_id: str, owner: int) -> tuple[Generation, Request]:
    """Return a generation that this owner's worker holds, and its request."""
    generation = table.generation(generation_id.lower()) if is_uuid(generation_id) else None
    if generation is None:
        raise InvalidJobID(generation_id)
    if generation.worker_user is not None and generation.worker_user != owner:
        message = f"Wrong credentials to submit job {generation_id}."
        raise WrongCredentials(message)
    if generation.state in DELIVERED:
        raise DuplicateGen(generation_id)
    if generation.state is not State.PROCESSING:
        raise AbortedGen(generation_id)
    request = table.request(generation.request_id)
    if request is None:
        raise InvalidJobID(generation_id)
    return generation, request


def _is_censored(done: SubmitRequest) -> bool:
    return done.state in {"censored", "csam"} or any(
        remark.type == "censorship" for remark in done.gen_metadata
    )


ROUTES = {
    "POST /api/v2/generate/pop": Route(
        run=pop,
        body=PopRequest,
        answers={200: Popped},
        key=Key.REQUIRED,
        errors=(AnonForbiddenWorker, NotPrivileged),
        limits=rates.WORKER,
    ),
    "POST /api/v2/generate/submit": Route(
        run=submit,
        body=SubmitRequest,
        answers={200: Submitted},
        key=Key.REQUIRED,
        errors=(
            AnonForbiddenWorker,
            NotPrivileged,
            WrongCredentials,
            InvalidJobID,
            DuplicateGen,
            AbortedGen,
            NotUploaded,
            ImageValidationFailed,
            Busy,
        ),
        limits=rates.WORKER,
    ),
}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(ROUTES, event)

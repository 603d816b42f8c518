"""POST /v2/generate/pop and submit: the worker API, for RunPod's workers and volunteers alike.

A pop claims images one by one, each by a condition: those of the worker's owner first, then those
of the accounts it names, then the best of all. Crash windows: claimed, but the answer is
lost: the lease runs out and the sweep requeues. Settled, but the answer is lost: the worker
submits again and hears DuplicateGen, and keeps its reward.
"""

import random
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from horde import auth, aws, clock, ending, fleet, images, rates, store
from horde.answers import Job, Popped, Submitted
from horde.errors import (
    AbortedGen,
    AnonForbiddenWorker,
    Busy,
    DeletedUser,
    DuplicateGen,
    ImageValidationFailed,
    InvalidAPIKey,
    InvalidJobID,
    InvalidPriorityUsername,
    NotPrivileged,
    NotUploaded,
    PolymorphicNameConflict,
    WorkerMaintenance,
    WrongCredentials,
)
from horde.fleet import WORKER_KEEP_S, Record, Worker
from horde.http import Answer, ApiSettings, Call, Key, Route, is_uuid, serve
from horde.model import (
    DELIVERED,
    REQUEST_LIFE_S,
    Generation,
    Request,
    State,
    User,
    has_word,
    user_number,
    why_not,
)
from horde.schema import PopRequest, SubmitRequest, parse
from horde.store import Store

WINDOW = 32
"""Waiting images looked at a time."""
WINDOWS = 50
"""Windows a pop reads at the most, so that it ends in time."""
SEEN_EVERY_S = 60
ENLIST_TRIES = 5
FAVOURED = 10
"""Accounts that a worker may have served first, beside its owner: each costs a query."""
RESTING = "Its owner or a moderator put it there."


class Settings(ApiSettings):
    """Names of what this function uses."""

    table_name: str
    outputs_bucket: str
    sources_bucket: str


def pop(call: Call) -> Answer:
    """Give a worker the best images it can draw."""
    table = store.connect(Settings.load().table_name)
    owner_id = auth.worker_user(table, call.required_key())
    wants = parse(PopRequest, call.json())
    favoured = _favoured(owner_id, wants.priority_usernames)
    crew = _crew(table, owner_id, wants)
    worker, offered = crew.worker, fleet.offers(wants)
    if worker.seen_at <= clock.now() - SEEN_EVERY_S or worker.models != offered["models"]:
        table.seen_worker(worker, offered)
    if crew.owner.flagged:
        raise WorkerMaintenance("Its owner is flagged.", rc="WorkerFlaggedMaintenance")
    if worker.paused:
        raise WorkerMaintenance(worker.maintenance_msg or RESTING)
    skipped: Counter[str] = Counter()
    claims = claim_own(table, crew, favoured[:1] if worker.maintenance else favoured, wants)
    if worker.maintenance and not claims:
        raise WorkerMaintenance(worker.maintenance_msg or RESTING)
    claims = claims or claim(table, crew, wants, _windows(table, wants.models), skipped)
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


@dataclass(frozen=True, slots=True)
class Crew:
    """Who pops."""

    worker: Worker
    record: Record
    owner: User


def _crew(table: Store, owner_id: int, wants: PopRequest) -> Crew:
    """Return the worker of this name, taken on by its first pop, and its owner.

    Raises InvalidAPIKey, DeletedUser or PolymorphicNameConflict.
    """
    for _ in range(ENLIST_TRIES):  # of two first pops at once one takes the worker on
        worker_id = table.worker_named(wants.name)
        worker, record, owner = table.crew(worker_id, owner_id)
        if owner is None:
            raise InvalidAPIKey
        if owner.deleted:
            raise DeletedUser
        if worker is None:
            now = clock.now()
            new = Worker(
                id=str(uuid.uuid4()),
                name=wants.name,
                user_id=owner_id,
                created_at=now,
                seen_at=0,
                gone_at=now + WORKER_KEEP_S,
            )
            if table.enlist(new, instead_of=worker_id):
                return Crew(new, record, owner)
        elif worker.user_id != owner_id:
            raise PolymorphicNameConflict(wants.name)
        else:
            return Crew(worker, record, owner)
    raise Busy


def _favoured(owner_id: int, usernames: list[str]) -> list[int]:
    """Return whose images a worker draws first: its owner's, then those it names.

    Raises InvalidPriorityUsername.
    """
    ids = [owner_id]
    for username in usernames[:FAVOURED]:
        _, hash_sign, digits = username.rpartition("#")
        number = user_number(digits)
        if number is None or not hash_sign:
            message = f"'{username[:100]}' is not a username of the form alias#id."
            raise InvalidPriorityUsername(message)
        ids.append(number)
    # Nobody owns the anonymous account: it cannot be preferred.
    return [user_id for user_id in dict.fromkeys(ids) if user_id]


def claim_own(table: Store, crew: Crew, users: list[int], wants: PopRequest) -> list[Generation]:
    """Claim images of these accounts, before everybody else's; their lists are short."""
    for user_id in users:
        ids = table.waiting_ids(user_id, WINDOW)
        found = [
            generation
            for generation in (table.generations_by_id(ids) if ids else [])
            if generation.state is State.WAITING and generation.model in wants.models
        ]
        found.sort(key=lambda generation: -generation.priority)
        claims = claim(table, crew, wants, [found], Counter())
        if claims:
            return claims
    return []


def claim(
    table: Store,
    crew: Crew,
    wants: PopRequest,
    windows: Iterable[list[Generation]],
    skipped: "Counter[str]",
) -> list[Generation]:
    """Claim the best waiting image and its batch mates, up to ``amount``.

    The best first; a worker that loses the race for it goes on at a random place of the window,
    so that many workers at once do not all run after the same head (design.md), and then to the
    next window: a pop is empty only when nothing waits for it.
    """
    for window in windows:
        fits = _fitting(table, crew, wants, window, skipped)
        head, rest = fits[:1], fits[1:]
        random.shuffle(rest)
        for lead in [*head, *rest]:
            claims = _claim(table, lead, crew.worker)
            if claims:
                mates = [g for g in fits if g.id != lead.id and _together(lead, g, wants)]
                for mate in mates:
                    if len(claims) >= wants.amount:
                        break
                    claims += _claim(table, mate, crew.worker)
                return claims
    return []


def _fitting(
    table: Store,
    crew: Crew,
    wants: PopRequest,
    window: list[Generation],
    skipped: "Counter[str]",
) -> list[Generation]:
    """Return what of a window a worker can draw, and count why not the rest."""
    fits = []
    for generation in window:
        reason = why_not(
            generation,
            crew.worker.id,
            wants,
            trusted=crew.owner.trusted,
            speed=crew.record.speed,
        )
        if reason:
            skipped[reason] += 1
        else:
            fits.append(generation)
    if not wants.blacklist or not fits:
        return fits
    # Only a worker with a blacklist pays for reading prompts.
    prompts = table.prompts(generation.request_id for generation in fits)
    clean = [g for g in fits if not has_word(prompts.get(g.request_id, ""), wants.blacklist)]
    if len(clean) < len(fits):
        skipped["blacklist"] += len(fits) - len(clean)
    return clean


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


def _claim(table: Store, generation: Generation, worker: Worker) -> list[Generation]:
    claimed = table.claim(
        generation,
        worker_id=worker.id,
        name=worker.name,
        user_id=worker.user_id,
        lease_until=clock.now() + generation.ttl,
    )
    return [claimed] if claimed else []


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
    # Before the settlement: whoever pays for it has its life long to fetch it.
    table.slide(request.id, clock.now() + REQUEST_LIFE_S)
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
        errors=(
            AnonForbiddenWorker,
            NotPrivileged,
            WorkerMaintenance,
            PolymorphicNameConflict,
            InvalidPriorityUsername,
            Busy,
        ),
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

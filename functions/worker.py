"""POST /v2/generate/pop and submit: the worker API, for RunPod's workers and volunteers alike.

A pop claims images one by one, each by a conditional write or a transaction: first those of the
worker's owner, then those of the accounts it names, then those with the highest priority. Crash
windows: if the response to a pop is lost, the leases expire and the sweep requeues the images. If
the response to a submit is lost, the worker submits again, gets DuplicateGen and keeps its reward.

A submit reads the upload once and checks it. What it accepts it stores under a key that names its
content, and then settles with this content's SHA-256. Nothing reads the upload again, whose URL the
worker can still use. Crash windows: a copy that was stored and never settled expires with its
bucket; two submits that race each store their own copy, and the settlement names the delivered one.
What it refuses is a fault, and the upload is deleted; if this run dies between the two, the upload
expires with its bucket, and the next claim has another key.

The order of the checks. A pop checks the key, the body and the user names, and writes nothing until
it knows the worker's name and owner. A worker that is then refused, since it rests or its owner is
flagged, has been written as seen: its owner sees that it is online. A submit checks the key, the
body, the lease and the image before it stores the image, extends the request and settles.
"""

import random
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from horde import aws, clock, ending, images, startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import ANONYMOUS_KEY, PopRequest, SubmitRequest, parse
from horde.edge.http import MAX_BODY, ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.responses import Job, Popped, Submitted, UploadForm
from horde.records import (
    DELIVERED,
    NO_STATS,
    Generation,
    Offer,
    Request,
    State,
    Worker,
    WorkerContext,
    delivered_key,
)
from horde.rules import rewards, sharing
from horde.rules.accounts import user_number
from horde.rules.lifecycle import ends_with, slid
from horde.rules.matching import has_blacklisted_word, same_batch, skip_reason
from horde.rules.refusals import (
    AbortedGen,
    AnonForbiddenWorker,
    Busy,
    DeletedUser,
    DuplicateGen,
    HordeError,
    ImageRefused,
    InvalidAPIKey,
    InvalidJobID,
    InvalidPriorityUsername,
    NotPrivileged,
    NotUploaded,
    PolymorphicNameConflict,
    TooManyWorkers,
    WorkerMaintenance,
    WrongCredentials,
)
from horde.rules.standing import check_workers, dropped_message, drops_too_many, held_limit
from horde.store import Store, connect
from horde.store.queue import HoldsEnough
from horde.store.table import DECISION_TRIES
from horde.store.workers import WORKER_KEEP_S

WINDOW = 32
"""Waiting images in a window, which are read and matched together."""
MAX_WINDOWS = 50
"""Most windows that a pop reads, so that it ends in time."""
SEEN_EVERY_S = 60
MAX_OWNED = 250
"""Most workers of an account that are counted."""
MAX_PRIORITY_USERS = 10
"""Most accounts whose images a worker may prefer, besides its owner's; each costs a query."""
RESTING = "Its owner or a moderator put it into maintenance."


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str
    outputs_bucket: str
    sources_bucket: str


def pop(call: Call) -> Response:
    """Give a worker the images with the highest priority that it can draw."""
    store = connect(Settings.load().table_name)
    owner_id = auth.worker_user(store, call.required_key())
    body = parse(PopRequest, call.json())
    priority_users = _priority_users(owner_id, body.priority_usernames)
    context = _context(store, owner_id, body.name)
    worker, offer = context.worker, body.offer
    if worker.seen_at <= clock.now() - SEEN_EVERY_S or worker.models != offer.models:
        store.workers.seen(worker, offer)
    if context.owner.flagged:
        raise WorkerMaintenance("Its owner is flagged.", rc="WorkerFlaggedMaintenance")
    if worker.paused:
        raise WorkerMaintenance(worker.maintenance_msg or RESTING)
    if drops_too_many(context.owner, context.dropped):
        message = dropped_message(context.dropped)
        if not worker.maintenance:  # its owner may have ended it: in this hour that does not help
            store.workers.change(worker.id, maintenance=True, maintenance_msg=message)
        raise WorkerMaintenance(message)
    skipped: Counter[str] = Counter()
    preferred = priority_users[:1] if worker.maintenance else priority_users
    take = Claimer(store, context, frozenset(priority_users))
    claims = claim_preferred(take, preferred, offer)
    if worker.maintenance and not claims:
        raise WorkerMaintenance(worker.maintenance_msg or RESTING)
    claims = claims or claim(take, offer, _windows(store, offer.models), skipped)
    # A request that was closed meanwhile has no open image, so no claim belongs to it.
    requests = {
        generation.request_id: store.requests.drawn(generation.request_id, generation.created_at)
        for generation in {claim.request_id: claim for claim in claims}.values()
    }
    jobs = [
        (request, generation)
        for generation in claims
        if (request := requests[generation.request_id]) is not None
    ]
    return Response(_popped(jobs, offer, dict(skipped)))


def _context(store: Store, owner_id: int, name: str) -> WorkerContext:
    """Return the worker with this name and its owner; its first pop registers it.

    Raises InvalidAPIKey, DeletedUser, TooManyWorkers, PolymorphicNameConflict or Busy.
    """
    for _ in range(DECISION_TRIES):  # of two concurrent first pops, one registers the worker
        worker_id = store.workers.named(name)
        worker, stats, owner, dropped = store.workers.with_owner(worker_id, owner_id)
        if owner is None:
            raise InvalidAPIKey
        if owner.deleted:
            raise DeletedUser
        if worker is None:
            if not owner.fleet:
                check_workers(owner, len(store.workers.ids_of(owner_id, MAX_OWNED)))
            now = clock.now()
            new = Worker(
                id=str(uuid.uuid4()),
                name=name,
                user_id=owner_id,
                created_at=now,
                seen_at=0,
                gone_at=now + WORKER_KEEP_S,
            )
            if store.workers.register(new, owner, instead_of=worker_id):
                return WorkerContext(worker=new, stats=NO_STATS, owner=owner, dropped=dropped)
        elif worker.user_id != owner_id:
            raise PolymorphicNameConflict(name)
        else:
            return WorkerContext(worker=worker, stats=stats, owner=owner, dropped=dropped)
    raise Busy


def _priority_users(owner_id: int, usernames: list[str]) -> list[int]:
    """Return the accounts whose images a worker prefers: its owner's, then those it names.

    Raises InvalidPriorityUsername.
    """
    ids = [owner_id]
    for username in usernames[:MAX_PRIORITY_USERS]:
        _, hash_sign, digits = username.rpartition("#")
        number = user_number(digits)
        if number is None or not hash_sign:
            message = f"'{username[:100]}' is not a username of the form alias#id."
            raise InvalidPriorityUsername(message)
        ids.append(number)
    # The anonymous account, id 0, cannot be preferred.
    return [user_id for user_id in dict.fromkeys(ids) if user_id]


@dataclass(frozen=True, slots=True)
class Claimer:
    """The worker that pops, and the accounts whose images it prefers."""

    store: Store
    context: WorkerContext
    priority_users: frozenset[int]

    def claim(self, generation: Generation) -> list[Generation]:
        """Return the image as claimed, or nothing if it no longer waits; raises HoldsEnough."""
        worker, stats, owner = self.context.worker, self.context.stats, self.context.owner
        claimed = self.store.queue.claim(
            generation,
            worker,
            lease_until=clock.now() + generation.ttl,
            held_limit=held_limit(stats, owner, generation),
            trusted=owner.trusted,
            preferred=generation.user_id in self.priority_users,
        )
        return [claimed] if claimed else []


def claim_preferred(take: Claimer, users: list[int], offer: Offer) -> list[Generation]:
    """Claim images of the first of these accounts that has any to draw."""
    store = take.store
    for user_id in users:
        ids = store.queue.ids_of(user_id, WINDOW)
        found = [
            generation
            for generation in (store.requests.generations_by_id(ids) if ids else [])
            if generation.state is State.WAITING and generation.model in offer.models
        ]
        found.sort(key=lambda generation: -generation.priority)
        claims = claim(take, offer, [found], Counter())
        if claims:
            return claims
    return []


def claim(
    take: Claimer,
    offer: Offer,
    windows: Iterable[list[Generation]],
    skipped: "Counter[str]",
) -> list[Generation]:
    """Claim the waiting image with the highest priority and others of its batch, up to ``amount``.

    A worker that loses the race for the first image tries the rest of the window, and then the next
    one. It does so in random order, or concurrent workers would all chase the same images. So a pop
    is empty only if no image waits for it, or if it holds as many as it may.
    """
    claims: list[Generation] = []
    try:
        for window in windows:
            fits = _fitting(take.store, take.context, offer, window, skipped)
            head, rest = fits[:1], fits[1:]
            random.shuffle(rest)
            for lead in [*head, *rest]:
                claims += take.claim(lead)
                if claims:
                    for other in fits:
                        if len(claims) >= offer.amount:
                            break
                        if other.id != lead.id and same_batch(lead, other, offer):
                            claims += take.claim(other)
                    return claims
    except HoldsEnough:
        skipped["performance"] += 0 if claims else 1
    except Busy:  # what it has claimed by then must not be lost
        if not claims:
            raise
    return claims


def _fitting(
    store: Store,
    context: WorkerContext,
    offer: Offer,
    window: list[Generation],
    skipped: "Counter[str]",
) -> list[Generation]:
    """Return the images of a window that a worker can draw; count the reasons for the others."""
    fits = []
    for generation in window:
        reason = skip_reason(generation, context, offer)
        if reason:
            skipped[reason] += 1
        else:
            fits.append(generation)
    if not offer.blacklist or not fits:
        return fits
    # Prompts are read only for a worker with a blacklist.
    prompts = store.requests.prompts(generation.request_id for generation in fits)
    allowed = [
        generation
        for generation in fits
        if not has_blacklisted_word(prompts.get(generation.request_id, ""), offer.blacklist)
    ]
    if len(allowed) < len(fits):
        skipped["blacklist"] += len(fits) - len(allowed)
    return allowed


def _windows(store: Store, models: list[str]) -> Iterator[list[Generation]]:
    """Yield windows of images that wait for a worker's models, highest priority first."""
    feeds = [store.queue.windows(model, WINDOW) for model in dict.fromkeys(models)]
    for _ in range(MAX_WINDOWS):
        pages = [next(feed, None) for feed in feeds]
        feeds = [feed for feed, page in zip(feeds, pages, strict=True) if page is not None]
        if not feeds:
            return
        merged = [generation for page in pages for generation in page or []]
        yield sorted(merged, key=lambda generation: -generation.priority)


def _job(request: Request, generation: Generation, offer: Offer) -> Job:
    settings, key = Settings.load(), generation.image_key

    def source_url(key: str | None) -> str | None:
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
        r2_upload=images.upload_url(aws.s3(), settings.outputs_bucket, key),
        r2_post=_form(settings.outputs_bucket, key, request) if offer.mixed_batch else None,
        shared=request.shared,
        source_image=source_url(request.source_key),
        source_processing=request.source_processing,
        source_mask=source_url(request.mask_key),
    )


def _form(bucket: str, key: str, request: Request) -> UploadForm:
    return UploadForm(**images.upload_form(aws.s3(), bucket, key, request.image_size))


def _popped(
    claims: list[tuple[Request, Generation]], offer: Offer, skipped: dict[str, int]
) -> Popped:
    """Return the response to a pop: the first request's images, and all images as ``jobs``."""
    if not claims:
        return Popped(id=None, ids=[], payload={}, skipped=skipped, messages=[])
    jobs = [_job(request, generation, offer) for request, generation in claims]
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
        jobs=jobs if offer.mixed_batch else None,
    )


def submit(call: Call) -> Response:
    """Accept one drawn image. Exactly one submit of a generation succeeds."""
    settings = Settings.load()
    store = connect(settings.table_name)
    api_key = call.required_key()
    try:
        body = parse(SubmitRequest, call.json())
    except HordeError:
        auth.worker_user(store, api_key)  # who has no key learns nothing else
        raise
    generation, request = _claimed(store, body.id, api_key)
    if body.state == "faulted":
        ending.fault(store, request, generation)
        return Response(Submitted(reward=0))

    state = State.CENSORED if _is_censored(body) else State.OK
    try:
        picture = _picture(settings, request, generation, body, state)
    except ImageRefused:
        ending.fault(store, request, generation)
        images.delete(aws.s3(), settings.outputs_bucket, generation.image_key)
        raise
    shareable = sharing.shareable(request, state)
    key = delivered_key(generation.id, picture.sha256, shareable=shareable)
    images.put_webp(aws.s3(), settings.outputs_bucket, key, picture.file)
    # Before the settlement, so that the client has a whole request life to fetch the image.
    until = slid(request, clock.now())
    if until is not None and not ends_with(request):
        store.requests.extend_expiry(request.id, until)
    settled = store.endings.settle(
        request,
        generation,
        state=state,
        seed=body.seed,
        gen_metadata=[remark.model_dump(exclude_none=True) for remark in body.gen_metadata],
        sha256=picture.sha256,
        size=len(picture.file),
        csam=_is_csam(body),
    )
    if not settled:
        _claimed(store, body.id, api_key)  # raises the refusal that fits the image's new state
        raise AbortedGen(body.id)
    return Response(Submitted(reward=rewards.reward(request, generation, state)))


def _picture(
    settings: Settings, request: Request, generation: Generation, body: SubmitRequest, state: State
) -> images.Picture:
    """Return the submitted image, checked. Raises ImageRefused or NotUploaded."""
    # Workers send a placeholder of their own for a censored image.
    size = None if state is State.CENSORED else request.image_size
    if body.generation != "R2":
        return images.checked(images.inline(body.generation, size), size)
    file = images.uploaded(aws.s3(), settings.outputs_bucket, generation.image_key, size)
    if file is None:
        raise NotUploaded(generation.id)
    return images.checked(file, size)


def _claimed(store: Store, generation_id: str, api_key: str) -> tuple[Generation, Request]:
    """Return a generation that a worker of this key's owner has claimed, and its request.

    Raises InvalidAPIKey, NotPrivileged, AnonForbiddenWorker, DeletedUser, InvalidJobID,
    WrongCredentials, DuplicateGen or AbortedGen.
    """
    if api_key == ANONYMOUS_KEY:
        raise AnonForbiddenWorker
    named = generation_id.lower() if is_uuid(generation_id) else None
    key, generation = store.submits.key_and_image(auth.key_hash(api_key), named)
    owner = auth.user_of_worker_key(key)
    request_id = generation.request_id if generation else None
    user, request = store.submits.owner_and_request(owner, request_id)
    if user is not None and user.deleted:
        raise DeletedUser
    if generation is None:
        raise InvalidJobID(generation_id)
    if generation.worker_user is not None and generation.worker_user != owner:
        message = f"Wrong credentials to submit job {generation_id}."
        raise WrongCredentials(message)
    if generation.state in DELIVERED:
        raise DuplicateGen(generation_id)
    if generation.state is not State.PROCESSING:
        raise AbortedGen(generation_id)
    if request is None:
        raise InvalidJobID(generation_id)
    return generation, request


def _is_censored(body: SubmitRequest) -> bool:
    return body.state in {"censored", "csam"} or any(
        remark.type == "censorship" for remark in body.gen_metadata
    )


def _is_csam(body: SubmitRequest) -> bool:
    return body.state == "csam" or any(
        remark.type == "censorship" and remark.value == "csam" for remark in body.gen_metadata
    )


ROUTES = {
    "POST /api/v2/generate/pop": Route(
        run=pop,
        body=PopRequest,
        responses={200: Popped},
        key=Key.REQUIRED,
        errors=(
            AnonForbiddenWorker,
            NotPrivileged,
            WorkerMaintenance,
            TooManyWorkers,
            PolymorphicNameConflict,
            InvalidPriorityUsername,
            Busy,
        ),
        limits=ratelimit.WORKER,
    ),
    "POST /api/v2/generate/submit": Route(
        run=submit,
        body=SubmitRequest,
        responses={200: Submitted},
        key=Key.REQUIRED,
        max_body=MAX_BODY,
        errors=(
            AnonForbiddenWorker,
            NotPrivileged,
            WrongCredentials,
            InvalidJobID,
            DuplicateGen,
            AbortedGen,
            NotUploaded,
            ImageRefused,
            Busy,
        ),
        limits=ratelimit.WORKER,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

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

import uuid
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from horde import aws, clock, ending, images, startup
from horde.claiming import Claimer, claim_preferred, claim_waiting, targets
from horde.edge import auth, ratelimit
from horde.edge.bodies import PopRequest, SubmitRequest, parse
from horde.edge.http import MAX_BODY, ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.responses import Job, Popped, Submitted, UploadForm
from horde.overview import overview
from horde.records import (
    DELIVERED,
    NO_STATS,
    ApiKey,
    Generation,
    Offer,
    Request,
    State,
    User,
    Worker,
    WorkerContext,
    delivered_key,
)
from horde.rules import rewards, ruleset, sharing
from horde.rules.accounts import user_number
from horde.rules.estimates import undrawn
from horde.rules.features import delivered_size
from horde.rules.lifecycle import SLIDE_S, slid
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
from horde.rules.standing import check_workers, dropped_message, drops_too_many
from horde.store import Store, connect
from horde.store.registry import Marks
from horde.store.table import DECISION_TRIES
from horde.store.workers import WORKER_KEEP_S

B = TypeVar("B", bound=BaseModel)

SEEN_EVERY_S = 60
MAX_OWNED = 250
"""Most workers of an account that are counted."""
MAX_PRIORITY_USERS = 10
"""Most accounts whose images a worker may prefer, besides its owner's; each costs a read."""
UNOBTAINABLE = frozenset({"download_failed", "parse_failed", "baseline_mismatch"})
"""The Horde's words for a LoRA or textual inversion that cannot be used (horde-api.md 1.3)."""
RESTING = "Its owner or a moderator put it into maintenance."


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str
    outputs_bucket: str
    sources_bucket: str
    account_keys_pop: bool
    """Whether an account's own key may run its workers, and not only a worker key."""


def pop(call: Call) -> Response:
    """Give a worker the images with the highest priority that it can draw."""
    store = connect(Settings.load().table_name)
    api_key = call.required_key()
    body = _body(PopRequest, store, call, api_key)
    pre = _read(store, api_key, body)
    context, offer, preferred = pre.context, body.offer, pre.preferred
    worker = context.worker
    if worker.seen_at <= clock.now() - SEEN_EVERY_S or worker.models != offer.models:
        store.workers.seen(worker, offer, undrawn(overview(store).census, offer.models))
    if context.owner.flagged:
        raise WorkerMaintenance("Its owner is flagged.", rc="WorkerFlaggedMaintenance")
    if worker.paused:
        raise WorkerMaintenance(worker.maintenance_msg or RESTING)
    if drops_too_many(context.owner, context.dropped):
        message = dropped_message(context.dropped)
        if not worker.maintenance:  # its owner may have ended it: in this hour that does not help
            store.workers.change(worker.id, maintenance=True, maintenance_msg=message)
        raise WorkerMaintenance(message)
    take = Claimer(store, context, offer, preferred)
    claims = claim_preferred(take, [context.owner] if worker.maintenance else preferred)
    if worker.maintenance and not claims:
        raise WorkerMaintenance(worker.maintenance_msg or RESTING)
    claims = claims or claim_waiting(take, pre.marks, fresh=pre.fresh)
    # A request that was closed meanwhile has no open image, so no claim belongs to it.
    requests = _extended(store, claims)
    jobs = [
        (requests[generation.request_id], generation)
        for generation in claims
        if generation.request_id in requests
    ]
    return Response(_popped(jobs, offer, dict(+take.skipped)))


def _body(kind: type[B], store: Store, call: Call, api_key: str) -> B:
    """Return a worker's body. A key that no worker may use is refused before a body that is wrong.

    Raises AnonForbiddenWorker, and for a wrong body InvalidAPIKey or NotPrivileged before its own
    refusal.
    """
    auth.check_not_anonymous(api_key)
    try:
        return parse(kind, call.json())
    except HordeError:
        auth.worker_user(store, api_key, account_keys=Settings.load().account_keys_pop)
        raise


def _extended(store: Store, claims: list[Generation]) -> dict[str, Request]:
    """Return the requests of claimed images by id, each with a whole request life before it.

    An image that says when it expires got that with its claim. Any other request that was accepted
    less than ``SLIDE_S`` ago has it already, unless the rules have changed since. All these are
    read together. The others are written.
    """
    now = clock.now()
    says_so = {one.request_id for one in claims if one.expires_at is not None}
    accepted = {generation.request_id: generation.created_at for generation in claims}
    recent = {one for one, at in accepted.items() if at // 1000 > now - SLIDE_S} | says_so
    found = store.requests.get_many(recent) if recent else {}
    left = [one for one in found.keys() - says_so if slid(found[one], now) is not None]
    for request_id in sorted([*(accepted.keys() - recent), *left]):
        request = store.requests.extend_expiry(request_id, now + ruleset.IN_FORCE.request_life_s)
        if request is not None:
            found[request_id] = request
    return found


@dataclass(frozen=True, slots=True)
class _Before:
    """What a pop reads before it looks for images."""

    context: WorkerContext
    preferred: list[User]
    """The accounts whose images the worker prefers: its owner's, then those it names."""
    marks: Marks
    """Those of the queues of its models."""
    fresh: bool
    """Whether all marks of its models were read now, and not by a pop a moment ago."""


def _read(store: Store, api_key: str, body: PopRequest) -> _Before:
    """Return the worker of this name and its owner; its first pop registers it.

    Raises InvalidAPIKey, NotPrivileged, DeletedUser, InvalidPriorityUsername, TooManyWorkers,
    PolymorphicNameConflict or Busy.
    """
    offered = targets(body.offer)
    for _ in range(DECISION_TRIES):  # of two concurrent first pops, one registers the worker
        key, worker_id = store.pops.caller(auth.key_hash(api_key), body.name)
        owner_id = _owner_of(key)
        ids = _priority_users(owner_id, body.priority_usernames)
        worker, stats, dropped, users, marks, fresh = store.pops.context(
            worker_id, owner_id, ids, offered
        )
        if owner_id not in users:
            raise InvalidAPIKey
        owner = users[owner_id]
        if owner.deleted:
            raise DeletedUser
        if owner.fleet and not (key and key.worker):
            message = "The operator's own workers, which have no limits, pop with a worker key."
            raise NotPrivileged(message)
        preferred = [users[user_id] for user_id in ids if user_id in users]
        if worker is None:
            worker = _registered(store, owner, body.name, worker_id)
            stats = NO_STATS
        elif worker.user_id != owner_id:
            raise PolymorphicNameConflict(body.name)
        if worker is not None:
            context = WorkerContext(worker=worker, stats=stats, owner=owner, dropped=dropped)
            return _Before(context, preferred, marks, fresh)
    raise Busy


def _owner_of(key: ApiKey | None) -> int:
    """Return the account whose workers a key may run; raises InvalidAPIKey or NotPrivileged."""
    return auth.user_of_worker_key(key, account_keys=Settings.load().account_keys_pop)


def _registered(store: Store, owner: User, name: str, old_id: str | None) -> Worker | None:
    """Register a new worker; returns None if it must be decided again. Raises TooManyWorkers.

    ``old_id`` is that of a deleted worker that has the name.
    """
    if not owner.fleet:
        check_workers(owner, len(store.workers.ids_of(owner.id, MAX_OWNED)))
    now = clock.now()
    new = Worker(
        id=str(uuid.uuid4()),
        name=name,
        user_id=owner.id,
        created_at=now,
        seen_at=0,
        gone_at=now + WORKER_KEEP_S,
    )
    return new if store.workers.register(new, owner, instead_of=old_id) else None


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
            "post_processing": request.payload.get("post_processing", []),
        },
        r2_upload=images.upload_url(aws.s3(), settings.outputs_bucket, key),
        r2_post=_form(settings.outputs_bucket, key, request) if offer.mixed_batch else None,
        shared=request.shared,
        source_image=source_url(request.source_key),
        source_processing=request.source_processing,
        source_mask=source_url(request.mask_key),
    )


def _form(bucket: str, key: str, request: Request) -> UploadForm:
    return UploadForm(**images.upload_form(aws.s3(), bucket, key, delivered_size(request.payload)))


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
    body = _body(SubmitRequest, store, call, api_key)
    generation, request = _claimed(store, body.id, api_key)
    if body.state == "faulted":
        ending.fault(store, request, generation, unobtainable=_is_unobtainable(body))
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
    until = None if generation.expires_at is not None else slid(request, clock.now())
    if until is not None:
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
    size = None if state is State.CENSORED else delivered_size(request.payload)
    if body.generation != "R2":
        return images.checked(images.inline(body.generation, size), size)
    file = images.uploaded(aws.s3(), settings.outputs_bucket, generation.image_key, size)
    if file is None:
        raise NotUploaded(generation.id)
    return images.checked(file, size)


def _claimed(store: Store, generation_id: str, api_key: str) -> tuple[Generation, Request]:
    """Return a generation that a worker of this key's owner has claimed, and its request.

    Raises InvalidAPIKey, NotPrivileged, DeletedUser, InvalidJobID, WrongCredentials, DuplicateGen
    or AbortedGen.
    """
    named = generation_id.lower() if is_uuid(generation_id) else None
    key, generation = store.submits.key_and_image(auth.key_hash(api_key), named)
    owner = _owner_of(key)
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


def _is_unobtainable(body: SubmitRequest) -> bool:
    """Whether the worker says that a LoRA or textual inversion cannot be had."""
    return any(
        remark.type in {"lora", "ti"} and remark.value in UNOBTAINABLE
        for remark in body.gen_metadata
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

"""POST /v2/generate/async: validate, price, decide on sharing, charge and record.

The checks run in this order: body, maintenance, prompt and webhook; then the account and
unsupported features; then, unless it is a ``dry_run``, the limits of the account and the shared
key, and the source image. Nothing is written before the last check, except that a count of waiting
images that is too high is corrected. So a refused request or a ``dry_run`` only counts against the
rate limits. The transaction holds the limit of waiting images: of requests at once, those that
exceed it are refused there.

The account may be spent between its check and the transaction: a source image can take seconds to
arrive. So the transaction decides about kudos again. What needs them upfront is then charged in
full or refused.

Crash windows: an account that got its monthly kudos keeps them, even if its request is not
accepted. A source image is stored before its request; without a request, the bucket deletes it
after a day. After the transaction nothing is left to do, since the table's stream takes over.
"""

import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from horde import aws, clock, images, outbound, startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import GenerateRequest, parse
from horde.edge.errors import PayloadError
from horde.edge.http import MAX_BODY, ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.responses import RequestAccepted, RequestCost, Warned
from horde.overview import chances, is_drawn, overview
from horde.records import ANONYMOUS_ID, Generation, ImageSpec, Request, State, User
from horde.rules import admission, allowance, matching, pricing, ruleset, sharedkeys, sharing
from horde.rules.refusals import (
    Busy,
    ImageValidationFailed,
    InvalidPromptSize,
    KudosUpfront,
    MaintenanceMode,
    MissingPrompt,
    RequiresTrust,
    SharedKeyEmpty,
    SharedKeyExpired,
    SharedKeyInsufficientKudos,
    SharedKeyLimit,
    StyleNotFound,
    TooManyPrompts,
    Unsupported,
    WorkerNotFound,
)
from horde.runpod import Model, Models, has_endpoint
from horde.store import Store, connect
from horde.store.charges import TooManyPosts
from horde.store.counts import short_id
from horde.store.queuenames import ANY, model_target

MAX_WORKERS = 5
"""Workers that a request may name; the Horde ignores further ones too (horde-api.md 1.1)."""
MAX_MODELS = 4
"""Models that a request may name; further ones are ignored. Each has a copy of each image."""
DEFAULT_MODEL = "stable_diffusion"
NO_WORKER = (
    "Warning: No available workers can fulfill this request. It will expire in "
    "{request_life_minutes} minutes unless a worker appears. Please consider reducing its size, "
    "asking less of its workers or choosing a different model."
)

NO_HIRES_FIX = (
    "hires_fix has no effect here: it acts on text-to-image whose sides both exceed the size that "
    "the model was trained on."
)


class Settings(ApiSettings):
    """The names of this function's resources, the operator's models, and the monthly allowance."""

    table_name: str
    sources_bucket: str
    models: Models
    monthly_kudos: int
    hash_secret: str


@dataclass(frozen=True, slots=True)
class Drawable:
    """Whether anybody can draw a request."""

    possible: bool
    tickets: bool
    """Whether its model's endpoint is asked to; one that cannot draw it is not started."""


def generate(call: Call) -> Response:
    """Accept a request, or return what it would cost (``dry_run``)."""
    settings = Settings.load()
    store = connect(settings.table_name)
    api_key = call.required_key()
    body = parse(GenerateRequest, call.json())
    seen = overview(store)
    if seen.maintenance:
        raise MaintenanceMode
    admission.check_prompt(body.prompt)
    check_webhook(body.webhook)
    models = choose_models(body.models, settings.models)
    targets = [ANY] if not body.models else [model_target(model) for model in models]
    user, sharedkey = auth.spender_of(store, api_key, clock.now(), targets)
    check_drawable(body)
    worker_ids = check_workers(store, body.workers)

    decision = sharing.decide(
        flag=body.shared, anonymous=user.anonymous, uses_images=body.uses_images
    )
    spec = body.spec
    baseline = dearest(
        spec, [settings.models[one].baseline for one in models if one in settings.models]
    )
    price = pricing.quote(spec, shared=decision.shared, baseline=baseline)
    available = user.kudos - user.floor
    available += allowance.due(user, settings.monthly_kudos, clock.now())
    side = admission.max_side(seen.census, baseline)
    upfront = admission.upfront_reason(spec, side, baseline)
    reduced = None
    if body.allow_downgrade and admission.lacks_upfront(
        upfront, total=price.total, available=available
    ):
        spec = admission.downgraded(spec, side, baseline)
        upfront = admission.upfront_reason(spec, side, baseline)
        body = body.reduced_to(spec)
        price = pricing.quote(spec, shared=decision.shared, baseline=baseline)
        reduced = admission.downgrade_message(spec)
    if body.dry_run:
        return Response(RequestCost(kudos=price.total))
    image = asked_image(body, user, models=models, baseline=baseline, workers=worker_ids)
    image = replace(image, unpaid=available < price.total, max_steps=usual(models, settings.models))
    image, found = drawable(store, settings.models, image)
    user, being_drawn = with_room(store, user, call.ip, spec.n)
    sharedkeys.check_request(sharedkey, spec, total=price.total)
    admission.check_upfront(upfront, total=price.total, available=available)
    source = None
    if body.source_image:
        source = images.source_of(body.source_image, body.source_mask, painting=body.painting)

    # All checks have passed. The writes start here.
    user = store.accounts.give_allowance(user, settings.monthly_kudos)
    request, generations = plan(
        body,
        user,
        image=image,
        tickets=found.tickets,
        price=price,
        decision=decision,
        baseline=baseline,
    )
    if source is not None and request.source_key is not None:
        images.put_webp(aws.s3(), settings.sources_bucket, request.source_key, source.image)
        if source.mask is not None and request.mask_key is not None:
            images.put_webp(aws.s3(), settings.sources_bucket, request.mask_key, source.mask)
    with _posts_limited(call.ip, anonymous=user.anonymous) as posts_per_s:
        store.requests.accept(
            request,
            generations,
            user,
            sharedkey,
            drawn=being_drawn,
            upfront=upfront,
            posts_per_s=posts_per_s,
        )

    no_worker = None if found.possible else ruleset.fill(NO_WORKER)
    messages = [decision.message, reduced, no_worker, no_effect(spec, baseline)]
    return Response(
        RequestAccepted(
            id=request.id,
            kudos=price.total,
            message=" ".join(message for message in messages if message) or None,
            warnings=[Warned(code="NoAvailableWorker", message=no_worker)] if no_worker else None,
        ),
        HTTPStatus.ACCEPTED,
    )


@contextmanager
def _posts_limited(ip: str, *, anonymous: bool) -> Iterator[int | None]:
    """Give the limit that ``accept`` holds for this address; raises TooManyRequests."""
    try:
        yield ratelimit.charged(ratelimit.GENERATE, ip, anonymous=anonymous)
    except TooManyPosts:
        raise ratelimit.refusal(ratelimit.GENERATE, ip, anonymous=anonymous) from None


def with_room(store: Store, user: User, ip: str, n: int) -> tuple[User, frozenset[str]]:
    """Return an account that may have ``n`` more images waiting; ``accept`` holds the limit.

    Of the anonymous account it is the part for this address: of several, the first with room. If
    its open images are as many as may wait, they are read, since those that are drawn do not wait.
    Second are these, as ``User.open_images`` names them. Raises TooManyPrompts.
    """
    drawn = frozenset[str]()
    if user.anonymous:
        own, *others = ratelimit.anonymous_parts(ip)
        user = store.accounts.anonymous(own)
        while others and len(user.open_images) + n > admission.concurrency(user):
            user = store.accounts.anonymous(others.pop(0))
    if user.open_images and len(user.open_images) + n > admission.concurrency(user):
        user, drawn = _with_fresh(store, user)
    admission.check_concurrency(user, waiting=len(user.open_images - drawn), n=n)
    return user, drawn


def _with_fresh(store: Store, user: User) -> tuple[User, frozenset[str]]:
    """Return an account without those of its open images that have ended; and those drawn now.

    The reward that takes a delivered image out may be posted some seconds later.
    """
    images = store.listings.open_images(user)
    drawn = frozenset(short_id(one.id) for one in images if one.state is State.PROCESSING)
    return store.accounts.forget_ended(user, [one.id for one in images]), drawn


def check_webhook(url: str | None) -> None:
    """Refuse a webhook unless it is an https URL of a public host; raises PayloadError."""
    if url is not None:
        try:
            outbound.parse_url(url)
        except outbound.OutboundError as error:
            raise PayloadError({"webhook": f"{url[:100]!r} cannot be called: {error}"}) from None


def check_drawable(body: GenerateRequest) -> None:  # noqa: C901, PLR0912 - a flat list
    """Refuse features that are not supported yet (docs/api.md) instead of ignoring them.

    Raises Unsupported, StyleNotFound or RequiresTrust.
    """
    params = body.params
    if body.style is not None:
        message = f"Style '{body.style}' not found; this horde has no styles yet."
        raise StyleNotFound(message)
    if body.source_mask and not body.source_image:
        message = "You have specified a source_mask but no source_image."
        raise Unsupported(message, rc="SourceMaskUnnecessary")
    if body.extra_source_images:
        message = "Extra source images (remix) are not supported yet."
        raise Unsupported(message, rc="InvalidExtraSourceImages")
    if body.source_image and body.source_processing == "remix":
        message = "source_processing 'remix' is not supported yet."
        raise Unsupported(message, rc="InvalidRemix")
    if params.control_type or params.image_is_control or params.return_control_map:
        message = "ControlNet is not supported yet."
        raise Unsupported(message, rc="ControlNetUnsupported")
    if params.post_processing:
        message = f"Post-processors are not supported yet: {', '.join(params.post_processing)}."
        raise Unsupported(message)
    if params.loras:
        message = "LoRAs are not supported yet."
        raise Unsupported(message, rc="TooManyLoras")
    if params.tis:
        message = "Textual inversions are not supported yet."
        raise Unsupported(message, rc="TooManyTIs")
    if params.transparent:
        message = "Transparent images are not supported yet."
        raise Unsupported(message, rc="InvalidTransparencyModel")
    if params.workflow or params.extra_texts:
        message = "Workflows are not supported yet."
        raise Unsupported(message, rc="InvalidExtraTexts")
    if params.special is not None:
        message = "Special payloads are not supported."
        raise Unsupported(message, rc="SpecialForbidden")
    if body.proxied_account is not None:
        message = "Only service accounts can provide a proxied_account value."
        raise Unsupported(message, rc="OnlyServiceAccountProxy")
    if body.disable_batching and params.n > 1:
        message = "Only trusted users can disable batching for more than one image."
        raise RequiresTrust(message)


def check_workers(store: Store, workers: list[str]) -> list[str]:
    """Return the first ``MAX_WORKERS`` workers that a request names.

    Raises PayloadError or WorkerNotFound.
    """
    named = workers[:MAX_WORKERS]
    for worker_id in named:
        if not is_uuid(worker_id):
            raise PayloadError({"workers": f"{worker_id[:100]!r} is not a worker id"})
        if store.workers.get(worker_id) is None:
            raise WorkerNotFound(worker_id)
    return named


def choose_models(wanted: list[str], configured: dict[str, Model]) -> list[str]:
    """Return the models that may draw a request: the first ``MAX_MODELS`` that it names.

    The first of them that the operator configured is at the head: its endpoint gets the tickets. A
    request that names no model accepts any; at its head is the operator's first.
    """
    named = list(dict.fromkeys(wanted))[:MAX_MODELS] or [next(iter(configured), DEFAULT_MODEL)]
    return sorted(named, key=lambda name: name not in configured)


def dearest(spec: ImageSpec, baselines: list[str]) -> str:
    """Return the family of models by which a request is priced and limited: the dearest of them."""
    quotes = {one: pricing.quote(spec, shared=False, baseline=one).total for one in baselines}
    return max(quotes, key=quotes.__getitem__, default="")


def no_effect(spec: ImageSpec, baseline: str) -> str | None:
    """Return what is told of a field that was asked for and changes nothing, or None."""
    without = spec.hires_fix and not pricing.first_pass_pixels(spec, baseline=baseline)
    return NO_HIRES_FIX if without else None


def usual(models: list[str], configured: Models) -> int | None:
    """Return the fewest steps that one of these models limits workers to, by the settings."""
    limits = [configured[model].max_steps for model in models if model in configured]
    return min((limit for limit in limits if limit is not None), default=None)


def asked_image(
    body: GenerateRequest, user: User, *, models: list[str], baseline: str, workers: list[str]
) -> Generation:
    """Return an image of a request, with all that decides who can draw it; ``plan`` makes more."""
    spec = body.spec
    return Generation(
        id="",
        request_id="",
        index=0,
        seed=0,
        state=State.WAITING,
        model=models[0],
        models=models if len(models) > 1 else [],
        any_model=not body.models,
        priority=0,
        created_at=0,
        batch_key="",
        pixels=spec.pixels,
        ttl=pricing.lease_seconds(spec, baseline=baseline),
        user_id=user.id,
        steps=math.ceil(pricing.accurate_steps(spec, baseline=baseline)),
        nsfw=body.nsfw,
        img2img=spec.img2img,
        painting=body.painting,
        trusted_only=body.trusted_workers,
        slow_workers=body.slow_workers,
        extra_slow_workers=body.extra_slow_workers,
        workers=workers,
        worker_blacklist=body.worker_blacklist,
    )


def drawable(store: Store, configured: Models, image: Generation) -> tuple[Generation, Drawable]:
    """Return an image with a model at its head whose endpoint can draw it, and who else can.

    That endpoint gets the tickets of its request. Raises Unsupported.
    """
    names = image.models or [image.model]
    if image.user_id == ANONYMOUS_ID:
        drawn = is_drawn(store, configured, names, any_model=image.any_model)
        admission.check_anonymous_model(image.model, drawn=drawn)
    found = chances(store, configured, image)
    able = found.endpoints
    if image.any_model:
        names = [image.model, *able]
    head = next((name for name in names if name in able), image.model)
    others = [name for name in image.models if name != head]
    tickets = head in able or not has_endpoint(configured, head)
    aimed = replace(image, model=head, models=[head, *others] if others else [])
    return aimed, Drawable(possible=found.possible, tickets=tickets)


def plan(
    body: GenerateRequest,
    user: User,
    *,
    image: Generation,
    tickets: bool,
    price: pricing.Price,
    decision: sharing.Decision,
    baseline: str,
) -> tuple[Request, list[Generation]]:
    """Return the records of a new request and its images, which are like ``image``."""
    params, img2img = body.params, image.img2img
    request_id, created_at = str(uuid.uuid4()), clock.now_ms()
    ids = [str(uuid.uuid4()) for _ in range(params.n)]
    job_payload = payload(body)
    batch_key = matching.batch_key(
        "" if image.any_model else "|".join(image.models or [image.model]),
        job_payload,
        kind=body.source_processing if img2img else "",
        alone=request_id if body.disable_batching else "",
    )
    request = Request(
        id=request_id,
        user_id=user.id,
        created_at=created_at,
        expires_at=created_at // 1000 + ruleset.IN_FORCE.request_life_s,
        model=image.model,
        n=params.n,
        generations=ids,
        payload=job_payload,
        price=price.price,
        tax=price.tax,
        reward=price.reward,
        shared=decision.shared,
        share_flag=body.shared,
        share_reason=decision.reason,
        nsfw=body.nsfw,
        r2=body.r2,
        source_key=f"{request_id}_src.webp" if img2img else None,
        source_processing=body.source_processing if img2img else None,
        mask_key=f"{request_id}_msk.webp" if body.painting else None,
        webhook=body.webhook,
        no_tickets=not tickets,
        ruleset=ruleset.IN_FORCE.version,
        baseline=baseline,
    )
    generations = [
        replace(
            image,
            id=generation_id,
            request_id=request_id,
            index=index,
            seed=matching.seed_of(params.seed, index, params.seed_variation),
            priority=matching.priority(matching.effective_kudos(user), created_at),
            created_at=created_at,
            batch_key=batch_key,
            unpaid=False,  # ``accept`` decides
        )
        for index, generation_id in enumerate(ids)
    ]
    return request, generations


def payload(body: GenerateRequest) -> dict[str, Any]:
    """Return the Horde's pop payload of a request, without seed and count."""
    params = body.params
    fields: dict[str, Any] = {
        "prompt": body.prompt,
        "ddim_steps": params.steps,
        "sampler_name": params.sampler_name,
        "cfg_scale": params.cfg_scale,
        "width": params.width,
        "height": params.height,
        "karras": params.karras,
        "tiling": params.tiling,
        "hires_fix": params.hires_fix,
        "clip_skip": params.clip_skip,
    }
    if body.source_image:
        fields["denoising_strength"] = params.denoising_strength or pricing.IMG2IMG_STRENGTH
    if params.hires_fix and params.hires_fix_denoising_strength:
        fields["hires_fix_denoising_strength"] = params.hires_fix_denoising_strength
    if body.censor_nsfw and not body.nsfw:
        fields["use_nsfw_censor"] = True
    return fields


ROUTES = {
    "POST /api/v2/generate/async": Route(
        run=generate,
        body=GenerateRequest,
        responses={202: RequestAccepted, 200: RequestCost},
        key=Key.REQUIRED,
        max_body=MAX_BODY,
        errors=(
            MissingPrompt,
            InvalidPromptSize,
            Unsupported,
            ImageValidationFailed,
            RequiresTrust,
            KudosUpfront,
            SharedKeyEmpty,
            SharedKeyExpired,
            SharedKeyInsufficientKudos,
            SharedKeyLimit,
            StyleNotFound,
            WorkerNotFound,
            TooManyPrompts,
            MaintenanceMode,
            Busy,
        ),
        limits=ratelimit.GENERATE,
    )
}
prepare(ROUTES)
startup.ready("dynamodb", "secretsmanager")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

"""POST /v2/generate/async: validate, price, decide what is shared, charge and record.

Crash windows: a source image is stored before the request exists; without a request it is
forgotten by the bucket after a day. After the transaction nothing is left to do here: the table's
stream carries the request on.
"""

import math
import uuid
from http import HTTPStatus
from typing import Any

from horde import (
    allowance,
    auth,
    aws,
    clock,
    fleet,
    images,
    limits,
    outbound,
    pricing,
    rates,
    sharedkeys,
    sharing,
    store,
)
from horde.answers import RequestAccepted, RequestCost, Warned
from horde.errors import (
    Busy,
    ImageValidationFailed,
    InvalidPromptSize,
    KudosUpfront,
    MaintenanceMode,
    MissingPrompt,
    PayloadError,
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
from horde.http import Answer, ApiSettings, Call, Key, Route, is_uuid, serve
from horde.model import (
    REQUEST_LIFE_S,
    Generation,
    Request,
    State,
    User,
    batch_key,
    priority,
    seed_of,
)
from horde.runpod import Model, Models, has_endpoint
from horde.schema import GenerateRequest, Params, parse
from horde.store import Store

MAX_PROMPT_WORDS = 7500
MAX_PROMPT_BYTES = 64 * 1024
"""The table's items are bounded; no tokenizer reads this far."""
MAX_WORKERS = 5
NO_WORKER = (
    "Warning: No available workers can fulfill this request. It will expire in 20 minutes "
    "unless a worker appears. Please consider choosing a different model."
)


class Settings(ApiSettings):
    """Names of what this function uses; ``models`` is what the operator's endpoints draw."""

    table_name: str
    sources_bucket: str
    models: Models
    monthly_kudos: int


def generate(call: Call) -> Answer:
    """Take a request, or say what it would cost (``dry_run``)."""
    settings = Settings.load()
    table = store.connect(settings.table_name)
    api_key = call.required_key()
    wish = parse(GenerateRequest, call.json())
    overview = fleet.overview(table)
    if overview.maintenance:
        raise MaintenanceMode
    check_prompt(wish.prompt)
    check_webhook(wish.webhook)
    user, sharedkey = auth.spender_of(table, api_key, clock.now())
    user = allowance.give(table, user, settings.monthly_kudos)
    check_drawable(wish)
    worker_ids = check_workers(table, wish.workers)

    model = choose_model(wish.models, settings.models)
    sharing_decision = sharing.decide(
        flag=wish.shared, anonymous=user.anonymous, uses_images=wish.uses_images
    )
    baseline = settings.models[model].baseline if model in settings.models else ""
    price = pricing.quote(wish, shared=sharing_decision.shared, baseline=baseline)
    available, side = user.kudos - user.floor, limits.max_side(overview.census, baseline)
    reduced = None
    if wish.allow_downgrade and limits.lacks_upfront(
        wish, side, total=price.total, available=available
    ):
        wish = limits.downgraded(wish, side)
        price = pricing.quote(wish, shared=sharing_decision.shared, baseline=baseline)
        reduced = limits.reduced_to(wish)
    if wish.dry_run:
        return Answer(RequestCost(kudos=price.total))
    waiting = table.waiting_of(user, model, limits.concurrency(user))
    limits.check_concurrency(user, waiting=waiting, n=wish.params.n)
    sharedkeys.check_request(sharedkey, wish, total=price.total)
    limits.check_upfront(wish, side, total=price.total, available=available)
    source = None
    if wish.source_image:
        source = images.source_of(wish.source_image, wish.source_mask, paints=wish.paints)

    request, generations = plan(
        wish,
        user,
        model=model,
        price=price,
        decision=sharing_decision,
        baseline=baseline,
        workers=worker_ids,
    )
    if source is not None and request.source_key is not None:
        images.put_webp(aws.s3(), settings.sources_bucket, request.source_key, source.image)
        if source.mask is not None and request.mask_key is not None:
            images.put_webp(aws.s3(), settings.sources_bucket, request.mask_key, source.mask)
    table.accept(request, generations, user, sharedkey)

    possible = has_endpoint(settings.models, model) or table.model_is_live(model)
    messages = [sharing_decision.message, reduced, None if possible else NO_WORKER]
    answer = RequestAccepted(
        id=request.id,
        kudos=price.total,
        message=" ".join(message for message in messages if message) or None,
        warnings=None if possible else [Warned(code="NoAvailableWorker", message=NO_WORKER)],
    )
    return Answer(answer, HTTPStatus.ACCEPTED)


def check_prompt(prompt: str) -> None:
    """Refuse an empty or endless prompt."""
    if not prompt.partition("###")[0].strip():
        raise MissingPrompt
    if len(prompt.split()) > MAX_PROMPT_WORDS or len(prompt.encode()) > MAX_PROMPT_BYTES:
        message = (
            f"Too large prompt specified. Please keep it under {MAX_PROMPT_WORDS} words and "
            f"{MAX_PROMPT_BYTES // 1024} KB."
        )
        raise InvalidPromptSize(message)


def check_webhook(url: str | None) -> None:
    """Refuse a webhook that will never be called: only https, only public hosts."""
    if url is not None:
        try:
            outbound.split(url)
        except outbound.OutboundError as error:
            raise PayloadError({"webhook": f"{url[:100]!r} cannot be called: {error}"}) from None


def check_drawable(wish: GenerateRequest) -> None:  # noqa: C901, PLR0912 - a flat list of wishes
    """Refuse what cannot be drawn yet; nothing is skipped silently. See the README's list."""
    params = wish.params
    if wish.style is not None:
        message = f"Style '{wish.style}' not found; this horde has no styles yet."
        raise StyleNotFound(message)
    if wish.source_mask and not wish.source_image:
        message = "You have specified a source_mask but no source_image."
        raise Unsupported(message, rc="SourceMaskUnnecessary")
    if wish.extra_source_images:
        message = "Extra source images (remix) are not supported yet."
        raise Unsupported(message, rc="InvalidExtraSourceImages")
    if wish.source_image and wish.source_processing == "remix":
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
    if wish.proxied_account is not None:
        message = "Only service accounts can provide a proxied_account value."
        raise Unsupported(message, rc="OnlyServiceAccountProxy")
    if wish.disable_batching and params.n > 1:
        message = "Only trusted users can disable batching for more than one image."
        raise RequiresTrust(message)


def check_workers(table: Store, workers: list[str]) -> list[str]:
    """Return the workers a request names (the first five); raises WorkerNotFound."""
    named = workers[:MAX_WORKERS]
    for worker_id in named:
        if not is_uuid(worker_id):
            raise PayloadError({"workers": f"{worker_id[:100]!r} is not a worker id"})
        if not table.worker_exists(worker_id):
            raise WorkerNotFound(worker_id)
    return named


def choose_model(wanted: list[str], configured: dict[str, Model]) -> str:
    """Pick whose queue the images wait in: the first wanted model that an endpoint draws.

    No wish at all means any model, so the operator's first; a model nobody configured waits for
    a volunteer.
    """
    for name in wanted:
        if name in configured:
            return name
    if wanted:
        return wanted[0]
    return next(iter(configured), "stable_diffusion")


def plan(
    wish: GenerateRequest,
    user: User,
    *,
    model: str,
    price: pricing.Price,
    decision: sharing.Decision,
    baseline: str,
    workers: list[str],
) -> tuple[Request, list[Generation]]:
    """Return the records of a new request and its images."""
    params, img2img = wish.params, wish.source_image is not None
    request_id, created_at = str(uuid.uuid4()), clock.now_ms()
    ids = [str(uuid.uuid4()) for _ in range(params.n)]
    ttl = pricing.lease_seconds(
        params, img2img=img2img, baseline=baseline, patient=wish.extra_slow_workers
    )
    request = Request(
        id=request_id,
        user_id=user.id,
        created_at=created_at,
        expires_at=created_at // 1000 + REQUEST_LIFE_S,
        model=model,
        n=params.n,
        generations=ids,
        payload=payload(wish),
        price=price.price,
        tax=price.tax,
        reward=price.reward,
        shared=decision.shared,
        share_flag=wish.shared,
        share_reason=decision.reason,
        nsfw=wish.nsfw,
        r2=wish.r2,
        source_key=f"{request_id}_src.webp" if img2img else None,
        source_processing=wish.source_processing if img2img else None,
        mask_key=f"{request_id}_msk.webp" if wish.paints else None,
        webhook=wish.webhook,
    )
    generations = [
        Generation(
            id=generation_id,
            request_id=request_id,
            index=index,
            seed=seed_of(params.seed, index, params.seed_variation),
            state=State.WAITING,
            model=model,
            priority=priority(user.standing, created_at),
            created_at=created_at,
            batch_key=batch_key(
                model,
                params,
                kind=wish.source_processing if img2img else "",
                alone=request_id if wish.disable_batching else "",
            ),
            pixels=params.width * params.height,
            ttl=ttl,
            user_id=user.id,
            steps=math.ceil(pricing.accurate_steps(params, img2img=img2img)),
            nsfw=wish.nsfw,
            img2img=img2img,
            painting=wish.paints,
            trusted_only=wish.trusted_workers,
            hasty=not wish.slow_workers,
            patient=wish.extra_slow_workers,
            workers=workers,
            worker_blacklist=wish.worker_blacklist,
        )
        for index, generation_id in enumerate(ids)
    ]
    return request, generations


def payload(wish: GenerateRequest) -> dict[str, Any]:
    """Return the Horde's pop payload of a request, but for seed and count."""
    params: Params = wish.params
    fields: dict[str, Any] = {
        "prompt": wish.prompt,
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
    if wish.source_image:
        fields["denoising_strength"] = params.denoising_strength or pricing.IMG2IMG_STRENGTH
    if params.hires_fix and params.hires_fix_denoising_strength:
        fields["hires_fix_denoising_strength"] = params.hires_fix_denoising_strength
    if wish.censor_nsfw and not wish.nsfw:
        fields["use_nsfw_censor"] = True
    return fields


ROUTES = {
    "POST /api/v2/generate/async": Route(
        run=generate,
        body=GenerateRequest,
        answers={202: RequestAccepted, 200: RequestCost},
        key=Key.REQUIRED,
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
        limits=rates.GENERATE,
    )
}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(ROUTES, event)

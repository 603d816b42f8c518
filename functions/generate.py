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

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from horde import aws, clock, images, outbound, startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import GenerateRequest, parse
from horde.edge.defaults import with_defaults
from horde.edge.errors import PayloadError
from horde.edge.http import MAX_BODY, ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.responses import RequestAccepted, RequestCost, Warned
from horde.overview import overview
from horde.planning import asked_image, choose_models, dearest, drawable, no_effect, plan, usual
from horde.records import State, User
from horde.rules import admission, allowance, features, pricing, ruleset, sharedkeys, sharing
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
from horde.runpod import Model, Models
from horde.store import Store, connect
from horde.store.charges import TooManyPosts
from horde.store.counts import short_id
from horde.store.queuenames import ANY, model_target
from horde.styling import styled

MAX_WORKERS = 5
"""Workers that a request may name; the Horde ignores further ones too (horde-api.md 1.1)."""
NO_WORKER = (
    "Warning: No available workers can fulfill this request. It will expire in "
    "{request_life_minutes} minutes unless a worker appears. Please consider reducing its size, "
    "asking less of its workers or choosing a different model."
)


class Settings(ApiSettings):
    """The names of this function's resources, the operator's models, and the monthly allowance."""

    table_name: str
    sources_bucket: str
    models: Models
    monthly_kudos: int
    hash_secret: str


def generate(call: Call) -> Response:
    """Accept a request, or return what it would cost (``dry_run``)."""
    settings = Settings.load()
    store = connect(settings.table_name)
    api_key = call.required_key()
    body = parse(GenerateRequest, call.json())
    seen = overview(store)
    if seen.maintenance:
        raise MaintenanceMode
    body = (asked := styled(store, body)).body
    check_texts(body)
    body, models = aimed(body, settings.models)
    targets = [ANY] if not body.models else [model_target(model) for model in models]
    user, sharedkey = auth.spender_of(store, api_key, clock.now(), targets)
    check_drawable(body)
    worker_ids = check_workers(store, body.workers)

    decision = sharing.decide(
        flag=body.shared, anonymous=user.anonymous, uses_images=body.uses_images
    )
    spec = body.spec
    baseline = family(body, [settings.models[one] for one in models if one in settings.models])
    price = pricing.quote(spec, shared=decision.shared, baseline=baseline)
    allowed = allowance.due(user, settings.monthly_kudos, clock.now())
    available = user.kudos - user.floor + allowed
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
        asked.of(body),
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
    messages = [decision.message, reduced, no_worker, no_effect(body.params, spec, baseline)]
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


def check_texts(body: GenerateRequest) -> None:
    """Refuse an empty or overlong prompt, and a webhook that is no https URL of a public host.

    Raises MissingPrompt, InvalidPromptSize or PayloadError.
    """
    admission.check_prompt(body.prompt)
    url = body.webhook
    if url is not None:
        try:
            outbound.parse_url(url)
        except outbound.OutboundError as error:
            raise PayloadError({"webhook": f"{url[:100]!r} cannot be called: {error}"}) from None


def check_drawable(body: GenerateRequest) -> None:
    """Refuse features that are not supported yet (docs/api.md) instead of ignoring them.

    Raises Unsupported or RequiresTrust.
    """
    params = body.params
    if body.source_mask and not body.source_image:
        message = "You have specified a source_mask but no source_image."
        raise Unsupported(message, rc="SourceMaskUnnecessary")
    if body.extra_source_images:
        message = "Extra source images (remix) are not supported yet."
        raise Unsupported(message, rc="InvalidExtraSourceImages")
    if body.source_image and body.source_processing == "remix":
        message = "source_processing 'remix' is not supported yet."
        raise Unsupported(message, rc="InvalidRemix")
    if any(one.is_version and not one.name.isdecimal() for one in params.loras):
        message = "A LoRA with is_version is named by the number of its version."
        raise Unsupported(message, rc="BadLoraVersion")
    features.check_post_processing(params.post_processing, width=params.width, height=params.height)
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


def aimed(body: GenerateRequest, configured: dict[str, Model]) -> tuple[GenerateRequest, list[str]]:
    """Return a request with the defaults of the model at its head, and the models that may draw it.

    One that names no model has the Horde's own defaults.
    """
    models = choose_models(body.models, configured)
    named = body.models and models[0] in configured
    return with_defaults(body, configured[models[0]].defaults if named else {}), models


def family(body: GenerateRequest, models: list[Model]) -> str:
    """Return the family of models by which a request is priced and limited: the dearest of them.

    Raises Unsupported if it has no ControlNet or textual inversion and the request asks for one.
    """
    params = body.params
    drawing = dearest(body.spec, [model.baseline for model in models])
    features.check_inversions(params.tis, baseline=drawing)
    features.check_control(
        params.control_type,
        baseline=drawing,
        source=bool(body.source_image),
        painting=body.painting,
        given=params.image_is_control,
        returned=params.return_control_map,
    )
    return dearest(body.spec, [model.price_family or model.baseline for model in models])


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

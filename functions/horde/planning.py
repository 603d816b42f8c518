"""Which images a request asks for, who can draw them, and the records of both."""

import math
import uuid
from dataclasses import dataclass, replace
from typing import Any

from horde import clock
from horde.edge.bodies import GenerateRequest, Params
from horde.overview import chances, is_drawn
from horde.records import ANONYMOUS_ID, Generation, ImageSpec, Request, State, User
from horde.rules import admission, features, matching, pricing, ruleset, sharing
from horde.runpod import Model, Models, has_endpoint
from horde.store import Store
from horde.styling import Styled

MAX_MODELS = 4
"""Models that a request may name; further ones are ignored. Each has a copy of each image."""
DEFAULT_MODEL = "stable_diffusion"
FLOW = pricing.SLOW_BASELINES
"""The families of flow matching, which have a sampler of their own."""
NO_HIRES_FIX = (
    "hires_fix has no effect here: it acts on text-to-image whose sides both exceed the size that "
    "the model was trained on."
)


@dataclass(frozen=True, slots=True)
class Drawable:
    """Whether anybody can draw a request."""

    possible: bool
    tickets: bool
    """Whether its model's endpoint is asked to; one that cannot draw it is not started."""


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


def no_effect(params: Params, spec: ImageSpec, baseline: str) -> str | None:
    """Return what is told of fields that were asked for and change nothing, or None."""
    told = []
    if spec.hires_fix and not pricing.first_pass_pixels(spec, baseline=baseline):
        told.append(NO_HIRES_FIX)
    sent = params.model_fields_set
    adaptive = ruleset.IN_FORCE.adaptive_steps
    if params.sampler_name == "k_dpm_adaptive" and "steps" in sent and params.steps != adaptive:
        told.append(f"steps without effect: k_dpm_adaptive chooses its own, and costs {adaptive}.")
    if params.sampler_name == "lcm" and baseline not in FLOW and "karras" in sent and params.karras:
        told.append("karras without effect: lcm has noise levels of its own.")
    without = {
        "sampler_name": "sampler_name" in sent and params.sampler_name != "k_euler",
        "karras": "karras" in sent and params.karras,
        "clip_skip": params.clip_skip > 1,
        "tiling": params.tiling,
    }
    names = [name for name, asked in without.items() if asked]
    if baseline in FLOW and names:
        told.append(f"{' and '.join(names)} without effect: {baseline} takes Euler steps.")
    return " ".join(told) or None


def usual(models: list[str], configured: Models) -> int | None:
    """Return the fewest steps that one of these models limits workers to, by the settings."""
    limits = [configured[model].max_steps for model in models if model in configured]
    return min((limit for limit in limits if limit is not None), default=None)


def asked_image(
    body: GenerateRequest, user: User, *, models: list[str], baseline: str, workers: list[str]
) -> Generation:
    """Return an image of a request, with all that decides who can draw it; ``plan`` makes more."""
    spec = body.spec
    asked = features.of_payload(payload(body), baseline=baseline)
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
        features=asked,
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
    asked: Styled,
    user: User,
    *,
    image: Generation,
    tickets: bool,
    price: pricing.Price,
    decision: sharing.Decision,
    baseline: str,
) -> tuple[Request, list[Generation]]:
    """Return the records of a new request and its images, which are like ``image``."""
    body, img2img = asked.body, image.img2img
    params = body.params
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
        style_id=asked.style.id if asked.style else None,
        style_owner=asked.author_for(user.id),
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
    if params.loras:
        fields["loras"] = [one.model_dump(exclude_none=True) for one in params.loras]
    if params.tis:
        fields["tis"] = [one.model_dump(exclude_none=True) for one in params.tis]
    if params.control_type:
        fields["control_type"] = params.control_type
        fields["image_is_control"] = params.image_is_control
        fields["return_control_map"] = params.return_control_map
    if params.post_processing:
        fields["post_processing"] = params.post_processing
        if params.facefixer_strength is not None:
            fields["facefixer_strength"] = params.facefixer_strength
    if body.censor_nsfw and not body.nsfw:
        fields["use_nsfw_censor"] = True
    return fields

"""Which requests are admitted: how many images may wait, and which need their kudos upfront.

The rules are those of horde-api.md 3.4; the numbers are in ``rules.ruleset``.
"""

import json
from dataclasses import replace

from horde.records import ANONYMOUS_PARTS, Census, ImageSpec, User
from horde.rules import ruleset
from horde.rules.pricing import accurate_steps
from horde.rules.refusals import (
    InvalidPromptSize,
    KudosUpfront,
    MissingPrompt,
    TooManyPrompts,
    Unsupported,
)

FREE_SIDE = {
    "stable_diffusion_2": 768,
    "stable_diffusion_2_512": 768,
    "stable_diffusion_2_768": 768,
    "stable_diffusion_xl": 1024,
    "stable_cascade": 1024,
    "flux_1": 1024,
}
"""Side in pixels, by baseline, that never needs kudos upfront: smaller images come out badly."""
MAX_PROMPT_WORDS = 7500
MAX_PROMPT_BYTES = 64 * 1024
"""Bytes of a prompt as JSON, where a control character has six; no tokenizer reads this far.

It keeps items small, and a pop of twenty images, each with its prompt, below the 6 MB of an answer.
"""


def check_prompt(prompt: str) -> None:
    """Refuse an empty or overlong prompt; raises MissingPrompt or InvalidPromptSize."""
    if not prompt.partition("###")[0].strip():
        raise MissingPrompt
    size = len(json.dumps(prompt, ensure_ascii=False).encode()) - len('""')
    if size > MAX_PROMPT_BYTES or len(prompt.split()) > MAX_PROMPT_WORDS:
        message = (
            f"The prompt is too long. Please keep it to at most {MAX_PROMPT_WORDS} words and "
            f"{MAX_PROMPT_BYTES // 1024} KB."
        )
        raise InvalidPromptSize(message)


def concurrency(user: User) -> int:
    """Return how many images an account, or a part of the anonymous one, may have waiting."""
    if user.anonymous:
        whole = ruleset.IN_FORCE.concurrency_anonymous
        return whole if user.part is None else whole // ANONYMOUS_PARTS
    return ruleset.IN_FORCE.concurrency if user.concurrency is None else user.concurrency


def check_concurrency(user: User, *, waiting: int, n: int) -> None:
    """Refuse ``n`` more images if that makes too many waiting; raises TooManyPrompts."""
    limit = concurrency(user)
    if waiting + n > limit:
        who, advice = "This account has", "wait until some are drawn, or cancel some"
        if user.anonymous:
            who, advice = "Anonymous users near you have", "wait until some are drawn, or register"
        message = (
            f"{who} {waiting} images waiting, and {n} more would exceed the limit of {limit}. "
            f"Please {advice}."
        )
        raise TooManyPrompts(message)


def check_anonymous_model(model: str, *, drawn: bool) -> None:
    """Refuse a model that nobody draws now to anonymous users; raises Unsupported.

    Its images would wait for their whole life, in places that all anonymous users share.
    """
    if not drawn:
        message = (
            f"No worker draws the model '{model[:100]}' now, and without an account you can only "
            "ask for models that are drawn. Please choose one of /api/v2/status/models, or "
            "register at /register."
        )
        raise Unsupported(message, rc="NoValidWorkers")


def max_side(census: Census, baseline: str = "") -> int:
    """Return the side, in pixels, of the largest square that needs no kudos upfront.

    It shrinks as the queue grows and grows with the fleet (horde-api.md 3.4).
    """
    rules = ruleset.IN_FORCE
    queued = sum(load.images for load in census.models.values())
    side = rules.max_side + rules.side_per_thread * census.threads
    side -= round(rules.side_per_queued * queued)
    return min(rules.max_side, max(rules.min_side, FREE_SIDE.get(baseline, 0), side))


def upfront_reason(spec: ImageSpec, side: int, baseline: str = "") -> str | None:
    """Return why a request needs its kudos upfront, or None if it does not.

    ``side`` is the side of the largest free square, from ``max_side``. ``baseline`` is the model's
    family.
    """
    rules = ruleset.IN_FORCE
    if not spec.slow_workers:
        return "it refuses slow workers"
    if spec.sampler_name == "lcm" and spec.steps > rules.max_steps_lcm:
        return f"it asks for more than {rules.max_steps_lcm} LCM steps"
    if spec.control_type and accurate_steps(spec, baseline=baseline) > rules.max_steps_control:
        return f"it asks for more than {rules.max_steps_control} steps with a ControlNet"
    if accurate_steps(spec, baseline=baseline) > rules.max_steps:
        counted = " with the first pass of hires_fix" if spec.hires_fix else ""
        return f"it asks for more than {rules.max_steps} steps{counted}"
    if spec.pixels > side**2:
        return f"it asks for more than {side}x{side} pixels"
    return None


def lacks_upfront(reason: str | None, *, total: int, available: int) -> bool:
    """Return whether a request needs ``total`` kudos upfront and the account lacks them.

    ``reason`` is that of ``upfront_reason``. ``available`` is the balance above the account's
    floor, in kudos.
    """
    return reason is not None and available < total


def downgraded(spec: ImageSpec, side: int, baseline: str = "") -> ImageSpec:
    """Return a spec reduced until it needs no kudos upfront (``allow_downgrade``).

    The size keeps its aspect ratio as far as multiples of 64 allow, and comes first, since the
    first pass of ``hires_fix`` counts for more in a smaller image. The adaptive sampler ignores a
    limit on steps, so it becomes ``k_euler_a``.
    """
    rules, reduced = ruleset.IN_FORCE, replace(spec, slow_workers=True)
    if spec.pixels > side**2:
        shrink = (side**2 / spec.pixels) ** 0.5
        reduced = replace(
            reduced,
            width=max(64, int(spec.width * shrink) // 64 * 64),
            height=max(64, int(spec.height * shrink) // 64 * 64),
        )
    most = rules.max_steps_control if spec.control_type else rules.max_steps
    if spec.sampler_name == "lcm":
        reduced = replace(reduced, steps=min(spec.steps, rules.max_steps_lcm))
    elif accurate_steps(reduced, baseline=baseline) > most:
        if spec.sampler_name == "k_dpm_adaptive":
            reduced = replace(reduced, sampler_name="k_euler_a")
        per_step = accurate_steps(replace(reduced, steps=100), baseline=baseline) / 100
        steps = rules.max_steps_control if spec.control_type else rules.downgraded_steps
        reduced = replace(reduced, steps=min(spec.steps, int(steps / per_step)))
    return reduced


def downgrade_message(spec: ImageSpec) -> str:
    """Return the message to a client whose request was reduced to ``spec``."""
    return (
        f"This request was reduced to {spec.width}x{spec.height} pixels and {spec.steps} "
        f"steps ({spec.sampler_name}, slow workers allowed), because the account does not have "
        "the kudos that the original request needs upfront."
    )


def check_upfront(reason: str | None, *, total: int, available: int) -> None:
    """Refuse a request that needs more kudos upfront than the account has; raises KudosUpfront.

    ``reason`` is that of ``upfront_reason``. ``available`` is the balance above the account's
    floor, in kudos. ``store.charges`` decides again, by the balance that it charges.
    """
    if lacks_upfront(reason, total=total, available=available):
        message = (
            f"Due to heavy demand, this request needs its kudos upfront because {reason}. It costs "
            f"{total} kudos, but this account can spend {max(0, available)}. Please reduce its "
            "size or steps, or register and earn kudos."
        )
        raise KudosUpfront(message)

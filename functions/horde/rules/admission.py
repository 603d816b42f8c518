"""Which requests are let in: how many images may wait, and what needs its kudos upfront.

The source is horde-api.md 3.4; the numbers are the ruleset's.
"""

from dataclasses import replace

from horde.records import Census, ImageSpec, User
from horde.rules import ruleset
from horde.rules.pricing import accurate_steps
from horde.rules.refusals import InvalidPromptSize, KudosUpfront, MissingPrompt, TooManyPrompts

NATIVE_SIDE = {
    "stable_diffusion_2": 768,
    "stable_diffusion_2_512": 768,
    "stable_diffusion_2_768": 768,
    "stable_diffusion_xl": 1024,
    "stable_cascade": 1024,
    "flux_1": 1024,
}
"""The side that a model family may always be asked for: it draws badly below its own size."""
MAX_PROMPT_WORDS = 7500
MAX_PROMPT_BYTES = 64 * 1024
"""The table's items are bounded; no tokenizer reads this far."""


def check_prompt(prompt: str) -> None:
    """Refuse an empty or endless prompt; raises MissingPrompt or InvalidPromptSize."""
    if not prompt.partition("###")[0].strip():
        raise MissingPrompt
    if len(prompt.split()) > MAX_PROMPT_WORDS or len(prompt.encode()) > MAX_PROMPT_BYTES:
        message = (
            f"Too large prompt specified. Please keep it under {MAX_PROMPT_WORDS} words and "
            f"{MAX_PROMPT_BYTES // 1024} KB."
        )
        raise InvalidPromptSize(message)


def concurrency(user: User) -> int:
    """Return how many images an account may have waiting."""
    if user.anonymous:
        return ruleset.IN_FORCE.concurrency_anonymous
    return ruleset.IN_FORCE.concurrency if user.concurrency is None else user.concurrency


def check_concurrency(user: User, *, waiting: int, n: int) -> None:
    """Refuse ``n`` more images where too many wait already; raises TooManyPrompts."""
    limit = concurrency(user)
    if waiting + n > limit:
        message = (
            f"Too many images wait for this account: {waiting}, and {n} more would exceed the "
            f"limit of {limit}. Please wait until some are drawn, or cancel some."
        )
        raise TooManyPrompts(message)


def max_side(census: Census, baseline: str = "") -> int:
    """Return the side of the largest square that needs no kudos upfront, in pixels.

    The longer the queue and the fewer the workers, the smaller it is.
    """
    rules = ruleset.IN_FORCE
    queued = sum(load.images for load in census.models.values())
    grown = rules.max_side + rules.side_per_thread * census.threads
    side = grown - round(rules.side_per_queued * queued)
    return min(rules.max_side, max(rules.min_side, NATIVE_SIDE.get(baseline, 0), side))


def upfront_reason(spec: ImageSpec, side: int) -> str | None:
    """Say why a request must be paid in full before it is taken, or None if it need not be.

    ``side`` is that of the largest free square, from ``max_side``.
    """
    rules = ruleset.IN_FORCE
    if not spec.slow_workers:
        return "it refuses slow workers"
    if spec.sampler_name == "lcm" and spec.steps > rules.max_steps_lcm:
        return f"it asks for more than {rules.max_steps_lcm} LCM steps"
    if accurate_steps(spec) > rules.max_steps:
        return f"it asks for more than {rules.max_steps} steps"
    if spec.pixels > side**2:
        return f"it asks for more than {side}x{side} pixels"
    return None


def lacks_upfront(spec: ImageSpec, side: int, *, total: int, available: int) -> bool:
    """Say whether a request is heavy and cannot be paid. ``available`` is above the floor."""
    return upfront_reason(spec, side) is not None and available < total


def downgraded(spec: ImageSpec, side: int) -> ImageSpec:
    """Return images reduced to what needs no kudos upfront (``allow_downgrade``).

    The size keeps its shape as far as multiples of 64 allow. The adaptive sampler, whose steps
    nobody can limit, becomes ``k_euler_a``.
    """
    rules, reduced = ruleset.IN_FORCE, replace(spec, slow_workers=True)
    if spec.pixels > side**2:
        shrink = (side**2 / spec.pixels) ** 0.5
        reduced = replace(
            reduced,
            width=max(64, int(spec.width * shrink) // 64 * 64),
            height=max(64, int(spec.height * shrink) // 64 * 64),
        )
    if spec.sampler_name == "lcm":
        reduced = replace(reduced, steps=min(spec.steps, rules.max_steps_lcm))
    elif accurate_steps(spec) > rules.max_steps:
        if spec.sampler_name == "k_dpm_adaptive":
            reduced = replace(reduced, sampler_name="k_euler_a")
        per_step = accurate_steps(replace(reduced, steps=100)) / 100
        reduced = replace(reduced, steps=min(spec.steps, int(rules.downgraded_steps / per_step)))
    return reduced


def reduced_to(spec: ImageSpec) -> str:
    """Tell a client what its request was reduced to."""
    return (
        f"This request was reduced to {spec.width}x{spec.height} pixels and {spec.steps} "
        f"steps ({spec.sampler_name}, slow workers allowed), since its kudos could not be paid "
        "upfront."
    )


def check_upfront(spec: ImageSpec, side: int, *, total: int, available: int) -> None:
    """Refuse a heavy request that cannot be paid.

    ``available`` is the balance above the account's floor, in kudos; raises KudosUpfront.
    """
    if lacks_upfront(spec, side, total=total, available=available):
        reason = upfront_reason(spec, side)
        message = (
            f"Due to heavy demand, this request needs its kudos upfront because {reason}: "
            f"it costs {total} kudos and {max(0, available)} can be spent. Please reduce its "
            "size or steps, or register and earn kudos."
        )
        raise KudosUpfront(message)

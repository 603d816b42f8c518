"""How much an account may have waiting, and which requests need kudos upfront.

Pure; horde-api.md 3.4.
"""

from horde.errors import KudosUpfront, TooManyPrompts
from horde.fleet import Census
from horde.model import USUAL_STEPS, User
from horde.pricing import accurate_steps
from horde.schema import GenerateRequest

MAX_STEPS = USUAL_STEPS
"""Accurate steps that anyone may ask for."""
MAX_SIDE = 1024
MIN_SIDE = 576
"""Bounds of the largest square that anyone may ask for, in pixels a side."""
LEAST_SIDE = {
    "stable_diffusion_2": 768,
    "stable_diffusion_2_512": 768,
    "stable_diffusion_2_768": 768,
    "stable_diffusion_xl": 1024,
    "stable_cascade": 1024,
    "flux_1": 1024,
}
"""What a model's family may always be asked for: it draws badly below its own size."""
SIDE_PER_THREAD = 10
SIDE_PER_QUEUED = 0.9
MAX_STEPS_LCM = 10
DOWNGRADED_STEPS = 30
"""Accurate steps that ``allow_downgrade`` reduces to."""
CONCURRENCY = 30
"""Images that an account may have waiting at once."""
CONCURRENCY_ANONYMOUS = 500
"""Images of one model that all anonymous users together may have waiting."""


def concurrency(user: User) -> int:
    """Return how many images an account may have waiting."""
    if user.anonymous:
        return CONCURRENCY_ANONYMOUS
    return CONCURRENCY if user.concurrency is None else user.concurrency


def check_concurrency(user: User, *, waiting: int, n: int) -> None:
    """Refuse ``n`` more images where too many wait already; raises TooManyPrompts."""
    most = concurrency(user)
    if waiting + n > most:
        message = (
            f"Too many images wait for this account: {waiting}, and {n} more would pass the "
            f"limit of {most}. Please wait until some are drawn, or cancel some."
        )
        raise TooManyPrompts(message)


def max_side(census: Census, baseline: str = "") -> int:
    """Return the side of the largest square that needs no kudos upfront, in pixels.

    The longer the queue and the fewer the workers, the smaller.
    """
    queued = sum(load.images for load in census.models.values())
    side = MAX_SIDE + SIDE_PER_THREAD * census.threads - round(SIDE_PER_QUEUED * queued)
    return min(MAX_SIDE, max(MIN_SIDE, LEAST_SIDE.get(baseline, 0), side))


def upfront_reason(request: GenerateRequest, side: int) -> str | None:
    """Say why a request must be paid in full before it is taken, or None if it need not be.

    ``side`` is that of the largest free square, from ``max_side``.
    """
    params = request.params
    if not request.slow_workers:
        return "it refuses slow workers"
    if params.sampler_name == "lcm" and params.steps > MAX_STEPS_LCM:
        return f"it asks for more than {MAX_STEPS_LCM} LCM steps"
    if accurate_steps(params, img2img=request.source_image is not None) > MAX_STEPS:
        return f"it asks for more than {MAX_STEPS} steps"
    if params.width * params.height > side**2:
        return f"it asks for more than {side}x{side} pixels"
    return None


def lacks_upfront(request: GenerateRequest, side: int, *, total: int, available: int) -> bool:
    """Say whether a request is heavy and cannot be paid. ``available`` is above the floor."""
    return upfront_reason(request, side) is not None and available < total


def downgraded(request: GenerateRequest, side: int) -> GenerateRequest:
    """Return a request reduced to what needs no kudos upfront (``allow_downgrade``).

    The size keeps its shape as multiples of 64 go; the adaptive sampler, whose steps nobody can
    limit, becomes ``k_euler_a``.
    """
    params = request.params
    img2img = request.source_image is not None
    change: dict[str, object] = {}
    if params.width * params.height > side**2:
        shrink = (side**2 / (params.width * params.height)) ** 0.5
        change["width"] = max(64, int(params.width * shrink) // 64 * 64)
        change["height"] = max(64, int(params.height * shrink) // 64 * 64)
    if params.sampler_name == "lcm":
        change["steps"] = min(params.steps, MAX_STEPS_LCM)
    elif accurate_steps(params, img2img=img2img) > MAX_STEPS:
        if params.sampler_name == "k_dpm_adaptive":
            change["sampler_name"] = "k_euler_a"
        plain = params.model_copy(update={**change, "steps": 100})
        per_step = accurate_steps(plain, img2img=img2img) / 100
        change["steps"] = min(params.steps, int(DOWNGRADED_STEPS / per_step))
    return request.model_copy(
        update={"slow_workers": True, "params": params.model_copy(update=change)}
    )


def reduced_to(request: GenerateRequest) -> str:
    """Tell a client what its request was reduced to."""
    params = request.params
    return (
        f"This request was reduced to {params.width}x{params.height} pixels and {params.steps} "
        f"steps ({params.sampler_name}, slow workers allowed), since its kudos could not be paid "
        "upfront."
    )


def check_upfront(request: GenerateRequest, side: int, *, total: int, available: int) -> None:
    """Refuse a heavy request that cannot be paid.

    ``available`` is the balance above the account's floor, in kudos; raises KudosUpfront.
    """
    if lacks_upfront(request, side, total=total, available=available):
        reason = upfront_reason(request, side)
        message = (
            f"Due to heavy demand, this request needs its kudos upfront because {reason}: "
            f"it costs {total} kudos and {max(0, available)} can be spent. Please reduce its "
            "size or steps, or register and earn kudos."
        )
        raise KudosUpfront(message)

"""Which requests need kudos upfront. Pure; horde-api.md 3.4."""

from horde.errors import KudosUpfront
from horde.pricing import accurate_steps
from horde.schema import GenerateRequest

MAX_STEPS = 40
"""Accurate steps that anyone may ask for."""
MAX_RESOLUTION = 1024
"""Side of the largest square that anyone may ask for, in pixels."""
MAX_STEPS_LCM = 10


def upfront_reason(request: GenerateRequest) -> str | None:
    """Say why a request must be paid in full before it is taken, or None if it need not be."""
    params = request.params
    if not request.slow_workers:
        return "it refuses slow workers"
    if params.sampler_name == "lcm" and params.steps > MAX_STEPS_LCM:
        return f"it asks for more than {MAX_STEPS_LCM} LCM steps"
    if accurate_steps(params, img2img=request.source_image is not None) > MAX_STEPS:
        return f"it asks for more than {MAX_STEPS} steps"
    if params.width * params.height > MAX_RESOLUTION**2:
        return f"it asks for more than {MAX_RESOLUTION}x{MAX_RESOLUTION} pixels"
    return None


def check_upfront(request: GenerateRequest, *, total: int, available: int) -> None:
    """Refuse a heavy request that cannot be paid.

    ``available`` is the balance above the account's floor, in kudos; raises KudosUpfront.
    """
    reason = upfront_reason(request)
    if reason is not None and available < total:
        message = (
            f"Due to heavy demand, this request needs its kudos upfront because {reason}: "
            f"it costs {total} kudos and {max(0, available)} can be spent. Please reduce its "
            "size or steps, or register and earn kudos."
        )
        raise KudosUpfront(message)

"""Whether anybody can draw an image: the operator's endpoints, and the workers of a census.

An endpoint that sleeps draws what it draws awake, so it counts. The operator's own workers are
trusted and take all that the API accepts, up to the size and with the features of the settings.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from horde.records import Census, Drawer, Generation, User, Worker, WorkerStats
from horde.rules.features import SDXL_CONTROL, letters
from horde.rules.needs import lacks, needs

UNPAID = "u"
"""A letter beside those of needs: the worker draws only what was paid in full."""


class Ability(NamedTuple):
    """What an endpoint can draw of a model."""

    max_pixels: int
    """Width times height of its largest image."""
    features: frozenset[str] = frozenset()
    """What it does that not every worker does (``rules.features``)."""


def drawer(worker: Worker, stats: WorkerStats, owner: User | None, models: Iterable[str]) -> Drawer:
    """Return a worker as a census has it, whose models are ``models`` in this order."""
    offered = set(worker.models)
    missing = lacks(worker, trusted=owner is not None and owner.trusted, speed=stats.speed)
    return Drawer(
        id=worker.id,
        max_pixels=worker.max_pixels,
        lacks=missing + letters(worker.unable) + (UNPAID if worker.require_upfront_kudos else ""),
        fleet=owner is not None and owner.fleet,
        models=sum(1 << place for place, name in enumerate(models) if name in offered),
    )


def drawers(image: Generation, census: Census) -> list[Drawer] | None:
    """Return the workers of a census that can draw an image; None if it does not say.

    What one of them has faulted is not considered.
    """
    if census.drawers is None:
        return None
    wanted = {*needs(image)[1:], *letters(image.features), *("" if image.paid else UNPAID)}
    models = census.bits(image.models or [image.model])
    return [
        one
        for one in census.drawers
        if (image.any_model or one.models & models)
        and one.max_pixels >= image.pixels
        and wanted.isdisjoint(one.lacks)
        and (not image.workers or (one.id in image.workers) is not image.worker_blacklist)
    ]


def endpoint_draws(image: Generation, model: str, endpoints: Mapping[str, Ability]) -> bool:
    """Return whether an endpoint draws an image, if not for the workers that its request names.

    ``endpoints`` are those of the models that have any.
    """
    named = image.any_model or model in (image.models or [image.model])
    able = endpoints.get(model)
    if able is None or not named:
        return False
    return image.pixels <= able.max_pixels and able.features.issuperset(
        {*image.features} - {SDXL_CONTROL}
    )


def is_for_endpoints(image: Generation, drawn_by: Iterable[Drawer]) -> bool:
    """Return whether a GPU that is started for an image may draw it.

    A worker that a request names is awake or unknown: nobody can tell that a GPU will be started
    under its name. So only one of the operator's own in ``drawn_by``, which is awake, counts.
    """
    return not image.workers or image.worker_blacklist or any(one.fleet for one in drawn_by)

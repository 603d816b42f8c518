"""The last census and the operator's modes, cached in each process.

The cache is up to ``CACHE_S`` seconds behind the table, and the census up to a minute behind the
queue.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from horde import clock
from horde.records import Census, Generation
from horde.rules import drawing
from horde.runpod import Models, abilities, has_endpoint
from horde.store import Store

CACHE_S = 10
STALE_S = 5 * 60
"""Age in seconds from which a census is treated as empty."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the whole horde: its last census, and whether it is in maintenance."""

    census: Census
    maintenance: bool


_cached: dict[Store, tuple[int, Overview]] = {}


def overview(store: Store) -> Overview:
    """Return the last census and the modes, which each process reads every ``CACHE_S`` seconds.

    A stale census is treated as empty.
    """
    now = clock.now()
    cached = _cached.get(store)
    if cached is not None and cached[0] > now - CACHE_S:
        return cached[1]
    census, maintenance = store.census.read()
    if census.at <= now - STALE_S:
        census = Census()
    _cached[store] = (now, Overview(census, maintenance))
    return _cached[store][1]


def model_is_live(store: Store, model: str) -> bool:
    """Return whether an online worker offers a model, by the census or since then."""
    return bool(overview(store).census.load(model).workers) or store.workers.model_is_live(model)


def is_drawn(
    store: Store, configured: Models, models: Iterable[str], *, any_model: bool = False
) -> bool:
    """Return whether an endpoint or an online worker draws one of these models, or any at all."""
    if any_model:
        endpoints = any(has_endpoint(configured, model) for model in configured)
        return endpoints or bool(overview(store).census.workers)
    return any(has_endpoint(configured, model) or model_is_live(store, model) for model in models)


@dataclass(frozen=True, slots=True)
class Chances:
    """Who can draw an image."""

    possible: bool
    """Whether anybody can."""
    endpoints: tuple[str, ...]
    """In the operator's order, the models whose endpoints can: a GPU that is started for one of
    them may draw it."""


def chances(store: Store, configured: Models, image: Generation) -> Chances:
    """Return who can draw an image: sleeping endpoints, and online workers by the last census.

    A worker that came since the census is believed to draw all images of a model that only
    volunteers draw, and that nobody drew before: what it offers is known a minute later.
    """
    census, endpoints_of = overview(store).census, abilities(configured)
    found = drawing.drawers(image, census)
    endpoints = tuple(
        model
        for model in endpoints_of
        if drawing.endpoint_draws(image, model, endpoints_of)
        and drawing.is_for_endpoints(image, found or ())
    )
    if endpoints or found:
        return Chances(possible=True, endpoints=endpoints)
    names = [] if image.any_model else image.models or [image.model]
    counted = found is not None
    possible = any(
        name not in endpoints_of
        and not (counted and census.load(name).workers)
        and model_is_live(store, name)
        for name in names
    )
    if not counted:  # a census that does not say, or none at all
        possible = possible or (image.any_model and bool(census.workers))
    return Chances(possible=possible, endpoints=endpoints)


def clear_cache() -> None:
    """Drop this process's cache, for tests."""
    _cached.clear()

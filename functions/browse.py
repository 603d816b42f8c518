"""GET workers, models, statistics and modes: public reads that write nothing."""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

from horde import clock, startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import parse
from horde.edge.http import (
    MAX_ANSWER,
    ApiSettings,
    Call,
    Key,
    Response,
    Route,
    prepare,
    serve,
    wire_size,
)
from horde.edge.ids import is_uuid
from horde.edge.other_bodies import ModelQuery, ModelStatsQuery, WorkerQuery
from horde.edge.other_responses import (
    ActiveModel,
    AnonymousAmount,
    ImageAmount,
    ImageModels,
    ImageTotals,
    ModelList,
    Modes,
    Performance,
    TextAmount,
    TextModels,
    TextTotals,
    WorkerDetails,
    WorkerKudos,
    WorkerList,
    WorkerMessages,
    WorkerTeams,
)
from horde.overview import overview
from horde.records import ONLINE_S, Amount, ModelCounts, Totals, User, Worker, WorkerStats
from horde.rules import accounts, estimates
from horde.rules.refusals import WorkerNotFound
from horde.runpod import Models, has_endpoint
from horde.store import Store, connect

T = TypeVar("T")

STATS_MS = 30_000
"""Milliseconds for which a process caches the statistics it has read."""
_cached: dict[Callable[[Store, int], object], tuple[int, Any]] = {}
MAX_LISTED = 250
"""Most workers listed per shard of their list."""


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str
    models: Models


def _store() -> Store:
    return connect(Settings.load().table_name)


def workers(call: Call) -> Response:
    """List the workers that popped in the last five minutes, as many as an answer can hold."""
    query = parse(WorkerQuery, dict(call.query))
    store, viewer = _store(), _viewer(call)
    if query.type != "image":
        return Response(WorkerList([]))
    ids = store.workers.seen_since(clock.now() - ONLINE_S, MAX_LISTED)
    found = [
        (worker, stats)
        for worker, stats in store.workers.get_many(ids)
        if query.name is None or worker.name.casefold() == query.name.casefold()
    ]
    owners = store.accounts.get_many(worker.user_id for worker, _ in found)
    rows, left = [], MAX_ANSWER
    for worker, stats in found:
        row = details(worker, stats, owners.get(worker.user_id), viewer)
        left -= wire_size(row)
        if left < 0:
            break
        rows.append(row)
    return Response(WorkerList(rows))


def worker(call: Call) -> Response:
    """Show a worker by its id, online or not."""
    worker_id = call.path.get("id", "")
    found = is_uuid(worker_id) and _shown(call, worker_id.lower())
    if not found:
        raise WorkerNotFound(worker_id)
    return Response(found)


def worker_by_name(call: Call) -> Response:
    """Show a worker by its name, ignoring case."""
    name = call.path.get("name", "")
    store = _store()
    worker_id = store.workers.named(name[:100]) or store.workers.named(unquote(name)[:100])
    found = worker_id and _shown(call, worker_id)
    if not found:
        raise WorkerNotFound(name, by="name")
    return Response(found)


def _shown(call: Call, worker_id: str) -> WorkerDetails | None:
    store, viewer = _store(), _viewer(call)
    for found, stats in store.workers.get_many([worker_id]):
        owner = store.accounts.get(found.user_id)
        return details(found, stats, owner, viewer)
    return None


def _viewer(call: Call) -> User | None:
    return auth.user_of(_store(), call.api_key) if call.api_key else None


def details(
    worker: Worker, stats: WorkerStats, owner: User | None, viewer: User | None
) -> WorkerDetails:
    """Return a worker as the Horde shows it.

    Only its owner and moderators see who owns it, and the message of its maintenance.
    """
    moderates = viewer is not None and accounts.is_moderator(viewer, Settings.load().admins)
    owns = viewer is not None and viewer.id == worker.user_id
    return WorkerDetails(
        type="image",
        name=worker.name,
        id=worker.id,
        online=worker.online(clock.now()),
        requests_fulfilled=stats.images,
        kudos_rewards=stats.kudos,
        kudos_details=WorkerKudos(generated=stats.kudos, uptime=0),
        performance=estimates.performance(stats.speed),
        threads=worker.threads,
        uptime=worker.uptime,
        maintenance_mode=worker.resting,
        maintenance_msg=(worker.maintenance_msg or None) if moderates or owns else None,
        paused=worker.paused if moderates else None,
        info=worker.info or None,
        nsfw=worker.nsfw,
        owner=owner.username if owner and (moderates or owns) else None,
        trusted=owner is not None and owner.trusted,
        flagged=owner is not None and owner.flagged,
        uncompleted_jobs=stats.faults,
        models=worker.models,
        team={},
        bridge_agent=worker.bridge_agent,
        max_pixels=worker.max_pixels,
        megapixelsteps_generated=stats.pixelsteps / 1_000_000,
        img2img=worker.img2img,
        painting=worker.painting,
        post_processing=worker.post_processing,
        lora=worker.lora,
        controlnet=worker.controlnet,
        sdxl_controlnet=worker.sdxl_controlnet,
    )


def models(call: Call) -> Response:
    """List the models that the operator's endpoints or any online worker draw."""
    query = parse(ModelQuery, dict(call.query))
    if query.type != "image":
        return Response(ModelList([]))
    configured = Settings.load().models
    rows = [
        row
        for row in _models()
        if (query.min_count is None or row.count >= query.min_count)
        and (query.max_count is None or row.count <= query.max_count)
        and query.model_state in ("all", "known" if row.name in configured else "custom")
    ]
    return Response(ModelList(rows))


def model(call: Call) -> Response:
    """Show one model, as a list that is empty if no worker draws it."""
    name = call.path.get("name", "")
    return Response(ModelList([row for row in _models() if row.name in {name, unquote(name)}]))


def _models() -> list[ActiveModel]:
    """Return the models that workers in the census or the operator's endpoints draw."""
    seen, configured = overview(_store()), Settings.load().models
    names = {name for name, load in seen.census.models.items() if load.workers}
    names |= {name for name in configured if has_endpoint(configured, name)}
    rows = []
    for name in sorted(names):
        load = seen.census.load(name)
        row = ActiveModel(
            name=name,
            type="image",
            count=load.threads,
            performance=estimates.average_speed(load),
            queued=load.pixelsteps,
            jobs=load.images,
            eta=estimates.eta(load, endpoint=has_endpoint(configured, name)),
        )
        rows.append(row)
    return rows


def fleet_performance(_call: Call) -> Response:
    """Count waiting images, workers and threads."""
    census = overview(_store()).census
    loads = census.models.values()
    return Response(
        Performance(
            queued_requests=sum(load.images for load in loads),
            queued_text_requests=0,
            worker_count=census.workers,
            text_worker_count=0,
            thread_count=census.threads,
            text_thread_count=0,
            queued_megapixelsteps=sum(load.pixelsteps for load in loads) / 1_000_000,
            past_minute_megapixelsteps=_recent(_totals).minute.pixelsteps / 1_000_000,
            queued_forms=0,
            interrogator_count=0,
            interrogator_thread_count=0,
            queued_tokens=0,
            past_minute_tokens=0,
        )
    )


def image_totals(_call: Call) -> Response:
    """Count drawn images; the counts are up to a minute late."""
    totals, anonymous = _recent(_totals), _recent(_anonymous)

    def shown(amount: Amount) -> ImageAmount:
        return ImageAmount(images=amount.images, ps=amount.pixelsteps)

    return Response(
        ImageTotals(
            minute=shown(totals.minute),
            hour=shown(totals.hour),
            day=shown(totals.day),
            month=shown(totals.month),
            total=shown(totals.total),
            anonymous=AnonymousAmount(
                requests=anonymous.requests,
                images_requested=anonymous.asked_images,
                images=anonymous.images,
                taxes=anonymous.taxes,
            ),
        )
    )


def image_models(call: Call) -> Response:
    """Count drawn images by model; the counts are up to a minute late."""
    query, configured = parse(ModelStatsQuery, dict(call.query)), Settings.load().models
    counts = _recent(_by_model)

    def wanted(found: dict[str, int]) -> dict[str, int]:
        return {
            name: count
            for name, count in sorted(found.items())
            if query.model_state in ("all", "known" if name in configured else "custom")
        }

    return Response(
        ImageModels(day=wanted(counts.day), month=wanted(counts.month), total=wanted(counts.total))
    )


def _recent(read: Callable[[Store, int], T]) -> T:
    """Return the result of ``read``, cached in this process for ``STATS_MS``."""
    now = clock.now_ms()
    cached = _cached.get(read)
    if cached is None or cached[0] <= now - STATS_MS:
        _cached[read] = cached = (now, read(_store(), now))
    found: T = cached[1]
    return found


def _totals(store: Store, now_ms: int) -> Totals:
    return store.counters.totals(now_ms)


def _by_model(store: Store, now_ms: int) -> ModelCounts:
    return store.counters.by_model(now_ms)


def _anonymous(store: Store, _now_ms: int) -> WorkerStats:
    return store.counters.anonymous()


# --- what this horde does not have: clients show an error where a route is missing ----------------


def text_totals(_call: Call) -> Response:
    """Count written texts: none, since this horde draws images only."""
    none = TextAmount(requests=0, tokens=0)
    return Response(TextTotals(minute=none, hour=none, day=none, month=none, total=none))


def text_models(_call: Call) -> Response:
    """Count written texts by model: none."""
    return Response(TextModels(day={}, month={}, total={}))


def worker_teams(_call: Call) -> Response:
    """List the teams of workers: there are none."""
    return Response(WorkerTeams([]))


def worker_messages(_call: Call) -> Response:
    """List the messages to workers: there are none."""
    return Response(WorkerMessages([]))


def modes(_call: Call) -> Response:
    """Return whether the horde is in maintenance; at most ten seconds old."""
    on = overview(_store()).maintenance
    return Response(Modes(maintenance_mode=on, invite_only_mode=False, raid_mode=False))


ROUTES = {
    "GET /api/v2/status/modes": Route(run=modes, responses={200: Modes}, limits=ratelimit.READ),
    "GET /api/v2/stats/img/totals": Route(
        run=image_totals, responses={200: ImageTotals}, limits=ratelimit.READ
    ),
    "GET /api/v2/stats/img/models": Route(
        run=image_models,
        query=ModelStatsQuery,
        responses={200: ImageModels},
        limits=ratelimit.READ,
    ),
    "GET /api/v2/stats/text/totals": Route(
        run=text_totals, responses={200: TextTotals}, limits=ratelimit.READ
    ),
    "GET /api/v2/stats/text/models": Route(
        run=text_models, responses={200: TextModels}, limits=ratelimit.READ
    ),
    "GET /api/v2/teams": Route(
        run=worker_teams, responses={200: WorkerTeams}, limits=ratelimit.READ
    ),
    "GET /api/v2/workers/messages": Route(
        run=worker_messages, responses={200: WorkerMessages}, limits=ratelimit.READ
    ),
    "GET /api/v2/status/models": Route(
        run=models, query=ModelQuery, responses={200: ModelList}, limits=ratelimit.READ
    ),
    "GET /api/v2/status/models/{name}": Route(
        run=model, responses={200: ModelList}, limits=ratelimit.READ
    ),
    "GET /api/v2/status/performance": Route(
        run=fleet_performance, responses={200: Performance}, limits=ratelimit.READ
    ),
    "GET /api/v2/workers": Route(
        run=workers,
        query=WorkerQuery,
        responses={200: WorkerList},
        key=Key.OPTIONAL,
        limits=ratelimit.READ,
    ),
    "GET /api/v2/workers/{id}": Route(
        run=worker,
        responses={200: WorkerDetails},
        key=Key.OPTIONAL,
        errors=(WorkerNotFound,),
        limits=ratelimit.READ,
    ),
    "GET /api/v2/workers/name/{name}": Route(
        run=worker_by_name,
        responses={200: WorkerDetails},
        key=Key.OPTIONAL,
        errors=(WorkerNotFound,),
        limits=ratelimit.READ,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

"""GET workers, models and statistics: what the fleet is and does. Changes nothing."""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

from horde import auth, clock, rates, store
from horde.answers import (
    ActiveModel,
    AnonymousAmount,
    ImageAmount,
    ImageModels,
    ImageTotals,
    ModelList,
    Modes,
    Performance,
    WorkerDetails,
    WorkerKudos,
    WorkerList,
)
from horde.errors import WorkerNotFound
from horde.fleet import ONLINE_S, Record, Worker, overview, performance
from horde.http import Answer, ApiSettings, Call, Key, Route, is_uuid, serve
from horde.model import User
from horde.runpod import Models, has_endpoint
from horde.schema import ModelQuery, ModelStatsQuery, WorkerQuery, parse
from horde.statistics import Amount
from horde.store import Store

T = TypeVar("T")

STATS_MS = 30_000
"""For how long a process answers the statistics it has read."""
_kept: dict[Callable[[Store, int], object], tuple[int, Any]] = {}
MOST_LISTED = 250
"""Workers listed of each part of the list."""


class Settings(ApiSettings):
    """Names of what this function uses."""

    table_name: str
    models: Models


def _table() -> Store:
    return store.connect(Settings.load().table_name)


def workers(call: Call) -> Answer:
    """List the workers that popped in the last five minutes."""
    query = parse(WorkerQuery, dict(call.query))
    table, viewer = _table(), _viewer(call)
    if query.type != "image":
        return Answer(WorkerList([]))
    ids = table.workers_seen(clock.now() - ONLINE_S, MOST_LISTED)
    found = [
        (worker, record)
        for worker, record in table.workers(ids)
        if query.name is None or worker.name.casefold() == query.name.casefold()
    ]
    owners = table.users(worker.user_id for worker, _ in found)
    rows = [details(worker, record, owners.get(worker.user_id), viewer) for worker, record in found]
    return Answer(WorkerList(rows))


def worker(call: Call) -> Answer:
    """Show a worker by its id, seen lately or not."""
    worker_id = call.path.get("id", "")
    found = is_uuid(worker_id) and _shown(call, worker_id.lower())
    if not found:
        raise WorkerNotFound(worker_id)
    return Answer(found)


def worker_by_name(call: Call) -> Answer:
    """Show a worker by its name, in any case of its letters."""
    name = call.path.get("name", "")
    table = _table()
    worker_id = table.worker_named(name[:100]) or table.worker_named(unquote(name)[:100])
    found = worker_id and _shown(call, worker_id)
    if not found:
        raise WorkerNotFound(name, by="name")
    return Answer(found)


def _shown(call: Call, worker_id: str) -> WorkerDetails | None:
    table, viewer = _table(), _viewer(call)
    for found, record in table.workers([worker_id]):
        owner = table.user(found.user_id)
        return details(found, record, owner, viewer)
    return None


def _viewer(call: Call) -> User | None:
    return auth.user_of(_table(), call.api_key) if call.api_key else None


def details(
    worker: Worker, record: Record, owner: User | None, viewer: User | None
) -> WorkerDetails:
    """Return a worker as the Horde shows it; who owns it is for the owner and moderators."""
    moderates = viewer is not None and auth.is_moderator(viewer, Settings.load().admins)
    owns = viewer is not None and viewer.id == worker.user_id
    return WorkerDetails(
        type="image",
        name=worker.name,
        id=worker.id,
        online=worker.online(clock.now()),
        requests_fulfilled=record.images,
        kudos_rewards=record.kudos,
        kudos_details=WorkerKudos(generated=record.kudos, uptime=0),
        performance=performance(record.speed),
        threads=worker.threads,
        uptime=worker.uptime,
        maintenance_mode=worker.resting,
        paused=worker.paused if moderates else None,
        info=worker.info or None,
        nsfw=worker.nsfw,
        owner=owner.username if owner and (moderates or owns) else None,
        trusted=owner is not None and owner.trusted,
        flagged=owner is not None and owner.flagged,
        uncompleted_jobs=record.faults,
        models=worker.models,
        team={},
        bridge_agent=worker.bridge_agent,
        max_pixels=worker.max_pixels,
        megapixelsteps_generated=record.pixelsteps / 1_000_000,
        img2img=worker.img2img,
        painting=worker.painting,
        post_processing=worker.post_processing,
        lora=worker.lora,
        controlnet=worker.controlnet,
        sdxl_controlnet=worker.sdxl_controlnet,
    )


def models(call: Call) -> Answer:
    """List the models that the operator's endpoints or any worker at work draw."""
    query = parse(ModelQuery, dict(call.query))
    if query.type != "image":
        return Answer(ModelList([]))
    configured = Settings.load().models
    rows = [
        row
        for row in _models()
        if (query.min_count is None or row.count >= query.min_count)
        and (query.max_count is None or row.count <= query.max_count)
        and query.model_state in ("all", "known" if row.name in configured else "custom")
    ]
    return Answer(ModelList(rows))


def model(call: Call) -> Answer:
    """Show one model, as a list; an empty one where nobody draws it."""
    name = call.path.get("name", "")
    return Answer(ModelList([row for row in _models() if row.name in {name, unquote(name)}]))


def _models() -> list[ActiveModel]:
    """Return what the census knows, and those of the operator's that an endpoint draws."""
    seen, configured = overview(_table()), Settings.load().models
    names = {name for name, load in seen.census.models.items() if load.workers}
    names |= {name for name in configured if has_endpoint(configured, name)}
    rows = []
    for name in sorted(names):
        load = seen.load(name)
        row = ActiveModel(
            name=name,
            type="image",
            count=load.threads,
            performance=load.performance,
            queued=load.pixelsteps,
            jobs=load.images,
            eta=load.eta(endpoint=has_endpoint(configured, name)),
        )
        rows.append(row)
    return rows


def fleet_performance(_call: Call) -> Answer:
    """Count what waits, and who draws."""
    census = overview(_table()).census
    loads = census.models.values()
    return Answer(
        Performance(
            queued_requests=sum(load.images for load in loads),
            queued_text_requests=0,
            worker_count=census.workers,
            text_worker_count=0,
            thread_count=census.threads,
            text_thread_count=0,
            queued_megapixelsteps=sum(load.pixelsteps for load in loads) / 1_000_000,
            past_minute_megapixelsteps=_recent(Store.totals).minute.pixelsteps / 1_000_000,
            queued_forms=0,
            interrogator_count=0,
            interrogator_thread_count=0,
            queued_tokens=0,
            past_minute_tokens=0,
        )
    )


def image_totals(_call: Call) -> Answer:
    """Count what was drawn, up to a minute late."""
    totals, anonymous = _recent(Store.totals), _recent(_anonymous)

    def shown(amount: Amount) -> ImageAmount:
        return ImageAmount(images=amount.images, ps=amount.pixelsteps)

    return Answer(
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


def image_models(call: Call) -> Answer:
    """Count images by model, up to a minute late."""
    query, configured = parse(ModelStatsQuery, dict(call.query)), Settings.load().models
    counts = _recent(Store.model_counts)

    def wanted(found: dict[str, int]) -> dict[str, int]:
        return {
            name: count
            for name, count in sorted(found.items())
            if query.model_state in ("all", "known" if name in configured else "custom")
        }

    return Answer(
        ImageModels(day=wanted(counts.day), month=wanted(counts.month), total=wanted(counts.total))
    )


def _recent(read: Callable[[Store, int], T]) -> T:
    """Return what ``read`` finds, from this process's memory if it is recent."""
    now = clock.now_ms()
    kept = _kept.get(read)
    if kept is None or kept[0] <= now - STATS_MS:
        _kept[read] = kept = (now, read(_table(), now))
    found: T = kept[1]
    return found


def _anonymous(table: Store, _now: int) -> Record:
    return table.anonymous_record()


def modes(_call: Call) -> Answer:
    """Say whether new requests are taken, as of ten seconds ago at the most."""
    on = overview(_table()).maintenance
    return Answer(Modes(maintenance_mode=on, invite_only_mode=False, raid_mode=False))


ROUTES = {
    "GET /api/v2/status/modes": Route(run=modes, answers={200: Modes}, limits=rates.READ),
    "GET /api/v2/stats/img/totals": Route(
        run=image_totals, answers={200: ImageTotals}, limits=rates.READ
    ),
    "GET /api/v2/stats/img/models": Route(
        run=image_models,
        query=ModelStatsQuery,
        answers={200: ImageModels},
        limits=rates.READ,
    ),
    "GET /api/v2/status/models": Route(
        run=models, query=ModelQuery, answers={200: ModelList}, limits=rates.READ
    ),
    "GET /api/v2/status/models/{name}": Route(
        run=model, answers={200: ModelList}, limits=rates.READ
    ),
    "GET /api/v2/status/performance": Route(
        run=fleet_performance, answers={200: Performance}, limits=rates.READ
    ),
    "GET /api/v2/workers": Route(
        run=workers,
        query=WorkerQuery,
        answers={200: WorkerList},
        key=Key.OPTIONAL,
        limits=rates.READ,
    ),
    "GET /api/v2/workers/{id}": Route(
        run=worker,
        answers={200: WorkerDetails},
        key=Key.OPTIONAL,
        errors=(WorkerNotFound,),
        limits=rates.READ,
    ),
    "GET /api/v2/workers/name/{name}": Route(
        run=worker_by_name,
        answers={200: WorkerDetails},
        key=Key.OPTIONAL,
        errors=(WorkerNotFound,),
        limits=rates.READ,
    ),
}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(ROUTES, event)

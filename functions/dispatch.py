"""New requests of a model -> RunPod ``/run``: the tickets that are missing for their work.

``enqueue`` hands requests over, and Lambda may run this twice for them. It reads what already waits
and, only if tickets are due, what RunPod has; it writes nothing. Crash windows: if this run dies
after RunPod took a ticket, it is run again, and sees the ticket in RunPod's queue. Runs at the same
time do not see each other's tickets; each sends those that its own requests add, by the order in
which they came. If RunPod is down, the call ends in the DLQ after three tries. Its images still
wait in the table, and the sweep sends new tickets.
"""

from typing import Any
from uuid import NAMESPACE_OID, uuid5

from horde import aws, runpod, startup
from horde.log import logger
from horde.overview import overview
from horde.records import Census
from horde.rules import tickets
from horde.runpod import Model, Models
from horde.store import Store, connect

MAX_OLDER = 100
"""Most waiting images of an endpoint that are looked at: a dozen read units."""


class Settings(aws.Settings):
    """The names of this function's resources."""

    table_name: str
    models: Models
    runpod_url: str
    runpod_key_parameter: str
    images_per_ticket: int
    cold_start_seconds: float
    max_wait_seconds: float

    @property
    def costs(self) -> tickets.Costs:
        """What the operator knows of the endpoints, and wants."""
        return tickets.Costs(self.images_per_ticket, self.cold_start_seconds, self.max_wait_seconds)


def dispatch(message: dict[str, Any]) -> int:
    """Send the tickets that new requests ask for; returns how many. Raises RunPodError."""
    settings = Settings.load()
    name, images = message["model"], message["images"]
    model = settings.models.get(name)
    if model is None or model.endpoint is None:
        return 0  # only volunteers draw the model, and they pop without tickets
    store = connect(settings.table_name)
    census = overview(store).census
    work = message.get("pixelsteps", images * tickets.USUAL_WORK)
    new = tickets.work(images, work, tickets.speed_of(census, name))
    models = runpod.endpoints(settings.models)[model.endpoint]
    older = _older(store, census, models, message)
    lot = uuid5(NAMESPACE_OID, message["request_id"]).int
    due = tickets.due(settings.costs, older, new, lot)
    if not due:
        return 0
    account = runpod.connect(settings.runpod_url, settings.runpod_key_parameter)
    missing = due
    if older is not None and (jobs := _jobs(account, model.endpoint)):
        missing = tickets.to_send(settings.costs, older, new, jobs)
    for _ in range(missing):
        account.run(
            model.endpoint, model=name, request_id=message["request_id"], images=-(-images // due)
        )
    return missing


def _older(
    store: Store, census: Census, models: dict[str, Model], message: dict[str, Any]
) -> tickets.Work | None:
    """Return the work that waited for an endpoint before a request; None if it is very much."""
    request = message.get("created_at", 0), message["request_id"]
    found = store.backlog.older(runpod.abilities(models), request, MAX_OLDER)
    if found is None:
        return None
    works = (
        tickets.work(size.images, size.pixelsteps, tickets.speed_of(census, name))
        for name, size in found.items()
    )
    return sum(works, tickets.Work())


def _jobs(account: runpod.RunPod, endpoint: str) -> tickets.Jobs | None:
    """Return the tickets that RunPod has; None if it does not say, so that all due are sent."""
    try:
        return account.health(endpoint).jobs
    except runpod.RunPodError:
        return None


startup.ready("ssm", "dynamodb")


def handler(event: dict[str, Any], _context: object) -> None:
    """Lambda's entry point; what it raises is tried again."""
    try:
        sent = dispatch(event)
    except Exception as error:
        logger.warning("not dispatched", extra={"error": f"{type(error).__name__}: {error}"})
        raise
    logger.info("dispatched", extra={"tickets": sent})

"""PUT and DELETE workers, PUT modes: what owners, moderators and admins change by hand.

Apart from pop and submit: nothing else may delete an item, and a fault here stops no drawing.
"""

from typing import Any

from horde import auth, rates, store
from horde.answers import Modes, WorkerChanged, WorkerDeleted
from horde.errors import (
    Busy,
    NotAdmin,
    NothingToChange,
    NotModerator,
    NotOwner,
    PolymorphicNameConflict,
    Unsupported,
    WorkerNotFound,
)
from horde.fleet import Worker
from horde.http import Answer, ApiSettings, Call, Key, Route, is_uuid, serve
from horde.schema import ModesChange, WorkerChange, parse
from horde.store import Store


class Settings(ApiSettings):
    """Names of what this function uses."""

    table_name: str


def _table() -> Store:
    return store.connect(Settings.load().table_name)


def _own(call: Call) -> tuple[Worker, bool]:
    """Return the worker that a call names, and whether a moderator calls.

    Raises WorkerNotFound, or NotOwner for everybody but its owner and moderators.
    """
    table, settings = _table(), Settings.load()
    user = auth.user_of(table, call.required_key())
    worker_id = call.path.get("id", "")
    worker = table.worker(worker_id.lower()) if is_uuid(worker_id) else None
    if worker is None:
        raise WorkerNotFound(worker_id)
    moderates = auth.is_moderator(user, settings.admins)
    if not moderates and (user.anonymous or worker.user_id != user.id):
        raise NotOwner
    return worker, moderates


def change_worker(call: Call) -> Answer:
    """Put a worker into maintenance or out of it, pause it, rename it, or describe it.

    ``paused`` is for moderators. A worker hears of it by its next pop.
    """
    wish = parse(WorkerChange, call.json())
    changes = wish.model_dump(exclude_none=True)
    if wish.team is not None:
        message = "There are no teams here."
        raise Unsupported(message)
    if not changes:
        message = "No worker modification selected!"
        raise NothingToChange(message, rc="NoWorkerModSelected")
    worker, moderates = _own(call)
    if wish.paused is not None and not moderates:
        raise NotModerator
    table, name = _table(), changes.pop("name", None)
    if name is not None and name != worker.name and not table.rename_worker(worker, name):
        raise PolymorphicNameConflict(name)
    if wish.maintenance is False:
        changes["maintenance_msg"] = ""
    if changes and table.change_worker(worker.id, **changes) is None:
        raise WorkerNotFound(worker.id)
    return Answer(WorkerChanged(**wish.model_dump(exclude_none=True)))


def delete_worker(call: Call) -> Answer:
    """Forget a worker and what it has done; one that goes on popping is a new one."""
    worker, _ = _own(call)
    if not _table().forget_worker(worker):
        raise WorkerNotFound(worker.id)
    return Answer(WorkerDeleted(deleted_id=worker.id, deleted_name=worker.name))


def change_modes(call: Call) -> Answer:
    """Switch maintenance on or off: whether new requests are taken.

    For admins. Pops and submits go on, so what waits is still drawn. Each Lambda process hears of
    it within ten seconds.
    """
    table, settings = _table(), Settings.load()
    wish = parse(ModesChange, call.json())
    auth.require_admin(auth.user_of(table, call.required_key()), settings.admins)
    if wish.invite_only_mode or wish.raid_mode:
        message = (
            "There is no invite-only mode and no raid mode here: workers need a worker key of the "
            "operator's anyway. Only maintenance_mode can be switched."
        )
        raise Unsupported(message, rc="BadRequest")
    if wish.maintenance_mode is None:
        message = "No mode change selected!"
        raise NothingToChange(message, rc="NoHordeModSelected")
    table.set_maintenance(on=wish.maintenance_mode)
    on = wish.maintenance_mode
    return Answer(Modes(maintenance_mode=on, invite_only_mode=False, raid_mode=False))


ROUTES = {
    "PUT /api/v2/status/modes": Route(
        run=change_modes,
        body=ModesChange,
        answers={200: Modes},
        key=Key.REQUIRED,
        errors=(NotAdmin, NothingToChange, Unsupported),
        limits=rates.CHANGE,
    ),
    "PUT /api/v2/workers/{id}": Route(
        run=change_worker,
        body=WorkerChange,
        answers={200: WorkerChanged},
        key=Key.REQUIRED,
        errors=(
            NothingToChange,
            Unsupported,
            NotOwner,
            NotModerator,
            WorkerNotFound,
            PolymorphicNameConflict,
            Busy,
        ),
        limits=rates.CHANGE,
    ),
    "DELETE /api/v2/workers/{id}": Route(
        run=delete_worker,
        answers={200: WorkerDeleted},
        key=Key.REQUIRED,
        errors=(NotOwner, WorkerNotFound, Busy),
        limits=rates.CHANGE,
    ),
}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(ROUTES, event)

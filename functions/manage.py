"""PUT and DELETE workers, PUT modes: changes by owners, moderators and admins.

A function apart from pop and submit. It alone may delete workers, and its bugs stop no drawing.
Each change is checked as a whole before its one write or transaction.
"""

from typing import Any

from horde import startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import parse
from horde.edge.http import ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.other_bodies import ModesChange, WorkerChange
from horde.edge.other_responses import Modes, WorkerChanged, WorkerDeleted
from horde.records import Worker
from horde.rules import accounts
from horde.rules.refusals import (
    Busy,
    NotAdmin,
    NothingToChange,
    NotModerator,
    NotOwner,
    PolymorphicNameConflict,
    Unsupported,
    WorkerHoldsImages,
    WorkerNotFound,
)
from horde.store import Store, connect


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str


def _store() -> Store:
    return connect(Settings.load().table_name)


def _own(call: Call, *, moderating: bool = False) -> Worker:
    """Return the worker in a call's path, if the caller may change it.

    ``moderating``: in a way that is for moderators. Raises WorkerNotFound, NotOwner, NotModerator,
    or NotAdmin if its owner is a moderator or admin and the caller neither owns it nor is an admin.
    """
    store, admins = _store(), Settings.load().admins
    user = auth.user_of(store, call.required_key())
    worker_id = call.path.get("id", "")
    worker = store.workers.get(worker_id.lower()) if is_uuid(worker_id) else None
    owner = store.accounts.get(worker.user_id) if worker else None
    if worker is None or owner is None:
        raise WorkerNotFound(worker_id)
    accounts.check_owner(user, owner, admins)
    if moderating:
        accounts.check_moderates(user, owner, admins)
    return worker


def change_worker(call: Call) -> Response:
    """Put a worker into maintenance or out of it, pause it, rename it, or describe it.

    Only moderators may set `paused`. The change takes effect at the worker's next pop.
    """
    body = parse(WorkerChange, call.json())
    changes = body.model_dump(exclude_none=True)
    if body.team is not None:
        message = "This horde has no teams."
        raise Unsupported(message)
    if not changes:
        message = "No worker modification selected!"
        raise NothingToChange(message, rc="NoWorkerModSelected")
    worker = _own(call, moderating=body.paused is not None)
    store, name = _store(), changes.pop("name", None)
    if body.maintenance is False:
        changes["maintenance_msg"] = ""
    if name is not None and name != worker.name:
        if not store.workers.rename(worker, name, changes):
            raise PolymorphicNameConflict(name)
    elif changes and store.workers.change(worker.id, **changes) is None:
        raise WorkerNotFound(worker.id)
    return Response(WorkerChanged(**body.model_dump(exclude_none=True)))


def delete_worker(call: Call) -> Response:
    """Delete a worker and its statistics. If it pops again, it is registered as a new worker.

    A worker that still holds images is not deleted. Put it into maintenance first, and wait until
    it has submitted them or their leases have ended.
    """
    worker = _own(call)
    if not _store().workers.delete(worker):
        raise WorkerNotFound(worker.id)
    return Response(WorkerDeleted(deleted_id=worker.id, deleted_name=worker.name))


def change_modes(call: Call) -> Response:
    """Switch maintenance on or off. In maintenance, the horde accepts no new requests.

    Only admins may do this. Pops and submits continue, so waiting images are still drawn. The
    switch takes effect within ten seconds.
    """
    store, settings = _store(), Settings.load()
    body = parse(ModesChange, call.json())
    accounts.require_admin(auth.user_of(store, call.required_key()), settings.admins)
    if body.invite_only_mode or body.raid_mode:
        message = (
            "This horde has no invite-only mode and no raid mode, since workers always need a "
            "worker key from the operator. Only maintenance_mode can be switched."
        )
        raise Unsupported(message, rc="BadRequest")
    if body.maintenance_mode is None:
        message = "No mode change selected!"
        raise NothingToChange(message, rc="NoHordeModSelected")
    store.census.set_maintenance(on=body.maintenance_mode)
    on = body.maintenance_mode
    return Response(Modes(maintenance_mode=on, invite_only_mode=False, raid_mode=False))


ROUTES = {
    "PUT /api/v2/status/modes": Route(
        run=change_modes,
        body=ModesChange,
        responses={200: Modes},
        key=Key.REQUIRED,
        errors=(NotAdmin, NothingToChange, Unsupported),
        limits=ratelimit.CHANGE,
    ),
    "PUT /api/v2/workers/{id}": Route(
        run=change_worker,
        body=WorkerChange,
        responses={200: WorkerChanged},
        key=Key.REQUIRED,
        errors=(
            NothingToChange,
            Unsupported,
            NotOwner,
            NotModerator,
            NotAdmin,
            WorkerNotFound,
            PolymorphicNameConflict,
            Busy,
        ),
        limits=ratelimit.CHANGE,
    ),
    "DELETE /api/v2/workers/{id}": Route(
        run=delete_worker,
        responses={200: WorkerDeleted},
        key=Key.REQUIRED,
        errors=(NotOwner, NotAdmin, WorkerNotFound, WorkerHoldsImages, Busy),
        limits=ratelimit.CHANGE,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

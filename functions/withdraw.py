"""/v2/shared, an extension: owners withdraw what they shared: one image, a request, or all.

Only marks are written here. From then on nothing publishes the images; the daily release takes
them out of what is published already, within ``PROMISED_S``, and deletes their files.

Whose image it is decides, never who knows its id: the ids of released images are public. Images of
anonymous requests have no owner who could be told from others, but the id of a request is known to
whoever sent it alone: with it, the anonymous key withdraws them. An image that is not there, not
shared or not the caller's is not found, whichever it is.

Each call may be repeated, and then has the next release look once more. Crash windows: a request's
withdrawal is a record, which the next release works off whatever else was written. An account's is
one transaction, and so is an image's.

An image that was not delivered yet has no id that its owner knows, so it is not found. A request's
withdrawal holds for such images too: they are drawn and delivered, and not published.
"""

from http import HTTPStatus
from typing import Any

from horde import dataset, startup
from horde.edge import auth, ratelimit
from horde.edge.http import ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.other_responses import SharedImage, Withdrawn
from horde.records import Request, Shared, User
from horde.rules.dates import HOUR_S, iso
from horde.rules.refusals import AnonForbidden, Busy, RequestNotFound, SharedImageNotFound
from horde.rules.sharing import PROMISED_S, Removal
from horde.store import Store, connect

PROMISE = (
    "Nothing publishes it any more. What is published already leaves the data set within "
    f"{PROMISED_S // HOUR_S} hours. Copies that others have made cannot be recalled."
)


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str
    hash_secret: str


def show_shared_image(call: Call) -> Response:
    """Return where one of your shared images is on its way into the data set, or out of it."""
    store = _store()
    image = _image(store, call, _owner(store, call))
    released = image.shared_at is not None and image.shared_at <= store.releases.until()
    gone = image.withdrawn_at
    if gone is not None:
        state = "withdrawn"
    elif image.kept_back is not None:
        state = "kept back"
    else:
        state = "released" if released else "waiting"
    return Response(
        SharedImage(
            id=image.generation_id,
            state=state,
            withdrawn_at=None if gone is None else iso(gone),
            gone_by=None if gone is None else _gone_by(gone),
        )
    )


def withdraw_shared_image(call: Call) -> Response:
    """Withdraw one of your shared images from the data set, released or not."""
    store = _store()
    image = _image(store, call, _owner(store, call))
    return _withdrawn(store.sharing.withdraw(image, Removal.OWNER))


def withdraw_shared_request(call: Call) -> Response:
    """Withdraw all images of one of your shared requests, those not drawn yet included.

    Anonymous requests are withdrawn with the anonymous key. A request is forgotten some days after
    it has ended; then the next release looks for its images, and the answer is the same if there
    are none.
    """
    store = _store()
    user = auth.user_of(store, call.required_key())
    request_id = call.path.get("id", "").lower()
    if not is_uuid(request_id):
        raise RequestNotFound(request_id[:100])
    request = store.requests.get(request_id)
    if request is not None and (request.user_id != user.id or not request.shared):
        raise RequestNotFound(request_id)
    at = store.withdrawals.of_request(request_id, user.id, Removal.OWNER)
    if store.requests.withdraw(request_id) is not None and request is not None:
        for image in _images(store, request):
            store.sharing.withdraw(image, Removal.OWNER)
    return _withdrawn(at)


def withdraw_all_shared(call: Call) -> Response:
    """Withdraw all images that you have shared until now, and those you have asked for."""
    store = _store()
    return _withdrawn(store.withdrawals.of_account(_owner(store, call), Removal.OWNER))


def _store() -> Store:
    return connect(Settings.load().table_name)


def _owner(store: Store, call: Call) -> User:
    user = auth.user_of(store, call.required_key())
    if user.anonymous:
        raise AnonForbidden
    return user


def _image(store: Store, call: Call, user: User) -> Shared:
    """Return the record of the image in a call's path, or what it would be if it is not copied yet.

    Raises SharedImageNotFound.
    """
    image_id = call.path.get("id", "").lower()
    if not is_uuid(image_id):
        raise SharedImageNotFound
    found = dataset.record_of(store, image_id)
    if found is None or found.user_id != user.id:
        raise SharedImageNotFound
    return found


def _images(store: Store, request: Request) -> list[Shared]:
    """Return the records of a request's images, and what they would be of those not copied yet.

    Those that are not delivered have none: ``share`` reads the mark of their request.
    """
    found = (dataset.record_of(store, one) for one in request.generations)
    return [one for one in found if one is not None]


def _gone_by(at: int) -> str:
    return iso(at + PROMISED_S * 1000)


def _withdrawn(at: int) -> Response:
    answer = Withdrawn(message=PROMISE, gone_by=_gone_by(at), hours=PROMISED_S // HOUR_S)
    return Response(answer, HTTPStatus.ACCEPTED)


ROUTES = {
    "GET /api/v2/shared/images/{id}": Route(
        run=show_shared_image,
        responses={200: SharedImage},
        key=Key.REQUIRED,
        errors=(AnonForbidden, SharedImageNotFound),
        limits=ratelimit.READ,
    ),
    "DELETE /api/v2/shared/images/{id}": Route(
        run=withdraw_shared_image,
        responses={202: Withdrawn},
        key=Key.REQUIRED,
        errors=(AnonForbidden, SharedImageNotFound, Busy),
        limits=ratelimit.WITHDRAW,
    ),
    "DELETE /api/v2/shared/requests/{id}": Route(
        run=withdraw_shared_request,
        responses={202: Withdrawn},
        key=Key.REQUIRED,
        errors=(RequestNotFound, Busy),
        limits=ratelimit.WITHDRAW,
    ),
    "DELETE /api/v2/shared": Route(
        run=withdraw_all_shared,
        responses={202: Withdrawn},
        key=Key.REQUIRED,
        errors=(AnonForbidden, Busy),
        limits=ratelimit.WITHDRAW,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb", "secretsmanager")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

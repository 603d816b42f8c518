"""/v2/keys, an extension: an account's API keys are listed, added, rotated and revoked.

A function apart from ``users``: it alone may delete keys. A key is shown once, by the call that
makes it; afterwards it is named by the start of its hash. Only account keys manage keys. Worker
keys are made by the operator (``bin/operator worker-key``); their owner may rotate and revoke them.

Each change is one transaction. Crash window: a rotation whose response is lost has revoked the old
key, and nobody knows the new one. Whoever has another account key revokes the lost one and adds a
new one. Whoever rotated the only key asks the operator for a new one (``bin/operator rotate-key``).
To be safe from that, add a key, try it, and revoke the old one.
"""

from http import HTTPStatus
from typing import Any

from horde import clock, startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import parse
from horde.edge.http import ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.other_bodies import KeyRequest
from horde.edge.other_responses import Done, KeyDetails, KeyList, KeyMade
from horde.records import ApiKey, User
from horde.rules.accounts import MAX_API_KEYS
from horde.rules.dates import iso
from horde.rules.refusals import AnonForbidden, Busy, KeyNotFound, LastAccountKey, TooManyKeys
from horde.store import Store, connect

NO_STORE = {"Cache-Control": "no-store"}


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str


def list_keys(call: Call) -> Response:
    """List your API keys, worker keys included. No key is shown, only the start of its hash."""
    store = _store()
    user = _owner(store, call)
    return Response(KeyList([_shown(key, user) for key in _keys(store, call, user)]))


def add_key(call: Call) -> Response:
    """Add an account key, which may do all that the first one may. Only this response shows it."""
    store = _store()
    body = parse(KeyRequest, call.json())
    user, api_key = _owner(store, call), auth.new_key()
    made = ApiKey(
        hash=auth.key_hash(api_key), user_id=user.id, created_at=clock.now(), name=body.name
    )
    if not store.keys.add(made, MAX_API_KEYS):
        raise TooManyKeys(MAX_API_KEYS)
    return _made(made, user, api_key, HTTPStatus.CREATED)


def rotate_key(call: Call) -> Response:
    """Replace a key by a new one of the same kind. The old one stops working at once.

    Only this response shows the new key.
    """
    store = _store()
    user, api_key = _owner(store, call), auth.new_key()
    made = store.keys.rotate(_find(store, call, user), auth.key_hash(api_key))
    if made is None:
        raise KeyNotFound
    return _made(made, user, api_key)


def revoke_key(call: Call) -> Response:
    """Revoke a key, which stops working at once. The last account key can only be rotated."""
    store = _store()
    key = _find(store, call, _owner(store, call))
    if not store.keys.revoke(key):
        raise KeyNotFound if store.keys.get(key.hash) is None else LastAccountKey
    return Response(Done())


def _store() -> Store:
    return connect(Settings.load().table_name)


def _owner(store: Store, call: Call) -> User:
    user = auth.user_of(store, call.required_key())
    if user.anonymous:
        raise AnonForbidden
    return user


def _keys(store: Store, call: Call, user: User) -> list[ApiKey]:
    """Return an account's keys; the one that was sent is among them even if no list has it yet."""
    return store.keys.of_user(user.id, known=[auth.key_hash(call.required_key())])


def _find(store: Store, call: Call, user: User) -> ApiKey:
    """Return the key in a call's path; raises KeyNotFound."""
    wanted = call.path.get("id", "").lower()
    for key in _keys(store, call, user):
        if key.id == wanted:
            return key
    raise KeyNotFound


def _shown(key: ApiKey, user: User) -> KeyDetails:
    return KeyDetails(
        id=key.id,
        name=key.name,
        worker=key.worker,
        fleet=key.worker and user.fleet,
        created_at=iso(key.created_at * 1000) if key.created_at else None,
    )


def _made(key: ApiKey, user: User, api_key: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    made = KeyMade(**_shown(key, user).model_dump(), api_key=api_key)
    return Response(made, status, headers=NO_STORE)


ROUTES = {
    "GET /api/v2/keys": Route(
        run=list_keys,
        responses={200: KeyList},
        key=Key.REQUIRED,
        errors=(AnonForbidden,),
        limits=ratelimit.READ,
    ),
    "POST /api/v2/keys": Route(
        run=add_key,
        body=KeyRequest,
        responses={201: KeyMade},
        key=Key.REQUIRED,
        errors=(AnonForbidden, TooManyKeys, Busy),
        limits=ratelimit.KEYS,
    ),
    "POST /api/v2/keys/{id}/rotate": Route(
        run=rotate_key,
        responses={200: KeyMade},
        key=Key.REQUIRED,
        errors=(AnonForbidden, KeyNotFound, Busy),
        limits=ratelimit.KEYS,
    ),
    "DELETE /api/v2/keys/{id}": Route(
        run=revoke_key,
        responses={200: Done},
        key=Key.REQUIRED,
        errors=(AnonForbidden, KeyNotFound, LastAccountKey, Busy),
        limits=ratelimit.KEYS,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

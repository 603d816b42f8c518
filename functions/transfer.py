"""POST kudos/transfer and kudos/award, and /v2/sharedkeys: kudos that others receive or spend.

Each call writes in one transaction, so there is no crash window. A client that lost the response
can repeat the call with the same ``Idempotency-Key`` and gets the same response. That key is looked
up before any other check: what was done once is answered, even if it would be refused by now.
"""

import hashlib
import json
import uuid
from email.utils import formatdate
from typing import Any

from horde import clock, startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import parse
from horde.edge.http import ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.other_bodies import AwardRequest, SharedKeyChange, SharedKeyRequest, TransferRequest
from horde.edge.other_responses import Done, KudosAwarded, KudosTransferred, SharedKeyDetails
from horde.records import SharedKey, User
from horde.rules import accounts, sharedkeys, transfers
from horde.rules.accounts import user_number
from horde.rules.refusals import (
    AnonForbidden,
    Busy,
    KudosTransferRefused,
    NoSharedKeyModSelected,
    NotAllowedAwards,
    NotOwner,
    SharedKeyNotFound,
    TooManySharedKeys,
)
from horde.store import Store, connect
from horde.store.transfers import IdempotencyKey

TRIES = 5
"""Tries of a call whose accounts change meanwhile; each try reads them again."""


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str


def transfer(call: Call) -> Response:
    """Give some of your kudos to another user, or to the budget of a shared key.

    With the header `Idempotency-Key`, a call can be repeated for a day without moving kudos again.
    """
    store, api_key = _store(), call.required_key()
    body = parse(TransferRequest, call.json())
    sender: User | None = auth.user_of(store, api_key)
    idempotency = _idempotency_key(call, body)
    for _ in range(TRIES):
        if sender is None:
            break
        if _already_done(store, sender, idempotency):
            return Response(KudosTransferred(transferred=body.amount))
        transfers.check_sender(sender)
        receiver, key = _target(store, body.username)
        recently = store.transfers.sent_recently(receiver.id, sender.id)
        transfers.check(sender, receiver, body.amount, received_recently=recently)
        if store.transfers.transfer(sender, receiver.id, body.amount, idempotency, key):
            return Response(KudosTransferred(transferred=body.amount))
        sender = store.accounts.get(sender.id)
    raise Busy


def award(call: Call) -> Response:
    """Award new kudos to a user. Only admins may do this."""
    store, api_key = _store(), call.required_key()
    body = parse(AwardRequest, call.json())
    giver = auth.user_of(store, api_key)
    if not accounts.is_admin(giver, Settings.load().admins):
        raise NotAllowedAwards
    idempotency = _idempotency_key(call, body)
    for _ in range(TRIES):
        if _already_done(store, giver, idempotency):
            return Response(KudosAwarded(awarded=body.amount))
        receiver = _user(store, body.username, rc="InvalidAwardUsername")
        transfers.check_award(giver, receiver, body.amount)
        if store.transfers.award(giver.id, receiver.id, body.amount, idempotency):
            return Response(KudosAwarded(awarded=body.amount))
    raise Busy


def _store() -> Store:
    return connect(Settings.load().table_name)


def _idempotency_key(call: Call, body: TransferRequest) -> IdempotencyKey | None:
    """Return the hashes of a call's ``Idempotency-Key`` and body, or None without that header."""
    key = call.headers.get("idempotency-key")
    if not key:
        return None
    text = json.dumps([type(body).__name__, body.username, body.amount])
    return IdempotencyKey(auth.key_hash(key), hashlib.sha256(text.encode()).hexdigest())


def _already_done(store: Store, user: User, idempotency: IdempotencyKey | None) -> bool:
    """Return whether this call took effect before.

    Raises KudosTransferRefused if the idempotency key was used with another body.
    """
    used_with = store.transfers.used_with(user.id, idempotency.key) if idempotency else None
    if idempotency is None or used_with is None:
        return False
    if used_with != idempotency.body:
        message = "This Idempotency-Key was already used for another transfer in the last 24 hours."
        raise KudosTransferRefused(message, rc="IdempotencyKeyConflict")
    return True


def _target(store: Store, username: str) -> tuple[User, SharedKey | None]:
    """Return the receiver of a transfer, and the shared key if ``username`` is one."""
    rc = "InvalidTargetUsername"
    if not is_uuid(username):
        return _user(store, username, rc), None
    key = store.sharedkeys.get(username.lower())
    owner = store.accounts.get(key.user_id) if key else None
    if key is None or owner is None:
        raise KudosTransferRefused("There is no such shared key.", rc=rc)
    if sharedkeys.is_expired(key, clock.now()):
        raise KudosTransferRefused("This shared key has expired.", rc="SharedKeyExpired")
    return owner, key


def _user(store: Store, username: str, rc: str) -> User:
    """Return the user with this name (``alias#id``); raises KudosTransferRefused."""
    alias, _, digits = username.rpartition("#")
    number = user_number(digits)
    user = None if number is None else store.accounts.get(number)
    if user is None or user.alias != alias:
        message = f"There is no user '{username}'. A user's name looks like 'alias#7'."
        raise KudosTransferRefused(message, rc=rc)
    return user


def add_sharedkey(call: Call) -> Response:
    """Create a key that lets others spend your kudos, within its limits."""
    store, api_key = _store(), call.required_key()
    body = parse(SharedKeyRequest, call.json())
    owner = auth.user_of(store, api_key)
    if owner.anonymous:
        raise AnonForbidden
    now = clock.now()
    key = SharedKey(
        id=str(uuid.uuid4()),
        user_id=owner.id,
        created_at=now,
        expires_at=sharedkeys.expires_at(body.expiry, now),
        **body.model_dump(exclude={"expiry"}),
    )
    limit = sharedkeys.max_keys(owner)
    if not store.sharedkeys.add(key, limit):
        raise TooManySharedKeys(limit)
    return Response(_details(key, owner))


def show_sharedkey(call: Call) -> Response:
    """Show a shared key's budget and limits. Its id is the key, so no API key is needed."""
    return Response(_details(*_find(_store(), call)))


def change_sharedkey(call: Call) -> Response:
    """Change one of your shared keys."""
    store, api_key = _store(), call.required_key()
    body = parse(SharedKeyChange, call.json())
    key, owner = _own(store, call, api_key)
    changes = body.model_dump(exclude_none=True)
    if not changes:
        raise NoSharedKeyModSelected
    if "expiry" in changes:
        changes["expires_at"] = sharedkeys.expires_at(changes.pop("expiry"), clock.now())
    changed = store.sharedkeys.change(key.id, owner.id, changes)
    if changed is None:
        raise SharedKeyNotFound
    return Response(_details(changed, owner))


def delete_sharedkey(call: Call) -> Response:
    """Delete one of your shared keys. Requests made with it are still drawn."""
    store, api_key = _store(), call.required_key()
    key, _ = _own(store, call, api_key)
    if not store.sharedkeys.remove(key):
        raise SharedKeyNotFound
    return Response(Done())


def _find(store: Store, call: Call) -> tuple[SharedKey, User]:
    key_id = call.path.get("id", "")
    key = store.sharedkeys.get(key_id.lower()) if is_uuid(key_id) else None
    owner = store.accounts.get(key.user_id) if key else None
    if key is None or owner is None:
        raise SharedKeyNotFound
    return key, owner


def _own(store: Store, call: Call, api_key: str) -> tuple[SharedKey, User]:
    user = auth.user_of(store, api_key)
    key, _ = _find(store, call)
    if key.user_id != user.id:
        raise NotOwner
    return key, user


def _details(key: SharedKey, owner: User) -> SharedKeyDetails:
    return SharedKeyDetails(
        id=key.id,
        username=owner.username,
        name=key.name,
        kudos=key.kudos,
        expiry=None if key.expires_at is None else formatdate(key.expires_at),
        utilized=key.utilized,
        max_image_pixels=key.max_image_pixels,
        max_image_steps=key.max_image_steps,
        max_text_tokens=key.max_text_tokens,
    )


ROUTES = {
    "PUT /api/v2/sharedkeys": Route(
        run=add_sharedkey,
        body=SharedKeyRequest,
        responses={200: SharedKeyDetails},
        key=Key.REQUIRED,
        errors=(AnonForbidden, TooManySharedKeys, Busy),
        limits=ratelimit.SHAREDKEYS,
    ),
    "GET /api/v2/sharedkeys/{id}": Route(
        run=show_sharedkey,
        responses={200: SharedKeyDetails},
        errors=(SharedKeyNotFound,),
        limits=ratelimit.READ,
    ),
    "PATCH /api/v2/sharedkeys/{id}": Route(
        run=change_sharedkey,
        body=SharedKeyChange,
        responses={200: SharedKeyDetails},
        key=Key.REQUIRED,
        errors=(SharedKeyNotFound, NotOwner, NoSharedKeyModSelected),
        limits=ratelimit.SHAREDKEYS,
    ),
    "DELETE /api/v2/sharedkeys/{id}": Route(
        run=delete_sharedkey,
        responses={200: Done},
        key=Key.REQUIRED,
        errors=(SharedKeyNotFound, NotOwner, Busy),
        limits=ratelimit.SHAREDKEYS,
    ),
    "POST /api/v2/kudos/transfer": Route(
        run=transfer,
        body=TransferRequest,
        responses={200: KudosTransferred},
        key=Key.REQUIRED,
        errors=(KudosTransferRefused, Busy),
        limits=ratelimit.TRANSFER,
    ),
    "POST /api/v2/kudos/award": Route(
        run=award,
        body=AwardRequest,
        responses={200: KudosAwarded},
        key=Key.REQUIRED,
        errors=(NotAllowedAwards, KudosTransferRefused, Busy),
        limits=ratelimit.TRANSFER,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

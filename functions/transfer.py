"""POST kudos/transfer, kudos/award, /v2/sharedkeys: kudos for others to have, or to spend.

Everything a call changes is one transaction: there is no crash window. A client that lost the
answer asks again with the same ``Idempotency-Key`` and hears it.
"""

import hashlib
import json
import uuid
from email.utils import formatdate
from typing import Any

from horde import auth, clock, rates, sharedkeys, store, transfers
from horde.answers import Done, KudosAwarded, KudosTransferred, SharedKeyDetails
from horde.errors import (
    AnonForbidden,
    Busy,
    KudosTransferRefused,
    NoSharedKeyModSelected,
    NotAllowedAwards,
    NotOwner,
    SharedKeyNotFound,
    TooManySharedKeys,
)
from horde.http import Answer, ApiSettings, Call, Key, Route, is_uuid, serve
from horde.model import SharedKey, User, user_number
from horde.schema import (
    AwardRequest,
    SharedKeyChange,
    SharedKeyRequest,
    TransferRequest,
    parse,
)
from horde.store import Once, Store

TRIES = 5
"""Accounts move under us now and then; each try decides anew from what is there."""


class Settings(ApiSettings):
    """Names of what this function uses."""

    table_name: str


def transfer(call: Call) -> Answer:
    """Give some of your kudos to another user, or to what a shared key may spend.

    With the header `Idempotency-Key` the same call can be sent again for a day and moves nothing
    the second time.
    """
    table, api_key = _table(), call.required_key()
    wish = parse(TransferRequest, call.json())
    sender: User | None = auth.user_of(table, api_key)
    once = _once(call, wish)
    for _ in range(TRIES):
        if sender is None:
            break
        if _is_done(table, sender, once):
            return Answer(KudosTransferred(transferred=wish.amount))
        transfers.check_sender(sender)
        receiver, key = _target(table, wish.username)
        just_received = table.just_sent(receiver.id, sender.id)
        transfers.check(sender, receiver, wish.amount, just_received=just_received)
        if table.transfer(sender, receiver.id, wish.amount, once, key):
            return Answer(KudosTransferred(transferred=wish.amount))
        sender = table.user(sender.id)
    raise Busy


def award(call: Call) -> Answer:
    """Award new kudos to a user; only the horde's first account may."""
    table, api_key = _table(), call.required_key()
    wish = parse(AwardRequest, call.json())
    giver = auth.user_of(table, api_key)
    if giver.id != transfers.AWARDER_ID:
        raise NotAllowedAwards
    once = _once(call, wish)
    for _ in range(TRIES):
        if _is_done(table, giver, once):
            return Answer(KudosAwarded(awarded=wish.amount))
        receiver = _user(table, wish.username, rc="InvalidAwardUsername")
        transfers.check_award(giver, receiver, wish.amount)
        if table.award(giver.id, receiver.id, wish.amount, once):
            return Answer(KudosAwarded(awarded=wish.amount))
    raise Busy


def _table() -> Store:
    return store.connect(Settings.load().table_name)


def _once(call: Call, wish: TransferRequest) -> Once | None:
    """Return what the header asks to be done once; only hashes are kept."""
    key = call.headers.get("idempotency-key")
    if not key:
        return None
    body = json.dumps([type(wish).__name__, wish.username, wish.amount])
    return Once(auth.key_hash(key), hashlib.sha256(body.encode()).hexdigest())


def _is_done(table: Store, user: User, once: Once | None) -> bool:
    """Say whether this was done before; raises KudosTransferRefused for another body."""
    done = table.done(user.id, once.key) if once else None
    if once is None or done is None:
        return False
    if done != once.body:
        message = "This Idempotency-Key was used for another transfer within the last day."
        raise KudosTransferRefused(message, rc="IdempotencyKeyConflict")
    return True


def _target(table: Store, username: str) -> tuple[User, SharedKey | None]:
    """Return who is given kudos, and the shared key that may spend them if one was named."""
    rc = "InvalidTargetUsername"
    if not is_uuid(username):
        return _user(table, username, rc), None
    key = table.sharedkey(username.lower())
    owner = table.user(key.user_id) if key else None
    if key is None or owner is None:
        raise KudosTransferRefused("There is no such shared key.", rc=rc)
    if sharedkeys.is_expired(key, clock.now()):
        raise KudosTransferRefused("This shared key has expired.", rc="SharedKeyExpired")
    return owner, key


def _user(table: Store, username: str, rc: str) -> User:
    """Return whose name this is (``alias#id``); raises KudosTransferRefused."""
    alias, _, digits = username.rpartition("#")
    number = user_number(digits)
    user = None if number is None else table.user(number)
    if user is None or user.alias != alias:
        message = f"There is no user '{username}'. A user's name looks like 'alias#7'."
        raise KudosTransferRefused(message, rc=rc)
    return user


def add_sharedkey(call: Call) -> Answer:
    """Make a key that lets others spend your kudos, within its bounds."""
    table, api_key = _table(), call.required_key()
    wish = parse(SharedKeyRequest, call.json())
    owner = auth.user_of(table, api_key)
    if owner.anonymous:
        raise AnonForbidden
    now = clock.now()
    key = SharedKey(
        id=str(uuid.uuid4()),
        user_id=owner.id,
        created_at=now,
        expires_at=sharedkeys.expires_at(wish.expiry, now),
        **wish.model_dump(exclude={"expiry"}),
    )
    most = sharedkeys.most(owner)
    if not table.add_sharedkey(key, most):
        raise TooManySharedKeys(most)
    return Answer(_details(key, owner))


def show_sharedkey(call: Call) -> Answer:
    """Say what a shared key may spend; its id is the key, so it needs no other."""
    return Answer(_details(*_find(_table(), call)))


def change_sharedkey(call: Call) -> Answer:
    """Change a shared key of yours."""
    table, api_key = _table(), call.required_key()
    wish = parse(SharedKeyChange, call.json())
    key, owner = _own(table, call, api_key)
    changes = wish.model_dump(exclude_none=True)
    if not changes:
        raise NoSharedKeyModSelected
    if "expiry" in changes:
        changes["expires_at"] = sharedkeys.expires_at(changes.pop("expiry"), clock.now())
    changed = table.change_sharedkey(key.id, owner.id, changes)
    if changed is None:
        raise SharedKeyNotFound
    return Answer(_details(changed, owner))


def delete_sharedkey(call: Call) -> Answer:
    """Take a shared key of yours away; what was asked for with it is still drawn."""
    table, api_key = _table(), call.required_key()
    key, _ = _own(table, call, api_key)
    if not table.remove_sharedkey(key):
        raise SharedKeyNotFound
    return Answer(Done())


def _find(table: Store, call: Call) -> tuple[SharedKey, User]:
    key_id = call.path.get("id", "")
    key = table.sharedkey(key_id.lower()) if is_uuid(key_id) else None
    owner = table.user(key.user_id) if key else None
    if key is None or owner is None:
        raise SharedKeyNotFound
    return key, owner


def _own(table: Store, call: Call, api_key: str) -> tuple[SharedKey, User]:
    user = auth.user_of(table, api_key)
    key, _ = _find(table, call)
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
        answers={200: SharedKeyDetails},
        key=Key.REQUIRED,
        errors=(AnonForbidden, TooManySharedKeys, Busy),
        limits=rates.SHAREDKEYS,
    ),
    "GET /api/v2/sharedkeys/{id}": Route(
        run=show_sharedkey,
        answers={200: SharedKeyDetails},
        errors=(SharedKeyNotFound,),
        limits=rates.READ,
    ),
    "PATCH /api/v2/sharedkeys/{id}": Route(
        run=change_sharedkey,
        body=SharedKeyChange,
        answers={200: SharedKeyDetails},
        key=Key.REQUIRED,
        errors=(SharedKeyNotFound, NotOwner, NoSharedKeyModSelected),
        limits=rates.SHAREDKEYS,
    ),
    "DELETE /api/v2/sharedkeys/{id}": Route(
        run=delete_sharedkey,
        answers={200: Done},
        key=Key.REQUIRED,
        errors=(SharedKeyNotFound, NotOwner, Busy),
        limits=rates.SHAREDKEYS,
    ),
    "POST /api/v2/kudos/transfer": Route(
        run=transfer,
        body=TransferRequest,
        answers={200: KudosTransferred},
        key=Key.REQUIRED,
        errors=(KudosTransferRefused, Busy),
        limits=rates.TRANSFER,
    ),
    "POST /api/v2/kudos/award": Route(
        run=award,
        body=AwardRequest,
        answers={200: KudosAwarded},
        key=Key.REQUIRED,
        errors=(NotAllowedAwards, KudosTransferRefused, Busy),
        limits=rates.TRANSFER,
    ),
}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(ROUTES, event)

"""POST /v2/kudos/transfer and award: kudos from one account to another.

Everything a call changes is one transaction: there is no crash window. A client that lost the
answer asks again with the same ``Idempotency-Key`` and hears it.
"""

import hashlib
import json
from typing import Any

from horde import auth, rates, store, transfers
from horde.answers import KudosAwarded, KudosTransferred
from horde.errors import Busy, KudosTransferRefused, NotAllowedAwards
from horde.http import Answer, ApiSettings, Call, Key, Route, serve
from horde.model import ANONYMOUS, User
from horde.schema import AwardRequest, TransferRequest, parse
from horde.store import Once, Store

TRIES = 5
"""Accounts move under us now and then; each try decides anew from what is there."""
MAX_DIGITS = 18


class Settings(ApiSettings):
    """Names of what this function uses."""

    table_name: str


def transfer(call: Call) -> Answer:
    """Give some of your kudos to another user.

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
        receiver = _target(table, wish.username)
        just_received = table.just_sent(receiver.id, sender.id)
        transfers.check(sender, receiver, wish.amount, just_received=just_received)
        if table.transfer(sender, receiver.id, wish.amount, once):
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
        receiver = _target(table, wish.username, rc="InvalidAwardUsername")
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


def _target(table: Store, username: str, rc: str = "InvalidTargetUsername") -> User:
    """Return whose name this is (``alias#id``); raises KudosTransferRefused."""
    alias, _, number = username.rpartition("#")
    user: User | None = None
    if number.isascii() and number.isdecimal() and len(number) <= MAX_DIGITS:
        user = table.user(int(number)) if int(number) else ANONYMOUS
    if user is None or user.alias != alias:
        message = f"There is no user '{username}'. A user's name looks like 'alias#7'."
        raise KudosTransferRefused(message, rc=rc)
    return user


ROUTES = {
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

"""POST /api/register and GET find_user: accounts."""

from http import HTTPStatus
from typing import Any

from horde import auth, limits, rates, store
from horde.answers import Registered, UserDetails
from horde.errors import InvalidAPIKey, UserNotFound
from horde.http import Answer, ApiSettings, Call, Key, Route, serve
from horde.model import User
from horde.schema import RegisterRequest, parse


class Settings(ApiSettings):
    """Names of what this function uses."""

    table_name: str


def register(call: Call) -> Answer:
    """Open a pseudonymous account; the answer is the only place that ever shows its key."""
    wish = parse(RegisterRequest, call.json())
    api_key = auth.new_key()
    user = store.connect(Settings.load().table_name).register(wish.username, auth.key_hash(api_key))
    answer = Registered(id=user.id, username=user.username, kudos=user.kudos, api_key=api_key)
    return Answer(answer, HTTPStatus.CREATED)


def find_user(call: Call) -> Answer:
    """Say whose key this is and what it holds."""
    if call.api_key is None:
        raise InvalidAPIKey
    table = store.connect(Settings.load().table_name)
    try:
        user = auth.user_of(table, call.api_key)
    except InvalidAPIKey:
        message = "User with this API key not found."
        raise UserNotFound(message) from None
    return Answer(_details(user))


def _details(user: User) -> UserDetails:
    return UserDetails(
        username=user.username,
        id=user.id,
        kudos=user.kudos,
        pseudonymous=not user.anonymous,
        moderator=False,
        trusted=False,
        flagged=False,
        concurrency=limits.concurrency(user),
        worker_count=0,
        worker_ids=[],
        sharedkey_ids=[],
    )


ROUTES = {
    "POST /api/register": Route(
        run=register, body=RegisterRequest, answers={201: Registered}, limits=rates.REGISTER
    ),
    "GET /api/v2/find_user": Route(
        run=find_user,
        answers={200: UserDetails},
        key=Key.OPTIONAL,
        errors=(UserNotFound,),
        limits=rates.READ,
    ),
}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(ROUTES, event)

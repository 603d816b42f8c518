"""POST /api/register and the form /register, GET find_user, /v2/users: accounts.

A change of an account is one update, with its ledger entry in the same transaction where kudos
move: there is no crash window.
"""

from html import escape
from http import HTTPStatus
from typing import Any

from horde import clock
from horde.edge import auth, profiles, ratelimit
from horde.edge.bodies import RegisterRequest, UserChange, UsersQuery, parse
from horde.edge.errors import PayloadError
from horde.edge.http import ApiSettings, Call, Key, Response, Route, is_uuid, serve
from horde.edge.pages import page
from horde.edge.responses import Done, Registered, UserChanged, UserDetails, UserList
from horde.records import SharedKey, User
from horde.rules import accounts, allowance, ruleset
from horde.rules.accounts import Privilege, user_number
from horde.rules.refusals import (
    AnonForbiddenUserMod,
    Busy,
    HordeError,
    InvalidAPIKey,
    NotAdmin,
    NotModerator,
    NotOwner,
    NoUserModSelected,
    TooLongUserName,
    UserChangeRefused,
    UserNotFound,
)
from horde.store import Store, connect
from horde.store.accounts import DELETED, undeleted

PAGE = 25
MAX_LISTED = 100
"""Workers and open requests shown of an account."""
PAGES_BY_KUDOS, PAGES_BY_AGE = 40, 10_000
"""The list by kudos ends after 1000 accounts: reading further costs as much as all before it."""
NOT_KEPT = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
REGISTER = """<h1>Open an account</h1>
{alert}
<form method="post" action="/register">
<p><label for="username">Your name here</label><br>
<input id="username" name="username" value="{name}" required maxlength="{longest}" autocomplete="nickname"{marks}>
<br><small id="rule">Up to {longest} characters, no #. Others see it.</small></p>
<p><button>Open the account</button></p>
</form>
<h2>What is shared</h2>
<p>With an account you decide, request by request: <code>shared: true</code> gives the image with its
prompt and settings to an open data set for LAION, under
<a href="https://creativecommons.org/publicdomain/zero/1.0/">CC0 1.0</a>, for a tax of {tax_shared}
kudos per image instead of {tax_private}. Without it nothing is shared. Your name is never part of it. Image-to-image and
inpainting are never shared; text-to-image without an account always is.</p>
<p>By opening an account you agree to the <a href="/terms">terms of service</a>; the
<a href="/privacy">privacy policy</a> says what is kept.</p>
"""  # noqa: E501 - one line for a tag
REGISTERED = """<h1>Welcome, {username}</h1>
<p>This is your API key:</p>
<p><code>{api_key}</code></p>
<p><strong>Keep it now: nothing will ever show it again,</strong> and there is no other way into the
account. Whoever has it spends your kudos. Put it into your client as its API key, and this address
as the horde's.</p>
<p><a href="/api/">What the API can do</a></p>
"""


class Settings(ApiSettings):
    """Names of what this function uses."""

    table_name: str
    monthly_kudos: int


def register(call: Call) -> Response:
    """Open a pseudonymous account; the response is the only place that ever shows its key."""
    body = parse(RegisterRequest, call.json())
    api_key = auth.new_key()
    user = _store().accounts.register(body.username, auth.key_hash(api_key))
    registered = Registered(id=user.id, username=user.username, kudos=user.kudos, api_key=api_key)
    return Response(registered, HTTPStatus.CREATED)


def registration_form(_call: Call) -> Response:
    """Show the form that opens an account, for people with a browser."""
    return _form()


def register_by_form(call: Call) -> Response:
    """Open an account from the form; this page is the only place that ever shows its key."""
    name = ""
    try:
        fields = call.form()
        name = fields.get("username", "")
        wanted = parse(RegisterRequest, fields)
        api_key = auth.new_key()
        user = _store().accounts.register(wanted.username, auth.key_hash(api_key))
    except PayloadError as refusal:
        return _form(name, refusal.errors.get("username", refusal.message), refusal.status)
    except HordeError as refusal:
        return _form(name, refusal.message, refusal.status)
    body = REGISTERED.format(username=escape(user.username), api_key=escape(api_key))
    return page("Your account", body, HTTPStatus.CREATED, NOT_KEPT)


def _form(name: str = "", wrong: str = "", status: HTTPStatus = HTTPStatus.OK) -> Response:
    alert = f'<p id="wrong" role="alert"><strong>{escape(wrong)}</strong></p>' if wrong else ""
    marks = ' aria-invalid="true" aria-describedby="wrong rule"' if wrong else ""
    # The numbers first: what a visitor typed is shown as it is.
    body = ruleset.fill(REGISTER).format(
        alert=alert,
        name=escape(name[:100]),
        marks=marks or ' aria-describedby="rule"',
        longest=accounts.MAX_NAME,
    )
    return page("That name will not do" if wrong else "Open an account", body, status, NOT_KEPT)


def find_user(call: Call) -> Response:
    """Say whose key this is and what it holds.

    The holder of a shared key is told whose it is.
    """
    if call.api_key is None:
        raise InvalidAPIKey
    store, settings = _store(), Settings.load()
    key: SharedKey | None = None
    try:
        if is_uuid(call.api_key):
            key, user = auth.owner_of(store, call.api_key)
        else:
            user = auth.user_of(store, call.api_key)
    except InvalidAPIKey:
        message = "User with this API key not found."
        raise UserNotFound(message) from None
    user = store.accounts.give_allowance(user, settings.monthly_kudos)
    rank = accounts.privilege(user, user, settings.admins)
    return Response(_single(store, user, Privilege.PUBLIC if key else rank, key))


def list_users(call: Call) -> Response:
    """List accounts, 25 a page: those with the most kudos first, or the oldest first.

    The list by kudos ends early; the one by age does not.
    """
    query, store = parse(UsersQuery, dict(call.query)), _store()
    start, end = (query.page - 1) * PAGE, query.page * PAGE
    if query.page > (PAGES_BY_AGE if query.sort == "age" else PAGES_BY_KUDOS):
        ids: list[int] = []
    elif query.sort == "age":
        ids = list(range(start + 1, end + 1))  # numbers are given out in order
    else:
        ids = store.accounts.top_by_kudos(end)[start:]
    found = store.accounts.get_many(ids)
    users = [found[user_id] for user_id in ids if user_id in found]
    shown = [_shown(user, Privilege.PUBLIC) for user in users if not user.deleted]
    return Response(UserList(shown))


def show_user(call: Call) -> Response:
    """Show an account: to its owner and to moderators more of it."""
    store = _store()
    viewer = auth.user_of(store, call.api_key) if call.api_key else None
    user = _find(store, call)
    rank = accounts.privilege(viewer, user, Settings.load().admins)
    return Response(_single(store, user, rank))


def change_user(call: Call) -> Response:
    """Change an account of yours; as a moderator or admin, also others'.

    The owner sets `username` and `contact`; a moderator also `concurrency`, `trusted`, `flagged`,
    `admin_comment` and `undelete`; an admin also `moderator`, `monthly_kudos` and, by an amount,
    `kudos`.
    """
    store, api_key = _store(), call.required_key()
    wanted = parse(UserChange, call.json()).changes
    viewer, user = auth.user_of(store, api_key), _find(store, call)
    accounts.check_change(wanted, viewer, user, Settings.load().admins)
    changes = {name: value for name, value in wanted.items() if name not in {"kudos", "undelete"}}
    if "username" in changes:
        changes["alias"] = changes.pop("username")
    if wanted.get("undelete"):
        changes |= undeleted(user)
    grant = wanted.get("kudos", 0)
    if (changes or grant) and not store.accounts.change(user, changes, grant):
        spare = user.kudos - user.floor
        message = f"No more than {spare} kudos can be taken from '{user.username}'."
        raise UserChangeRefused(message)
    changed = store.accounts.get(user.id) or user
    response = {
        name: getattr(changed, name) for name in wanted if name not in {"kudos", "undelete"}
    }
    if "kudos" in wanted:
        response["new_kudos"] = changed.kudos
    if "undelete" in wanted:
        response["deleted"] = changed.deleted
    return Response(UserChanged(**response))


def delete_user(call: Call) -> Response:
    """Delete an account of yours: its keys end, its name stays taken; a moderator can undo it."""
    store, api_key = _store(), call.required_key()
    viewer, user = auth.user_of(store, api_key), _find(store, call)
    if user.anonymous:
        raise AnonForbiddenUserMod
    accounts.check_owner(viewer, user, Settings.load().admins)
    store.accounts.change(user, DELETED)
    return Response(Done())


def _store() -> Store:
    return connect(Settings.load().table_name)


def _find(store: Store, call: Call) -> User:
    """Return the account a path names; raises UserNotFound."""
    named = call.path.get("id", "")
    number = user_number(named)
    user = None if number is None else store.accounts.get(number)
    if user is None:
        message = f"User with ID '{named[:100]}' not found."
        raise UserNotFound(message)
    return user


def _shown(user: User, rank: Privilege, key: SharedKey | None = None) -> UserDetails:
    return profiles.details(user, rank, now=clock.now(), admins=Settings.load().admins, key=key)


def _single(store: Store, user: User, rank: Privilege, key: SharedKey | None = None) -> UserDetails:
    """Return one account with its workers and open requests: too much to read for a list."""
    shown = _shown(user, rank, key)
    if user.anonymous:
        return shown
    workers = store.workers.ids_of(user.id, MAX_LISTED)
    requests = store.requests.open_of(user.id, MAX_LISTED) if rank >= Privilege.OWNER else []
    monthly = allowance.amount(user, Settings.load().monthly_kudos)
    more = profiles.detail_fields(user, workers, requests, rank, allowance=monthly)
    return shown.model_copy(update=more)


ROUTES = {
    "GET /register": Route(run=registration_form, responses={200: "text/html"}, hidden=True),
    "POST /register": Route(
        run=register_by_form, responses={201: "text/html"}, limits=ratelimit.REGISTER, hidden=True
    ),
    "POST /api/register": Route(
        run=register, body=RegisterRequest, responses={201: Registered}, limits=ratelimit.REGISTER
    ),
    "GET /api/v2/find_user": Route(
        run=find_user,
        responses={200: UserDetails},
        key=Key.OPTIONAL,
        errors=(UserNotFound,),
        limits=ratelimit.READ,
    ),
    "GET /api/v2/users": Route(
        run=list_users, query=UsersQuery, responses={200: UserList}, limits=ratelimit.READ
    ),
    "GET /api/v2/users/{id}": Route(
        run=show_user,
        responses={200: UserDetails},
        key=Key.OPTIONAL,
        errors=(UserNotFound,),
        limits=ratelimit.USER,
    ),
    "PUT /api/v2/users/{id}": Route(
        run=change_user,
        body=UserChange,
        responses={200: UserChanged},
        key=Key.REQUIRED,
        errors=(
            NoUserModSelected,
            TooLongUserName,
            UserChangeRefused,
            NotOwner,
            NotModerator,
            NotAdmin,
            AnonForbiddenUserMod,
            UserNotFound,
            Busy,
        ),
        limits=ratelimit.USER,
    ),
    "DELETE /api/v2/users/{id}": Route(
        run=delete_user,
        responses={200: Done},
        key=Key.REQUIRED,
        errors=(NotOwner, AnonForbiddenUserMod, UserNotFound, Busy),
        limits=ratelimit.USER,
    ),
}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(ROUTES, event)

"""Accounts: POST /api/register, the form /register, GET find_user, /v2/users.

A change of an account is one update. If kudos move, their ledger entry is in the same transaction.
So there is no crash window, but for a deletion: the account is marked first, and then its requests
are cancelled one by one. The mark makes the account due for the sweep, which cancels what a crash
has left open.
"""

from dataclasses import replace
from html import escape
from http import HTTPStatus
from typing import Any

from horde import clock, ending, startup
from horde.edge import auth, profiles, ratelimit
from horde.edge.bodies import parse
from horde.edge.errors import PayloadError
from horde.edge.http import ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.other_bodies import RegisterRequest, UserChange, UserDeletion, UsersQuery
from horde.edge.other_responses import (
    Deleted,
    Registered,
    StyleNamed,
    UserChanged,
    UserDetails,
    UserList,
)
from horde.edge.pages import page
from horde.log import logger
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
from horde.rules.sharing import Removal
from horde.store import Store, connect
from horde.store.accounts import deleted, undeleted

PAGE = 25
MAX_LISTED = 100
"""Most workers and requests shown for an account."""
MAX_PAGES_BY_KUDOS, MAX_PAGES_BY_AGE = 40, 10_000
"""The list by kudos ends after 1000 accounts, since each page reads all pages before it."""
NO_STORE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
REGISTER = """<h1>Open an account</h1>
{alert}
<form method="post" action="/register">
<p><label for="username">Choose a user name</label><br>
<input id="username" name="username" value="{name}" required maxlength="{longest}" autocomplete="nickname"{marks}>
<br><small id="rule">Up to {longest} characters, no #. Others see it.</small></p>
<p><button>Open the account</button></p>
</form>
<h2>What is shared</h2>
<p>With an account you decide for each request. <code>shared: true</code> adds the images, with prompt
and settings, to an open data set for LAION under
<a href="https://creativecommons.org/publicdomain/zero/1.0/">CC0 1.0</a>. The tax is then {tax_shared}
kudos per image instead of {tax_private}. Without <code>shared: true</code>, nothing is shared. Your
name is never shared. Image-to-image and inpainting are never shared; text-to-image without an account
always is.</p>
<p>By opening an account you agree to the <a href="/terms">terms of service</a>. The
<a href="/privacy">privacy policy</a> lists the data that is stored.</p>
"""  # noqa: E501 - one line for a tag
REGISTERED = """<h1>Welcome, {username}</h1>
<p>This is your API key:</p>
<p><code>{api_key}</code></p>
<p><strong>Save it now: it will never be shown again,</strong> and there is no other way into the
account. Anyone who has it can spend your kudos. In your client, enter it as the API key, and this
site as the address of the horde.</p>
<p><a href="/api/">API documentation</a></p>
"""


class Settings(ApiSettings):
    """The names of this function's resources, and the monthly allowance."""

    table_name: str
    monthly_kudos: int
    hash_secret: str


def register(call: Call) -> Response:
    """Open a pseudonymous account. Only this response shows its API key."""
    body = parse(RegisterRequest, call.json())
    api_key = auth.new_key()
    user = _store().accounts.register(body.username, auth.key_hash(api_key))
    registered = Registered(id=user.id, username=user.username, kudos=user.kudos, api_key=api_key)
    return Response(registered, HTTPStatus.CREATED)


def registration_form(_call: Call) -> Response:
    """Show the registration form."""
    return _form()


def register_by_form(call: Call) -> Response:
    """Open an account from the registration form. Only this page shows its API key."""
    name = ""
    try:
        fields = call.form()
        name = fields.get("username", "")
        body = parse(RegisterRequest, fields)
        api_key = auth.new_key()
        user = _store().accounts.register(body.username, auth.key_hash(api_key))
    except PayloadError as refusal:
        return _form(name, refusal.errors.get("username", refusal.message), refusal.status)
    except HordeError as refusal:
        return replace(
            _form(name, refusal.message, refusal.status), headers={**NO_STORE, **refusal.headers}
        )
    html = REGISTERED.format(username=escape(user.username), api_key=escape(api_key))
    return page("Your account", html, HTTPStatus.CREATED, NO_STORE)


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
    title = "This name is not allowed" if wrong else "Open an account"
    return page(title, body, status, NO_STORE)


def find_user(call: Call) -> Response:
    """Return the account that an API key belongs to.

    For a shared key or a worker key, return the public part of its owner's account.
    """
    if call.api_key is None:
        raise InvalidAPIKey
    store, settings = _store(), Settings.load()
    key: SharedKey | None = None
    worker = False
    try:
        if is_uuid(call.api_key):
            key, user = auth.owner_of(store, call.api_key)
        else:
            user, worker = auth.holder_of(store, call.api_key)
    except InvalidAPIKey:
        message = "User with this API key not found."
        raise UserNotFound(message) from None
    if worker:  # workers ask for it at their start; it is not the owner who uses the account
        return Response(_single(store, user, Privilege.PUBLIC))
    user = store.accounts.give_allowance(user, settings.monthly_kudos)
    rank = accounts.privilege(user, user, settings.admins)
    return Response(_single(store, user, Privilege.PUBLIC if key else rank, key))


def list_users(call: Call) -> Response:
    """List accounts, 25 per page: those with the most kudos first, or the oldest first.

    Sorted by kudos, the list ends early; sorted by age it does not.
    """
    query, store = parse(UsersQuery, dict(call.query)), _store()
    start, end = (query.page - 1) * PAGE, query.page * PAGE
    if query.page > (MAX_PAGES_BY_AGE if query.sort == "age" else MAX_PAGES_BY_KUDOS):
        ids: list[int] = []
    elif query.sort == "age":
        ids = list(range(start + 1, end + 1))  # ids are assigned in order
    else:
        ids = store.accounts.top_by_kudos(end)[start:]
    found = store.accounts.get_many(ids)
    users = [found[user_id] for user_id in ids if user_id in found]
    if query.sort == "kudos":  # the places of a page are up to an hour old
        users.sort(key=lambda user: (-user.kudos, user.id))
    shown = [_shown(user, Privilege.PUBLIC) for user in users if not user.deleted]
    return Response(UserList(shown))


def show_user(call: Call) -> Response:
    """Show an account. Its owner and moderators see more of it."""
    store = _store()
    viewer = auth.user_of(store, call.api_key) if call.api_key else None
    user = _find(store, call)
    rank = accounts.privilege(viewer, user, Settings.load().admins)
    return Response(_single(store, user, rank))


def change_user(call: Call) -> Response:
    """Change your account, or another one as a moderator or admin.

    The owner may set `username` and `contact`; a moderator also `concurrency`, `trusted`,
    `flagged`, `admin_comment` and `undelete`; an admin also `moderator` and `monthly_kudos`. An
    admin may also add an amount to `kudos`. Moderators change neither admins nor each other, nor
    what is for moderators in their own account.
    """
    store, api_key = _store(), call.required_key()
    body = parse(UserChange, call.json()).changes
    viewer, user = auth.user_of(store, api_key), _find(store, call)
    accounts.check_change(body, viewer, user, Settings.load().admins)
    changes = {name: value for name, value in body.items() if name not in {"kudos", "undelete"}}
    if "username" in changes:
        changes["alias"] = changes.pop("username")
    if body.get("undelete"):
        changes |= undeleted(user)
    grant = body.get("kudos", 0)
    if (changes or grant) and not store.accounts.change(user, changes, grant):
        available = user.kudos - user.floor
        message = f"At most {available} kudos can be taken from '{user.username}'."
        raise UserChangeRefused(message)
    changed = store.accounts.get(user.id) or user
    response = {name: getattr(changed, name) for name in body if name not in {"kudos", "undelete"}}
    if "kudos" in body:
        response["new_kudos"] = changed.kudos
    if "undelete" in body:
        response["deleted"] = changed.deleted
    return Response(UserChanged(**response))


def delete_user(call: Call) -> Response:
    """Delete your account. What it has waiting is cancelled and refunded; its keys stop working.

    `withdraw_shared=true` also withdraws all images that it has shared. Otherwise those that are
    in the data set stay there, since they are in the public domain; what was not copied there yet
    never will be. Afterwards only the operator can withdraw them, since the keys no longer work.
    Its id stays taken. A moderator can undo the deletion, but not the withdrawal.
    """
    store, api_key = _store(), call.required_key()
    choice = parse(UserDeletion, dict(call.query)).withdraw_shared
    viewer, user = auth.user_of(store, api_key), _find(store, call)
    if user.anonymous:
        raise AnonForbiddenUserMod
    accounts.check_owner(viewer, user, Settings.load().admins)
    if choice == "true":  # first: nobody could ask again for what a crash leaves
        store.withdrawals.of_account(user, Removal.ACCOUNT)
    store.accounts.change(user, deleted(user))
    try:
        ending.cancel_all_of(store, user.id)
    except Busy:  # the account is deleted: the sweep cancels the rest
        logger.warning("not all requests cancelled", extra={"user": user.id})
    return Response(Deleted(shared_withdrawn=None if choice is None else choice == "true"))


def _store() -> Store:
    return connect(Settings.load().table_name)


def _find(store: Store, call: Call) -> User:
    """Return the account in a call's path; raises UserNotFound."""
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
    """Return an account with its workers and requests, which a list leaves out as too costly."""
    shown = _shown(user, rank, key)
    if user.anonymous:
        return shown
    workers = store.workers.ids_of(user.id, MAX_LISTED)
    requests = store.listings.requests(user, MAX_LISTED) if rank >= Privilege.OWNER else []
    own = rank >= Privilege.OWNER
    named = [one for one in store.styles.get_many(sorted(user.style_ids)) if own or one.public]
    monthly = allowance.amount(user, Settings.load().monthly_kudos)
    more = profiles.detail_fields(user, workers, requests, rank, allowance=monthly)
    styles = [StyleNamed(name=style.name, id=style.id) for style in named]
    return shown.model_copy(update={**more, "styles": styles})


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
        query=UserDeletion,
        responses={200: Deleted},
        key=Key.REQUIRED,
        errors=(NotOwner, NotAdmin, AnonForbiddenUserMod, UserNotFound, Busy),
        limits=ratelimit.USER,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb", "secretsmanager")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

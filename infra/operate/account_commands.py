"""Accounts, their kudos and their API keys."""

from typing import Any

from horde import clock
from horde.edge.auth import key_hash, new_key
from horde.records import ApiKey, User
from horde.rules.accounts import user_number
from horde.rules.dates import iso
from horde.store import Store
from infra.operate import OperatorError


def find(store: Store, username: str) -> User:
    """Return the account with a name such as ``alias#7``; raises OperatorError."""
    alias, mark, digits = username.rpartition("#")
    number = user_number(digits)
    if not mark or number is None:
        message = f"{username!r} is not a user name; it looks like 'alias#7'"
        raise OperatorError(message)
    user = store.accounts.get(number)
    if user is not None and user.anonymous:
        message = f"{username!r} is the anonymous account, which is never written"
        raise OperatorError(message)
    if user is None or user.alias != alias:
        known = f"; account {number} is {user.username!r}" if user else ""
        message = f"there is no user {username!r}{known}"
        raise OperatorError(message)
    return user


def register(store: Store, alias: str) -> tuple[User, str]:
    """Open an account; returns it and its API key, which is never shown again."""
    api_key = new_key()
    return store.accounts.register(alias, key_hash(api_key)), api_key


def grant(store: Store, username: str, amount: int) -> User:
    """Give kudos, or take them if negative; returns the new account. Raises OperatorError."""
    user = find(store, username)
    if not amount:
        message = "the amount must not be 0"
        raise OperatorError(message)
    if not store.accounts.grant(user.id, amount):
        message = (
            f"{amount} would take {username!r} below its floor: at most "
            f"{user.kudos - user.floor} of its {user.kudos} kudos can be taken"
        )
        raise OperatorError(message)
    return find(store, username)


def worker_key(store: Store, username: str, *, fleet: bool = False, name: str | None = None) -> str:
    """Create a worker key, which is never shown again; raises OperatorError.

    ``fleet``: for the operator's own endpoints. The account is marked so and trusted, in the same
    transaction. Without it the key is a volunteer's, and the account stays as it is.
    """
    user, api_key = find(store, username), new_key()
    made = ApiKey(
        hash=key_hash(api_key), user_id=user.id, worker=True, created_at=clock.now(), name=name
    )
    if not store.keys.add_worker_key(made, fleet=fleet):
        message = f"{username!r} has been removed meanwhile"
        raise OperatorError(message)
    return api_key


def keys(store: Store, username: str, *, adopt: bool = False) -> list[str]:
    """Return a line for each API key of an account; raises OperatorError.

    ``adopt`` first scans the whole table and lists the keys, of all accounts, that were made before
    keys were listed. Once per table is enough.
    """
    user = find(store, username)
    for key in store.keys.unlisted() if adopt else ():
        store.keys.adopt(key)
    return [_line(key, user) for key in store.keys.of_user(user.id)]


def _line(key: ApiKey, user: User) -> str:
    kind = ("fleet key" if user.fleet else "worker key") if key.worker else "account key"
    made = iso(key.created_at * 1000)[:10] if key.created_at else "unknown"
    return f"{key.id}  {kind:<11}  {made:<10}  {key.name or ''}".rstrip()


def revoke_key(store: Store, username: str, key_id: str) -> None:
    """Revoke a key, which stops working at once; raises OperatorError."""
    key = _key(store, username, key_id)
    if store.keys.revoke(key):
        return
    if store.keys.get(key.hash) is None:
        message = f"{username!r} has no key {key_id!r} any more"
        raise OperatorError(message)
    message = f"{key_id!r} is the last account key of {username!r}; rotate-key replaces it"
    raise OperatorError(message)


def rotate_key(store: Store, username: str, key_id: str) -> str:
    """Replace a key by a new one of the same kind, which is never shown again.

    The old one stops working at once. Raises OperatorError.
    """
    api_key = new_key()
    if store.keys.rotate(_key(store, username, key_id), key_hash(api_key)) is None:
        message = f"{username!r} has no key {key_id!r} any more"
        raise OperatorError(message)
    return api_key


def _key(store: Store, username: str, key_id: str) -> ApiKey:
    """Return a key of an account by its id; raises OperatorError."""
    for key in store.keys.of_user(find(store, username).id):
        if key.id == key_id.lower():
            return key
    message = f"{username!r} has no key {key_id!r}; bin/operator keys lists them"
    raise OperatorError(message)


def add_parsers(commands: Any) -> None:
    """Add the commands to the parser of ``bin/operator``."""
    add = commands.add_parser("register", help="open an account and print its API key")
    add.add_argument("alias")
    add = commands.add_parser("user", help="show an account")
    add.add_argument("username", metavar="alias#id")
    add = commands.add_parser("grant", help="give kudos; a negative amount takes them")
    add.add_argument("username", metavar="alias#id")
    add.add_argument("amount", type=int)
    add = commands.add_parser("worker-key", help="create and print a key that may pop and submit")
    add.add_argument("username", metavar="alias#id")
    add.add_argument(
        "--fleet",
        action="store_true",
        help="for your own endpoints: the account is trusted, so its workers also draw requests "
        "that ask for trusted workers; without it the key is a volunteer's, and changes nothing "
        "else of the account",
    )
    add.add_argument("--name", help="a label, to know the key by")
    add = commands.add_parser("keys", help="list an account's API keys, by the start of their hash")
    add.add_argument("username", metavar="alias#id")
    add.add_argument(
        "--adopt",
        action="store_true",
        help="first scan the table for keys made before keys were listed; once is enough",
    )
    for name, what in (
        ("revoke-key", "revoke a key, which stops working at once"),
        ("rotate-key", "replace a key by a new one of the same kind, and print it"),
    ):
        add = commands.add_parser(name, help=what)
        add.add_argument("username", metavar="alias#id")
        add.add_argument("key", metavar="key-id")

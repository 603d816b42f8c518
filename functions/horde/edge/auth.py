"""API keys: created once, shown once, stored as a hash.

An account key does everything, but pops and submits only if the operator's setting
``account_keys_pop`` says so. A worker key pops and submits, since it lies on machines that the
owner of the account may not control. Each call reads its key: nothing here is cached, so a revoked
key is refused at once.
"""

import hashlib
import secrets
from collections.abc import Iterable

from horde.edge.bodies import ANONYMOUS_KEY
from horde.edge.ids import is_uuid
from horde.edge.ratelimit import Settings
from horde.records import ApiKey, SharedKey, User
from horde.rules import accounts, sharedkeys
from horde.rules.refusals import AnonForbiddenWorker, DeletedUser, InvalidAPIKey, NotPrivileged
from horde.store import Store, connect


def new_key() -> str:
    """Return a new key of 22 characters (128 random bits); horde_sdk requires this length."""
    return secrets.token_urlsafe(16)


def key_hash(api_key: str) -> str:
    """Return the SHA-256 stored for a key; 128 random bits need neither a salt nor a slow hash."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).hexdigest()


def check_known(api_key: str) -> None:
    """Refuse a key that nobody has, at the price of one read; raises InvalidAPIKey.

    It says nothing of the account, which the route's function checks.
    """
    if api_key == ANONYMOUS_KEY:
        return
    store = connect(Settings.load().table_name)
    found: object
    if is_uuid(api_key):
        found = store.sharedkeys.get(api_key.lower())
    else:
        found = store.keys.get(key_hash(api_key))
    if found is None:
        raise InvalidAPIKey


def user_of(store: Store, api_key: str, targets: Iterable[str] = ()) -> User:
    """Return the user that an account key belongs to; ``targets`` as in ``spender_of``.

    Raises InvalidAPIKey, DeletedUser, or NotPrivileged for a worker key.
    """
    user, worker = holder_of(store, api_key, targets)
    if worker:
        message = "This is a worker key: it can pop and submit, and nothing else."
        raise NotPrivileged(message)
    return user


def holder_of(store: Store, api_key: str, targets: Iterable[str] = ()) -> tuple[User, bool]:
    """Return the user that an account key or worker key belongs to, and whether it is the latter.

    Only for what a worker key may see. Raises InvalidAPIKey or DeletedUser.
    """
    if api_key == ANONYMOUS_KEY:
        return accounts.anonymous(), False
    hashed = key_hash(api_key)
    key = store.pops.key(hashed, targets) if targets else store.keys.get(hashed)
    user = store.accounts.get(key.user_id) if key else None
    if key is None or user is None:
        raise InvalidAPIKey
    if user.deleted:
        raise DeletedUser
    return user, key.worker


def spender_of(
    store: Store, api_key: str, now: int, targets: Iterable[str] = ()
) -> tuple[User, SharedKey | None]:
    """Return the account that a key spends from, and the shared key if it is one.

    A shared key is a UUID and spends its owner's kudos. ``now`` is in seconds. The marks of
    ``targets``, whose queues will need them, are read with an account's key. Raises
    InvalidAPIKey, DeletedUser, NotPrivileged, SharedKeyExpired or SharedKeyEmpty.
    """
    if not is_uuid(api_key):
        return user_of(store, api_key, targets), None
    key, owner = owner_of(store, api_key)
    sharedkeys.check_alive(key, now)
    return owner, key


def owner_of(store: Store, api_key: str) -> tuple[SharedKey, User]:
    """Return a shared key and its owner; raises InvalidAPIKey or DeletedUser."""
    key = store.sharedkeys.get(api_key.lower())
    owner = store.accounts.get(key.user_id) if key else None
    if key is None or owner is None:
        raise InvalidAPIKey
    if owner.deleted:
        raise DeletedUser
    return key, owner


def worker_user(store: Store, api_key: str, *, account_keys: bool) -> int:
    """Return the id of the user whose workers a key may run, without reading the account.

    ``account_keys`` as in ``user_of_worker_key``. Raises InvalidAPIKey, AnonForbiddenWorker or
    NotPrivileged.
    """
    check_not_anonymous(api_key)
    return user_of_worker_key(store.keys.get(key_hash(api_key)), account_keys=account_keys)


def check_not_anonymous(api_key: str) -> None:
    """Refuse the anonymous key to workers; raises AnonForbiddenWorker."""
    if api_key == ANONYMOUS_KEY:
        raise AnonForbiddenWorker


def user_of_worker_key(key: ApiKey | None, *, account_keys: bool) -> int:
    """Return the id of the user whose workers a key may run; None is a key that nobody has.

    ``account_keys`` says whether that may be an account key, or only a worker key. Raises
    InvalidAPIKey or NotPrivileged.
    """
    if key is None:
        raise InvalidAPIKey
    if not key.worker and not account_keys:
        message = "This key cannot run workers; ask the operator for a worker key."
        raise NotPrivileged(message)
    return key.user_id

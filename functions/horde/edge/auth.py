"""API keys: made once, shown once, kept as a hash."""

import hashlib
import secrets

from horde.edge.bodies import ANONYMOUS_KEY
from horde.edge.http import is_uuid
from horde.records import SharedKey, User
from horde.rules import accounts, sharedkeys
from horde.rules.refusals import AnonForbiddenWorker, DeletedUser, InvalidAPIKey, NotPrivileged
from horde.store import Store


def new_key() -> str:
    """Return a fresh key: 22 characters, 128 random bits (the shape horde_sdk insists on)."""
    return secrets.token_urlsafe(16)


def key_hash(api_key: str) -> str:
    """Return what is stored of a key. 128 random bits need no salt and no slow hash."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).hexdigest()


def user_of(store: Store, api_key: str) -> User:
    """Return whose key this is; raises InvalidAPIKey or DeletedUser."""
    if api_key == ANONYMOUS_KEY:
        return accounts.anonymous()
    key = store.accounts.key(key_hash(api_key))
    user = store.accounts.get(key.user_id) if key else None
    if user is None:
        raise InvalidAPIKey
    if user.deleted:
        raise DeletedUser
    return user


def spender_of(store: Store, api_key: str, now: int) -> tuple[User, SharedKey | None]:
    """Return whose kudos a key spends: its user's, or those of a shared key's owner.

    A shared key is a UUID. ``now`` is in seconds. Raises what ``user_of`` does, and
    SharedKeyExpired or SharedKeyEmpty.
    """
    if not is_uuid(api_key):
        return user_of(store, api_key), None
    key, owner = owner_of(store, api_key)
    sharedkeys.check_alive(key, now)
    return owner, key


def owner_of(store: Store, api_key: str) -> tuple[SharedKey, User]:
    """Return a shared key and whose it is; raises InvalidAPIKey or DeletedUser."""
    key = store.sharedkeys.get(api_key.lower())
    owner = store.accounts.get(key.user_id) if key else None
    if key is None or owner is None:
        raise InvalidAPIKey
    if owner.deleted:
        raise DeletedUser
    return key, owner


def worker_user(store: Store, api_key: str) -> int:
    """Return the id of the user whose worker key this is; the account itself is not read.

    Raises InvalidAPIKey, AnonForbiddenWorker, or NotPrivileged for an ordinary user's key.
    """
    if api_key == ANONYMOUS_KEY:
        raise AnonForbiddenWorker
    key = store.accounts.key(key_hash(api_key))
    if key is None:
        raise InvalidAPIKey
    if not key.worker:
        message = "This key cannot run workers; ask the operator for a worker key."
        raise NotPrivileged(message)
    return key.user_id


def worker_owner(store: Store, api_key: str) -> int:
    """Return whose worker key this is; raises DeletedUser too, where the account was deleted."""
    user_id = worker_user(store, api_key)
    user = store.accounts.get(user_id)
    if user is not None and user.deleted:
        raise DeletedUser
    return user_id

"""API keys: made once, shown once, kept as a hash."""

import hashlib
import secrets

from horde import sharedkeys
from horde.errors import (
    AnonForbiddenWorker,
    DeletedUser,
    InvalidAPIKey,
    NotAdmin,
    NotModerator,
    NotPrivileged,
)
from horde.http import is_uuid
from horde.model import ANONYMOUS, SharedKey, User
from horde.schema import ANONYMOUS_KEY
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
        return ANONYMOUS
    key = store.key(key_hash(api_key))
    user = store.user(key.user_id) if key else None
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
    key = store.sharedkey(api_key.lower())
    owner = store.user(key.user_id) if key else None
    if key is None or owner is None:
        raise InvalidAPIKey
    if owner.deleted:
        raise DeletedUser
    return key, owner


def is_admin(user: User, admins: str) -> bool:
    """Say whether the operator named this account (``admins``: ids, by commas)."""
    return not user.anonymous and str(user.id) in {part.strip() for part in admins.split(",")}


def is_moderator(user: User, admins: str) -> bool:
    """Say whether an account may do what moderators may; admins may too."""
    return user.moderator or is_admin(user, admins)


def require_admin(user: User, admins: str) -> None:
    """Raise NotAdmin for everybody else."""
    if not is_admin(user, admins):
        raise NotAdmin


def require_moderator(user: User, admins: str) -> None:
    """Raise NotModerator for everybody else."""
    if not is_moderator(user, admins):
        raise NotModerator


def worker_user(store: Store, api_key: str) -> int:
    """Return the id of the user whose worker key this is; the account itself is not read.

    Raises InvalidAPIKey, AnonForbiddenWorker, or NotPrivileged for an ordinary user's key.
    """
    if api_key == ANONYMOUS_KEY:
        raise AnonForbiddenWorker
    key = store.key(key_hash(api_key))
    if key is None:
        raise InvalidAPIKey
    if not key.worker:
        message = "This key cannot run workers; ask the operator for a worker key."
        raise NotPrivileged(message)
    return key.user_id


def worker_owner(store: Store, api_key: str) -> int:
    """Do the same, and raise DeletedUser where the account was deleted."""
    user_id = worker_user(store, api_key)
    user = store.user(user_id)
    if user is not None and user.deleted:
        raise DeletedUser
    return user_id

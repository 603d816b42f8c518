"""DynamoDB's JSON, the table's attribute names and the keys of its items.

No other package spells a key or an attribute name: the stack, the stream's filters and the audit
import them from here.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from horde.records import State
from horde.rules.dates import DAY_S

T = TypeVar("T")
Item = dict[str, Any]

PK, SK = "pk", "sk"
TTL = "gone_at"
"""When DynamoDB may delete an item, in seconds since the epoch."""
KEEP_S = 2 * DAY_S
"""Seconds that an ended request's items stay for late events before TTL deletes them."""


class Index(NamedTuple):
    """A sparse index: its name and the attributes of its partition key and sort key."""

    name: str
    partition: str
    sort: str

    @property
    def attributes(self) -> str:
        """Both attributes, as an update expression lists them."""
        return f"{self.partition}, {self.sort}"


WAITING = Index("waiting", "wait_queue", "priority")
"""Waiting images by queue, and marks of queues; the highest priority last."""
DUE = Index("due", "due_shard", "due_at")
"""Leases, waiting images and requests by the time they expire, rewards until they are posted, and
deleted accounts until their requests have ended; keys only."""
LISTED = Index("listed", "listed", "listed_at")
"""Items that are read as lists; keys only."""
USER_SHARDS = 16
"""Partitions of the list of all users, which is sorted by kudos."""
WORKER_SHARDS = 4
"""Partitions of the list of workers."""


class Kind(StrEnum):
    """The first part of a partition key, and the sort key of an item alone in its partition."""

    USER = "USER"
    ANONYMOUS = "ANONYMOUS"
    LEDGER = "LEDGER"
    KEY = "KEY"
    COUNTER = "COUNTER"
    REQUEST = "REQUEST"
    GENERATION = "GENERATION"
    WORKER = "WORKER"
    STATS = "STATS"
    COUNTED = "COUNTED"
    FLEET = "FLEET"
    NAME = "NAME"
    MODEL = "MODEL"
    SHARED = "SHARED"
    HELD = "HELD"
    HOLDER = "HOLDER"
    CSAM = "CSAM"
    RELEASE = "RELEASE"
    KEPT = "KEPT"
    REMOVED = "REMOVED"
    WITHDRAWAL = "WITHDRAWAL"
    WEBHOOK = "WEBHOOK"
    RATING = "RATING"
    SHAREDKEY = "SHAREDKEY"
    RATELIMIT = "RATELIMIT"
    IDEMPOTENCY = "IDEMPOTENCY"
    PAIR = "PAIR"
    DROPPED = "DROPPED"
    QUEUES = "QUEUES"
    PLACES = "PLACES"
    COPY = "COPY"
    POOL = "POOL"
    RATER = "RATER"
    STYLE = "STYLE"
    STYLENAME = "STYLENAME"


class Row(NamedTuple):
    """The key of an item, as text."""

    pk: str
    sk: str


def row_of(item: Mapping[str, Any]) -> Row:
    """Return the key of an item, as text."""
    return Row(item[PK]["S"], item[SK]["S"])


def partition(kind: Kind, key: object) -> str:
    """Return the partition of an item and of all that belongs to it, such as ``USER#7``."""
    return f"{kind}#{key}"


def key_of(row: tuple[str, str]) -> Item:
    """Return an item's key in DynamoDB's JSON."""
    return {PK: {"S": row[0]}, SK: {"S": row[1]}}


def key(kind: Kind, name: object) -> Item:
    """Return the key of an item by its kind and id."""
    return key_of((partition(kind, name), kind))


def stats_key(kind: Kind, name: object) -> Item:
    """Return the key of a worker's statistics, or of the anonymous account's."""
    return key_of((partition(kind, name), Kind.STATS))


def by_kind(items: Iterable[Item]) -> dict[str, Item]:
    """Return items of different kinds by their sort keys; of those of one kind, the last."""
    return {item[SK]["S"]: item for item in items}


def id_of(item: Mapping[str, Any]) -> str:
    """Return the id in an item's partition key."""
    return str(item[PK]["S"].partition("#")[2])


# --- lists and shards -----------------------------------------------------------------------


def listed(name: str, at: int) -> Item:
    """Return the attributes that put an item into a list, sorted by ``at``."""
    return {LISTED.partition: {"S": name}, LISTED.sort: {"N": str(at)}}


def keys_list(user_id: int) -> str:
    """Return the list of an account's API keys."""
    return f"KEYS#{user_id}"


def users_list(user_id: int) -> str:
    """Return the part of the list of all users that holds an account; it is sorted by kudos."""
    return f"USERS#{user_id % USER_SHARDS}"


def workers_shard(shard: int) -> str:
    """Return one part of the list of all workers; it is sorted by when they were seen."""
    return f"WORKERS#{shard}"


def workers_list(worker_id: str) -> str:
    """Return the part of the list of all workers that holds a worker."""
    return workers_shard(uuid.UUID(worker_id).int % WORKER_SHARDS)


def held_list(worker_user: int) -> str:
    """Return the list of the held images that an account's workers drew, oldest first."""
    return f"HELD#{worker_user}"


def ratings_list(user_id: int) -> str:
    """Return the list of the ratings that an account gave, oldest first."""
    return f"RATINGS#{user_id}"


POOL_LIST = "POOL"
"""The list of the images that need ratings, those with the fewest first."""
RATERS = "RATERS"
"""The list of the accounts that have rated, by the time of their last rating in ms."""
HOLDERS = "HOLDERS"
"""The list of the accounts whose workers drew held images."""
KEPT_BACK = "KEPT"
"""The list of the images that screening kept back."""
TOMBSTONES = "REMOVED"
"""The list of the withdrawals that no release has heeded yet."""
WITHDRAWALS = "WITHDRAWALS"
"""The list of the withdrawals of many images that no release has worked off yet."""
CSAM_MARKS = "CSAM"
"""The list of the images that workers marked as CSAM."""


# --- DynamoDB's JSON ------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Return a value in DynamoDB's JSON; dictionaries are stored as JSON text. Raises TypeError."""
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int):
        return {"N": str(value)}
    if isinstance(value, str):
        return {"S": str(value)}
    if isinstance(value, list):
        return {"L": [encode(part) for part in value]}
    if isinstance(value, frozenset):
        return {"SS": sorted(value)}
    if isinstance(value, dict):
        return {"S": json.dumps(value, separators=(",", ":"))}
    message = f"cannot store a {type(value).__name__}"
    raise TypeError(message)


def encode_all(values: Mapping[str, Any]) -> Item:
    """Return the values of an expression by their placeholders: ``now`` becomes ``:now``."""
    return {f":{name}": encode(value) for name, value in values.items()}


def decode(value: Any) -> Any:
    """Return a Python value from DynamoDB's JSON."""
    ((kind, inner),) = value.items()
    if kind == "N":
        return int(inner)
    if kind == "SS":
        return frozenset(inner)
    if kind == "L":
        return [decode(part) for part in inner]
    return inner


_JSON_FIELDS = frozenset({"payload", "gen_metadata", "params", "examples"})


def json_text(value: Any) -> str:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def to_item(record: Any) -> Item:
    """Return a record's attributes; empty values are left out to keep items under 1 KB."""
    attributes = {}
    for name, value in asdict(record).items():
        if is_empty(value):
            continue
        attributes[name] = {"S": json_text(value)} if name in _JSON_FIELDS else encode(value)
    return attributes


def from_item(kind: type[T], item: Item) -> T:
    """Return an item as a record; attributes of the indexes are ignored."""
    values = {}
    for spec in fields(kind):  # type: ignore[arg-type]
        if spec.name in item:
            value = decode(item[spec.name])
            values[spec.name] = json.loads(value) if spec.name in _JSON_FIELDS else value
    if "state" in values:
        values["state"] = State(values["state"])
    return kind(**values)


def is_empty(value: Any) -> bool:
    """Return whether a value is stored by leaving its attribute out."""
    return value is None or value is False or value in ([], frozenset())

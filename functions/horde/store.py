"""The table: the only module that knows its keys, indexes and conditions.

Items (``pk`` / ``sk``):

====================  =======================  ===============================================
``USER#<id>``         ``USER``                 an account and its balance
``USER#<id>``         ``LEDGER#<time>#<id>``   one entry of its ledger, append-only
``KEY#<sha256>``      ``KEY``                  an API key's hash -> user, and whether it is a
                                               worker key
``COUNTER``           ``USERS``                the last user id given out
``REQUEST#<id>``      ``REQUEST``              a request
``GENERATION#<id>``   ``GENERATION``           one image of a request
``WORKER#<id>``       ``WORKER``               a worker, by its last pop
``USER#<id>``         ``WORKER#<id>``          a worker of this account's
``WORKER#<id>``       ``RECORD``               what it has done so far
``USER#0``            ``RECORD``               what the anonymous account asked for and got
``STATS``             ``MINUTE#<time>``, ...   what was drawn, by minute, day and model, and ever
``TALLIED#<id>``      ``TALLIED``              an anonymous request that is counted already
``FLEET``             ``CENSUS``               the minute's census of workers and queues
``FLEET``             ``MODES``                what the operator switched
``NAME#<name>``       ``NAME``                 which worker has this name, in small letters
``MODEL#<name>``      ``MODEL``                until when a live worker offers this model
``SHARED#<id>``       ``SHARED``               which user's image is in the data set (private;
                                               for withdrawal)
``WEBHOOK#<id>``      ``WEBHOOK``              an image whose webhook is to be called (outbox)
``RATING#<id>``       ``RATING``               what the owner of a shared image thinks of it
``SHAREDKEY#<id>``    ``SHAREDKEY``            a key that lets others spend an account's kudos
``RATE#<who>#<time>`` ``RATE``                 one caller's requests to one route in one window
``ONCE#<user>#<key>`` ``ONCE``                 an ``Idempotency-Key`` and what it was used for
``PAIR#<id>#<id>``    ``PAIR``                 the last transfer between two users
====================  =======================  ===============================================

Indexes, all sparse: ``waiting`` (``wait_model``, ``priority``) holds the images that wait, best
last; ``due`` (``due_shard``, ``due_at``) holds leases and requests by the time they run out, and
rewards until they are paid;
``listed`` (``listed``, ``listed_at``) holds what is looked up as a list, keys only: an account's
waiting images and its requests, all users by their kudos, and workers by the time they were
last seen.

Every verb is one call or one transaction. Conditions carry names; a verb whose condition fails
says so by its result and changes nothing.
"""

import heapq
import itertools
import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from horde import aws, clock, kudos, sharedkeys, statistics
from horde.clock import DAY_S
from horde.errors import Busy, InvalidAPIKey
from horde.fleet import NOTHING_DONE, ONLINE_S, WORKER_KEEP_S, Census, Load, Queue, Record, Worker
from horde.model import ANONYMOUS, UNLIMITED, Generation, Request, SharedKey, State, User

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

T = TypeVar("T")
Item = dict[str, Any]

WAITING_INDEX = "waiting"
DUE_INDEX = "due"
LISTED_INDEX = "listed"
WORKER_SHARDS = 4
"""The list of workers is spread over this many partitions."""
RECORD_KEEP_S = 90 * DAY_S
"""A worker that drew nothing for this long begins anew, in seconds."""
DUE_SHARDS = 8
"""The due index is spread over this many partitions, so that none of them is hot."""
USER_SHARDS = 16
"""The list of all users, in order of their kudos, is spread over this many partitions."""
KEEP_S = 2 * DAY_S
"""How long an ended request's rows stay for late events, in seconds; then TTL takes them."""
PAID_WITHIN_S = 5 * 60
"""A reward that ``tally`` has not paid by then is paid by the sweep, in seconds."""
CONFLICT_TRIES = 30
"""Tries of a write that meets others on its item: about five seconds; docs/contention.md."""
ANEW_TRIES = 30
"""Decisions from an item that others change meanwhile: more than a request has images."""
BATCH = 100
"""Items that DynamoDB reads at once."""
ONCE_S = DAY_S
"""How long an ``Idempotency-Key`` is remembered, in seconds."""
BACK_AND_FORTH_S = 60
"""Who was given kudos may send some back after this many seconds."""
HELD = {
    ":seen": "kudos = :seen",
    ":least": "kudos >= :least",
    ":month": "(attribute_not_exists(allowed_at) OR allowed_at < :month)",
}
"""Conditions on an account whose kudos move: exactly this balance, at least it, not this month."""
GOOD_STANDING = "attribute_not_exists(deleted) AND attribute_not_exists(flagged)"
"""False is never stored: a flag is there or it is not."""


class ConditionFailed(Exception):  # noqa: N818 - not an error, an answer
    """A condition did not hold; nothing was written. ``which`` are the indexes of the parts."""

    def __init__(self, which: tuple[int, ...] = ()) -> None:
        super().__init__(which)
        self.which = which


@dataclass(frozen=True, slots=True)
class Key:
    """Whose an API key is, and whether it may run workers."""

    user_id: int
    worker: bool


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared image: its object in the data set, and the user who can take it back."""

    generation_id: str
    user_id: int
    object_key: str
    withdrawn_at: int | None = None


@dataclass(frozen=True, slots=True)
class Once:
    """What a client wants done once: its ``Idempotency-Key`` and its body, hashed."""

    key: str
    body: str


@dataclass(frozen=True, slots=True)
class Due:
    """One row of the due index.

    A lease (``GENERATION``) or a request (``REQUEST``) that ran out, or a reward that nobody paid
    (``LEDGER``; its id is its whole sort key).
    """

    kind: str
    id: str
    user_id: int = 0
    """Whose ledger it is."""


# --- DynamoDB's JSON ------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Return a value in DynamoDB's JSON; dictionaries are stored as JSON text."""
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int):
        return {"N": str(value)}
    if isinstance(value, str):
        return {"S": str(value)}
    if isinstance(value, list):
        return {"L": [encode(part) for part in value]}
    if isinstance(value, dict):
        return {"S": json.dumps(value, separators=(",", ":"))}
    message = f"cannot store a {type(value).__name__}"
    raise TypeError(message)


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


_JSON_FIELDS = frozenset({"payload", "gen_metadata"})


def to_item(record: Any) -> Item:
    """Return a record's attributes, leaving out what is empty (items stay under 1 KB)."""
    attributes = {}
    for name, value in asdict(record).items():
        if _is_nothing(value):
            continue
        attributes[name] = {"S": _json(value)} if name in _JSON_FIELDS else encode(value)
    return attributes


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def from_item(kind: type[T], item: Item) -> T:
    """Return the record of an item; attributes of the indexes are passed over."""
    values = {}
    for spec in fields(kind):  # type: ignore[arg-type]
        if spec.name in item:
            value = decode(item[spec.name])
            values[spec.name] = json.loads(value) if spec.name in _JSON_FIELDS else value
    if "state" in values:
        values["state"] = State(values["state"])
    return kind(**values)


def _pk(kind: str, key: object) -> Item:
    return {"pk": {"S": f"{kind}#{key}"}, "sk": {"S": kind}}


def due_shard(key: str) -> str:
    """Return the partition of the due index for an id."""
    return f"due#{uuid.UUID(key).int % DUE_SHARDS}"


def waiting_list(user_id: int, model: str) -> str:
    """Return the list of an account's waiting images; the anonymous account has one per model."""
    return f"WAITING#{user_id}" if user_id else f"WAITING#{user_id}#{model}"


DELETED: Mapping[str, Any] = {"deleted": True, "listed": None}
"""What ``change_user`` sets to delete an account: it is off the list of users."""


def undeleted(user: User) -> dict[str, Any]:
    """Return what ``change_user`` sets to take a deletion back."""
    return {"deleted": None, "listed": users_list(user)}


def users_list(user: User) -> str:
    """Return in which part of the list of all users an account stands, in order of its kudos."""
    return f"USERS#{user.id % USER_SHARDS}"


def _listed(user: User) -> Item:
    return {"listed": {"S": users_list(user)}, "listed_at": {"N": str(user.kudos)}}


def _adds(
    entries: Sequence[kudos.Entry], counts: Mapping[str, int] | None = None
) -> tuple[str, Item]:
    """Return the update of one user's balance, and of what is kept in step with it."""
    total = sum(entry.amount for entry in entries)
    details: dict[str, int] = dict(counts or {})
    for entry in entries:
        name = kudos.detail(entry.kind, entry.amount)
        details[name] = details.get(name, 0) + entry.amount
    adds = ["kudos :amount", "listed_at :amount", *(f"{name} :{name}" for name in details)]
    values = {f":{name}": encode(amount) for name, amount in details.items()}
    return "ADD " + ", ".join(adds), {":amount": encode(total), **values}


def _sets(changes: Mapping[str, Any]) -> tuple[str, dict[str, str], Item]:
    """Return the update that sets fields, or removes those whose value is none to store."""
    names = {f"#{name}": name for name in changes}
    kept = {name: value for name, value in changes.items() if not _is_nothing(value)}
    gone = [f"#{name}" for name in changes if name not in kept]
    sets = ", ".join(f"#{name} = :{name}" for name in kept)
    update = f"SET {sets} " if kept else ""
    values = {f":{name}": encode(value) for name, value in kept.items()}
    return update + ("REMOVE " + ", ".join(gone) if gone else ""), names, values


def _is_nothing(value: Any) -> bool:
    """Say whether a value is stored by leaving its attribute away."""
    return value is None or value is False or value in ([], frozenset())


def _id(item: Item) -> str:
    """Return the id in an item's key."""
    return str(item["pk"]["S"].partition("#")[2])


def requests_list(user_id: int) -> str:
    """Return the list of an account's requests that go on."""
    return f"REQUESTS#{user_id}"


def _open_request(request: Request) -> Item:
    return {
        "listed": {"S": requests_list(request.user_id)},
        "listed_at": encode(request.created_at),
    }


def _pair(one: int, other: int) -> str:
    return f"{min(one, other)}#{max(one, other)}"


def _record_key(kind: str, key: object) -> Item:
    return {"pk": {"S": f"{kind}#{key}"}, "sk": {"S": "RECORD"}}


def _row_key(row: statistics.Row) -> Item:
    return {"pk": {"S": row[0]}, "sk": {"S": row[1]}}


def _flag_row(event: statistics.Event) -> statistics.Row:
    if isinstance(event, statistics.Asked):
        return (f"TALLIED#{event.request_id}", "TALLIED")
    return event.entry


def _first_day(now_ms: int) -> str:
    return statistics.day(now_ms - (statistics.MONTH_DAYS - 1) * DAY_S * 1000)


def _amounts(items: Iterable[Item]) -> dict[str, statistics.Amount]:
    return {
        item["sk"]["S"]: statistics.Amount(int(item["images"]["N"]), int(item["pixelsteps"]["N"]))
        for item in items
    }


def _sum(amounts: dict[str, statistics.Amount]) -> statistics.Amount:
    return statistics.Amount(
        sum(amount.images for amount in amounts.values()),
        sum(amount.pixelsteps for amount in amounts.values()),
    )


def _by_model(items: Iterable[Item]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in items:
        name = item["model"]["S"]
        found[name] = found.get(name, 0) + int(item["images"]["N"])
    return found


def _owned_key(worker: Worker) -> Item:
    return {"pk": {"S": f"USER#{worker.user_id}"}, "sk": {"S": f"WORKER#{worker.id}"}}


def _name_key(name: str) -> Item:
    return _pk("NAME", name.casefold())


def _name_item(worker: Worker, name: str) -> Item:
    return {
        **_name_key(name),
        "worker_id": {"S": worker.id},
        "gone_at": encode(worker.gone_at),
    }


def _worker_item(worker: Worker) -> Item:
    return {
        **_pk("WORKER", worker.id),
        **to_item(worker),
        "listed": {"S": f"WORKERS#{uuid.UUID(worker.id).int % WORKER_SHARDS}"},
        "listed_at": encode(worker.seen_at),
    }


def _worker(item: Item | None) -> Worker | None:
    """Return the worker of an item; TTL may take days to delete one that is forgotten."""
    worker = from_item(Worker, item) if item else None
    return worker if worker is not None and worker.gone_at > clock.now() else None


def _due(key: str, at_s: int) -> Item:
    return {"due_shard": {"S": due_shard(key)}, "due_at": {"N": str(at_s)}}


class Store:
    """The verbs of the system on one table."""

    def __init__(self, table: str, client: "DynamoDBClient") -> None:
        self._table = table
        self._db = client

    # --- users ----------------------------------------------------------------------------

    def key(self, key_hash: str) -> Key | None:
        """Look an API key up by its hash."""
        item = self._get(_pk("KEY", key_hash))
        return from_item(Key, item) if item else None

    def user(self, user_id: int) -> User | None:
        """Read an account; the anonymous one is not in the table."""
        if user_id == ANONYMOUS.id:
            return ANONYMOUS
        item = self._get(_pk("USER", user_id))
        return from_item(User, item) if item else None

    def users(self, ids: Iterable[int]) -> dict[int, User]:
        """Read accounts, by their ids."""
        items = self._batch(_pk("USER", user_id) for user_id in dict.fromkeys(ids))
        return {user.id: user for user in (from_item(User, item) for item in items)}

    def richest(self, most: int) -> list[int]:
        """Return the ids of the ``most`` accounts with the most kudos, best first.

        Deleted ones are not listed. The index is eventually consistent.
        """
        shards = [self._richest(shard, most) for shard in range(USER_SHARDS)]
        merged = heapq.merge(*shards)
        return [user_id for _, user_id in itertools.islice(merged, most)]

    def _richest(self, shard: int, most: int) -> list[tuple[int, int]]:
        found = self._list(f"USERS#{shard}", most, last_first=True)
        rows = ((-int(item["listed_at"]["N"]), int(_id(item))) for item in found)
        return sorted(rows)

    def change_user(self, user: User, changes: Mapping[str, Any], grant: int = 0) -> bool:
        """Set an account's fields (None or False takes one away) and move kudos by an admin's hand.

        Both or neither; False if the account is gone or would pass its floor.
        """
        if not grant:
            return self._change(_pk("USER", user.id), changes) is not None
        held = {":least": user.floor - grant} if grant < 0 else None
        entry = kudos.grant(user.id, grant)
        return self._holds(self._book(entry, reference="admin", held=held, sets=changes))

    def register(self, alias: str, key_hash: str) -> User:
        """Open an account at its floor with one API key.

        Crash window: after the counter, before the account: a number is skipped, nothing else.
        """
        answer = self._db.update_item(
            TableName=self._table,
            Key={"pk": {"S": "COUNTER"}, "sk": {"S": "USERS"}},
            UpdateExpression="ADD last_id :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
            ReturnValues="UPDATED_NEW",
        )
        user_id = int(answer["Attributes"]["last_id"]["N"])
        floor = kudos.FLOOR_PSEUDONYMOUS
        user = User(
            id=user_id, alias=alias, kudos=floor, floor=floor, created_at=clock.now(), admin=floor
        )
        self._transact(
            [
                self._new({**_pk("USER", user_id), **to_item(user), **_listed(user)}),
                self._new_key(key_hash, user_id, worker=False),
                self._ledger(kudos.opening(user_id), reference="registration"),
            ]
        )
        return user

    def add_worker_key(self, user_id: int, key_hash: str) -> bool:
        """Give a user a key that may pop and submit; False if there is no such user."""
        parts = [
            self._new_key(key_hash, user_id, worker=True),
            self._check(_pk("USER", user_id), "attribute_exists(pk)"),
        ]
        return self._holds(parts)

    def grant(self, user_id: int, amount: int) -> bool:
        """Move kudos by the operator's hand; False if no such user or it would pass the floor."""
        user = self.user(user_id)
        if user is None:
            return False
        entry = kudos.grant(user_id, amount)
        held = {":least": user.floor - amount} if amount < 0 else None
        return self._holds(self._book(entry, reference="operator", held=held))

    def allow(self, user_id: int, amount: int, month: int) -> bool:
        """Give an account its kudos of the month that began at ``month`` (seconds), once.

        False if it has got them, or is not in good standing.
        """
        parts = self._book(
            kudos.allowance(user_id, amount),
            reference=f"month {month}",
            held={":month": month},
            also=GOOD_STANDING,
            sets={"allowed_at": clock.now()},
        )
        return self._holds(parts)

    # --- kudos between users --------------------------------------------------------------

    def transfer(
        self,
        sender: User,
        receiver_id: int,
        amount: int,
        once: Once | None,
        key: SharedKey | None = None,
    ) -> bool:
        """Move kudos from one user to another, both entries or neither.

        With a shared key of the receiver's, its budget grows by as much. The rules are
        conditions here: enough above the sender's floor, both in good standing, nothing just
        came the other way, and this ``once`` has not been done. False if one of them does not
        hold; whoever asks reads anew and says which.
        """
        sent, got = kudos.transfer(sender.id, receiver_id, amount)
        reference = str(uuid.uuid4())
        parts = [
            *self._book(
                sent,
                reference=reference,
                held={":least": sender.floor + amount},
                also=GOOD_STANDING,
            ),
            *self._book(got, reference=reference, also=GOOD_STANDING),
            self._one_way(sender.id, receiver_id),
            *self._once(sender.id, once),
            *([] if key is None else [self._raise(key, amount)]),
        ]
        return self._holds(parts)

    def award(self, giver_id: int, receiver_id: int, amount: int, once: Once | None) -> bool:
        """Give new kudos to a user in good standing; False if it is not, or ``once`` is done."""
        entry = kudos.award(receiver_id, amount)
        parts = [
            *self._book(entry, reference=f"by {giver_id}", also=GOOD_STANDING),
            *self._once(giver_id, once),
        ]
        return self._holds(parts)

    def done(self, user_id: int, key: str) -> str | None:
        """Return the hash of the body that an ``Idempotency-Key`` was used with, if it was."""
        item = self._get(_pk("ONCE", f"{user_id}#{key}"))
        if item is None or int(item["gone_at"]["N"]) <= clock.now():
            return None
        return str(item["body"]["S"])

    def just_sent(self, giver: int, receiver: int) -> bool:
        """Say whether one user sent kudos to another within the last minute."""
        item = self._get(_pk("PAIR", _pair(giver, receiver)))
        return (
            item is not None
            and int(item["giver"]["N"]) == giver
            and int(item["sent_at"]["N"]) > clock.now() - BACK_AND_FORTH_S
        )

    def _one_way(self, giver: int, receiver: int) -> Item:
        now = clock.now()
        nothing_just_came_back = "attribute_not_exists(pk) OR giver = :giver OR sent_at <= :before"
        return {
            "Update": {
                "TableName": self._table,
                "Key": _pk("PAIR", _pair(giver, receiver)),
                "ConditionExpression": nothing_just_came_back,
                "UpdateExpression": "SET giver = :giver, sent_at = :now, gone_at = :gone",
                "ExpressionAttributeValues": {
                    ":giver": encode(giver),
                    ":before": encode(now - BACK_AND_FORTH_S),
                    ":now": encode(now),
                    ":gone": encode(now + KEEP_S),
                },
            }
        }

    def _once(self, user_id: int, once: Once | None) -> list[Item]:
        if once is None:
            return []
        now = clock.now()
        first_time = "attribute_not_exists(pk) OR gone_at <= :now"
        return [
            {
                "Put": {
                    "TableName": self._table,
                    "Item": {
                        **_pk("ONCE", f"{user_id}#{once.key}"),
                        "body": {"S": once.body},
                        "gone_at": encode(now + ONCE_S),
                    },
                    "ConditionExpression": first_time,
                    "ExpressionAttributeValues": {":now": encode(now)},
                }
            }
        ]

    # --- shared keys ----------------------------------------------------------------------

    def sharedkey(self, key_id: str) -> SharedKey | None:
        """Read a shared key."""
        item = self._get(_pk("SHAREDKEY", key_id))
        return from_item(SharedKey, item) if item else None

    def add_sharedkey(self, key: SharedKey, most: int) -> bool:
        """Give a user a shared key; False if there are ``most`` of them or the user is gone."""
        room_for_one_more = "attribute_not_exists(sharedkey_ids) OR size(sharedkey_ids) < :most"
        parts: list[Item] = [
            self._new({**_pk("SHAREDKEY", key.id), **to_item(key)}),
            {
                "Update": {
                    "TableName": self._table,
                    "Key": _pk("USER", key.user_id),
                    "ConditionExpression": "attribute_exists(pk) AND "
                    f"attribute_not_exists(deleted) AND ({room_for_one_more})",
                    "UpdateExpression": "ADD sharedkey_ids :key",
                    "ExpressionAttributeValues": {
                        ":key": {"SS": [key.id]},
                        ":most": encode(most),
                    },
                }
            },
        ]
        return self._holds(parts)

    def change_sharedkey(
        self, key_id: str, user_id: int, changes: dict[str, int | str | None]
    ) -> SharedKey | None:
        """Set a user's shared key's fields, or remove those that are None; None if it is gone."""
        changed = self._change(_pk("SHAREDKEY", key_id), changes, {"user_id": user_id})
        return from_item(SharedKey, changed) if changed else None

    def remove_sharedkey(self, key: SharedKey) -> bool:
        """Take a shared key away; False if it is gone. What it asked for is still drawn."""
        parts: list[Item] = [
            {
                "Delete": {
                    "TableName": self._table,
                    "Key": _pk("SHAREDKEY", key.id),
                    "ConditionExpression": "attribute_exists(pk)",
                }
            },
            {
                "Update": {
                    "TableName": self._table,
                    "Key": _pk("USER", key.user_id),
                    "ConditionExpression": "attribute_exists(pk)",
                    "UpdateExpression": "DELETE sharedkey_ids :key",
                    "ExpressionAttributeValues": {":key": {"SS": [key.id]}},
                }
            },
        ]
        return self._holds(parts)

    def _budget(
        self, key: SharedKey, condition: str, *, add: int, used: int, **values: int
    ) -> Item:
        """Move a key's budget and what was used of it, where it is still (un)limited as read."""
        limited = key.kudos != UNLIMITED
        bound = "kudos >= :zero" if limited else "kudos = :unlimited"
        values |= {"zero": 0} if limited else {"unlimited": UNLIMITED}
        values |= {"used": used, "add": add} if limited else {"used": used}
        return {
            "Update": {
                "TableName": self._table,
                "Key": _pk("SHAREDKEY", key.id),
                "ConditionExpression": f"{bound} AND {condition}",
                "UpdateExpression": "ADD utilized :used" + (", kudos :add" if limited else ""),
                "ExpressionAttributeValues": {
                    f":{name}": encode(value) for name, value in values.items()
                },
            }
        }

    def _raise(self, key: SharedKey, amount: int) -> Item:
        not_expired = "(attribute_not_exists(expires_at) OR expires_at > :now)"
        return self._budget(key, not_expired, add=amount, used=0, now=clock.now())

    def _spend(self, key: SharedKey, *, paid: int, total: int) -> Item:
        """Spend ``paid`` kudos where the key may spend ``total``: the floor forgives the rest."""
        may_spend = "(attribute_not_exists(expires_at) OR expires_at > :now)"
        values = {"now": clock.now()}
        if key.kudos != UNLIMITED:
            may_spend += " AND kudos >= :total"
            values["total"] = total
        return self._budget(key, may_spend, add=-paid, used=paid, **values)

    def _give_back(self, request: Request, amount: int) -> list[Item]:
        """Return a refund to the shared key that paid, if there still is one."""
        key = self.sharedkey(request.sharedkey_id) if request.sharedkey_id and amount else None
        if key is None:
            return []
        return [self._budget(key, "attribute_exists(pk)", add=amount, used=-amount)]

    # --- accept ---------------------------------------------------------------------------

    def accept(
        self,
        request: Request,
        generations: list[Generation],
        user: User,
        key: SharedKey | None = None,
    ) -> None:
        """Charge the user and record the request with its images, or do neither.

        Anonymous requests charge nobody: their account would be a hot key. For everybody else
        the charge is decided from the account as it was read, and held by a condition: enough
        left above the floor, or, where part is forgiven, exactly the balance that was seen. What
        came with a shared key is taken off its budget as well; raises what that may refuse with.
        """
        seen: User | None = user
        for _ in range(ANEW_TRIES):
            if seen is None:
                raise Busy
            accepted, charge = self._charge(request, seen, key)
            parts = [*charge, self._new(self._request_item(accepted))]
            parts += [
                self._new(self._waiting_item(generation, request)) for generation in generations
            ]
            try:
                self._transact(parts)
            except ConditionFailed as failed:
                if max(failed.which) < len(charge):
                    seen = self.user(user.id)  # the balance moved under us: decide anew
                    key = self._fresh(key, (request.price + request.tax) * request.n)
                    continue
            return  # or this very request is in the table already: our own retry
        raise Busy

    def _fresh(self, key: SharedKey | None, total: int) -> SharedKey | None:
        if key is None:
            return None
        fresh = self.sharedkey(key.id)
        if fresh is None:
            raise InvalidAPIKey
        sharedkeys.check_alive(fresh, clock.now())
        sharedkeys.check_budget(fresh, total)
        return fresh

    def _charge(
        self, request: Request, user: User, key: SharedKey | None
    ) -> tuple[Request, list[Item]]:
        if request.anonymous:
            return request, []
        entry = kudos.accept(
            user.id,
            balance=user.kudos,
            floor=user.floor,
            price=request.price,
            tax=request.tax,
            n=request.n,
        )
        held = {":seen": user.kudos} if entry.forgiven else {":least": user.floor - entry.amount}
        asked = {"requested": request.n, "used": request.n * request.pixelsteps}
        charge = self._book(entry, reference=request.id, held=held, counts=asked)
        if key is not None:
            total = (request.price + request.tax) * request.n
            charge.append(self._spend(key, paid=-entry.amount, total=total))
        charged = replace(request, forgiven=entry.forgiven, sharedkey_id=key.id if key else None)
        return charged, charge

    # --- read -----------------------------------------------------------------------------

    def request(self, request_id: str) -> Request | None:
        """Read a request."""
        item = self._get(_pk("REQUEST", request_id))
        return from_item(Request, item) if item else None

    def generation(self, generation_id: str) -> Generation | None:
        """Read a generation."""
        item = self._get(_pk("GENERATION", generation_id))
        return from_item(Generation, item) if item else None

    def generations(self, request: Request) -> list[Generation]:
        """Read all images of a request, in their order."""
        found = self.generations_by_id(request.generations)
        return sorted(found, key=lambda generation: generation.index)

    def generations_by_id(self, ids: list[str]) -> list[Generation]:
        """Read images, in no order."""
        items = self._batch(_pk("GENERATION", generation_id) for generation_id in ids)
        return [from_item(Generation, item) for item in items]

    def prompts(self, request_ids: Iterable[str]) -> dict[str, str]:
        """Read the prompts of requests, by their ids."""
        items = self._batch(_pk("REQUEST", request_id) for request_id in dict.fromkeys(request_ids))
        found = [from_item(Request, item) for item in items]
        return {request.id: str(request.payload.get("prompt", "")) for request in found}

    # --- the queue ------------------------------------------------------------------------

    def waiting(self, model: str, page: int) -> Iterator[list[Generation]]:
        """Yield windows of what waits for a model, best first, ``page`` images at a time.

        The index is eventually consistent: what it shows may be gone; a claim decides.
        """
        start: dict[str, Any] = {}
        while True:
            answer = self._db.query(
                TableName=self._table,
                IndexName=WAITING_INDEX,
                KeyConditionExpression="wait_model = :model",
                ExpressionAttributeValues={":model": {"S": model}},
                ScanIndexForward=False,
                Limit=page,
                **start,
            )
            yield [from_item(Generation, item) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def ahead(self, model: str, priority: int, most: int) -> int:
        """Count the images that wait before a priority, up to ``most``."""
        answer = self._db.query(
            TableName=self._table,
            IndexName=WAITING_INDEX,
            KeyConditionExpression="wait_model = :model AND priority > :mine",
            ExpressionAttributeValues={":model": {"S": model}, ":mine": {"N": str(priority)}},
            ScanIndexForward=False,
            Limit=most,
            Select="COUNT",
        )
        return answer["Count"]

    def waiting_of(self, user: User, model: str, most: int) -> int:
        """Count an account's waiting images, up to ``most``; the anonymous one's by model."""
        answer = self._db.query(
            TableName=self._table,
            IndexName=LISTED_INDEX,
            KeyConditionExpression="listed = :listed",
            ExpressionAttributeValues={":listed": {"S": waiting_list(user.id, model)}},
            Limit=most,
            Select="COUNT",
        )
        return answer["Count"]

    def waiting_ids(self, user_id: int, most: int) -> list[str]:
        """Return the ids of an account's waiting images, oldest first; not the anonymous one's."""
        return [_id(item) for item in self._list(waiting_list(user_id, ""), most)]

    def open_requests(self, user_id: int, most: int) -> list[str]:
        """Return the ids of an account's requests, newest first, done or not.

        Those that were cancelled, have faulted or have expired are not listed.
        """
        found = self._list(requests_list(user_id), most, last_first=True)
        return [_id(item) for item in found]

    def claim(
        self, generation: Generation, *, worker_id: str, name: str, user_id: int, lease_until: int
    ) -> Generation | None:
        """Give a waiting image to one worker until ``lease_until`` (seconds); None if too late."""
        still_waiting = "#state = :waiting"
        claimed = self._update(
            _pk("GENERATION", generation.id),
            "SET #state = :processing, worker_id = :worker, worker_name = :name, "
            "worker_user = :user, lease_until = :lease, due_shard = :shard, "
            "due_at = :lease, attempt = attempt + :one "
            "REMOVE wait_model, listed, listed_at",
            still_waiting,
            {
                ":waiting": {"S": State.WAITING},
                ":processing": {"S": State.PROCESSING},
                ":worker": {"S": worker_id},
                ":name": {"S": name},
                ":user": {"N": str(user_id)},
                ":lease": {"N": str(lease_until)},
                ":shard": {"S": due_shard(generation.id)},
                ":one": {"N": "1"},
            },
            {"#state": "state"},
        )
        return from_item(Generation, claimed) if claimed else None

    def slide(self, request_id: str, expires_at: int) -> Request | None:
        """Move a request's end (seconds since the epoch) and read it; None if it is closed."""
        return self._update_request(
            request_id,
            "SET expires_at = :at, due_at = :at",
            "attribute_exists(due_at)",
            {":at": encode(expires_at)},
        )

    def _update_request(
        self, request_id: str, update: str, condition: str, values: Item
    ) -> Request | None:
        updated = self._update(_pk("REQUEST", request_id), update, condition, values)
        return from_item(Request, updated) if updated else None

    # --- the ends of a generation -----------------------------------------------------------

    def settle(
        self,
        request: Request,
        generation: Generation,
        *,
        state: State,
        seed: int,
        gen_metadata: list[dict[str, str]],
    ) -> bool:
        """Record a delivered image and its worker's reward; a censored one gives its price back.

        Exactly one settlement of a generation wins, and only of the lease it was read with. The
        reward is entered here and paid by ``tally``: a fleet has one owner, whose account would
        be a hot key.
        """
        sets = {
            "settled_at": encode(clock.now_ms()),
            "drawn_seed": encode(seed),
            "gen_metadata": {"S": _json(gen_metadata)},
        }
        back = (request.price, 0) if state is State.CENSORED else None
        more = [self._announcement(generation)] if request.webhook else []
        drawn = {
            "worker_id": encode(generation.worker_id or ""),
            "user_id": encode(request.user_id),
            "model": encode(generation.model),
            "pixelsteps": encode(generation.pixelsteps),
            "claimed_at": encode(generation.claimed_at * 1000),
            "settled_at": sets["settled_at"],
            "tax": encode(request.tax),
            **_due(generation.id, clock.now() + PAID_WITHIN_S),
        }
        if generation.worker_user is not None:
            reward = kudos.reward(generation.worker_user, request.reward)
            more.append(self._ledger(reward, reference=generation.id, more=drawn))
        return self._end(request, generation, state, back, sets=sets, more=more)

    def _announcement(self, generation: Generation) -> Item:
        """Return the outbox item that the stream turns into a call of the webhook."""
        return self._new(
            {
                **_pk("WEBHOOK", generation.id),
                "generation_id": {"S": generation.id},
                "gone_at": encode(clock.now() + KEEP_S),
            }
        )

    def end_undelivered(
        self, request: Request, generation: Generation, state: State, *, last_fault: bool = False
    ) -> bool:
        """End an image that was not delivered and give its price and tax back, both or neither.

        ``last_fault`` marks the request faulted in the same transaction, and due for the sweep.
        """
        back = (request.price, request.tax)
        more = self._blame(generation)
        return self._end(request, generation, state, back, last_fault=last_fault, more=more)

    def _end(
        self,
        request: Request,
        generation: Generation,
        state: State,
        back: tuple[int, int] | None,
        *,
        last_fault: bool = False,
        sets: Item | None = None,
        more: Iterable[Item] = (),
    ) -> bool:
        ended = self._transition(
            generation,
            f"SET {', '.join(['#state = :state', *(f'{name} = :{name}' for name in sets or {})])} "
            "REMOVE wait_model, due_shard, due_at, listed, listed_at",
            {":state": {"S": state}, **{f":{name}": value for name, value in (sets or {}).items()}},
        )
        for _ in range(ANEW_TRIES):
            refund, forgiven, to_key = list[Item](), 0, list[Item]()
            if back is not None and not request.anonymous:
                price, tax = back
                entry = kudos.refund(
                    request.user_id, price=price, tax=tax, forgiven_left=request.forgiven
                )
                refund = self._book(entry, reference=generation.id)
                forgiven = entry.forgiven
                to_key = self._give_back(request, entry.amount)
            parts = [
                ended,
                *to_key,
                *refund,
                *self._touch_request(request, forgiven, last_fault=last_fault),
                *more,
            ]
            try:
                self._transact(parts)
            except ConditionFailed as failed:
                if 0 in failed.which:
                    return False  # somebody else ended it
                if to_key and 1 in failed.which:
                    continue  # the shared key was changed or removed: look again
                fresh = self.request(request.id)
                if fresh is None or fresh.forgiven == request.forgiven:
                    raise
                request = fresh  # another refund took forgiven kudos off: decide anew
                continue
            return True
        raise Busy

    def _touch_request(self, request: Request, forgiven: int, *, last_fault: bool) -> list[Item]:
        sets: list[str] = []
        values: Item = {}
        if forgiven:
            sets += ["forgiven = :left"]
            values |= {
                ":seen": encode(request.forgiven),
                ":left": encode(request.forgiven - forgiven),
            }
        if last_fault:
            sets += ["faulted = :true", "due_at = :due"]
            values |= {":true": encode(value=True), ":due": encode(clock.now())}
        if not sets:
            return []
        unlisted = " REMOVE listed, listed_at" if last_fault else ""
        nobody_refunded_meanwhile = "forgiven = :seen" if forgiven else "attribute_exists(pk)"
        return [
            {
                "Update": {
                    "TableName": self._table,
                    "Key": _pk("REQUEST", request.id),
                    "ConditionExpression": nobody_refunded_meanwhile,
                    "UpdateExpression": "SET " + ", ".join(sets) + unlisted,
                    "ExpressionAttributeValues": values,
                }
            }
        ]

    def requeue(self, request: Request, generation: Generation) -> bool:
        """Put an image whose worker failed back into the queue.

        A cancelled or faulted request is not revived: that is a condition here, not a check.
        """
        still_wanted = (
            "attribute_exists(pk) AND attribute_not_exists(cancelled) "
            "AND attribute_not_exists(faulted)"
        )
        parts = [
            self._transition(
                generation,
                "SET #state = :state, wait_model = model, listed = :listed, "
                "listed_at = created_at REMOVE due_shard, due_at, lease_until",
                {
                    ":state": {"S": State.WAITING},
                    ":listed": {"S": waiting_list(request.user_id, generation.model)},
                },
            ),
            self._check(_pk("REQUEST", request.id), still_wanted),
            *self._blame(generation),
        ]
        return self._holds(parts)

    def _blame(self, generation: Generation) -> list[Item]:
        """Count a claim that came to nothing in its worker's record."""
        if generation.state is not State.PROCESSING or generation.worker_id is None:
            return []
        row = ("WORKER#" + generation.worker_id, "RECORD")
        return [self._add(row, statistics.Counter({"faults": 1}))]

    def _transition(self, generation: Generation, expression: str, values: Item) -> Item:
        same_state_and_lease = "#state = :seen AND attempt = :attempt"
        return {
            "Update": {
                "TableName": self._table,
                "Key": _pk("GENERATION", generation.id),
                "ConditionExpression": same_state_and_lease,
                "UpdateExpression": expression,
                "ExpressionAttributeNames": {"#state": "state"},
                "ExpressionAttributeValues": {
                    ":seen": {"S": generation.state},
                    ":attempt": {"N": str(generation.attempt)},
                    **values,
                },
            }
        }

    # --- the ends of a request --------------------------------------------------------------

    def mark_cancelled(self, request_id: str, due_at: int) -> Request | None:
        """Flag a request so that nothing of it is requeued, and have the sweep look at it soon.

        None if it is closed. A second time is as good as the first: it ends what a first one
        that was cut left waiting.
        """
        return self._update_request(
            request_id,
            "SET cancelled = :true, due_at = :due REMOVE listed, listed_at",
            "attribute_exists(due_at)",
            {":true": encode(value=True), ":due": encode(due_at)},
        )

    def look_again(self, request: Request, due_at: int) -> None:
        """Have the sweep come back to a request at ``due_at``, in seconds."""
        self._update_request(
            request.id, "SET due_at = :at", "attribute_exists(due_at)", {":at": encode(due_at)}
        )

    def close(self, request: Request) -> None:
        """Take an ended request off the due index; its rows go two days later.

        Crash window: some images are marked, the request is still due: the next sweep does it
        again. Who slid it on meanwhile has its rows for these two days all the same.
        """
        gone = {":gone": encode(clock.now() + KEEP_S)}
        for generation_id in request.generations:
            key = _pk("GENERATION", generation_id)
            self._update(key, "SET gone_at = :gone", "attribute_exists(pk)", gone)
        self._update_request(
            request.id,
            "SET gone_at = :gone REMOVE due_shard, due_at, listed, listed_at",
            "attribute_exists(due_at)",
            gone,
        )

    def due(self, now: int) -> Iterator[Due]:
        """Yield what ran out before ``now`` (seconds), oldest first in each shard."""
        for shard in range(DUE_SHARDS):
            paginator = self._db.get_paginator("query")
            for page in paginator.paginate(
                TableName=self._table,
                IndexName=DUE_INDEX,
                KeyConditionExpression="due_shard = :shard AND due_at <= :now",
                ExpressionAttributeValues={
                    ":shard": {"S": f"due#{shard}"},
                    ":now": {"N": str(now)},
                },
            ):
                for item in page["Items"]:
                    kind = item["sk"]["S"].partition("#")[0]
                    if kind == "LEDGER":
                        yield Due(kind, item["sk"]["S"], int(_id(item)))
                    else:
                        yield Due(kind, _id(item))

    def waiting_since(self, model: str, before_ms: int, most: int) -> int:
        """Count images that wait for a model since before a time, up to ``most`` evaluated."""
        answer = self._db.query(
            TableName=self._table,
            IndexName=WAITING_INDEX,
            KeyConditionExpression="wait_model = :model",
            FilterExpression="created_at < :before",
            ExpressionAttributeValues={
                ":model": {"S": model},
                ":before": {"N": str(before_ms)},
            },
            Select="COUNT",
            Limit=most,
        )
        return answer["Count"]

    # --- workers and models -------------------------------------------------------------------

    def worker_named(self, name: str) -> str | None:
        """Return the id of the worker that has this name, in any case of its letters."""
        item = self._get(_name_key(name))
        return str(item["worker_id"]["S"]) if item else None

    def crew(
        self, worker_id: str | None, user_id: int
    ) -> tuple[Worker | None, Record, User | None]:
        """Read a worker with its record, and its owner."""
        keys = [_pk("USER", user_id)]
        if worker_id is not None:
            keys += [_pk("WORKER", worker_id), _record_key("WORKER", worker_id)]
        found = {item["sk"]["S"]: item for item in self._batch(keys)}
        return (
            _worker(found.get("WORKER")),
            from_item(Record, found["RECORD"]) if "RECORD" in found else NOTHING_DONE,
            from_item(User, found["USER"]) if "USER" in found else None,
        )

    def enlist(self, worker: Worker, instead_of: str | None = None) -> bool:
        """Take on a new worker; False if its name was taken meanwhile.

        ``instead_of`` is the worker whose name it takes over, one that is forgotten.
        """
        owned = {**_owned_key(worker), "gone_at": encode(worker.gone_at)}
        free = self._new(_name_item(worker, worker.name))
        if instead_of is not None:
            free["Put"]["ConditionExpression"] = "attribute_not_exists(pk) OR worker_id = :old"
            free["Put"]["ExpressionAttributeValues"] = {":old": {"S": instead_of}}
        return self._holds([free, self._new(_worker_item(worker)), self._new(owned)])

    def seen_worker(self, worker: Worker, offered: dict[str, Any]) -> None:
        """Remember that a worker is at work, and what it offers; ``worker`` is as it was read.

        Of several processes that see it in the same minute one writes.
        """
        now = clock.now()
        gone_at = worker.gone_at
        if gone_at < now + WORKER_KEEP_S - DAY_S:  # once a day: the name first, then the worker
            gone_at = now + WORKER_KEEP_S
            self._change(_name_key(worker.name), {"gone_at": gone_at}, {"worker_id": worker.id})
            self._change(_owned_key(worker), {"gone_at": gone_at})
        away = now - worker.seen_at
        changes = {
            **offered,
            "seen_at": now,
            "listed_at": now,
            "gone_at": gone_at,
            "uptime": worker.uptime + (away if worker.online(now) else 0),
        }
        if self._change(_pk("WORKER", worker.id), changes, {"seen_at": worker.seen_at}) is None:
            return
        for model in [] if worker.resting else offered["models"]:
            self._db.put_item(
                TableName=self._table,
                Item={
                    **_pk("MODEL", model),
                    "seen_at": {"N": str(now)},
                    "gone_at": {"N": str(now + KEEP_S)},
                },
            )

    def worker(self, worker_id: str) -> Worker | None:
        """Read a worker."""
        return _worker(self._get(_pk("WORKER", worker_id)))

    def worker_exists(self, worker_id: str) -> bool:
        """Say whether a worker has ever popped and is not forgotten."""
        return self.worker(worker_id) is not None

    def workers_of(self, user_id: int, most: int) -> list[str]:
        """Return the ids of an account's workers, up to ``most``."""
        answer = self._db.query(
            TableName=self._table,
            KeyConditionExpression="pk = :user AND begins_with(sk, :worker)",
            ExpressionAttributeValues={
                ":user": {"S": f"USER#{user_id}"},
                ":worker": {"S": "WORKER#"},
            },
            Limit=most,
        )
        now = clock.now()
        return [
            item["sk"]["S"].partition("#")[2]
            for item in answer["Items"]
            if int(item["gone_at"]["N"]) > now
        ]

    def workers_seen(self, since: int, most: int) -> list[str]:
        """Return the ids of workers seen after a time (seconds), up to ``most`` of a shard."""
        shards = (f"WORKERS#{shard}" for shard in range(WORKER_SHARDS))
        return [
            _id(item)
            for shard in shards
            for item in self._list(shard, most, last_first=True, since=since)
        ]

    def workers(self, ids: list[str]) -> list[tuple[Worker, Record]]:
        """Read workers with their records, by name."""
        keys = [key for i in ids for key in (_pk("WORKER", i), _record_key("WORKER", i))]
        workers, records = [], {}
        for item in self._batch(keys):
            if item["sk"]["S"] == "RECORD":
                records[_id(item)] = from_item(Record, item)
            elif (worker := _worker(item)) is not None:
                workers.append(worker)
        workers.sort(key=lambda worker: worker.name)
        return [(worker, records.get(worker.id, NOTHING_DONE)) for worker in workers]

    def change_worker(self, worker_id: str, **changes: Any) -> Worker | None:
        """Change what a worker is told to do, or its info; None if it is gone."""
        return _worker(self._change(_pk("WORKER", worker_id), changes))

    def rename_worker(self, worker: Worker, name: str) -> bool:
        """Give a worker another name, and its old one free; False if that is taken.

        The record is as it was read; who renamed it meanwhile wins.
        """
        if name.casefold() == worker.name.casefold():
            changed = self._change(_pk("WORKER", worker.id), {"name": name}, {"name": worker.name})
            return changed is not None
        return self._holds(
            [
                self._new(_name_item(worker, name)),
                self._drop(_name_key(worker.name), "worker_id = :id", {":id": encode(worker.id)}),
                {
                    "Update": {
                        "TableName": self._table,
                        "Key": _pk("WORKER", worker.id),
                        "ConditionExpression": "#name = :old",
                        "UpdateExpression": "SET #name = :new",
                        "ExpressionAttributeNames": {"#name": "name"},
                        "ExpressionAttributeValues": {
                            ":old": encode(worker.name),
                            ":new": encode(name),
                        },
                    }
                },
            ]
        )

    def forget_worker(self, worker: Worker) -> bool:
        """Delete a worker and its record, and give its name free; False if it is gone already.

        What it holds is still its owner's to submit. A worker that goes on popping is a new one.
        """
        named = {":name": encode(worker.name)}
        gone = self._drop(_pk("WORKER", worker.id), "#name = :name", named)
        gone["Delete"]["ExpressionAttributeNames"] = {"#name": "name"}
        return self._holds(
            [
                gone,
                self._drop(_name_key(worker.name), "worker_id = :id", {":id": encode(worker.id)}),
                {"Delete": {"TableName": self._table, "Key": _record_key("WORKER", worker.id)}},
                {"Delete": {"TableName": self._table, "Key": _owned_key(worker)}},
            ]
        )

    def model_is_live(self, model: str) -> bool:
        """Say whether an online worker offers a model: at once, where the census lags a minute."""
        item = self._get(_pk("MODEL", model))
        return item is not None and int(item["seen_at"]["N"]) > clock.now() - ONLINE_S

    # --- the fleet ----------------------------------------------------------------------------

    def queue(self, model: str, most: int) -> Queue:
        """Measure what waits for a model; of more than ``most`` images the best ones."""
        images, pixelsteps = 0, 0
        start: dict[str, Any] = {}
        requests: set[str] = set()
        while images < most:
            answer = self._db.query(
                TableName=self._table,
                IndexName=WAITING_INDEX,
                KeyConditionExpression="wait_model = :model",
                ExpressionAttributeNames={"#steps": "steps"},
                ExpressionAttributeValues={":model": {"S": model}},
                ProjectionExpression="request_id, pixels, #steps",
                ScanIndexForward=False,
                Limit=most - images,
                **start,
            )
            for item in answer["Items"]:
                images += 1
                requests.add(item["request_id"]["S"])
                pixelsteps += int(item["pixels"]["N"]) * int(item.get("steps", {"N": "0"})["N"])
            if "LastEvaluatedKey" not in answer:
                break
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        return Queue(images=images, requests=len(requests), pixelsteps=pixelsteps)

    def put_census(self, census: Census) -> None:
        """Write the minute's census over the last one."""
        rows = {name: list(asdict(load).values()) for name, load in census.models.items()}
        item = {"pk": {"S": "FLEET"}, "sk": {"S": "CENSUS"}, "models": {"S": _json(rows)}}
        counts = {"at": census.at, "workers": census.workers, "threads": census.threads}
        item |= {name: encode(value) for name, value in counts.items()}
        self._db.put_item(TableName=self._table, Item=item)

    def overview(self) -> tuple[Census, bool]:
        """Read the last census, and whether the operator switched maintenance on."""
        answer = self._db.query(
            TableName=self._table,
            KeyConditionExpression="pk = :fleet",
            ExpressionAttributeValues={":fleet": {"S": "FLEET"}},
        )
        found: dict[str, Any] = {item["sk"]["S"]: item for item in answer["Items"]}
        census, names = Census(), [spec.name for spec in fields(Load)]
        if "CENSUS" in found:
            item = found["CENSUS"]
            rows = json.loads(item["models"]["S"])
            census = Census(
                at=int(item["at"]["N"]),
                workers=int(item["workers"]["N"]),
                threads=int(item["threads"]["N"]),
                models={
                    name: Load(**dict(zip(names, row, strict=True))) for name, row in rows.items()
                },
            )
        return census, bool(found.get("MODES", {}).get("maintenance", {}).get("BOOL"))

    def set_maintenance(self, *, on: bool) -> None:
        """Switch maintenance."""
        self._db.put_item(
            TableName=self._table,
            Item={
                "pk": {"S": "FLEET"},
                "sk": {"S": "MODES"},
                "maintenance": {"BOOL": on},
                "changed_at": encode(clock.now()),
            },
        )

    # --- statistics ---------------------------------------------------------------------------

    def tally(self, events: Sequence[statistics.Event]) -> int:
        """Count events that were not counted before, and pay their rewards; returns how many.

        Each is flagged in the transaction that counts it: a settlement in its ledger entry, a
        request by an item of its own, since others write the request.
        """
        left = list({_flag_row(event): event for event in events}.values())
        while left:
            counts = statistics.counters(left)
            pay = self._pay(left)
            if len(left) > 1 and len(left) + len(counts) + len(pay) > BATCH:
                half = len(left) // 2
                return self.tally(left[:half]) + self.tally(left[half:])
            flags = [self._flag(event) for event in left]
            try:
                self._transact([*flags, *pay, *self._counts(left, counts)])
            except ConditionFailed as failed:
                if min(failed.which) >= len(flags):
                    raise  # an owner without an account
                left = [event for i, event in enumerate(left) if i not in failed.which]
            else:
                return len(left)
        return 0

    def _flag(self, event: statistics.Event) -> Item:
        if isinstance(event, statistics.Asked):
            pk, sk = _flag_row(event)
            gone = encode(clock.now() + KEEP_S)
            return self._new({"pk": {"S": pk}, "sk": {"S": sk}, "gone_at": gone})
        not_counted = "attribute_exists(pk) AND attribute_not_exists(tallied)"
        return {
            "Update": {
                "TableName": self._table,
                "Key": _row_key(event.entry),
                "ConditionExpression": not_counted,
                "UpdateExpression": "SET tallied = :true REMOVE due_shard, due_at",
                "ExpressionAttributeValues": {":true": encode(value=True)},
            }
        }

    def settlement(self, due: Due) -> statistics.Event | None:
        """Read what a reward's entry tells ``tally``."""
        row = {"pk": {"S": f"USER#{due.user_id}"}, "sk": {"S": due.id}}
        item = self._get(row)
        return statistics.read(item) if item else None

    def _pay(self, events: Iterable[statistics.Event]) -> list[Item]:
        """Return the parts that pay rewards which are entered already: one for each owner."""
        owed: dict[int, list[statistics.Settled]] = {}
        for event in events:
            if isinstance(event, statistics.Settled):
                owed.setdefault(event.owner_id, []).append(event)
        parts = []
        for owner_id, theirs in owed.items():
            entries = [kudos.reward(owner_id, event.kudos) for event in theirs]
            worked = sum(event.pixelsteps for event in theirs)
            counts = {"fulfilled": len(theirs), "contributed": worked}
            parts.append(self._move(entries, counts=counts))
        return parts

    def _counts(
        self, events: list[statistics.Event], counts: dict[statistics.Row, statistics.Counter]
    ) -> list[Item]:
        drawn: dict[str, list[statistics.Settled]] = {}
        for event in events:
            if isinstance(event, statistics.Settled):
                drawn.setdefault(event.worker_id, []).append(event)
        records = {
            _id(item): from_item(Record, item)
            for item in self._batch(_record_key("WORKER", worker) for worker in drawn)
        }
        paces = {
            (f"WORKER#{worker}", "RECORD"): statistics.pace(
                records.get(worker, NOTHING_DONE), theirs
            )
            for worker, theirs in drawn.items()
        }
        return [self._add(row, counter, paces.get(row)) for row, counter in counts.items()]

    def _add(
        self, row: statistics.Row, counter: statistics.Counter, sets: dict[str, int] | None = None
    ) -> Item:
        """Add to an item's numbers, and set some; an item that is not there begins at nothing."""
        fixed: dict[str, Any] = dict(sets or {})
        if counter.gone_at:
            fixed["gone_at"] = counter.gone_at
        elif row[0].startswith("WORKER#"):
            fixed["gone_at"] = clock.now() + RECORD_KEEP_S
        if counter.model:
            fixed["model"] = counter.model
        names = {f"#{name}": name for name in [*counter.add, *fixed]}
        update = "ADD " + ", ".join(f"#{name} :{name}" for name in counter.add)
        if fixed:
            update = "SET " + ", ".join(f"#{name} = :{name}" for name in fixed) + " " + update
        return {
            "Update": {
                "TableName": self._table,
                "Key": _row_key(row),
                "UpdateExpression": update,
                "ExpressionAttributeNames": names,
                "ExpressionAttributeValues": {
                    f":{name}": encode(value) for name, value in (counter.add | fixed).items()
                },
            }
        }

    def anonymous_record(self) -> Record:
        """Read what the anonymous account asked for and got."""
        item = self._get(_record_key("USER", ANONYMOUS.id))
        return from_item(Record, item) if item else NOTHING_DONE

    def totals(self, now_ms: int) -> statistics.Totals:
        """Sum the counters of what was drawn; ``now_ms`` is the time to look back from."""
        minutes = self._stats(statistics.minute(now_ms - 3_600_000), statistics.minute(now_ms))
        days = self._stats(_first_day(now_ms), statistics.day(now_ms))
        total = self._stats("TOTAL", "TOTAL")
        none = statistics.Amount()
        return statistics.Totals(
            minute=_amounts(minutes).get(statistics.minute(now_ms - 60_000), none),
            hour=_sum(_amounts(minutes)),
            day=_amounts(days).get(statistics.day(now_ms), none),
            month=_sum(_amounts(days)),
            total=_sum(_amounts(total)),
        )

    def model_counts(self, now_ms: int) -> statistics.ModelCounts:
        """Sum the counters of images by model."""
        today = f"MODEL{statistics.day(now_ms)}#"
        month = self._stats(f"MODEL{_first_day(now_ms)}#", f"{today}~")
        return statistics.ModelCounts(
            day=_by_model(item for item in month if item["sk"]["S"].startswith(today)),
            month=_by_model(month),
            total=_by_model(self._stats("MODEL#", "MODEL#~")),
        )

    def _stats(self, first: str, last: str, *, consistent: bool = False) -> list[Item]:
        """Read the counters between two sort keys, both included."""
        pages = self._db.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :stats AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":stats": {"S": "STATS"},
                ":first": {"S": first},
                ":last": {"S": last},
            },
            ConsistentRead=consistent,
        )
        return [dict(item) for page in pages for item in page["Items"]]

    # --- ratings ------------------------------------------------------------------------------

    def rate(
        self,
        request: Request,
        ratings: dict[str, dict[str, int]],
        *,
        best: str | None,
        reward: int,
    ) -> bool:
        """Keep the ratings of a request's images and pay its owner, once; False the second time.

        ``ratings`` maps generations to ``rating`` and maybe ``artifacts``.
        """
        kept = {**{one: {} for one in [best] if one}, **ratings}
        award = kudos.award(request.user_id, reward)
        first_rating = "attribute_exists(pk) AND attribute_not_exists(rated_at)"
        parts: list[Item] = [
            {
                "Update": {
                    "TableName": self._table,
                    "Key": _pk("REQUEST", request.id),
                    "ConditionExpression": first_rating,
                    "UpdateExpression": "SET rated_at = :now",
                    "ExpressionAttributeValues": {":now": encode(clock.now_ms())},
                }
            },
            *(self._book(award, reference=request.id) if reward else []),
            *(
                self._new(
                    {
                        **_pk("RATING", generation_id),
                        **{name: encode(value) for name, value in said.items()},
                        "best": {"BOOL": generation_id == best},
                        "rated_at": encode(clock.now_ms()),
                    }
                )
                for generation_id, said in kept.items()
            ),
        ]
        return self._holds(parts)

    # --- rates --------------------------------------------------------------------------------

    def count(self, subject: str, windows: list[int], now: int) -> list[int]:
        """Count one request of ``subject`` in fixed windows of so many seconds, in one write.

        ``now`` is in seconds; returns each window's count, this request included.
        """
        longest = max(windows)
        counters = [f"w{seconds}_{now % longest // seconds}" for seconds in windows]
        answer = self._db.update_item(
            TableName=self._table,
            Key={"pk": {"S": f"RATE#{subject}#{longest}#{now // longest}"}, "sk": {"S": "RATE"}},
            UpdateExpression="SET gone_at = :gone ADD "
            + ", ".join(f"{counter} :one" for counter in counters),
            ExpressionAttributeValues={":one": {"N": "1"}, ":gone": encode(now + 2 * longest)},
            ReturnValues="UPDATED_NEW",
        )
        return [int(answer["Attributes"][counter]["N"]) for counter in counters]

    # --- sharing --------------------------------------------------------------------------------

    def mark_shared(self, request: Request, generation: Generation, key: str) -> None:
        """Record that an image is in the data set, and whose it is; the second time is nothing."""
        now = str(clock.now_ms())
        parts: list[Item] = [
            {
                "Update": {
                    "TableName": self._table,
                    "Key": _pk("GENERATION", generation.id),
                    "ConditionExpression": "#state = :ok AND attribute_not_exists(shared_at)",
                    "UpdateExpression": "SET shared_at = :now",
                    "ExpressionAttributeNames": {"#state": "state"},
                    "ExpressionAttributeValues": {":ok": {"S": State.OK}, ":now": {"N": now}},
                }
            },
            self._new(
                {
                    **_pk("SHARED", generation.id),
                    "generation_id": {"S": generation.id},
                    "user_id": {"N": str(request.user_id)},
                    "request_id": {"S": request.id},
                    "object_key": {"S": key},
                    "shared_at": {"N": now},
                }
            ),
        ]
        self._holds(parts)

    def shared(self, generation_id: str) -> Shared | None:
        """Read where a shared image is in the data set, and whose it is."""
        item = self._get(_pk("SHARED", generation_id))
        return from_item(Shared, item) if item else None

    def shared_of(self, user_id: int) -> Iterator[Shared]:
        """Yield a user's shared images. Reads the whole table: for the operator's rare hand."""
        paginator = self._db.get_paginator("scan")
        for page in paginator.paginate(
            TableName=self._table,
            FilterExpression="sk = :shared AND user_id = :user",
            ExpressionAttributeValues={":shared": {"S": "SHARED"}, ":user": {"N": str(user_id)}},
        ):
            for item in page["Items"]:
                yield from_item(Shared, item)

    def mark_withdrawn(self, shared: Shared) -> None:
        """Record that an image was taken out of the data set; the second time is nothing."""
        self._db.update_item(
            TableName=self._table,
            Key=_pk("SHARED", shared.generation_id),
            ConditionExpression="attribute_exists(pk)",
            UpdateExpression="SET withdrawn_at = if_not_exists(withdrawn_at, :now)",
            ExpressionAttributeValues={":now": encode(clock.now_ms())},
        )

    # --- the audit ------------------------------------------------------------------------------

    def size(self) -> int:
        """Return about how many items there are; DynamoDB counts them every six hours."""
        return self._db.describe_table(TableName=self._table)["Table"]["ItemCount"]

    def everything(self, segment: int = 0, segments: int = 1) -> Iterator[list[Item]]:
        """Yield the items of one of ``segments`` parts of the table, a page at a time.

        The parts together are all of it; they may be read in parallel. Each item is as it is when
        its page is read: no snapshot.
        """
        pages = self._db.get_paginator("scan").paginate(
            TableName=self._table, Segment=segment, TotalSegments=segments, ConsistentRead=True
        )
        for page in pages:
            yield [dict(item) for item in page["Items"]]

    def rows(self, keys: Iterable[statistics.Row]) -> list[Item]:
        """Read items by ``pk`` and ``sk``, in no order; those that are not there are left out."""
        return self._batch(_row_key(row) for row in dict.fromkeys(keys))

    def account_since(self, user_id: int, since_ms: int) -> list[Item]:
        """Read an account and its ledger's entries since a time, the account last."""
        pages = self._db.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk AND sk >= :since",
            ExpressionAttributeValues={
                ":pk": {"S": f"USER#{user_id}"},
                ":since": {"S": f"LEDGER#{clock.iso(since_ms)}"},
            },
            ConsistentRead=True,
        )
        return [dict(item) for page in pages for item in page["Items"]]

    def transfers_since(self, since_ms: int) -> list[Item]:
        """Read all entries of transfers since a time. Reads the whole table."""
        pages = self._db.get_paginator("scan").paginate(
            TableName=self._table,
            FilterExpression="kind = :kind AND sk BETWEEN :since AND :until",
            ExpressionAttributeValues={
                ":kind": {"S": kudos.Kind.TRANSFER},
                ":since": {"S": f"LEDGER#{clock.iso(since_ms)}"},
                ":until": {"S": "LEDGER#~"},
            },
            ConsistentRead=True,
        )
        return [dict(item) for page in pages for item in page["Items"]]

    def counted(
        self, rows: Iterable[statistics.Row] | None = None
    ) -> dict[statistics.Row, dict[str, int]]:
        """Read the counters of statistics and the records: these, or the anonymous and workers'.

        A worker that has no record yet has an empty one; a forgotten worker has none.
        """
        if rows is None:
            keys = [_record_key("USER", ANONYMOUS.id)]
            keys += [_record_key("WORKER", worker_id) for worker_id in self._listed_workers()]
        else:
            keys = [_row_key(row) for row in rows if row[1] == "RECORD"]
        found: dict[statistics.Row, dict[str, int]] = {
            (key["pk"]["S"], key["sk"]["S"]): {} for key in keys
        }
        for item in [*self._stats("A", "~", consistent=True), *self._batch(keys)]:
            found[item["pk"]["S"], item["sk"]["S"]] = {
                name: int(value["N"]) for name, value in item.items() if "N" in value
            }
        return found

    def _listed_workers(self) -> Iterator[str]:
        for shard in range(WORKER_SHARDS):
            for page in self._db.get_paginator("query").paginate(
                TableName=self._table,
                IndexName=LISTED_INDEX,
                KeyConditionExpression="listed = :listed",
                ExpressionAttributeValues={":listed": {"S": f"WORKERS#{shard}"}},
            ):
                for item in page["Items"]:
                    yield _id(item)

    # --- parts ----------------------------------------------------------------------------------

    def _get(self, key: Item) -> Item | None:
        return self._db.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")

    def _list(
        self, name: str, most: int, *, last_first: bool = False, since: int | None = None
    ) -> list[Item]:
        """Read the keys of up to ``most`` of a list, in its order; ``since``: those after it."""
        later = {} if since is None else {":since": encode(since)}
        answer = self._db.query(
            TableName=self._table,
            IndexName=LISTED_INDEX,
            KeyConditionExpression=f"listed = :listed{' AND listed_at > :since' if later else ''}",
            ExpressionAttributeValues={":listed": {"S": name}, **later},
            ScanIndexForward=not last_first,
            Limit=most,
        )
        return [dict(item) for item in answer["Items"]]

    def _batch(self, wanted: Iterable[Item]) -> list[Item]:
        """Read items by their keys, in no order; those that are not there are left out."""
        keys, found, tries = list(wanted), [], 0
        while keys:
            page, keys = keys[:BATCH], keys[BATCH:]
            answer = self._db.batch_get_item(
                RequestItems={self._table: {"Keys": page, "ConsistentRead": True}}
            )
            found += answer["Responses"][self._table]
            rest = answer.get("UnprocessedKeys", {}).get(self._table)
            if rest:
                keys += rest["Keys"]
                tries += 1
                if tries >= CONFLICT_TRIES:
                    raise Busy
                _pause(tries)
        return found

    def _change(
        self, key: Item, changes: Mapping[str, Any], seen: Mapping[str, Any] | None = None
    ) -> Item | None:
        """Set attributes of an item that is there, or remove those that are None or False.

        ``seen`` are attributes as they must still be. Returns the item, None if it was not so.
        """
        update, names, values = _sets(changes)
        held = ["attribute_exists(pk)"]
        for name, value in (seen or {}).items():
            names[f"#{name}"], values[f":seen_{name}"] = name, encode(value)
            held.append(f"#{name} = :seen_{name}")
        return self._update(key, update, " AND ".join(held), values, names)

    def _update(
        self,
        key: Item,
        update: str,
        condition: str,
        values: Item,
        names: Mapping[str, str] | None = None,
    ) -> Item | None:
        """Update one item by itself and return it; None if its condition does not hold."""
        given: Item = {"ExpressionAttributeNames": names, "ExpressionAttributeValues": values}
        try:
            answer = _insist(
                self._db.update_item,
                TableName=self._table,
                Key=key,
                ConditionExpression=condition,
                UpdateExpression=update,
                ReturnValues="ALL_NEW",
                **{name: value for name, value in given.items() if value},
            )
        except ClientError as error:
            if _code(error) == "ConditionalCheckFailedException":
                return None
            raise
        return answer["Attributes"]

    def _drop(self, key: Item, condition: str, values: Item) -> Item:
        return {
            "Delete": {
                "TableName": self._table,
                "Key": key,
                "ConditionExpression": condition,
                "ExpressionAttributeValues": values,
            }
        }

    def _new(self, item: Item) -> Item:
        return {
            "Put": {
                "TableName": self._table,
                "Item": item,
                "ConditionExpression": "attribute_not_exists(pk)",
            }
        }

    def _check(self, key: Item, condition: str) -> Item:
        return {
            "ConditionCheck": {
                "TableName": self._table,
                "Key": key,
                "ConditionExpression": condition,
            }
        }

    def _new_key(self, key_hash: str, user_id: int, *, worker: bool) -> Item:
        return self._new(
            {**_pk("KEY", key_hash), "user_id": {"N": str(user_id)}, "worker": {"BOOL": worker}}
        )

    def _request_item(self, request: Request) -> Item:
        return {
            **_pk("REQUEST", request.id),
            **to_item(request),
            **_due(request.id, request.expires_at),
            # The anonymous account's list would be a hot key, and nobody's to see.
            **({} if request.anonymous else _open_request(request)),
        }

    def _waiting_item(self, generation: Generation, request: Request) -> Item:
        return {
            **_pk("GENERATION", generation.id),
            **to_item(generation),
            "wait_model": {"S": generation.model},
            "listed": {"S": waiting_list(request.user_id, generation.model)},
            "listed_at": {"N": str(generation.created_at)},
        }

    def _book(self, entry: kudos.Entry, *, reference: str, **how: Any) -> list[Item]:
        """Return the parts that write an entry and move its account's balance, never one alone.

        But for rewards, which ``settle`` enters and ``tally`` pays. ``how`` is as for ``_move``.
        """
        return [self._move([entry], **how), self._ledger(entry, reference=reference)]

    def _move(
        self,
        entries: Sequence[kudos.Entry],
        *,
        held: Mapping[str, int] | None = None,
        also: str = "",
        counts: Mapping[str, int] | None = None,
        sets: Mapping[str, Any] | None = None,
    ) -> Item:
        """Return the part that moves one account's balance by these entries of it.

        ``held`` names conditions of ``HELD``; without one the account need only exist. ``also``
        is a condition without values. ``counts`` are added to the account, ``sets`` are set.
        """
        conditions = ["attribute_exists(pk)", *(HELD[name] for name in held or {})]
        conditions += [also] if also else []
        adds, values = _adds(entries, counts)
        update, names, more = _sets(sets or {})
        move: Item = {
            "TableName": self._table,
            "Key": _pk("USER", entries[0].user_id),
            "ConditionExpression": " AND ".join(conditions),
            "UpdateExpression": f"{update} {adds}",
            "ExpressionAttributeValues": {
                **values,
                **more,
                **{name: encode(value) for name, value in (held or {}).items()},
            },
            **({"ExpressionAttributeNames": names} if names else {}),
        }
        return {"Update": move}

    def _ledger(self, entry: kudos.Entry, *, reference: str, more: Item | None = None) -> Item:
        """Append an entry; ``more`` is what a reward says of its image."""
        now, event = clock.iso(clock.now_ms()), uuid.uuid4()
        return self._new(
            {
                "pk": {"S": f"USER#{entry.user_id}"},
                "sk": {"S": f"LEDGER#{now}#{event}"},
                "kind": {"S": entry.kind},
                "amount": {"N": str(entry.amount)},
                "postings": {"M": {key: encode(value) for key, value in entry.postings.items()}},
                "reference": {"S": reference},
                **(more or {}),
            }
        )

    def _holds(self, parts: list[Item]) -> bool:
        try:
            self._transact(parts)
        except ConditionFailed:
            return False
        return True

    def _transact(self, parts: list[Item]) -> None:
        """Write all parts or none.

        The token makes a retry of a lost answer safe for ten minutes, the parts' conditions for
        ever.
        """
        token = str(uuid.uuid4())
        try:
            _insist(self._db.transact_write_items, TransactItems=parts, ClientRequestToken=token)
        except ClientError as error:
            failed = tuple(
                index
                for index, reason in enumerate(_reasons(error))
                if reason == "ConditionalCheckFailed"
            )
            if failed:
                raise ConditionFailed(failed) from None
            raise


def _insist(write: Callable[..., T], **what: Any) -> T:
    """Write, and where that meets a transaction on the same item, write again; raises Busy.

    Nothing queues on an item: of two transactions at once, or a transaction and a plain write,
    DynamoDB refuses one, which is tried again here with jitter.
    """
    for attempt in range(CONFLICT_TRIES):
        try:
            return write(**what)
        except ClientError as error:
            if not _is_conflict(error):
                raise
        _pause(attempt)
    raise Busy


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _reasons(error: ClientError) -> list[str]:
    found: Any = error.response.get("CancellationReasons", [])
    return [str(reason.get("Code", "None")) for reason in found]


def _is_conflict(error: ClientError) -> bool:
    reasons = _reasons(error)
    if "ConditionalCheckFailed" in reasons:
        return False  # an answer: it would not have been written anyhow
    return _code(error) in {"TransactionInProgressException", "TransactionConflictException"} or (
        "TransactionConflict" in reasons or "ThrottlingError" in reasons
    )


def _pause(attempt: int) -> None:
    time.sleep(pause_s(attempt))


def pause_s(attempt: int) -> float:
    """Return how long to wait after a refused write, in seconds: more each time, never alike."""
    return random.uniform(0.005, min(0.4, 0.02 * 2**attempt))  # noqa: S311 - jitter


@cache
def _connected(table: str) -> Store:
    return Store(table, aws.dynamodb())


def connect(table: str) -> Store:
    """Return the store of a table, one per process."""
    return _connected(table)

"""The table: the only package that knows its keys, indexes and conditions.

A caller names the room: ``store.queue.claim(...)``, ``store.requests.accept(...)``. Every verb is
one call or one transaction. Conditions carry names; a verb whose condition fails says so by its
result and changes nothing.

Items (``pk`` / ``sk``):

====================  =======================  ===============================================
``USER#<id>``         ``USER``                 an account and its balance
``USER#<id>``         ``LEDGER#<time>#<id>``   one entry of its ledger, append-only; a reward is
                                               pending until it is marked posted
``KEY#<sha256>``      ``KEY``                  an API key's hash -> user, and whether it is a
                                               worker key
``COUNTER``           ``USERS``                the last user id given out
``REQUEST#<id>``      ``REQUEST``              a request
``GENERATION#<id>``   ``GENERATION``           one image of a request
``WORKER#<id>``       ``WORKER``               a worker, as of its last pop
``USER#<id>``         ``WORKER#<id>``          a worker that this account owns
``WORKER#<id>``       ``STATS``                what it has done so far
``USER#0``            ``STATS``                what the anonymous account asked for and got
``STATS``             ``MINUTE#<time>``, ...   what was drawn, by minute, day and model, and ever
``COUNTED#<id>``      ``COUNTED``              an anonymous request that is counted already
``FLEET``             ``CENSUS``               the minute's census of workers and queues
``FLEET``             ``MODES``                what the operator switched
``NAME#<name>``       ``NAME``                 which worker has this name, in small letters
``MODEL#<name>``      ``MODEL``                until when a live worker offers this model
``SHARED#<id>``       ``SHARED``               which user's image is in the data set (private;
                                               for withdrawal)
``WEBHOOK#<id>``      ``WEBHOOK``              an image whose webhook is to be called (outbox)
``RATING#<id>``       ``RATING``               what somebody thinks of a shared image
``SHAREDKEY#<id>``    ``SHAREDKEY``            a key that lets others spend an account's kudos
``RATELIMIT#...``     ``RATELIMIT``            one caller's requests to one route in one window
``IDEMPOTENCY#...``   ``IDEMPOTENCY``          an ``Idempotency-Key`` and what it was used for
``PAIR#<id>#<id>``    ``PAIR``                 the last transfer between two users
====================  =======================  ===============================================

The indexes are sparse: ``waiting`` holds the images that wait, the best last; ``due`` holds leases
and requests by the time they run out, and rewards until they are posted; ``listed`` holds an
account's waiting images and its requests, all users by their kudos, and workers by the time they
were last seen (``store.items``).
"""

from functools import cache
from typing import TYPE_CHECKING

from horde import aws
from horde.store.accounts import Accounts
from horde.store.census import Censuses
from horde.store.counters import Counters
from horde.store.due import DueRows
from horde.store.endings import Endings
from horde.store.payouts import Payouts
from horde.store.queue import Queue
from horde.store.ratelimits import RateLimits
from horde.store.requests import Requests
from horde.store.sharedkeys import SharedKeys
from horde.store.sharing import Sharing
from horde.store.table import Table
from horde.store.transfers import Transfers
from horde.store.workers import Workers

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class Store:
    """The rooms of one table."""

    def __init__(self, table: str, client: "DynamoDBClient") -> None:
        self.table = Table(table, client)
        self.accounts = Accounts(self.table)
        self.sharedkeys = SharedKeys(self.table)
        self.transfers = Transfers(self.table)
        self.requests = Requests(self.table, self.accounts, self.sharedkeys)
        self.queue = Queue(self.table)
        self.endings = Endings(self.table, self.requests, self.sharedkeys)
        self.payouts = Payouts(self.table)
        self.counters = Counters(self.table)
        self.due = DueRows(self.table)
        self.workers = Workers(self.table)
        self.census = Censuses(self.table)
        self.sharing = Sharing(self.table)
        self.ratelimits = RateLimits(self.table)


@cache
def _connected(table: str) -> Store:
    return Store(table, aws.dynamodb())


def connect(table: str) -> Store:
    """Return the store of a table, one per process."""
    return _connected(table)

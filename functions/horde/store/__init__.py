"""The table. No other package knows its keys, indexes and conditions.

A caller names the room: ``store.queue.claim(...)``, ``store.requests.accept(...)``. Every method is
one call or one transaction. If its condition fails, it changes nothing and reports the failure by
its result. Conditions are named local variables.

Items (``pk`` / ``sk``):

====================  =======================  ===============================================
``USER#<id>``         ``USER``                 an account and its balance
``USER#<id>``         ``LEDGER#<time>#<id>``   one entry of its ledger, append-only; a reward is
                                               pending until it is marked posted
``ANONYMOUS#<part>``  ``ANONYMOUS``            what one part of the anonymous account has open, and
                                               its requests in this second
``KEY#<sha256>``      ``KEY``                  an API key's hash -> user, whether it is a worker
                                               key, its name
``COUNTER``           ``USERS``                the last user id assigned
``REQUEST#<id>``      ``REQUEST``              a request
``GENERATION#<id>``   ``GENERATION``           one image of a request
``GENERATION#<id>``   ``COPY#<model>``         a copy of it in the queue of a further model
                                               (``store.entries``)
``WORKER#<id>``       ``WORKER``               a worker, as of its last pop
``USER#<id>``         ``WORKER#<id>``          a worker that this account owns
``WORKER#<id>``       ``STATS``                a worker's statistics
``USER#0``            ``STATS``                the anonymous account's statistics
``STATS``             ``MINUTE#<time>``, ...   images and work by minute, by day, by model
``COUNTED#<id>``      ``COUNTED``              marks an anonymous request as counted
``FLEET``             ``CENSUS``               the last census of workers and queues
``FLEET``             ``MODES``                the modes that the operator has set
``NAME#<name>``       ``NAME``                 a worker's name in lower case -> the worker
``MODEL#<name>``      ``MODEL``                when an online worker last offered this model
``SHARED#<id>``       ``SHARED``               an image in the data set and its author (private;
                                               for withdrawal)
``HELD#<id>``         ``HELD``                 an image that is held back from the data set
``HOLDER#<id>``       ``HOLDER``               an account whose workers drew held images
``CSAM#<id>``         ``CSAM``                 an image that a worker marked as CSAM
``RELEASE#state``     ``RELEASE``              which run makes which release of the data set
``KEPT#<id>``         ``KEPT``                 an image that screening kept back from a release
``REMOVED#<id>``      ``REMOVED``              a withdrawn image, and the release without it
``WITHDRAWAL#<user>`` ``WITHDRAWAL``           an account withdrew all that it had shared by a time
``WITHDRAWAL#...``    ``WITHDRAWAL``           an account withdrew the images of a request:
                                               ``<request>.<user>``
``WEBHOOK#<id>``      ``WEBHOOK``              an image whose webhook must be called (outbox)
``RATING#<id>``       ``RATING``               its owner's rating of a shared image
``RATING#<id>``       ``RATER#<user>``         an account's rating of a released image
``POOL#<id>``         ``POOL#<model>``         a released image that accounts may rate, and the
                                               counts of its ratings (``store.pool``)
``RATER#<user>``      ``RATER``                what an account has rated, and how well
``SHAREDKEY#<id>``    ``SHAREDKEY``            a key that lets others spend an account's kudos
``RATELIMIT#...``     ``RATELIMIT``            the count of one caller's requests to one route
``IDEMPOTENCY#...``   ``IDEMPOTENCY``          an ``Idempotency-Key`` and the body it was used with
``PAIR#<id>#<id>``    ``PAIR``                 the last transfer between two users
``DROPPED#<id>#...``  ``DROPPED``              images that an owner's workers dropped in one hour
``QUEUES#<target>``   ``QUEUES``               which of a target's queues may have images, such as a
                                               model's (``store.registry``)
``PLACES#<model>``    ``PLACES``               samples of a model's queues (``store.places``)
====================  =======================  ===============================================

The indexes are sparse (``store.items``). ``waiting`` holds waiting images by queue, the highest
priority last, and the registry's items. ``due`` holds leases, waiting images and requests by the
time they expire, rewards until they are posted, and deleted accounts until their requests have
ended. ``listed`` holds an account's API keys and held images, all users by kudos, and workers by
the time they were last seen; also the images that need ratings, and ratings by who gave them.
"""

from functools import cache
from typing import TYPE_CHECKING

from horde import aws
from horde.store.accounts import Accounts
from horde.store.apikeys import ApiKeys
from horde.store.backlog import Backlog
from horde.store.census import Censuses
from horde.store.counters import Counters
from horde.store.csam import CsamMarks
from horde.store.due import DueRows
from horde.store.endings import Endings
from horde.store.held import HeldImages
from horde.store.listings import Listings
from horde.store.payouts import Payouts
from horde.store.places import Places
from horde.store.pool import Pool
from horde.store.pops import Pops
from horde.store.queue import Queue
from horde.store.ratelimits import RateLimits
from horde.store.raters import Raters
from horde.store.registry import Registry
from horde.store.releases import Releases
from horde.store.requests import Requests
from horde.store.rewards import Rewards
from horde.store.sharedkeys import SharedKeys
from horde.store.sharing import Sharing
from horde.store.styles import Styles
from horde.store.submits import Submits
from horde.store.table import Table
from horde.store.transfers import Transfers
from horde.store.withdrawals import Withdrawals
from horde.store.workers import Workers

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class Store:
    """The rooms of one table, as attributes."""

    def __init__(self, table: str, client: "DynamoDBClient") -> None:
        self.table = Table(table, client)
        self.accounts = Accounts(self.table)
        self.keys = ApiKeys(self.table)
        self.sharedkeys = SharedKeys(self.table)
        self.transfers = Transfers(self.table)
        self.styles = Styles(self.table)
        self.registry = Registry(self.table)
        self.requests = Requests(self.table, self.accounts, self.sharedkeys, self.registry)
        self.listings = Listings(self.table, self.requests)
        self.queue = Queue(self.table, self.registry)
        self.backlog = Backlog(self.table, self.registry)
        self.places = Places(self.table, self.registry)
        self.endings = Endings(self.table, self.requests, self.sharedkeys, self.registry)
        self.submits = Submits(self.table)
        self.payouts = Payouts(self.table)
        self.counters = Counters(self.table)
        self.due = DueRows(self.table)
        self.workers = Workers(self.table)
        self.pops = Pops(self.table, self.registry)
        self.census = Censuses(self.table)
        self.sharing = Sharing(self.table)
        self.held = HeldImages(self.table)
        self.csam = CsamMarks(self.table)
        self.releases = Releases(self.table)
        self.withdrawals = Withdrawals(self.table)
        self.rewards = Rewards(self.table)
        self.pool = Pool(self.table)
        self.raters = Raters(self.table)
        self.ratelimits = RateLimits(self.table)


@cache
def _connected(table: str) -> Store:
    return Store(table, aws.dynamodb())


def connect(table: str) -> Store:
    """Return the store of a table; there is one per process."""
    return _connected(table)

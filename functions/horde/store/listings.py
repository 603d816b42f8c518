"""What an account has asked for: its open images, and its requests that are not over."""

from horde import clock
from horde.records import OPEN, Generation, User
from horde.rules import kudos
from horde.rules.dates import iso
from horde.rules.lifecycle import ends_with_image, expires_at
from horde.store.counts import ids_of_open
from horde.store.items import PK, SK, Kind, partition
from horde.store.requests import Requests
from horde.store.table import Table

CHARGED_WITHIN_S = 40 * 60
"""Seconds for which a request is listed that has nothing open: twice its life."""
MAX_ENTRIES = 200
"""Entries of a ledger that are looked at for requests: rewards are among them."""


class Listings:
    """The requests and images of an account."""

    def __init__(self, table: Table, requests: Requests) -> None:
        self._table = table
        self._requests = requests

    def open_images(self, user: User) -> list[Generation]:
        """Return an account's images that wait or are drawn, the oldest first."""
        found = self._requests.generations_by_id(ids_of_open(user))
        still_open = [one for one in found if one.state in OPEN]
        return sorted(still_open, key=lambda one: (one.created_at, one.id))

    def requests(self, user: User, limit: int) -> list[str]:
        """Return the ids of an account's requests that are not over, up to ``limit``, newest first.

        Over is what was cancelled, faulted or has expired, but not what was delivered. Beside those
        with open images, they are found by their charges of the last ``CHARGED_WITHIN_S``.
        """
        asked = [one.request_id for one in self.open_images(user)]
        requests = self._requests.get_many([*asked, *self._charged(user.id)])
        alone = [one for one in requests.values() if ends_with_image(one)]
        images = self._requests.generations_by_id(id_ for one in alone for id_ in one.generations)
        theirs = {image.request_id: [image] for image in images}
        going_on = [
            request
            for request in requests.values()
            if not (request.cancelled or request.faulted)
            and expires_at(request, theirs.get(request.id, ())) > clock.now()
        ]
        going_on.sort(key=lambda request: -request.created_at)
        return [request.id for request in going_on[:limit]]

    def _charged(self, user_id: int) -> list[str]:
        """Return the requests of an account's last charges, among ``MAX_ENTRIES`` of its ledger."""
        since = iso(clock.now_ms() - CHARGED_WITHIN_S * 1000)
        answer = self._table.query(
            f"{PK} = :user AND {SK} BETWEEN :since AND :end",
            {
                "user": partition(Kind.USER, user_id),
                "since": f"{Kind.LEDGER}#{since}",
                "end": f"{Kind.LEDGER}#~",
                "kind": kudos.Kind.ACCEPT,
            },
            FilterExpression="kind = :kind",
            ScanIndexForward=False,
            Limit=MAX_ENTRIES,
        )
        return [item["reference"]["S"] for item in answer["Items"]]

"""The images in the data set: marks, withdrawals and ratings."""

from collections.abc import Iterable, Iterator, Sequence

from horde import clock
from horde.records import Held, Rating, Request, Shared, State
from horde.rules import kudos
from horde.rules.refusals import Busy
from horde.store.held import may_publish
from horde.store.items import SK, Item, Kind, encode, encode_all, from_item, id_of, key
from horde.store.ledger import post
from horde.store.table import ConditionFailed, Table
from horde.store.transaction import EXISTS, check, new, update


class Sharing:
    """The private record of shared images, and their ratings."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def mark_shared(self, image: Held, object_key: str, *, settled: bool = True) -> bool:
        """Record that an image is in the data set, its author and who drew it.

        ``settled`` says whether its generation still exists. Returns False, and records nothing, if
        the image is in the data set already, or may no longer be published: its request was marked
        as CSAM, its author's account is deleted, or its worker's owner is flagged.
        """
        now = clock.now_ms()
        record = {
            **key(Kind.SHARED, image.generation_id),
            "generation_id": {"S": image.generation_id},
            "user_id": encode(image.user_id),
            "worker_user": encode(image.worker_user),
            "request_id": {"S": image.request_id},
            "object_key": {"S": object_key},
            "shared_at": encode(now),
        }
        delivered_and_not_yet_shared = "#state = :ok AND attribute_not_exists(shared_at)"
        marked = update(
            key(Kind.GENERATION, image.generation_id),
            "SET shared_at = :now",
            delivered_and_not_yet_shared,
            encode_all({"ok": State.OK, "now": now}),
            {"#state": "state"},
        )
        parts = [new(record), *may_publish(image), *([marked] if settled else [])]
        return self._table.try_transact(parts)

    def get(self, generation_id: str) -> Shared | None:
        """Read a shared image's object key and author."""
        item = self._table.get(key(Kind.SHARED, generation_id))
        return from_item(Shared, item) if item else None

    def of_user(self, user_id: int) -> Iterator[Shared]:
        """Yield a user's shared images. Scans the whole table, so it is for the operator only."""
        return self._where("user_id", user_id)

    def drawn_by(self, user_id: int) -> Iterator[Shared]:
        """Yield the shared images that an account's workers drew. Scans the whole table."""
        return self._where("worker_user", user_id)

    def _where(self, name: str, user_id: int) -> Iterator[Shared]:
        pages = self._table.scan(
            FilterExpression=f"{SK} = :shared AND {name} = :user",
            ExpressionAttributeValues=encode_all({"shared": Kind.SHARED, "user": user_id}),
        )
        for page in pages:
            for item in page:
                yield from_item(Shared, item)

    def mark_withdrawn(self, shared: Shared) -> None:
        """Record that an image was withdrawn from the data set. Idempotent.

        Raises ConditionFailed for an image that has no record.
        """
        marked = self._table.try_update(
            key(Kind.SHARED, shared.generation_id),
            "SET withdrawn_at = if_not_exists(withdrawn_at, :now)",
            EXISTS,
            encode_all({"now": clock.now_ms()}),
        )
        if marked is None:
            raise ConditionFailed

    def withdrawn(self, generation_ids: Iterable[str]) -> set[str]:
        """Return which of these images were withdrawn from the data set."""
        items = self._table.batch(key(Kind.SHARED, one) for one in generation_ids)
        return {id_of(item) for item in items if "withdrawn_at" in item}

    def rate(
        self,
        request: Request,
        ratings: Sequence[Rating],
        *,
        best: str | None,
        reward: int,
        images: Sequence[str],
    ) -> bool:
        """Store the ratings of a request's images and pay its owner ``reward`` kudos, once.

        ``images`` are the ids of those that the reward was computed from. Returns False if the
        request has been rated before. Raises Busy, and pays nothing, if one of ``images`` has been
        withdrawn since.
        """
        rated = {rating.generation_id: _rating_fields(rating) for rating in ratings}
        if best is not None:
            rated.setdefault(best, {})
        now = encode(clock.now_ms())
        first_rating = f"{EXISTS} AND attribute_not_exists(rated_at) AND attribute_not_exists(csam)"
        award = kudos.award(request.user_id, reward)
        parts = [
            update(
                key(Kind.REQUEST, request.id), "SET rated_at = :now", first_rating, {":now": now}
            ),
            *(post(award, reference=request.id) if reward else []),
            *(
                new(
                    {
                        **key(Kind.RATING, generation_id),
                        **fields,
                        "best": {"BOOL": generation_id == best},
                        "rated_at": now,
                    }
                )
                for generation_id, fields in rated.items()
            ),
            *(
                check(key(Kind.SHARED, generation_id), "attribute_not_exists(withdrawn_at)")
                for generation_id in images
            ),
        ]
        try:
            self._table.transact(parts)
        except ConditionFailed as failed:
            if 0 in failed.which:
                return False
            raise Busy from None
        return True


def _rating_fields(rating: Rating) -> Item:
    fields = {"rating": encode(rating.rating)}
    if rating.artifacts is not None:
        fields["artifacts"] = encode(rating.artifacts)
    return fields

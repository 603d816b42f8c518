"""The images in the data set: marks, withdrawals and ratings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from horde import clock
from horde.records import ANONYMOUS_ID, Held, Rating, Request, Shared, User
from horde.rules import accounts, kudos
from horde.rules.refusals import Busy
from horde.rules.sharing import Context, Removal
from horde.store.items import (
    LISTED,
    SK,
    TOMBSTONES,
    Item,
    Kind,
    by_kind,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    listed,
    ratings_list,
)
from horde.store.ledger import post
from horde.store.raters import of_owner
from horde.store.table import ConditionFailed, Table
from horde.store.transaction import EXISTS, check, new, update


class Sharing:
    """The private record of shared images, and their ratings."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def context(self, image: Held, worker_id: str | None = None) -> Context:
        """Read, in one call, what decides on an image's publication beside its own record.

        ``worker_id`` is who drew it, if its software is asked for.
        """
        people = dict.fromkeys((image.user_id, image.worker_user))
        items = self._table.batch(
            [
                key(Kind.REQUEST, image.request_id),
                key(Kind.SHARED, image.generation_id),
                *(key(Kind.USER, one) for one in people if one != ANONYMOUS_ID),
                *([key(Kind.WORKER, worker_id)] if worker_id else []),
            ]
        )
        found = by_kind(items)
        request, shared = found.get(Kind.REQUEST), found.get(Kind.SHARED)
        agent = found.get(Kind.WORKER, {}).get("bridge_agent", {"S": ""})
        users = {ANONYMOUS_ID: accounts.anonymous()}
        users |= {
            int(id_of(item)): from_item(User, item) for item in items if item[SK]["S"] == Kind.USER
        }
        return Context(
            request=from_item(Request, request) if request else None,
            author=users.get(image.user_id),
            owner=users.get(image.worker_user),
            shared=from_item(Shared, shared) if shared else None,
            agent=agent["S"],
            requested_at=image.requested_at,
        )

    def mark_shared(self, image: Held, object_key: str, size: int) -> None:
        """Record that an image is in the data set, its author and who drew it, unless it was.

        ``size`` is the object's, in bytes. One plain write: it depends on nothing that forbids the
        image. So the caller reads ``context`` again after it.
        """
        owners, request = (image.user_id, object_key, image.worker_user), image.request_id
        record = Shared(image.generation_id, *owners, request_id=request)
        self._table.try_put({**_record(record, clock.now_ms()), "size": encode(size)})

    def get(self, generation_id: str) -> Shared | None:
        """Read a shared image's object key and author."""
        item = self._table.get(key(Kind.SHARED, generation_id))
        return from_item(Shared, item) if item else None

    def recorded(self, generation_ids: Iterable[str]) -> set[str]:
        """Return which of these images are in the data set, were withdrawn, or are held back."""
        kinds = (Kind.SHARED, Kind.HELD)
        wanted = (key(kind, one) for one in dict.fromkeys(generation_ids) for kind in kinds)
        return {id_of(item) for item in self._table.batch(wanted)}

    def of_user(self, user_id: int) -> Iterator[Shared]:
        """Yield a user's shared images. Scans the whole table, so it is for the operator only."""
        return self._where("user_id = :user", user=user_id)

    def drawn_by(self, user_id: int) -> Iterator[Shared]:
        """Yield the shared images that an account's workers drew. Scans the whole table."""
        return self._where("worker_user = :user", user=user_id)

    def of_days(self, first: str, last: str) -> Iterator[Shared]:
        """Yield the images that were delivered on some days. Scans the whole table."""
        start, end = (f"incoming/date={one}" for one in (first, f"{last}~"))
        return self._where("object_key BETWEEN :start AND :end", start=start, end=end)

    def _where(self, condition: str, **values: object) -> Iterator[Shared]:
        pages = self._table.scan(
            FilterExpression=f"{SK} = :shared AND {condition}",
            ExpressionAttributeValues=encode_all({"shared": Kind.SHARED, **values}),
            ConsistentRead=True,  # whoever forbids images must see each that missed the mark
        )
        for page in pages:
            yield from (from_item(Shared, item) for item in page)

    def mark_withdrawn(self, shared: Shared, reason: Removal = Removal.OPERATOR) -> None:
        """Record that an image was withdrawn, so that the next release is without it. Idempotent.

        Asked again, the next release looks for it again. Raises ConditionFailed for an image that
        has no record.
        """
        now = clock.now_ms()
        mark = update(
            key(Kind.SHARED, shared.generation_id),
            "SET withdrawn_at = :now",
            f"{EXISTS} AND attribute_not_exists(withdrawn_at)",
            encode_all({"now": now}),
        )
        if self._table.try_transact([mark, new(_tombstone(shared, reason, now))]):
            return
        found = self.get(shared.generation_id)
        if found is None or found.withdrawn_at is None:
            raise ConditionFailed
        self._list_again(found, reason)

    def withdraw(self, image: Shared, reason: Removal) -> int:
        """Record that an image was withdrawn, copied or not; returns when, in ms. Idempotent.

        ``image`` is its record, or what it would be. Without one, the record of a withdrawn image
        is put, under the condition that there is none. ``share`` puts its own under the same one:
        so it finds this, or this finds that.
        """
        now = clock.now_ms()
        record = {**_record(image, now), "withdrawn_at": encode(now)}
        parts = [new(record), new(_tombstone(image, reason, now))]
        found = self.get(image.generation_id)
        if found is None and self._table.try_transact(parts):
            return now
        self.mark_withdrawn(image, reason)
        found = self.get(image.generation_id)
        return now if found is None or found.withdrawn_at is None else found.withdrawn_at

    def _list_again(self, shared: Shared, reason: Removal) -> None:
        """Have the next release look for a withdrawn image, whatever those before have done."""
        listing, now = f"SET {LISTED.partition} = :list, {LISTED.sort} = :now", clock.now_ms()
        values = encode_all({"list": TOMBSTONES, "now": now})
        removed = key(Kind.REMOVED, shared.generation_id)
        if self._table.try_update(removed, listing, EXISTS, values) is None:
            # An earlier version withdrew it without a tombstone.
            self._table.try_put(_tombstone(shared, reason, shared.withdrawn_at or now))

    def get_many(self, generation_ids: Iterable[str]) -> dict[str, Shared]:
        """Read the records of images; those without one are left out."""
        items = self._table.batch(key(Kind.SHARED, one) for one in dict.fromkeys(generation_ids))
        return {id_of(item): from_item(Shared, item) for item in items}

    def withdrawn(self, generation_ids: Iterable[str]) -> set[str]:
        """Return which of these images were withdrawn from the data set."""
        found = self.get_many(generation_ids)
        return {name for name, one in found.items() if one.withdrawn_at is not None}

    def in_data_set(self, generation_ids: Iterable[str]) -> set[str]:
        """Return which of these images are in the data set, and were not withdrawn."""
        found = self.get_many(generation_ids)
        return {name for name, one in found.items() if one.withdrawn_at is None}

    def rate(
        self,
        request: Request,
        ratings: Sequence[Rating],
        *,
        best: str | None,
        reward: int,
        images: Sequence[str],
        models: Mapping[str, str] | None = None,
    ) -> bool:
        """Store the ratings of a request's images and pay its owner ``reward`` kudos, once.

        ``images`` are the ids of those that the reward was computed from, ``models`` what drew
        each. The ratings join those of ``store.raters``, as the owner's own. Returns False if the
        request has been rated before. Raises Busy, and pays nothing, if one of ``images`` has been
        withdrawn since.
        """
        rated = {rating.generation_id: _rating_fields(rating) for rating in ratings}
        models = models or {}
        if best is not None:
            rated.setdefault(best, {})
        now_ms = clock.now_ms()
        now = encode(now_ms)
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
                        **listed(ratings_list(request.user_id), now_ms),
                        "image_id": {"S": generation_id},
                        "user_id": encode(request.user_id),
                        "model": {"S": models.get(generation_id, request.model)},
                        "own": {"BOOL": True},
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
            *([] if request.anonymous else of_owner(request.user_id, now_ms)),
        ]
        try:
            self._table.transact(parts)
        except ConditionFailed as failed:
            if 0 in failed.which:
                return False
            raise Busy from None
        return True


def _record(image: Shared, now: int) -> Item:
    """Return the item of an image in the data set; ``now`` is in ms."""
    return {
        **key(Kind.SHARED, image.generation_id),
        "generation_id": {"S": image.generation_id},
        "user_id": encode(image.user_id),
        "worker_user": encode(image.worker_user or 0),
        "request_id": {"S": image.request_id},
        "object_key": {"S": image.object_key},
        "shared_at": encode(now),
    }


def _tombstone(shared: Shared, reason: Removal, now: int) -> Item:
    """Return the item that has the releases heed a withdrawal; ``now`` is in ms."""
    return {
        **key(Kind.REMOVED, shared.generation_id),
        "date": {"S": shared.date},
        "reason": {"S": reason},
        "removed_at": encode(now),
        **listed(TOMBSTONES, clock.now_ms()),
    }


def _rating_fields(rating: Rating) -> Item:
    fields = {"rating": encode(rating.rating)}
    if rating.artifacts is not None:
        fields["artifacts"] = encode(rating.artifacts)
    return fields

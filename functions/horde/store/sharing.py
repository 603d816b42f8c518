"""The images in the data set: marks, withdrawals and ratings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from horde import clock
from horde.records import ANONYMOUS_ID, Held, Rating, Request, Shared, User
from horde.rules import accounts, kudos
from horde.rules.refusals import Busy
from horde.rules.sharing import Context, Removal
from horde.store.items import (
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
        )

    def mark_shared(self, image: Held, object_key: str, size: int) -> None:
        """Record that an image is in the data set, its author and who drew it, unless it was.

        ``size`` is the object's, in bytes. One plain write: it depends on nothing that forbids the
        image. So the caller reads ``context`` again after it.
        """
        self._table.try_put(
            {
                **key(Kind.SHARED, image.generation_id),
                "generation_id": {"S": image.generation_id},
                "user_id": encode(image.user_id),
                "worker_user": encode(image.worker_user),
                "request_id": {"S": image.request_id},
                "object_key": {"S": object_key},
                "size": encode(size),
                "shared_at": encode(clock.now_ms()),
            }
        )

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
        return self._where("user_id", user_id)

    def drawn_by(self, user_id: int) -> Iterator[Shared]:
        """Yield the shared images that an account's workers drew. Scans the whole table."""
        return self._where("worker_user", user_id)

    def _where(self, name: str, user_id: int) -> Iterator[Shared]:
        pages = self._table.scan(
            FilterExpression=f"{SK} = :shared AND {name} = :user",
            ExpressionAttributeValues=encode_all({"shared": Kind.SHARED, "user": user_id}),
            ConsistentRead=True,  # whoever forbids images must see each that missed the mark
        )
        for page in pages:
            for item in page:
                yield from_item(Shared, item)

    def mark_withdrawn(self, shared: Shared, reason: Removal = Removal.OPERATOR) -> None:
        """Record that an image was withdrawn, so that the next release is without it. Idempotent.

        Raises ConditionFailed for an image that has no record.
        """
        now = clock.now_ms()
        mark = update(
            key(Kind.SHARED, shared.generation_id),
            "SET withdrawn_at = :now",
            f"{EXISTS} AND attribute_not_exists(withdrawn_at)",
            encode_all({"now": now}),
        )
        tombstone = {
            **key(Kind.REMOVED, shared.generation_id),
            "date": {"S": shared.date},
            "reason": {"S": reason},
            "removed_at": encode(now),
            **listed(TOMBSTONES, now),
        }
        if self._table.try_transact([mark, new(tombstone)]):
            return
        item = self._table.get(key(Kind.SHARED, shared.generation_id))
        if item is None or "withdrawn_at" not in item:
            raise ConditionFailed

    def withdrawn(self, generation_ids: Iterable[str]) -> set[str]:
        """Return which of these images were withdrawn from the data set."""
        items = self._table.batch(key(Kind.SHARED, one) for one in generation_ids)
        return {id_of(item) for item in items if "withdrawn_at" in item}

    def in_data_set(self, generation_ids: Iterable[str]) -> set[str]:
        """Return which of these images are in the data set, and were not withdrawn."""
        items = self._table.batch(key(Kind.SHARED, one) for one in generation_ids)
        return {id_of(item) for item in items if "withdrawn_at" not in item}

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


def _rating_fields(rating: Rating) -> Item:
    fields = {"rating": encode(rating.rating)}
    if rating.artifacts is not None:
        fields["artifacts"] = encode(rating.artifacts)
    return fields

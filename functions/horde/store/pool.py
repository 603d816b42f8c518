"""The pool: released images that accounts may rate.

An image that needs ratings is in one list, the fewest ratings first and then by a hash. So a read
of a few keys at a random place finds what needs them most. One list is enough: it takes a thousand
changes a second, and a person takes seconds for a rating. An image leaves the list with its last
rating, or when it is too old. Its item stays, since it has the counts. It is deleted when the image
is withdrawn. Gold images are in two lists of their own, by whether they are good or bad.
"""

import random
from collections.abc import Iterable

from horde import clock
from horde.records import PoolImage
from horde.rules import raters
from horde.store.items import (
    LISTED,
    PK,
    POOL_LIST,
    SK,
    Item,
    Kind,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    key_of,
    listed,
    partition,
    to_item,
)
from horde.store.table import Table
from horde.store.transaction import EXISTS, check, delete, new

WINDOW = 25
"""Candidates that are looked at for one account at a level of the pool."""
WINDOW_MODEL = 500
"""Keys that are looked at for images of one model."""
TRIES = 5
"""Candidates that are read to find one that may be given."""
MAX_COUNTED = 2000
"""Images of the pool that are counted."""


def pool_key(image_id: str, model: str) -> Item:
    """Return an image's key in the pool; the model is in it, since lists hold keys only."""
    return key_of((partition(Kind.POOL, image_id), f"{Kind.POOL}#{model}"))


def rating_key(image_id: str, user_id: int) -> Item:
    """Return the key of an account's rating of an image: there is one of each pair."""
    return key_of((partition(Kind.RATING, image_id), f"{Kind.RATER}#{user_id}"))


def gold_list(*, good: bool) -> str:
    """Return the list of the gold images that are good, or of those that are bad."""
    return f"GOLD#{'good' if good else 'bad'}"


class Pool:
    """The images of the pool."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def offer(self, image: PoolImage) -> bool:
        """Put a released image into the pool. Idempotent: one that is there stays as it is.

        Returns False if it is not in the data set, or not any more.
        """
        item = {
            **pool_key(image.id, image.model),
            **to_item(image),
            **listed(POOL_LIST, raters.place(image.id, 0)),
        }
        in_data_set = f"{EXISTS} AND attribute_not_exists(withdrawn_at)"
        shared = check(key(Kind.SHARED, image.id), in_data_set)
        return self._table.try_transact([new(item), shared]) or self.get(image.id) is not None

    def get(self, image_id: str) -> PoolImage | None:
        """Read an image by its id."""
        answer = self._table.query(
            f"{PK} = :image", {"image": partition(Kind.POOL, image_id)}, ConsistentRead=True
        )
        items = answer["Items"]
        return from_item(PoolImage, dict(items[0])) if items else None

    def get_many(self, images: Iterable[tuple[str, str]]) -> dict[str, PoolImage]:
        """Read images by their ids and models; returns those that are there, by id."""
        items = self._table.batch(pool_key(*one) for one in dict.fromkeys(images))
        return {id_of(item): from_item(PoolImage, item) for item in items}

    def remove(self, image_id: str) -> None:
        """Take an image out of the pool for good, with its counts. Idempotent."""
        image = self.get(image_id)
        if image is not None:
            self._table.transact([delete(pool_key(image.id, image.model))])

    def mark_gold(self, image: PoolImage, rating: int, artifacts: int | None) -> bool:
        """Record an image's known answer; returns False if it is not in the pool any more.

        What it was rated before stays in its counts. It is compared with no one's rating again.
        """
        changes = {
            "gold": rating,
            "gold_artifacts": artifacts,
            "votes": None,
            LISTED.partition: gold_list(good=rating >= raters.GOLD_HIGH),
            LISTED.sort: raters.place(image.id, 0),
        }
        return self._table.change(pool_key(image.id, image.model), changes) is not None

    def count(self) -> int:
        """Count the images that need ratings, up to ``MAX_COUNTED``."""
        return self._table.count(LISTED, POOL_LIST, MAX_COUNTED)

    def gold_images(self) -> dict[str, int]:
        """Count the gold images that are good, and those that are bad."""
        return {
            name: self._table.count(LISTED, gold_list(good=name == "good"), MAX_COUNTED)
            for name in ("good", "bad")
        }

    # --- which image an account is given ----------------------------------------------------

    def neediest(self, user_id: int | None, model: str | None = None) -> PoolImage | None:
        """Return one of the images with the fewest ratings that an account may rate.

        None is a caller without an account, who only looks. At most three reads for each number of
        ratings, and ``TRIES`` more. An image that is too old leaves the list here.
        """
        for ratings in range(raters.ENOUGH):
            low = ratings * raters.SPREAD
            found = self._choose(POOL_LIST, low, user_id, model)
            if found is not None:
                return found
        return None

    def gold(self, user_id: int, *, good: bool) -> PoolImage | None:
        """Return a good or a bad gold image that an account has not rated, or None."""
        return self._choose(gold_list(good=good), 0, user_id, None)

    def _choose(
        self, name: str, low: int, user_id: int | None, model: str | None
    ) -> PoolImage | None:
        """Return an image between two places of a list that an account may rate, or None."""
        start = low + random.randrange(raters.SPREAD)  # noqa: S311 - no secret
        for since, until in ((start, low + raters.SPREAD - 1), (low, start - 1)):
            keys = self._between(name, since, until, model)
            for row in self._unrated(keys, user_id)[:TRIES]:
                image = self._shown(row)
                if image is None:
                    continue
                if not raters.is_open(image, clock.now()):
                    self._unlist(image)
                elif user_id is None or not raters.is_own(image, user_id):
                    return image
        return None

    def _shown(self, row: Item) -> PoolImage | None:
        """Read an image of the pool, and its mark: one that was withdrawn a moment ago is none."""
        items = self._table.batch([row, key(Kind.SHARED, id_of(row))])
        if any("withdrawn_at" in item for item in items):
            return None
        found = [item for item in items if item[SK]["S"] != Kind.SHARED]
        return from_item(PoolImage, found[0]) if found else None

    def _between(self, name: str, since: int, until: int, model: str | None) -> list[Item]:
        """Return the keys of images between two places of a list, in no order."""
        if since > until:
            return []
        condition = f"{LISTED.partition} = :list AND {LISTED.sort} BETWEEN :since AND :until"
        values = {"list": name, "since": since, "until": until}
        options = {"IndexName": LISTED.name, "Limit": WINDOW if model is None else WINDOW_MODEL}
        answer = self._table.query(condition, values, **options)
        keys = [{PK: item[PK], SK: item[SK]} for item in answer["Items"]]
        if model is not None:
            keys = [one for one in keys if one[SK]["S"] == f"{Kind.POOL}#{model}"][:WINDOW]
        random.shuffle(keys)
        return keys

    def _unrated(self, keys: list[Item], user_id: int | None) -> list[Item]:
        """Return those of these images that an account has not rated."""
        if user_id is None or not keys:
            return keys
        given = self._table.batch(rating_key(id_of(one), user_id) for one in keys)
        rated = {id_of(item) for item in given}
        return [one for one in keys if id_of(one) not in rated]

    def _unlist(self, image: PoolImage) -> None:
        """Take an image that is too old off its list."""
        old = encode_all({"seen": image.offered_at})
        self._table.try_update(
            pool_key(image.id, image.model),
            f"REMOVE {LISTED.attributes}",
            f"{EXISTS} AND offered_at = :seen",
            old,
        )


def counts_of(image: PoolImage, user_id: int, rating: int, artifacts: int | None) -> Item:
    """Return the part that adds a rating to an image's counts, if they are still what was read.

    The conditions hold the rules: at most ``raters.ENOUGH`` ratings, none by its author or by the
    account that drew it, and none of an image that was withdrawn.
    """
    ratings = image.ratings + 1
    changes = {
        "ratings": ratings,
        "rating_sum": image.rating_sum + rating,
        "artifacts": image.artifacts + (artifacts is not None),
        "artifacts_sum": image.artifacts_sum + (artifacts or 0),
    }
    settings = ", ".join(f"{name} = :{name}" for name in changes)
    values = encode_all({**changes, "seen": image.ratings, "me": user_id})
    conditions = [EXISTS, "ratings = :seen", "user_id <> :me", "worker_user <> :me"]
    removing = ""
    if image.gold is None:
        values |= encode_all({"votes": [*image.votes, f"{user_id}:{rating}"]})
        settings += ", votes = :votes"
        conditions += ["attribute_not_exists(gold)", "ratings < :enough"]
        values[":enough"] = encode(raters.ENOUGH)
        if ratings == raters.ENOUGH:
            removing = f" REMOVE {LISTED.attributes}"
        else:
            settings += f", {LISTED.sort} = :place"
            values[":place"] = encode(raters.place(image.id, ratings))
    else:
        conditions.append("gold = :gold")
        values[":gold"] = encode(image.gold)
    return {
        "Update": {
            "Key": pool_key(image.id, image.model),
            "UpdateExpression": f"SET {settings}{removing}",
            "ConditionExpression": " AND ".join(conditions),
            "ExpressionAttributeValues": values,
        }
    }


def may_rate(image: PoolImage, user_id: int) -> Item:
    """Return the part that checks an image that a rating is stored of but not counted for."""
    not_own = f"{EXISTS} AND user_id <> :me AND worker_user <> :me"
    made = check(pool_key(image.id, image.model), not_own)
    made["ConditionCheck"]["ExpressionAttributeValues"] = encode_all({"me": user_id})
    return made

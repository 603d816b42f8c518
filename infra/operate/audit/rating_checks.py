"""The ratings of released images: an image's counts, and what the ratings earned."""

from collections.abc import Iterator

from horde.records import GivenRating
from horde.rules import raters, ruleset
from horde.rules.kudos import Kind
from horde.store import items
from horde.store.audit_rows import EntryRow
from horde.store.items import partition
from horde.store.raters import RATED, reference
from infra.operate.audit.findings import Finding, Findings, Rule, View, finding_of, user_key

POOL, RATING = items.Kind.POOL, items.Kind.RATING


def pooled(view: View) -> Findings:
    """Check the counts of each image in the pool against its ratings, and who gave them."""
    for name, row in view.books.pool.items():
        image, given = row.image, view.books.ratings.get(name, {}).values()
        counted = [one for one in given if one.counted]
        keys = frozenset({partition(POOL, name), partition(RATING, name)})
        finding = finding_of(f"{partition(POOL, name)}/{POOL}#{image.model}", keys)
        sums = {
            "ratings": (len(counted), image.ratings),
            "rating_sum": (sum(one.rating or 0 for one in counted), image.rating_sum),
            "artifacts": (sum(one.artifacts is not None for one in counted), image.artifacts),
            "artifacts_sum": (sum(one.artifacts or 0 for one in counted), image.artifacts_sum),
        }
        for what, (expected, found) in sums.items():
            if expected != found:
                yield finding(Rule.POOLED, what, expected, found)
        most = [one for one in counted if not one.gold]
        if len(most) > raters.ENOUGH:
            yield finding(Rule.POOLED, "its ratings", f"at most {raters.ENOUGH}", len(most))
        for one in given:
            if raters.is_own(image, one.user_id):
                yield finding(Rule.POOLED, "its raters", "none who made it", f"#{one.user_id}")


def pool_rewards(view: View) -> Findings:
    """Check that each reward has its rating, and that each rating that says so has its reward."""
    for one in _all(view):
        for image_id in sorted(one.pays):
            entries = view.event(Kind.AWARD, reference(image_id, one.user_id))
            if not entries:
                yield _finding(view, image_id, one.user_id, "its reward", "one entry", "none")
    amounts = {rules.version: rules.per_pool_rating for rules in ruleset.RULESETS}
    promised = {
        reference(image_id, one.user_id): one for one in _all(view) for image_id in one.pays
    }
    for (kind, name), entries in view.events.items():
        if kind == Kind.AWARD and name.startswith(RATED):
            for entry in entries:
                yield from _reward(view, entry, promised.get(name), amounts)


def _reward(
    view: View, entry: EntryRow, by: GivenRating | None, amounts: dict[str, int]
) -> Findings:
    """Check one reward; ``by`` is the rating whose transaction posted it."""
    image_id, _, user = entry.reference.removeprefix(RATED).partition(" ")
    user_id = int(user) if user.isdecimal() else -1
    rated = view.books.ratings.get(image_id, {}).get(user_id)
    checks: dict[str, tuple[object, object]] = {
        "user of the reward": (user_id, entry.user_id),
        "its rating": ("a rating", "a rating" if rated else "none"),
        "what posted it": ("a rating of the same account", _poster(by, entry)),
        "amount": (amounts.get(by.ruleset, 0) if by else 0, entry.amount),
    }
    for what, (expected, found) in checks.items():
        if expected != found:
            yield _finding(view, image_id, entry.user_id, what, expected, found)


def _poster(by: GivenRating | None, entry: EntryRow) -> str:
    return "a rating of the same account" if by and by.user_id == entry.user_id else "none"


def _all(view: View) -> Iterator[GivenRating]:
    for given in view.books.ratings.values():
        yield from given.values()


def _finding(
    view: View, image_id: str, user_id: int, what: str, expected: object, found: object
) -> Finding:
    """Return a finding about a reward; with it, all of the account's ratings are read again."""
    rated = {name for name, given in view.books.ratings.items() if user_id in given} | {image_id}
    about = frozenset({user_key(user_id), *(partition(RATING, name) for name in rated)})
    item = f"{partition(RATING, image_id)}/{items.Kind.RATER}#{user_id}"
    return finding_of(item, about)(Rule.POOL_PAID, what, expected, found)

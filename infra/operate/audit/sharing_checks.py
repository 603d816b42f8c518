"""What is in the data set, what ratings earned, and what shared keys spent."""

from collections import defaultdict

from horde.records import ANONYMOUS_ID, UNLIMITED, Request, SharedKey, State, User
from horde.rules import accounts, ratings, ruleset
from horde.rules import sharedkeys as sharedkey_rules
from horde.rules.kudos import Account as Side
from horde.rules.kudos import Kind
from horde.rules.sharing import Context, Verdict, forbidden, judge
from horde.store import items
from horde.store.items import KEEP_S, partition
from infra.operate.audit.findings import (
    SLACK_S,
    Finding,
    Findings,
    Rule,
    View,
    finding_of,
    finding_of_account,
    item_name,
    request_key,
    user_key,
)
from infra.operate.audit.image_checks import finding_of_image


def published(view: View) -> Findings:
    """Check the images in the data set whose items still exist."""
    for name, record in view.books.published.items():
        image = view.books.images.get(name)
        if image is None:
            continue
        row = view.books.requests.get(image.generation.request_id)
        finding = finding_of_image(view, image)
        if image.generation.state is not State.OK:
            yield finding(Rule.PUBLISHED, "state", State.OK, image.generation.state)
        if row is None:
            continue
        if not row.request.shared or row.request.source_key is not None:
            yield finding(Rule.PUBLISHED, "its request", "a shared one", "one that is not shared")
        if record.user_id != row.request.user_id:
            yield finding(Rule.PUBLISHED, "its author", row.request.user_id, record.user_id)


def shared(view: View) -> Findings:
    """Check that what was delivered for sharing has a record in the data set, or is held back.

    It is a finding after an hour: until then its event may still be on its way. What is forbidden
    needs no record. If its owner was unflagged or its author undeleted since, nothing tells that it
    was forbidden, and it is reported until its item is gone, two days after its request has ended.
    """
    there = view.books.published.keys() | view.books.held_back
    for name, image in view.books.images.items():
        row = view.books.requests.get(image.generation.request_id)
        generation, settled_at = image.generation, image.generation.settled_at or 0
        if name in there or row is None or settled_at // 1000 + SLACK_S > view.now:
            continue
        if judge(row.request, generation, generation.sha256 or "") is not Verdict.SHARE:
            continue
        context = Context(
            request=row.request,
            author=_account(view, generation.user_id),
            owner=_account(view, generation.worker_user or 0),
            shared=None,
        )
        if not forbidden(context):
            finding = finding_of_image(view, image)
            yield finding(Rule.SHARED, "its record", "one, or a held copy", "none")


def _account(view: View, user_id: int) -> User | None:
    row = view.books.accounts.get(user_id)
    if user_id == ANONYMOUS_ID:
        return accounts.anonymous()
    return row.user if row else None


def awards(view: View) -> Findings:
    """Check each award for ratings, by the rules of its request.

    A request of unknown rules is a finding of its own.
    """
    known = {rules.version for rules in ruleset.RULESETS}
    for entry in view.books.entries.values():
        row = view.books.requests.get(entry.reference) if entry.kind == Kind.AWARD else None
        if row is None or row.request.anonymous or row.request.ruleset not in known:
            continue
        request = row.request
        bound = min(_paid(view, request), ratings.max_reward(request))
        expected: dict[str, tuple[object, object]] = {
            "user of the award": (request.user_id, entry.user_id),
            "its request": ("rated", "rated" if row.rated else "not rated"),
            "amount": (f"at most {bound}", f"at most {bound}" if entry.amount <= bound else "more"),
        }
        for what, (right, found) in expected.items():
            if right != found:
                yield Finding(
                    rule=Rule.RATED,
                    item=item_name(entry.row),
                    what=what,
                    expected=str(right),
                    found=str(entry.amount if what == "amount" else found),
                    about=view.around(request.id) | {entry.row[0]},
                )


def _paid(view: View, request: Request) -> int:
    """Return what ratings may earn at most of what was paid for a request."""
    cost = view.cost(request)
    if ruleset.of(request.ruleset).ratings_return_tax:
        return cost - 1
    entries = [*view.event(Kind.ACCEPT, request.id), *view.refunds(request)]
    return cost - sum(entry.postings.get(Side.TAX, 0) for entry in entries)


def sharedkeys(view: View) -> Findings:
    """Check each shared key's requests, budget and owner."""
    paid_with: dict[str, list[Request]] = defaultdict(list)
    for row in view.books.requests.values():
        if row.request.sharedkey_id is not None:
            paid_with[row.request.sharedkey_id].append(row.request)
    for key in view.books.sharedkeys.values():
        yield from _sharedkey(view, key, paid_with[key.id])
    for account in view.books.accounts.values():
        gone = account.user.sharedkey_ids - view.books.sharedkeys.keys()
        if gone:
            what = "missing shared keys"
            yield finding_of_account(account.user)(Rule.KEY_OWNER, what, 0, len(gone))


def _sharedkey(view: View, key: SharedKey, paid: list[Request]) -> Findings:
    about = {partition(items.Kind.SHAREDKEY, key.id), user_key(key.user_id)}
    about |= {request_key(request.id) for request in paid}

    finding = finding_of(partition(items.Kind.SHAREDKEY, key.id[:8]), frozenset(about))
    if key.in_ledger:  # TTL deletes requests, but never entries
        used = view.used_with.get(sharedkey_rules.mark(key.id), 0)
    else:
        used = sum(view.cost(request) for request in paid)
    all_there = key.in_ledger or key.created_at + KEEP_S > view.now + SLACK_S
    if key.utilized < used or (all_there and key.utilized != used):
        yield finding(Rule.BUDGET, "utilized", used, key.utilized)
    if key.kudos != UNLIMITED and key.granted is not None:
        left = key.granted - key.utilized
        if key.kudos != left:
            yield finding(Rule.BUDGET, "kudos", left, key.kudos)
    if key.kudos < 0 and key.kudos != UNLIMITED:
        yield finding(Rule.BUDGET, "kudos", f"at least 0, or {UNLIMITED}", key.kudos)
    for request in paid:
        if request.user_id != key.user_id:
            yield finding(Rule.KEY_OWNER, f"owner of {request.id}", key.user_id, request.user_id)
    owner = view.books.accounts.get(key.user_id)
    if owner is None or key.id not in owner.user.sharedkey_ids:
        yield finding(Rule.KEY_OWNER, "user_id", "an account that lists it", key.user_id)

"""Images: their request, their place in the indexes, their refund and their reward."""

from collections.abc import Callable
from dataclasses import replace

from horde.records import (
    ANONYMOUS_ID,
    DELIVERED,
    OPEN,
    Generation,
    Request,
    Settlement,
    State,
)
from horde.rules import rewards, ruleset
from horde.rules.kudos import Account as Side
from horde.rules.kudos import Kind
from horde.store.audit_rows import ImageRow, IndexKeys
from horde.store.due import Due, due_shard
from horde.store.queuenames import parse, queue_of
from infra.operate.audit.findings import (
    Finding,
    Findings,
    Rule,
    View,
    finding_of,
    generation_key,
    own_item,
)


def images(view: View) -> Findings:
    """Check each image's request, attributes in the indexes, refund and reward."""
    for image in view.books.images.values():
        generation = image.generation
        row = view.books.requests.get(generation.request_id)
        if row is None:
            if not view.expired(image.keys.gone_at):
                yield finding_of_image(view, image)(
                    Rule.COMPLETE, "request_id", generation.request_id, "no such request"
                )
        elif generation.id not in row.request.generations:
            yield finding_of_image(view, image)(
                Rule.COMPLETE, "request_id", "a request that names it", generation.request_id
            )
        yield from _indexed(view, image)
        yield from _refunded(view, image, row.request if row else None)
        yield from _rewarded(view, image, row.request if row else None)


def finding_of_image(view: View, image: ImageRow) -> Callable[..., Finding]:
    """Return a function that makes findings of an image."""
    generation = image.generation
    about = view.around(generation.request_id, generation.id)
    return finding_of(own_item(generation_key(generation.id)), about)


def _indexed(view: View, image: ImageRow) -> Findings:
    generation, keys, finding = image.generation, image.keys, finding_of_image(view, image)
    rule, expected = Rule.ENDED, IndexKeys()
    if generation.state is State.PROCESSING:
        rule = Rule.LEASED
        shard = due_shard(Due.LEASE, generation.id)
        expected = IndexKeys(due_shard=shard, due_at=generation.lease_until)
        for name in ("worker_id", "worker_user", "lease_until"):
            if getattr(generation, name) is None:
                yield finding(rule, name, "a value", "none")
    elif generation.state is State.WAITING:
        rule = Rule.WAITING
        expires_at = generation.expires_at
        expected = IndexKeys(
            wait_queue=_queue(generation, keys.wait_queue),
            due_shard=None if expires_at is None else due_shard(Due.IMAGE, generation.id),
            due_at=expires_at,
        )
        if generation.lease_until is not None:
            yield finding(rule, "lease_until", "none", generation.lease_until)
    found = keys.places()
    for name, right in expected.places().items():
        if found[name] != right:
            yield finding(rule, name, right, found[name])


def _queue(generation: Generation, found: str | None) -> str:
    """Return the partition that an image must be in: any shard of its queue is right."""
    right = queue_of(generation)
    try:
        shard = parse(found or "").shard
    except ValueError:
        return str(right)
    return str(right._replace(shard=shard))


def _refunded(view: View, image: ImageRow, request: Request | None) -> Findings:
    generation, finding = image.generation, finding_of_image(view, image)
    refunds = view.event(Kind.REFUND, generation.id)
    owner = request.user_id if request else generation.user_id
    not_refunded = generation.state in OPEN or generation.state is State.OK
    due = 0 if not_refunded or owner == ANONYMOUS_ID else 1
    if min(len(refunds), 1) != due:
        what = f"refunds in state {generation.state}"
        yield finding(Rule.REFUNDED, what, due, len(refunds))
        return
    if refunds and not view.event(Kind.ACCEPT, generation.request_id):
        yield finding(Rule.UNCHARGED, "charges of its request", 1, 0)
    for refund in refunds:
        if refund.user_id != owner:
            yield finding(Rule.REFUNDED, "user of the refund", owner, refund.user_id)
        if request is None:
            continue
        tax = 0 if generation.state is State.CENSORED else request.tax
        for side, each in ((Side.PRICE, request.price), (Side.TAX, tax)):
            if -refund.postings.get(side, 0) != each:
                yield finding(Rule.REFUNDED, side, each, -refund.postings.get(side, 0))
        deducted = refund.postings.get(Side.WAIVER, 0)
        if not 0 <= deducted <= request.price + tax:
            yield finding(Rule.REFUNDED, "deducted", f"0 to {request.price + tax}", deducted)


def _rewarded(view: View, image: ImageRow, request: Request | None) -> Findings:
    generation, finding = image.generation, finding_of_image(view, image)
    rewards = view.event(Kind.REWARD, generation.id)
    earned = generation.state in DELIVERED and generation.worker_user is not None
    if min(len(rewards), 1) != int(earned):
        what = f"rewards in state {generation.state}"
        yield finding(Rule.REWARDED, what, int(earned), len(rewards))
        return
    for reward in rewards:
        if reward.user_id != generation.worker_user:
            who = generation.worker_user
            yield finding(Rule.REWARDED, "user of the reward", who, reward.user_id)
        if request is not None:
            least, most = _rewards_of(view, request, generation)
            if not least <= reward.amount <= most:
                right = most if least == most else f"{least} to {most}"
                yield finding(Rule.REWARDED, "amount", right, reward.amount)
        if reward.settlement is not None:
            yield from _settled(view, image, reward.settlement, request)
    posted = any(reward.posted for reward in rewards)
    yield from _styled(view, image, request, posted=posted)


def _styled(view: View, image: ImageRow, request: Request | None, *, posted: bool) -> Findings:
    """Check the reward of the author of an image's style, which is paid with the worker's."""
    generation, finding = image.generation, finding_of_image(view, image)
    paid = view.event(Kind.STYLE, generation.id)
    if request is None:
        return
    author = rewards.style_owner(request, generation, generation.state) if posted else None
    expected = [] if author is None else [(author, ruleset.of(request.ruleset).style_reward)]
    found = [(entry.user_id, entry.amount) for entry in paid]
    if found != expected:
        yield finding(Rule.STYLED, "its style's author", f"{expected}", f"{found}")


def _rewards_of(view: View, request: Request, generation: Generation) -> tuple[int, int]:
    """Return the bounds of an image's reward: it may depend on how much was waived by then."""
    charges = view.event(Kind.ACCEPT, request.id)
    waived = -sum(charge.postings.get(Side.WAIVER, 0) for charge in charges)
    at_first = replace(request, waived=max(waived, request.waived))
    least, most = (
        rewards.reward(then, generation, generation.state) for then in (at_first, request)
    )
    return least, most


def _settled(
    view: View, image: ImageRow, settlement: Settlement, request: Request | None
) -> Findings:
    """Check what a settlement says about its image; the statistics are counted from it."""
    generation, finding = image.generation, finding_of_image(view, image)
    expected = {
        "worker_id": generation.worker_id or "",
        "user_id": generation.user_id,
        "model": generation.model,
        "pixelsteps": generation.pixelsteps,
        "settled_at": generation.settled_at or 0,
    }
    if request is not None:
        expected["tax"] = request.tax
    for name, right in expected.items():
        if getattr(settlement, name) != right:
            yield finding(Rule.SETTLED, name, right, getattr(settlement, name))

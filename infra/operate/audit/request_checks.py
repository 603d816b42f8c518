"""Requests: the rules they were accepted under, their charge, and their place in the indexes."""

import math
from collections.abc import Callable

from horde.records import OPEN, ImageSpec, Request
from horde.rules import pricing, ruleset
from horde.rules.kudos import Account as Side
from horde.rules.kudos import Kind
from horde.rules.lifecycle import ends_with_image
from horde.store.audit_rows import RequestRow
from horde.store.due import Due, due_shard
from horde.store.items import DUE
from infra.operate.audit.findings import (
    Finding,
    Findings,
    Rule,
    View,
    finding_of,
    own_item,
    request_key,
)


def requests(view: View) -> Findings:
    """Check each request against its entries and its images."""
    for row in view.books.requests.values():
        yield from _by_itself(view, row)
        yield from _open_or_closed(view, row)
        if row.request.anonymous:
            yield from _uncharged(view, row.request)
        else:
            yield from _charged(view, row.request)


def _finding(view: View, request: Request) -> Callable[..., Finding]:
    return finding_of(own_item(request_key(request.id)), view.around(request.id))


def _by_itself(view: View, row: RequestRow) -> Findings:
    """Check a request's ruleset, tax, sharing and images."""
    request, keys, finding = row.request, row.keys, _finding(view, row.request)
    try:
        rules = ruleset.of(request.ruleset)
    except KeyError:
        yield finding(Rule.RULED, "ruleset", "a known one", request.ruleset)
    else:
        tax = pricing.tax(shared=request.shared, rules=rules)
        if request.tax != tax:
            yield finding(Rule.TAXED, "tax", tax, request.tax)
        yield from _priced(view, request, rules)
    if request.shared and request.source_key is not None:
        yield finding(Rule.SHAREABLE, "shared", "false", "true")
    if request.anonymous and request.source_key is None and not request.shared:
        yield finding(Rule.SHAREABLE, "shared", "true", "false")
    if len(set(request.generations)) != request.n:
        yield finding(Rule.COMPLETE, "its images", request.n, len(set(request.generations)))
    missing = sum(name not in view.books.images for name in request.generations)
    if missing and not view.expired(keys.gone_at):
        yield finding(Rule.COMPLETE, "images not there", 0, missing)


def _priced(view: View, request: Request, rules: ruleset.Ruleset) -> Findings:
    """Check that a request's price, reward and work follow from its payload.

    Requests of old versions do not say their model's family. Which workers may draw it is known
    from its images, which TTL may have deleted.
    """
    found = [view.books.images.get(name) for name in request.generations]
    images = [row.generation for row in found if row is not None]
    if request.baseline is None or not images:
        return
    payload, image, finding = request.payload, images[0], _finding(view, request)
    spec = ImageSpec(
        width=payload["width"],
        height=payload["height"],
        steps=payload["ddim_steps"],
        sampler_name=payload["sampler_name"],
        n=request.n,
        denoising_strength=payload["denoising_strength"],
        img2img=request.source_key is not None,
        hires_fix=payload["hires_fix"],
        loras=len(payload["loras"]),
        tis=bool(payload["tis"]),
        control_type=payload["control_type"],
        return_control_map=payload["return_control_map"],
        post_processing=tuple(payload["post_processing"]),
        slow_workers=image.slow_workers,
        worker_blacklist=image.worker_blacklist and bool(image.workers),
    )
    quote = pricing.quote(spec, shared=request.shared, baseline=request.baseline, rules=rules)
    steps = math.ceil(pricing.accurate_steps(spec, baseline=request.baseline, rules=rules))
    expected: dict[str, tuple[int, int]] = {
        "price": (quote.price, request.price),
        "reward": (quote.reward, request.reward),
    }
    for one in images:
        expected[f"steps of {one.id}"] = (steps, one.steps)
        expected[f"pixels of {one.id}"] = (spec.pixels, one.pixels)
    for what, (right, wrong) in expected.items():
        if right != wrong:
            yield finding(Rule.PRICED, what, right, wrong)


def _open_or_closed(view: View, row: RequestRow) -> Findings:
    request, keys, finding = row.request, row.keys, _finding(view, row.request)
    images = [view.books.images.get(name) for name in request.generations]
    found = [image.generation for image in images if image is not None]
    # Of images that ended before they said so, nobody asks when they expire.
    still_open = [image for image in found if image.state in OPEN]
    says_so = any(image.expires_at is not None for image in still_open)
    if still_open and says_so != ends_with_image(request):
        right, wrong = ("its image", "itself")[:: 1 if ends_with_image(request) else -1]
        yield finding(Rule.DUE, "what says when it expires", right, wrong)
    if ends_with_image(request):
        if keys.due_at is not None or keys.due_shard is not None:
            yield finding(Rule.DUE, DUE.partition, "none", keys.due_shard or "none")
        return
    if keys.gone_at is None:
        shard = due_shard(Due.REQUEST, request.id)
        if keys.due_at is None or keys.due_shard != shard:
            yield finding(Rule.DUE, DUE.partition, shard, keys.due_shard or "none")
        return
    if keys.due_at is not None or keys.due_shard is not None:
        yield finding(Rule.DUE, DUE.partition, "none", keys.due_shard or "none")
    if still_open:
        yield finding(Rule.DUE, "open images of a closed request", 0, len(still_open))


def _uncharged(view: View, request: Request) -> Findings:
    """Check that an anonymous request has neither charge nor award."""
    finding = _finding(view, request)
    charges, awards = (view.event(kind, request.id) for kind in (Kind.ACCEPT, Kind.AWARD))
    for name, found in (("charges", charges), ("awards", awards)):
        if found:
            yield finding(Rule.ANONYMOUS, name, 0, len(found))
    if request.waived or request.sharedkey_id is not None:
        yield finding(Rule.ANONYMOUS, "waived", 0, request.waived)


def _charged(view: View, request: Request) -> Findings:
    finding = _finding(view, request)
    charges, refunds = view.event(Kind.ACCEPT, request.id), view.refunds(request)
    if len(charges) != 1:
        yield finding(Rule.CHARGED, "charges", 1, len(charges))
        return
    (charge,) = charges
    if charge.user_id != request.user_id:
        yield finding(Rule.CHARGED, "user of the charge", request.user_id, charge.user_id)
    for side, each in ((Side.PRICE, request.price), (Side.TAX, request.tax)):
        if charge.postings.get(side, 0) != each * request.n:
            yield finding(Rule.CHARGED, side, each * request.n, charge.postings.get(side, 0))
    total = (request.price + request.tax) * request.n
    waived = -charge.postings.get(Side.WAIVER, 0)
    if not 0 <= waived <= total:
        yield finding(Rule.CHARGED, "waived kudos", f"0 to {total}", waived)
    # Whatever the order of the refunds, each had as much deducted as was left.
    gross = -sum(
        entry.postings.get(side, 0) for entry in refunds for side in (Side.PRICE, Side.TAX)
    )
    deducted = sum(entry.postings.get(Side.WAIVER, 0) for entry in refunds)
    if deducted != min(waived, gross):
        yield finding(Rule.WAIVED, "kudos deducted from refunds", min(waived, gross), deducted)
    if request.waived != waived - deducted:
        yield finding(Rule.WAIVED, "waived", waived - deducted, request.waived)
    back = sum(entry.amount for entry in refunds)
    if back > -charge.amount:
        yield finding(Rule.GIVEN_BACK, "refunds", f"at most {-charge.amount}", back)

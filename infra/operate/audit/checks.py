"""The rules that the books must satisfy, by name. Pure: books in, findings out.

TTL deletes the items of an ended request after two days, but ledger entries stay. So a missing item
is a finding only if TTL cannot have deleted it yet. Each request is judged by the ruleset under
which it was accepted.
"""

from collections.abc import Callable, Iterable, Iterator

from infra.operate.audit.account_checks import accounts, allowances
from infra.operate.audit.count_checks import counts
from infra.operate.audit.entry_checks import entries, readable, reasons, transfers
from infra.operate.audit.findings import Finding, Findings, View
from infra.operate.audit.image_checks import images
from infra.operate.audit.limit_checks import held, open_images
from infra.operate.audit.rating_checks import pool_rewards, pooled
from infra.operate.audit.request_checks import requests
from infra.operate.audit.sharing_checks import awards, published, shared, sharedkeys
from infra.operate.audit.stored_checks import stored

Check = Callable[[View], Findings]
CHECKS: tuple[Check, ...] = (
    readable,
    entries,
    transfers,
    reasons,
    accounts,
    allowances,
    requests,
    images,
    published,
    shared,
    stored,
    awards,
    pooled,
    pool_rewards,
    sharedkeys,
    open_images,
    held,
    counts,
)


def judge(view: View, rules: Iterable["Check"] | None = None) -> Iterator[tuple["Check", Finding]]:
    """Yield all findings, each with the check that found it."""
    for rule in CHECKS if rules is None else rules:
        for finding in rule(view):
            yield rule, finding

"""What is refused writes nothing: no row, no allowance, no source image. Nor does a dry run.

Every account here has an allowance due and every request brings a source image and a mask, so that
a write before the last refusal shows: the whole table and all buckets are compared.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
from PIL import Image

import generate
from horde.rules import refusals
from tests.support.api_calls import ANONYMOUS, UNKNOWN, Reply
from tests.support.cloud import Cloud, fresh_cloud, new_processes
from tests.support.images import encoded, png_base64
from tests.support.numbers import CONCURRENCY, MAX_STEPS

MONTHLY = 50
SOURCE: dict[str, Any] = {
    "source_image": png_base64(),
    "source_mask": encoded(Image.new("L", (64, 64), 255)),
    "source_processing": "inpainting",
}
TOO_MANY_STEPS = {"steps": 10 * MAX_STEPS}


class Known:
    """Accounts and keys of everybody who may be refused, each with an allowance due."""

    def __init__(self, cloud: Cloud) -> None:
        cloud.overrides["ADMINS"] = "1"
        self.cloud = cloud
        self.root, self.admin = cloud.register("root")
        self.ada, self.key = cloud.register("ada", kudos=10_000)
        self.bob, self.other = cloud.register("bob")
        self.gone, self.deleted = cloud.register("gone")
        self.owner, _ = cloud.register("owner")
        self.worker, self.newcomer = cloud.worker_key(self.owner), cloud.new_worker("late")
        cloud.set_flags(self.ada, trusted=True)  # a trusted account has more shared keys
        self.keys = {
            "empty": self.shared_key(kudos=0),
            "little": self.shared_key(kudos=1),
            "bounded": self.shared_key(max_image_steps=100),
            "expired": self.shared_key(expiry=0),
        }
        for _ in range(3):
            self.shared_key(self.other)
        cloud.set_flags(self.gone, deleted=True)
        self.finished = cloud.generate(self.key, shared=True).body["id"]
        (self.image,) = cloud.draw(self.worker)
        self.private = cloud.generate(self.key, models=["rare"]).body["id"]
        self.worker_id = cloud.worker_named()["id"]
        cloud.settle_async()
        cloud.clock.pass_seconds(60)  # nobody is new, and nobody has just popped
        cloud.pop(self.worker, models=["another"])
        cloud.overrides["MONTHLY_KUDOS"] = str(MONTHLY)
        new_processes()  # which read their settings anew

    def shared_key(self, owner: str | None = None, /, **fields: Any) -> str:
        body = {"name": "friends", **fields}
        made = self.cloud.call("PUT /api/v2/sharedkeys", body, key=owner or self.key)
        assert made.status == 200, made
        return str(made.body["id"])

    def ask(self, key: str | None = None, /, **fields: Any) -> Reply:
        """Ask for images with a source image and a mask, as far as the fields do not say else."""
        return self.cloud.generate(key or self.key, **{**SOURCE, **fields})

    def call(self, route: str, body: Any = None, *, key: str | None = None, **path: Any) -> Reply:
        return self.cloud.call(route, body, key=key or self.key, **path)


@contextmanager
def full_queue(known: Known) -> Iterator[None]:
    for concurrency in (1, CONCURRENCY):
        changed = known.cloud.change_user(known.admin, known.ada, concurrency=concurrency)
        assert changed.status == 200
        if concurrency == 1:
            yield


@contextmanager
def maintenance(known: Known) -> Iterator[None]:
    for on in (True, False):
        modes = {"maintenance_mode": on}
        assert known.call("PUT /api/v2/status/modes", modes, key=known.admin).status == 200
        known.cloud.clock.pass_seconds(10)
        if on:
            yield


Refused = Callable[[Known], Reply]
REQUESTS: dict[str, tuple[Refused, int, str | None]] = {
    "a schema error": (lambda known: known.ask(params={"n": 0}), 400, None),
    "a webhook that is not public": (lambda known: known.ask(webhook="https://a"), 400, None),
    "no prompt": (lambda known: known.ask(prompt=" "), 400, "MissingPrompt"),
    "an endless prompt": (lambda known: known.ask(prompt="x " * 9000), 400, "InvalidPromptSize"),
    "an unknown key": (lambda known: known.ask("x" * 22), 401, "InvalidAPIKey"),
    "a deleted account": (lambda known: known.ask(known.deleted), 403, "DeletedUser"),
    "a feature that is missing": (
        lambda known: known.ask(params={"workflow": "qr_code"}), 400, "InvalidExtraTexts"),
    "a style that is missing": (
        lambda known: known.ask(style="no such style"), 404, "StyleNotFound"),
    "trust that is missing": (
        lambda known: known.ask(disable_batching=True, params={"n": 2}), 400, "RequiresTrust"),
    "an unknown worker": (lambda known: known.ask(workers=[UNKNOWN]), 404, "WorkerNotFound"),
    "too many images": (lambda known: known.ask(params={"n": 2}), 429, "TooManyPrompts"),
    "a shared key that is used up": (
        lambda known: known.ask(known.keys["empty"]), 403, "SharedKeyEmpty"),
    "a shared key that expired": (
        lambda known: known.ask(known.keys["expired"]), 403, "SharedKeyExpired"),
    "a shared key with too little": (
        lambda known: known.ask(known.keys["little"]), 403, "SharedKeyInsufficientKudos"),
    "a shared key's bounds": (
        lambda known: known.ask(known.keys["bounded"], params={"steps": 200}), 400, "BadRequest"),
    "kudos upfront": (
        lambda known: known.ask(known.other, params=TOO_MANY_STEPS), 403, "KudosUpfront"),
    "kudos upfront, anonymous": (
        lambda known: known.ask(ANONYMOUS, params=TOO_MANY_STEPS), 403, "KudosUpfront"),
    "a source image that is none": (
        lambda known: known.ask(source_image="AAAA"), 400, "SourceImageUnreadable"),
    "a mask that paints nothing": (
        lambda known: known.ask(source_mask=encoded(Image.new("L", (64, 64)))),
        400, "InpaintingMissingMask"),
    "maintenance": (lambda known: known.ask(), 503, "MaintenanceMode"),
}  # fmt: skip
"""Each refusal of a request for images: how to bring it about, its status and its ``rc``."""
WHILE: dict[str, Callable[[Known], AbstractContextManager[None]]] = {
    "too many images": full_queue,
    "maintenance": maintenance,
}


@pytest.fixture(scope="module")
def known(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[Known]:
    """One cloud for all: nothing here writes, or it is undone. No test here makes another one."""
    with fresh_cloud(template, clients) as cloud:
        yield Known(cloud)
        cloud.audit()


def nothing_is_written(cloud: Cloud, call: Callable[[], Reply]) -> Reply:
    """Make a call and assert that it left the table and the buckets as they were."""
    cloud.pay()
    before = cloud.everything()
    answer = call()
    after = cloud.everything()
    assert {name for name in before | after if before.get(name) != after.get(name)} == set()
    return answer


@pytest.mark.parametrize("name", REQUESTS)
def test_a_refused_request_writes_nothing(known: Known, name: str) -> None:
    refuse, status, rc = REQUESTS[name]
    with WHILE[name](known) if name in WHILE else nullcontext():
        answer = nothing_is_written(known.cloud, lambda: refuse(known))
    assert (answer.status, answer.body.get("rc")) == (status, rc), answer


def test_a_request_that_is_not_refused_writes_all_of_it(known: Known) -> None:
    """What the tests above would see."""
    user, key = known.cloud.register("eve", kudos=1000)
    before = known.cloud.everything()
    answer = known.ask(key)
    assert answer.status == 202
    new = {name for name in known.cloud.everything() if name not in before}
    request = answer.body["id"]
    assert {f"Sources {request}_src.webp", f"Sources {request}_msk.webp"} <= new
    assert f"REQUEST#{request}/REQUEST" in new
    assert {entry["kind"] for entry in known.cloud.ledger(user)} >= {"RECURRING"}


def test_every_refusal_of_a_request_is_tried(known: Known) -> None:
    """But for Busy: a table that is too busy may have given the allowance, see crash points."""
    (route,) = generate.ROUTES.values()
    codes = {error.rc for error in route.errors} - {refusals.Busy.rc}
    tried = {rc for _, _, rc in REQUESTS.values()}
    # These are families: each of their refusals has a code of its own.
    families = {refusals.Unsupported.rc, refusals.ImageValidationFailed.rc}
    assert codes - families <= tried


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"params": TOO_MANY_STEPS},
        {"params": TOO_MANY_STEPS, "allow_downgrade": True},
        {"shared": True, "params": {"n": 20}},
        {"slow_workers": False},
    ],
)
@pytest.mark.parametrize("who", ["account", "shared key", "anonymous"])
def test_a_dry_run_writes_nothing(known: Known, fields: dict[str, Any], who: str) -> None:
    key = {"account": known.key, "shared key": known.keys["little"], "anonymous": ANONYMOUS}[who]
    answer = nothing_is_written(known.cloud, lambda: known.ask(key, dry_run=True, **fields))
    assert (answer.status, list(answer.body)) == (200, ["kudos"])


def test_a_dry_run_writes_its_rate_count_and_nothing_else(known: Known) -> None:
    cloud = known.cloud
    cloud.overrides["RATE_LIMITS"] = "true"
    new_processes()
    before = cloud.everything()
    assert known.ask(dry_run=True).status == 200
    after = cloud.everything()
    new = {name for name in after if after[name] != before.get(name)}
    assert before.keys() <= after.keys()
    assert new
    assert all(name.startswith("RATELIMIT#") for name in new)
    del cloud.overrides["RATE_LIMITS"]
    new_processes()


OTHERS: dict[str, tuple[Refused, int, str | None]] = {
    "register": (
        lambda known: known.call("POST /api/register", {"username": "a#b"}), 400, None),
    "a transfer of too much": (
        lambda known: known.cloud.transfer(known.other, "ada#2", 10**6),
        400, "KudosTransferNotEnough"),
    "a transfer to nobody": (
        lambda known: known.cloud.transfer(known.key, "nobody#99"), 400, "InvalidTargetUsername"),
    "a transfer with an idempotency key": (
        lambda known: known.cloud.transfer(known.key, "ada#2", once="abc"),
        400, "KudosTransferToSelf"),
    "an award": (
        lambda known: known.call("POST /api/v2/kudos/award", {"username": "bob#3", "amount": 5}),
        403, "NotAllowedAwards"),
    "a fourth shared key": (
        lambda known: known.call("PUT /api/v2/sharedkeys", {"name": "more"}, key=known.other),
        403, "Forbidden"),
    "a change of another's shared key": (
        lambda known: known.call("PATCH /api/v2/sharedkeys/{id}", {"kudos": 7},
                                 key=known.other, id=known.keys["empty"]), 403, "NotOwner"),
    "a shared key that another takes away": (
        lambda known: known.call("DELETE /api/v2/sharedkeys/{id}",
                                 key=known.other, id=known.keys["empty"]), 403, "NotOwner"),
    "a change of another's account": (
        lambda known: known.cloud.change_user(known.other, known.ada, username="mine"),
        403, "NotOwner"),
    "a change of which one field is refused": (
        lambda known: known.cloud.change_user(known.admin, known.bob, kudos=-10**6, trusted=True),
        400, "BadRequest"),
    "another's account that is deleted": (
        lambda known: known.call("DELETE /api/v2/users/{id}", key=known.other,
                                 id=str(known.ada)), 403, "NotOwner"),
    "a change of another's worker": (
        lambda known: known.call("PUT /api/v2/workers/{id}", {"maintenance": True},
                                 key=known.other, id=known.worker_id), 403, "NotOwner"),
    "another's worker that is deleted": (
        lambda known: known.call("DELETE /api/v2/workers/{id}", key=known.other,
                                 id=known.worker_id), 403, "NotOwner"),
    "modes": (
        lambda known: known.call("PUT /api/v2/status/modes", {"maintenance_mode": True}),
        403, "NotAdmin"),
    "a rating of what is not shared": (
        lambda known: known.cloud.rate(known.private, best=known.image),
        400, "AestheticsNotPublic"),
    "a rating of nothing": (
        lambda known: known.cloud.rate(known.finished), 400, "AestheticsMissing"),
    "a cancel of nothing": (lambda known: known.cloud.cancel(UNKNOWN), 404, "RequestNotFound"),
    "a pop without a worker key": (
        lambda known: known.cloud.pop(known.key, models=["rare"]), 403, "NotPrivileged"),
    "a pop under another's name": (
        lambda known: known.cloud.pop(known.newcomer, models=["rare"]),
        400, "PolymorphicNameConflict"),
    "a pop for nobody": (
        lambda known: known.cloud.pop(known.worker, models=["rare"], priority_usernames=["x"]),
        400, "InvalidPriorityUsername"),
    "a submit of nothing": (
        lambda known: known.cloud.submit(known.worker, UNKNOWN), 404, "InvalidJobID"),
    "a second submit": (
        lambda known: known.cloud.submit(known.worker, known.image), 400, "DuplicateGen"),
}  # fmt: skip
"""Refusals of the other calls that write."""


@pytest.mark.parametrize("name", OTHERS)
def test_a_refused_call_writes_nothing(known: Known, name: str) -> None:
    refuse, status, rc = OTHERS[name]
    answer = nothing_is_written(known.cloud, lambda: refuse(known))
    assert answer.status == status, answer
    assert rc is None or answer.body.get("rc") == rc, answer

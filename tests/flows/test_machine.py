"""Many users and workers, in any order, against the rules written a second time.

Each example drives a fresh cloud by up to fifty calls, late workers, lost leases and jumps of the
clock, and after each step compares every balance, request, image and shared key with
``tests.support.rulebook``. At the end everything is let end: the books, every ledger, the
statistics and the LAION bucket must be what the rules say. `make fuzz` runs it for longer.
"""

import os
import random
import sys
import uuid
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from horde.records import Generation, Request, SharedKey, User, WorkerStats
from horde.rules.lifecycle import expires_at
from horde.store.items import from_item
from infra.operate import OperatorError, withdraw_command
from tests.support import rulebook
from tests.support.api_calls import ANONYMOUS, Reply
from tests.support.clock import START_MS
from tests.support.cloud import Cloud, fresh_cloud
from tests.support.images import png_base64, webp
from tests.support.numbers import LIFE_S

MOST_USERS = 8
EXAMPLES = int(os.environ.get("FUZZ", "160")) // 4
"""An example takes about two seconds, those of the other fuzzers much less."""
SOURCE = png_base64()
COLOURS = ("red", "green", "blue", "white")
"""Of the pictures that workers upload: another one for each claim of an image."""
NO_IMAGE = str(uuid.UUID(int=0))
Job = tuple[str, int, str]
"""An image, the number of its claim, and where to upload it."""

bodies_sent = st.builds(
    replace,
    st.sampled_from(
        [
            rulebook.Body(64, 4),
            rulebook.Body(64, 4),
            rulebook.Body(512, 30, hires_fix=True),
            rulebook.Body(512, 60),
            rulebook.Body(640, 20, hires_fix=True),
        ]
    ),
    n=st.sampled_from([1, 1, 2, 2, 3, 8]),
    shared=st.booleans(),
    img2img=st.sampled_from([False, False, False, True]),
)
amounts = st.sampled_from([1, 3, 10, 30, 100])
days = st.sampled_from([rulebook.UNLIMITED, 0, 1, 30])
tokens = st.sampled_from([None, "a", "b"])


def json_of(body: rulebook.Body) -> dict[str, Any]:
    """The body as clients send it."""
    params = {"width": body.side, "height": body.side, "steps": body.steps, "n": body.n}
    params["hires_fix"] = body.hires_fix
    source = {"source_image": SOURCE} if body.img2img else {}
    return {"prompt": "a fox", "params": params, "shared": body.shared, **source}


class Machine(RuleBasedStateMachine):
    """The system and the rule book, driven side by side."""

    template: dict[str, Any]
    clients: dict[str, Any]

    users = Bundle("users")
    workers = Bundle("workers")
    requests = Bundle("requests")
    keys = Bundle("keys")
    jobs = Bundle("jobs")
    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        # Ids decide the order in which things are swept: hypothesis must be able to repeat it.
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4))
        self.cloud: Cloud = self._stack.enter_context(fresh_cloud(self.template, self.clients))
        self.cloud.clock.freeze(START_MS)
        self.cloud.overrides["ADMINS"] = ", ".join(map(str, sorted(rulebook.ADMINS)))
        self.model = rulebook.Rules(START_MS)
        self.api_keys: dict[int, str] = {}
        self.worker_keys: dict[int, str] = {}

    # --- who there is ---------------------------------------------------------------------------

    @initialize(target=users, kudos=st.lists(amounts, min_size=3, max_size=3))
    def open(self, kudos: list[int]) -> Any:
        found = [self._register() for _ in kudos]
        for user, amount in zip(found, kudos, strict=True):
            self.grant(user, amount)
        return multiple(*found)

    @initialize(target=workers)
    def register_workers(self) -> Any:
        return multiple(
            self._register_worker(self._register()), self._register_worker(self._register())
        )

    @initialize(target=keys, budget=st.just(rulebook.UNLIMITED) | amounts)
    def lend(self, budget: int) -> Any:
        user = self._register()
        self.grant(user, 30)
        return self._add_key(user, budget, rulebook.UNLIMITED)

    @rule(target=users)
    @precondition(lambda self: len(self.api_keys) < MOST_USERS)
    def register(self) -> int:
        return self._register()

    def _register(self) -> int:
        user, key = self.cloud.register("ada")
        self.api_keys[user] = key
        self.model.register(user)
        return user

    @rule(target=workers, user=users)
    @precondition(lambda self: len(self.worker_keys) < 3)
    def register_worker_of(self, user: int) -> int:
        """The worker of somebody who also asks for images."""
        return self._register_worker(user)

    def _register_worker(self, user: int) -> int:
        if user not in self.worker_keys:
            self.cloud.set_flags(user, trusted=True)
            self.worker_keys[user] = self.cloud.worker_key(user)
        return user

    @rule(user=users, amount=amounts.flatmap(lambda some: st.sampled_from([some, -some])))
    def grant(self, user: int, amount: int) -> None:
        assert self.cloud.store.accounts.grant(user, amount) is self.model.grant(user, amount)

    @rule(user=users)
    @precondition(lambda self: not any(a.deleted for a in self.model.accounts.values()))
    def delete_user(self, user: int) -> None:
        answer = self.cloud.call("DELETE /api/v2/users/{id}", key=self.api_keys[user], id=str(user))
        assert answer.status == 200, answer
        self.model.delete(user)

    # --- asking -----------------------------------------------------------------------------------

    @rule(target=requests, user=users, body=bodies_sent)
    def ask(self, user: int, body: rulebook.Body) -> Any:
        return self._ask(self.api_keys[user], user, body)

    @rule(target=requests, body=bodies_sent)
    def ask_anonymously(self, body: rulebook.Body) -> Any:
        return self._ask(ANONYMOUS, None, body)

    @rule(target=requests, key=keys, body=bodies_sent)
    def ask_with_a_shared_key(self, key: str, body: rulebook.Body) -> Any:
        return self._ask(key, self.model.keys[key], body)

    def _ask(self, api_key: str, payer: Any, body: rulebook.Body, only: int | None = None) -> Any:
        sent = json_of(body)
        if only is not None:
            sent["workers"] = [self._worker_id(only)]
        answer = self.cloud.call("POST /api/v2/generate/async", sent, key=api_key)
        try:
            request, total = self.model.ask(payer, body, only=only)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return multiple()
        assert (answer.status, answer.body["kudos"]) == (202, total), answer
        stored = self.cloud.store.requests.get(answer.body["id"])
        assert stored is not None
        request.named(stored.id, stored.generations)
        self.model.requests[stored.id] = request
        return stored.id

    @rule(request=requests)
    def cancel(self, request: str) -> None:
        answer = self.cloud.cancel(request)
        try:
            self.model.visible(self.model.requests[request])
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        shown = self.model.requests[request].counts()
        assert (answer.status, {name: answer.body[name] for name in shown}) == (200, shown)
        self.model.cancel(self.model.requests[request])

    @rule(request=requests)
    def check(self, request: str) -> None:
        self._check(self.model.requests[request])

    def _check(self, request: rulebook.Request) -> None:
        answer = self.cloud.check(request.id)
        try:
            self.model.visible(request)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        shown = request.counts()
        assert (answer.status, {name: answer.body[name] for name in shown}) == (200, shown)

    @rule(
        request=requests,
        ratings=st.lists(st.booleans(), max_size=3),
        best=st.booleans(),
        last=st.booleans(),
    )
    def rate(self, request: str, ratings: list[bool], best: bool, last: bool) -> None:
        """The first images or the last ones, so that a second call is not the first one."""
        model = self.model.requests[request]
        shown = [image.id for image in model.images if image.state == rulebook.OK] or [NO_IMAGE]
        shown = shown[::-1] if last else shown
        ratings = ratings[: len(shown)]
        body: dict[str, Any] = {
            "ratings": [
                {"id": one, "rating": 8, **({"artifacts": 1} if artifacts else {})}
                for one, artifacts in zip(shown, ratings, strict=False)
            ]
        }
        if best:
            body["best"] = shown[0]
        answer = self.cloud.call("POST /api/v2/generate/rate/{id}", body, id=request)
        try:
            rated = dict(zip(shown, ratings, strict=False))
            reward = self.model.rate(model, rated, shown[0] if best else None)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        assert (answer.status, answer.body["reward"]) == (200, reward), answer

    # --- drawing ----------------------------------------------------------------------------------

    @rule(
        target=jobs,
        worker=workers,
        amount=st.sampled_from([1, 1, 2, 4, 20]),
        mixed=st.booleans(),
        img2img=st.sampled_from([True, True, False]),
    )
    def pop(self, worker: int, amount: int, mixed: bool, img2img: bool) -> Any:
        return multiple(*self._pop(worker, amount=amount, mixed=mixed, img2img=img2img))

    def _worker_id(self, owner: int) -> str:
        """Return the id of somebody's worker; it has popped at least once."""
        found = self.cloud.store.workers.named(f"worker of {owner}")
        assert found is not None
        return found

    def _speed(self, worker: int) -> int | None:
        """Return a worker's measured speed, as its next pop will read it."""
        found = self.cloud.store.workers.named(f"worker of {worker}")
        return self.cloud.store.pops.context(found, worker, [], [])[1].speed

    def _pop(
        self, worker: int, *, amount: int, mixed: bool, img2img: bool, prefers: int | None = None
    ) -> list[Job]:
        speed = self._speed(worker)
        answer = self.cloud.pop(
            self.worker_keys[worker],
            name=f"worker of {worker}",
            amount=amount,
            mixed_batch=mixed,
            allow_img2img=img2img,
            **({} if prefers is None else {"priority_usernames": [f"ada#{prefers}"]}),
        )
        try:
            self.model.may_pop(worker, speed, img2img=img2img)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return []
        assert answer.status == 200, answer
        if mixed and answer.body["id"]:
            jobs = [(job["id"], job["r2_upload"]) for job in answer.body["jobs"]]
        else:
            jobs = list(zip(answer.body["ids"], answer.body.get("r2_uploads", []), strict=True))
        self.model.pop(
            worker,
            [one for one, _ in jobs],
            amount=amount,
            mixed=mixed,
            img2img=img2img,
            speed=speed,
            prefers=prefers,
        )
        return [(one, self.model.image(one).claims, url) for one, url in jobs]

    @rule(
        target=jobs,
        worker=workers,
        seconds=st.sampled_from([0, 20, 100]),
        state=st.sampled_from(["ok", "ok", "censored"]),
    )
    def draw(self, worker: int, seconds: int, state: str) -> Any:
        """Pop one image and hand it in as it should be."""
        jobs = self._pop(worker, amount=1, mixed=False, img2img=True)
        self._pass(seconds)
        for job in jobs:
            self._upload(job)
            self._submit(worker, job, state)
        return multiple(*jobs)

    @rule(target=jobs, worker=workers, uploading=st.booleans())
    def die(self, worker: int, uploading: bool) -> Any:
        """Pop, maybe upload, and never come back."""
        jobs = self._pop(worker, amount=1, mixed=False, img2img=True)
        for job in jobs:
            if uploading:
                self._upload(job)
            self._wait_for_the_lease(job, 0, sweeping=True)
        return multiple(*jobs)

    @rule(job=jobs, what=st.sampled_from([*COLOURS, rulebook.BAD, rulebook.BAD]))
    def upload(self, job: Job, what: str) -> None:
        """Upload another picture, or none, before the submit or long after."""
        self._upload(job, what)

    def _upload(self, job: Job, what: str | None = None) -> None:
        image, claim, url = job
        what = what or COLOURS[claim % len(COLOURS)]
        bad = what == rulebook.BAD
        self.cloud.upload(url, b"<html>" if bad else self.cloud.picture(url, what))
        self.model.upload(self.model.image(image), claim, what)

    @rule(job=jobs, state=st.sampled_from(["ok", "ok", "ok", "censored", "csam"]))
    def deliver_image(self, job: Job, state: str) -> None:
        """Upload and submit, however late."""
        self._upload(job)
        self._submit(self.model.image(job[0]).holder, job, state)

    @rule(job=jobs, state=st.sampled_from(["ok", "faulted", "faulted", "censored"]))
    def submit(self, job: Job, state: str) -> None:
        """Submit again, or without an upload, or report a fault."""
        self._submit(self.model.image(job[0]).holder, job, state)

    @rule(job=jobs, worker=workers)
    def submit_what_another_holds(self, job: Job, worker: int) -> None:
        self._submit(worker, job, "ok")

    def _submit(self, worker: int | None, job: Job, state: str) -> None:
        assert worker is not None
        answer = self.cloud.submit(self.worker_keys[worker], job[0], state=state)
        try:
            reward = self.model.submit(worker, self.model.image(job[0]), state)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        assert (answer.status, answer.body) == (200, {"reward": reward}), answer

    # --- those who mean harm ----------------------------------------------------------------------

    @rule(target=jobs, worker=workers)
    def fault_everything(self, worker: int) -> Any:
        """Take what it gets, and give it up, until it gets nothing."""
        return multiple(*self._fault_everything(worker))

    def _fault_everything(self, worker: int) -> list[Job]:
        given_up: list[Job] = []
        while jobs := self._pop(worker, amount=20, mixed=True, img2img=True):
            for job in jobs:
                self._submit(worker, job, "faulted")
            given_up += jobs
        return given_up

    @rule(target=jobs, worker=workers)
    def hold_everything(self, worker: int) -> Any:
        """Take what it gets, and keep it."""
        held: list[Job] = []
        while jobs := self._pop(worker, amount=20, mixed=True, img2img=True):
            held += jobs
        return multiple(*held)

    @rule(job=jobs, state=st.sampled_from(["ok", "censored", "csam"]))
    def submit_garbage(self, job: Job, state: str) -> None:
        """Upload what is no image, and ask to be paid for it."""
        image, claim, url = job
        if (self.model.image(image).state, self.model.image(image).claims) != (
            rulebook.PROCESSING,
            claim,
        ):
            return
        self.cloud.upload(url, b"garbage")
        self.model.upload(self.model.image(image), claim, rulebook.BAD)
        self._submit(self.model.image(image).holder, job, state)

    @rule(target=requests, user=users, worker=workers, body=bodies_sent)
    def ask_for_an_accomplice(self, user: int, worker: int, body: rulebook.Body) -> Any:
        return self._ask_for(self.api_keys[user], user, worker, body)

    @rule(target=requests, worker=workers, body=bodies_sent)
    def ask_anonymously_for_an_accomplice(self, worker: int, body: rulebook.Body) -> Any:
        return self._ask_for(ANONYMOUS, None, worker, body)

    def _ask_for(self, key: str, payer: int | None, worker: int, body: rulebook.Body) -> Any:
        """Ask for images that one worker alone may draw."""
        if self.cloud.store.workers.named(f"worker of {worker}") is None:
            return multiple()
        return self._ask(key, payer, body, only=worker)

    @rule(target=jobs, worker=workers, user=users)
    def prefer_an_accomplice(self, worker: int, user: int) -> Any:
        jobs = self._pop(worker, amount=20, mixed=True, img2img=True, prefers=user)
        for job in jobs:
            self._upload(job)
            self._submit(worker, job, "ok")
        return multiple(*jobs)

    @rule(target=requests, user=users, n=st.sampled_from([15, 20]))
    def flood(self, user: int, n: int) -> Any:
        """Ask for as much as an account may have waiting, and more."""
        body = rulebook.Body(n=n)
        asked = [self._ask(self.api_keys[user], user, body) for _ in range(3)]
        return multiple(*[one for one in asked if isinstance(one, str)])

    @rule(worker=workers)
    def end_the_maintenance(self, worker: int) -> None:
        if self.cloud.store.workers.named(f"worker of {worker}") is None:
            return
        answer = self.cloud.call(
            "PUT /api/v2/workers/{id}",
            {"maintenance": False},
            key=self.api_keys[worker],
            id=self._worker_id(worker),
        )
        try:
            self.model.caller(worker)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        assert answer.status == 200, answer
        self.model.resting.discard(worker)

    # --- time -------------------------------------------------------------------------------------

    def _pass(self, seconds: int) -> None:
        self.cloud.clock.pass_seconds(seconds)
        self.model.now_ms += seconds * 1000

    @rule(seconds=st.sampled_from([1, 59, 61, 600]))
    def wait(self, seconds: int) -> None:
        self._pass(seconds)

    @rule(job=jobs, late=st.sampled_from([-1, 0, 1]), sweeping=st.booleans())
    def wait_for_the_lease(self, job: Job, late: int, sweeping: bool) -> None:
        """To the very end of a lease, or a second off."""
        self._wait_for_the_lease(job, late, sweeping=sweeping)

    def _wait_for_the_lease(self, job: Job, late: int, *, sweeping: bool) -> None:
        seconds = self.model.image(job[0]).lease_until - self.model.now + late
        self._pass(max(0, seconds))
        if sweeping:
            self._sweep()

    @rule(request=requests, late=st.sampled_from([-1, 0, 1]), sweeping=st.booleans())
    def wait_for_the_end(self, request: str, late: int, sweeping: bool) -> None:
        """To the very end of a request, or a second off."""
        seconds = self.model.requests[request].expires_at - self.model.now + late
        self._pass(max(0, seconds))
        if sweeping:
            self._sweep()

    @rule()
    def wait_for_a_day(self) -> None:
        self._pass(rulebook.DAY_S)

    @rule()
    def sweep(self) -> None:
        self._sweep()

    def _sweep(self) -> None:
        self.cloud.sweep()
        self.model.sweep()

    # --- what moves by itself --------------------------------------------------------------------

    @rule(again=st.booleans(), dispatching=st.booleans())
    def stream(self, again: bool, dispatching: bool) -> None:
        self.cloud.stream(again=again)
        self.model.stream()
        if dispatching:
            self.cloud.deliver("dispatch", twice=again)

    @rule(twice=st.booleans())
    def share(self, twice: bool) -> None:
        self.cloud.redrive("share")
        self.cloud.deliver("share", twice=twice)
        self.model.judge()
        self.compare_data_set()

    @rule(image=st.none() | jobs, user=users)
    def withdraw(self, image: Job | None, user: int) -> None:
        """Take an image back, or all that a user shared."""
        bucket = self.cloud.bucket("Laion")
        what = image[0] if image else f"ada#{user}"
        if image is None:
            gone = self.model.withdraw_all(self.model.accounts[user])
        elif self.model.image(image[0]).shareable:
            gone = self.model.withdraw(self.model.image(image[0]))
        else:
            with pytest.raises(OperatorError):
                withdraw_command.withdraw(self.cloud.store, self.cloud.s3, bucket, what)
            return
        assert withdraw_command.withdraw(self.cloud.store, self.cloud.s3, bucket, what) == gone
        self.compare_data_set()

    # --- kudos between users ---------------------------------------------------------------------

    @rule(
        target=sent,
        sender=users,
        receiver=users,
        amount=amounts | st.sampled_from([0, -1]),
        once=tokens,
    )
    def transfer(self, sender: int, receiver: int, amount: int, once: str | None) -> Any:
        target = self.model.accounts[receiver]
        self._transfer(sender, f"ada#{receiver}", target, amount, once)
        return sender, receiver, amount, once

    @rule(again=sent)
    def transfer_again(self, again: tuple[int, int, int, str | None]) -> None:
        """The same call, as of a client that lost the answer."""
        sender, receiver, amount, once = again
        target = self.model.accounts[receiver]
        self._transfer(sender, f"ada#{receiver}", target, amount, once)

    @rule(sender=users, key=keys, amount=amounts, once=tokens)
    def transfer_to_a_shared_key(
        self, sender: int, key: str, amount: int, once: str | None
    ) -> None:
        self._transfer(sender, key, self.model.keys[key], amount, once)

    def _transfer(self, sender: int, name: str, target: Any, amount: int, once: str | None) -> None:
        answer = self._move("transfer", sender, name, amount, once)
        try:
            self.model.transfer(sender, target, amount, once)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        assert (answer.status, answer.body) == (200, {"transferred": amount}), answer

    @rule(giver=st.just(1) | users, receiver=users, amount=amounts, once=tokens)
    def award(self, giver: int, receiver: int, amount: int, once: str | None) -> None:
        answer = self._move("award", giver, f"ada#{receiver}", amount, once)
        try:
            self.model.award(giver, receiver, amount, once)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        assert (answer.status, answer.body) == (200, {"awarded": amount}), answer

    def _move(self, what: str, user: int, name: str, amount: int, once: str | None) -> Reply:
        return self.cloud.call(
            f"POST /api/v2/kudos/{what}",
            {"username": name, "amount": amount},
            key=self.api_keys[user],
            headers={"idempotency-key": once} if once else None,
        )

    # --- shared keys -----------------------------------------------------------------------------

    @rule(target=keys, user=users, budget=st.just(rulebook.UNLIMITED) | amounts, expiry=days)
    def add_key(self, user: int, budget: int, expiry: int) -> Any:
        return self._add_key(user, budget, expiry)

    def _add_key(self, user: int, budget: int, expiry: int) -> Any:
        body = {"name": "a key", "kudos": budget, "expiry": expiry}
        answer = self.cloud.call("PUT /api/v2/sharedkeys", body, key=self.api_keys[user])
        try:
            key = self.model.add_key(user, budget, expiry)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return multiple()
        assert answer.status == 200, answer
        key.id = answer.body["id"]
        self.model.keys[key.id] = key
        return key.id

    @rule(
        key=keys,
        by=st.none() | users,
        budget=st.none() | amounts | st.sampled_from([0, rulebook.UNLIMITED]),
        expiry=st.none() | days,
    )
    def change_key(self, key: str, by: int | None, budget: int | None, expiry: int | None) -> None:
        """Mostly by its owner."""
        model = self.model.keys[key]
        user = model.owner.id if by is None else by
        answer = self.cloud.call(
            "PATCH /api/v2/sharedkeys/{id}",
            {"kudos": budget, "expiry": expiry},
            key=self.api_keys[user],
            id=key,
        )
        try:
            self.model.change_key(user, model, budget=budget, days=expiry)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        assert answer.status == 200, answer

    @rule(key=keys)
    def delete_key(self, key: str) -> None:
        model = self.model.keys[key]
        answer = self.cloud.call(
            "DELETE /api/v2/sharedkeys/{id}", key=self.api_keys[model.owner.id], id=key
        )
        try:
            self.model.remove_key(model.owner.id, model)
        except rulebook.Refused as refusal:
            assert_refused(answer, refusal)
            return
        assert answer.status == 200, answer

    # --- what is compared ------------------------------------------------------------------------

    @invariant()
    def compare(self) -> None:
        """The table is what the rules say, rewards paid."""
        self.cloud.pay()
        kinds: dict[str, list[Any]] = {
            kind: [] for kind in ("USER", "REQUEST", "GENERATION", "SHAREDKEY", "STATS")
        }
        for item in self.cloud.items():
            kinds.get(item["sk"]["S"], []).append(item)
        users = [from_item(User, item) for item in kinds["USER"]]
        assert {one.id: (one.kudos, one.deleted, len(one.open_images)) for one in users} == {
            one.id: (one.kudos, one.deleted, self.model.open_of(one))
            for one in self.model.accounts.values()
        }
        images = [from_item(Generation, item) for item in kinds["GENERATION"]]
        theirs: dict[str, list[Generation]] = defaultdict(list)
        for image in images:
            theirs[image.request_id].append(image)
        requests = [from_item(Request, item) for item in kinds["REQUEST"]]
        assert {
            one.id: (
                one.cancelled,
                one.faulted,
                one.waived,
                expires_at(one, theirs[one.id]),
                one.shared,
            )
            for one in requests
        } == {
            one.id: (one.cancelled, one.faulted, one.waived, one.expires_at, one.shared)
            for one in self.model.requests.values()
        }
        assert {one.id: (str(one.state), one.attempt, one.worker_user) for one in images} == {
            one.id: (one.state, one.claims, one.holder) for one in self.model.images
        }
        held = {
            image
            for item in kinds["STATS"]
            if item["pk"]["S"].startswith("WORKER#")
            for image in from_item(WorkerStats, item).held
        }
        assert held == {one.id for one in self.model.images if one.state == rulebook.PROCESSING}
        self.cloud.recount()
        keys = [from_item(SharedKey, item) for item in kinds["SHAREDKEY"]]
        assert {one.id: (one.kudos, one.utilized, one.expires_at) for one in keys} == {
            one.id: (one.budget, one.used, one.expires_at)
            for one in self.model.keys.values()
            if not one.removed
        }

    def compare_data_set(self) -> None:
        """The LAION bucket holds exactly what was shared and not withdrawn, as it was delivered."""
        found = self.cloud.archives()
        assert found.keys() == self.model.data_set.keys()
        for image, colour in self.model.data_set.items():
            side = self.model.image(image).request.body.side
            assert found[image][0] == webp(colour, side, side)

    # --- the end ---------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self._serve_the_honest()
                self._let_all_end()
        finally:
            self._stack.close()

    def _serve_the_honest(self) -> None:
        """Whatever happened before: a user pays for images, two workers mean harm, one draws."""
        hostile = [one for one in self.worker_keys if not self.model.accounts[one].deleted][:2]
        user, worker = self._register(), self._register_worker(self._register())
        self.grant(user, 100)
        request = self._ask(self.api_keys[user], user, rulebook.Body(n=4))
        mine = self.model.requests[request]
        for one in hostile:
            self._fault_everything(one)
        while mine.count(rulebook.WAITING):
            self._pass(1)
            jobs = self._pop(worker, amount=20, mixed=True, img2img=True)
            assert jobs, "an honest worker gets what waits"
            for job in jobs:
                self._upload(job)
                self._submit(worker, job, "ok")
        assert mine.count(rulebook.OK) == 4
        self.compare()
        balance = self.model.accounts[user].kudos
        assert balance == rulebook.FLOOR + 100 - 4 * (mine.price + mine.tax)

    def _let_all_end(self) -> None:
        """Workers go, time passes; then everything is settled."""
        for _ in range(3):
            self._pass(LIFE_S)
            self._sweep()
        for request in self.model.requests.values():
            assert not request.count(rulebook.WAITING, rulebook.PROCESSING)
            self._check(request)
        self.compare()
        assert list(self.cloud.due(self.model.now + rulebook.DAY_S)) == []
        self.share(twice=True)
        self.cloud.stream(again=True)
        self.cloud.stream(again=True)
        assert self.cloud.pending["share"] == []
        assert self.cloud.uncounted == []
        total = self.cloud.call("GET /api/v2/stats/img/totals").body["total"]
        assert total["images"] == self.model.delivered
        for account in self.model.accounts.values():
            ledger = [(entry["kind"], entry["amount"]) for entry in self.cloud.ledger(account.id)]
            assert sorted(ledger) == sorted(account.moves)
        self.cloud.audit()


def assert_refused(answer: Reply, refusal: rulebook.Refused) -> None:
    assert 400 <= answer.status < 500, answer
    assert answer.body.get("rc") == refusal.rc, (answer, refusal)


def run(template: dict[str, Any], clients: dict[str, Any], examples: int, steps: int) -> None:
    machine = type("Driven", (Machine,), {"template": template, "clients": clients})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize="FUZZ" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.lengthy
def test_the_system_keeps_the_rules_in_any_order(
    template: dict[str, Any], clients: dict[str, Any]
) -> None:
    run(template, clients, examples=1, steps=40)


@pytest.mark.slow
def test_the_system_keeps_the_rules_in_any_order_for_longer(
    template: dict[str, Any], clients: dict[str, Any]
) -> None:
    run(template, clients, examples=EXAMPLES, steps=50)

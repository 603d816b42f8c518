"""Races, each started at one moment and many times over: one wins, and the books are right.

In process, 32 threads on one table of the local cloud (``tests.support.arena``); the last one over
HTTP through the gateway, against the deployed functions.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from horde import ending
from horde.edge.auth import key_hash
from horde.records import Generation, Request, State, Worker
from horde.rules.accounts import MAX_API_KEYS
from horde.rules.standing import UNMEASURED_HELD
from tests.e2e.conftest import OperatedCloud, small
from tests.support.api_calls import Reply
from tests.support.arena import MODEL, Arena, arena, at_once
from tests.support.numbers import (
    CONCURRENCY,
    FLOOR,
    MAX_FAULTS,
    OVER_S,
    SMALL,
    SMALL_COST,
    SMALL_PRICE,
)
from tests.support.records import DELIVERY

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROUNDS = 20
FEW = 5
"""Rounds of those races whose every call is a whole handler."""
THREADS = 32


@pytest.fixture
def ring(cloud: OperatedCloud, template: dict[str, Any]) -> Iterator[Arena]:
    """A table of the test's own, whose books are proven after it."""
    with arena(template, cloud.local.endpoint) as made:
        yield made
        made.audit()


def rich(ring: Arena, kudos: int = 10_000) -> tuple[int, str]:
    """An account that may have many images waiting."""
    user_id, key = ring.register("ada", kudos)
    user = ring.store.accounts.get(user_id)
    assert user is not None
    assert ring.store.accounts.change(user, {"concurrency": 500})
    return user_id, key


def ask(ring: Arena, key: str, n: int = 1, **fields: Any) -> Request:
    answer = post(ring, key, n, **fields)
    assert answer.status == 202, answer
    request = ring.store.requests.get(answer.body["id"])
    assert request is not None
    return request


def post(ring: Arena, key: str, n: int = 1, **fields: Any) -> Reply:
    return ring.generate(key, params={**SMALL, "n": n}, models=[MODEL], **fields)


def pop(ring: Arena, worker: str, name: str, **fields: Any) -> Reply:
    return ring.pop(worker, name=name, models=[MODEL], **fields)


def owner(ring: Arena) -> tuple[int, str]:
    """The owner of the operator's own workers, which nothing limits, and their key."""
    user, _ = ring.register("owner")
    ring.set_flags(user, fleet=True)
    return user, ring.worker_key(user)


def take(ring: Arena, image: Generation, user: int) -> Generation | None:
    worker = Worker(
        id=str(uuid.uuid4()), name="w", user_id=user, created_at=0, seen_at=0, gone_at=0
    )
    lease_until = ring.clock.now_ms() // 1000 + image.ttl
    return ring.store.queue.claim(image, worker, lease_until=lease_until)


def held(ring: Arena, request: Request, user: int) -> list[Generation]:
    """Give all images of a request to a worker of this account."""
    claims = [take(ring, image, user) for image in ring.store.requests.generations(request)]
    found = [claim for claim in claims if claim]
    assert len(found) == len(request.generations)
    return found


def states(ring: Arena, request: Request) -> Counter[State]:
    return Counter(image.state for image in ring.store.requests.generations(request))


def statuses(answers: list[Reply]) -> Counter[int | str]:
    """Count the answers, a refusal by its rc; no answer may be our fault."""
    assert max(answer.status for answer in answers) < 500, answers
    return Counter(
        answer.status if answer.status < 400 else str(answer.body["rc"]) for answer in answers
    )


def moved(ring: Arena, user: int, kind: str) -> int:
    return sum(entry["amount"] for entry in ring.ledger(user) if entry["kind"] == kind)


# --- images -------------------------------------------------------------------------------------


def test_of_32_claims_of_one_image_one_wins(ring: Arena) -> None:
    _, key = rich(ring)
    for _ in range(ROUNDS):
        (image,) = ring.store.requests.generations(ask(ring, key))
        claims = at_once(*[partial(take, ring, image, number) for number in range(THREADS)])
        (won,) = [claim for claim in claims if claim]
        assert ring.store.requests.generation(image.id) == won
        assert (won.state, won.attempt) == (State.PROCESSING, 1)


def test_32_pops_at_once_share_out_20_images_without_a_double(ring: Arena) -> None:
    _, key = rich(ring)
    _, worker = owner(ring)
    for number in range(THREADS):
        assert pop(ring, worker, f"w{number}").status == 200  # they are known from now on
    for _ in range(FEW):
        request = ask(ring, key, n=20)
        answers = at_once(*[partial(pop, ring, worker, f"w{n}") for n in range(THREADS)])
        assert statuses(answers) == {200: THREADS}
        given = [answer.body["id"] for answer in answers if answer.body["id"]]
        assert sorted(given) == sorted(request.generations)
        assert states(ring, request) == {State.PROCESSING: 20}


def test_16_posts_at_once_do_not_pass_the_limit_of_waiting_images(ring: Arena) -> None:
    for _ in range(FEW):
        _, key = ring.register("ada", 10_000)
        answers = at_once(*[partial(post, ring, key, n=10)] * 16)
        assert statuses(answers) == {202: CONCURRENCY // 10, "TooManyPrompts": 13}


def test_a_volunteers_pops_at_once_hold_no_more_than_it_may(ring: Arena) -> None:
    _, key = rich(ring)
    for _ in range(FEW):
        worker = ring.new_worker("volunteer")
        name = f"w {uuid.uuid4()}"
        known = pop(ring, worker, name)  # from now on; it may get what the last round has left
        assert known.status == 200
        requests = [ask(ring, key, n=20), ask(ring, key, n=20)]
        answers = at_once(*[partial(pop, ring, worker, name, amount=4)] * 8)
        assert statuses(answers) == {200: 8}
        taken = [one for answer in (known, *answers) for one in answer.body["ids"]]
        assert len(taken) == len(set(taken)) <= UNMEASURED_HELD
        while more := pop(ring, worker, name, amount=20).body["ids"]:  # what they left to others
            taken += more
        assert len(taken) == len(set(taken)) == UNMEASURED_HELD
        ring.recount()
        # A fault, an end and a cancellation of the same images at once: each is counted once.
        faults = [partial(ring.submit, worker, one, state="faulted") for one in taken]
        cancels = [partial(ring.cancel, request.id) for request in requests]
        statuses(at_once(*faults, *cancels, *faults))
        ring.recount()


def test_of_32_first_pops_of_one_owner_three_register_a_worker(ring: Arena) -> None:
    for number in range(FEW):
        worker = ring.new_worker("volunteer", trusted=False)
        pops = [partial(pop, ring, worker, f"{number} {one}") for one in range(THREADS)]
        assert statuses(at_once(*pops)) == {200: 3, "TooManyWorkers": THREADS - 3}


def test_of_32_first_pops_of_one_name_one_registers_the_worker(ring: Arena) -> None:
    _, worker = owner(ring)
    for number in range(FEW):
        answers = at_once(*[partial(pop, ring, worker, f"worker {number}")] * THREADS)
        assert statuses(answers) == {200: THREADS}
        assert len(ring.rows("WORKER")) == len(ring.rows("NAME")) == number + 1


@pytest.mark.parametrize("censored", [0, 16, 32])
def test_of_32_submits_of_one_image_one_wins_and_is_paid(ring: Arena, censored: int) -> None:
    user, key = rich(ring)
    paid_user, _ = owner(ring)
    before, refunds = ring.kudos(user), 0
    for round_number in range(1, ROUNDS + 1):
        request = ask(ring, key)
        (image,) = held(ring, request, paid_user)
        ends = [State.CENSORED] * censored + [State.OK] * (THREADS - censored)

        def settle(state: State, request: Request = request, image: Generation = image) -> bool:
            return ring.store.endings.settle(request, image, **{**DELIVERY, "state": state})

        wins = at_once(*[partial(settle, state) for state in ends])
        assert wins.count(True) == 1
        end = ends[wins.index(True)]
        assert states(ring, request) == {end: 1}
        refunds += SMALL_PRICE if end is State.CENSORED else 0
        assert ring.kudos(paid_user) == FLOOR + round_number * SMALL_PRICE
        assert ring.kudos(user) == before - round_number * SMALL_COST + refunds
    assert len(ring.ledger(paid_user)) == 1 + ROUNDS


def test_a_late_worker_never_wins_against_the_one_that_holds_the_image(ring: Arena) -> None:
    _, key = rich(ring)
    (late, _), (second, _) = owner(ring), owner(ring)
    for round_number in range(1, ROUNDS + 1):
        request = ask(ring, key)
        (lost,) = held(ring, request, late)
        assert ring.store.endings.requeue(request, lost)
        (image,) = held(ring, request, second)

        def settle(claim: Generation, request: Request = request) -> bool:
            return ring.store.endings.settle(request, claim, **DELIVERY)

        wins = at_once(*[partial(settle, claim) for claim in (lost, image) * 8])
        assert wins.count(True) == 1
        assert wins.index(True) % 2 == 1
        assert (ring.kudos(late), ring.kudos(second)) == (FLOOR, FLOOR + round_number)


def test_of_32_submit_calls_one_is_thanked_and_the_others_are_told(ring: Arena) -> None:
    _, key = rich(ring)
    _, worker = owner(ring)
    for _ in range(FEW):
        ask(ring, key)
        job = pop(ring, worker, "w").body
        ring.upload(job["r2_upload"])
        answers = at_once(*[partial(ring.submit, worker, job["id"])] * THREADS)
        assert statuses(answers) == {200: 1, "DuplicateGen": THREADS - 1}


def test_a_submit_and_a_fault_of_one_image_at_once_are_one_end(ring: Arena) -> None:
    user, key = rich(ring)
    paid_user, worker = owner(ring)
    before, drawn = ring.kudos(user), 0
    for _ in range(FEW):
        request = ask(ring, key)
        job = pop(ring, worker, "w").body
        ring.upload(job["r2_upload"])
        calls = [
            partial(ring.submit, worker, job["id"], state="faulted" if number % 2 else "ok")
            for number in range(THREADS)
        ]
        assert set(statuses(at_once(*calls))) <= {200, "DuplicateGen", "AbortedGen"}
        found = states(ring, request)
        assert found in ({State.OK: 1}, {State.WAITING: 1})
        drawn += found[State.OK]
        assert ring.kudos(paid_user) == FLOOR + drawn * SMALL_PRICE
        ring.cancel(request.id)
        assert ring.kudos(user) == before - drawn * SMALL_COST


def test_a_pop_and_a_cancel_at_once_leave_each_image_held_or_refunded(ring: Arena) -> None:
    user, key = rich(ring)
    paid_user, worker = owner(ring)
    for _ in range(FEW):
        before = ring.kudos(user)
        request = ask(ring, key, n=16)
        pops = [partial(pop, ring, worker, f"w{n}", amount=2) for n in range(8)]
        cancels = [partial(ring.cancel, request.id)] * 2
        answers = at_once(*pops[:4], *cancels, *pops[4:])
        assert set(statuses(answers)) == {200}
        given = [one for answer in answers for one in answer.body.get("ids", [])]
        assert len(set(given)) == len(given)
        found = {image.id: image.state for image in ring.store.requests.generations(request)}
        assert {one for one, state in found.items() if state is State.PROCESSING} == set(given)
        assert set(found.values()) <= {State.PROCESSING, State.CANCELLED}
        assert ring.kudos(user) == before - SMALL_COST * len(given)
        # Nothing that is given back now is drawn again.
        if given:
            faults = [partial(ring.submit, worker, one, state="faulted") for one in given]
            assert statuses(at_once(*faults)) == {200: len(given)}
        assert states(ring, request) == {State.CANCELLED: 16}
        assert ring.kudos(user) == before
    assert ring.kudos(paid_user) == FLOOR


def test_a_fault_and_a_cancel_at_once_revive_nothing(ring: Arena) -> None:
    user, key = rich(ring)
    _, worker = owner(ring)
    for _ in range(FEW):
        before = ring.kudos(user)
        request = ask(ring, key, n=8)
        given = pop(ring, worker, "w", amount=8).body["ids"]
        faults = [partial(ring.submit, worker, one, state="faulted") for one in given]
        answers = at_once(*faults[:4], *[partial(ring.cancel, request.id)] * 4, *faults[4:])
        assert set(statuses(answers)) == {200}
        ring.sweep()  # ends what was requeued before the flag was there
        assert states(ring, request) == {State.CANCELLED: 8}
        assert ring.kudos(user) == before


def test_faults_that_were_decided_before_a_cancel_and_come_after_it_revive_nothing(
    ring: Arena,
) -> None:
    user, key = rich(ring)
    paid_user, _ = owner(ring)
    for _ in range(FEW):
        before = ring.kudos(user)
        request = ask(ring, key, n=8)
        images = held(ring, request, paid_user)
        ring.cancel(request.id)
        at_once(*[partial(ending.fault, ring.store, request, image) for image in images * 4])
        assert states(ring, request) == {State.CANCELLED: 8}
        assert ring.kudos(user) == before


def test_a_submit_and_the_end_of_its_request_at_once_are_one_end(ring: Arena) -> None:
    user, key = rich(ring)
    paid_user, worker = owner(ring)
    before, drawn = ring.kudos(user), 0
    for _ in range(FEW):
        request = ask(ring, key, n=6)
        jobs = pop(ring, worker, "w", amount=4).body
        for url in jobs["r2_uploads"]:
            ring.upload(url)
        ring.clock.pass_seconds(OVER_S)  # the leases are over, and so is the request
        submits = [partial(ring.submit, worker, one) for one in jobs["ids"]]
        answers = at_once(*submits[:2], *[ring.sweep] * 3, *submits[2:])
        done = statuses([answer for answer in answers if isinstance(answer, Reply)])
        assert set(done) <= {200, "AbortedGen", "InvalidJobID"}
        drawn += done[200]
        found = states(ring, request)
        assert found[State.OK] == done[200]
        ring.clock.pass_seconds(OVER_S)
        ring.sweep()
        found = states(ring, request)
        assert found == {State.OK: done[200], State.EXPIRED: 6 - done[200]}
        assert ring.kudos(user) == before - drawn * SMALL_COST
        assert ring.kudos(paid_user) == FLOOR + drawn * SMALL_PRICE


def test_sweeps_at_once_do_each_thing_once(ring: Arena) -> None:
    user, key = rich(ring)
    _, worker = owner(ring)
    for _ in range(FEW):
        before = ring.kudos(user)
        lost = [ask(ring, key, n=2) for _ in range(3)]
        for _ in range(MAX_FAULTS - 1):  # the last fault comes with the sweeps
            for one in pop(ring, worker, "w", amount=20, mixed_batch=True).body["jobs"]:
                ring.submit(worker, one["id"], state="faulted")
        assert len(pop(ring, worker, "w", amount=4, mixed_batch=True).body["jobs"]) == 4
        requeued = ask(ring, key, n=4)
        assert len(pop(ring, worker, "w", amount=20, mixed_batch=True).body["jobs"]) == 6
        ring.clock.pass_seconds(200)  # leases are over, requests are not
        at_once(*[ring.sweep] * 4)
        for request in lost:
            assert states(ring, request) == {State.FAULTED: 2}
        assert states(ring, requeued) == {State.WAITING: 4}
        assert ring.kudos(user) == before - 4 * SMALL_COST
        ring.clock.pass_seconds(OVER_S)  # all are over
        at_once(*[ring.sweep] * 4)
        assert states(ring, requeued) == {State.EXPIRED: 4}
        assert ring.kudos(user) == before
        assert [image.attempt for image in ring.store.requests.generations(requeued)] == [1] * 4


# --- kudos --------------------------------------------------------------------------------------


def test_transfers_both_ways_at_once_go_one_way(ring: Arena) -> None:
    (ada, ada_key), (bob, bob_key) = ring.register("ada", 1000), ring.register("bob", 1000)
    for _ in range(FEW):
        before = ring.kudos(ada), ring.kudos(bob)
        there = [partial(ring.transfer, ada_key, f"bob#{bob}", 10)] * 16
        back = [partial(ring.transfer, bob_key, f"ada#{ada}", 7)] * 16
        answers = at_once(*[call for pair in zip(there, back, strict=True) for call in pair])
        assert statuses(answers) == {200: 16, "TooFastKudosTransfers": 16}
        amounts = {answer.body["transferred"] for answer in answers if answer.status == 200}
        gone = {10: (-160, 160), 7: (112, -112)}[amounts.pop()]
        assert not amounts
        assert (ring.kudos(ada), ring.kudos(bob)) == (before[0] + gone[0], before[1] + gone[1])
        ring.clock.pass_seconds(61)


def test_32_transfers_with_one_idempotency_key_move_kudos_once(ring: Arena) -> None:
    (ada, key), (bob, _) = ring.register("ada", 1000), ring.register("bob")
    for number in range(1, FEW + 1):
        calls = [partial(ring.transfer, key, f"bob#{bob}", 10, once=f"round {number}")] * THREADS
        answers = at_once(*calls)
        assert statuses(answers) == {200: THREADS}
        assert (ring.kudos(ada), ring.kudos(bob)) == (
            FLOOR + 1000 - 10 * number,
            FLOOR + 10 * number,
        )


def test_transfers_and_posts_at_once_spend_no_more_than_there_is(ring: Arena) -> None:
    bob, _ = ring.register("bob")
    for _ in range(FEW):
        ada, key = rich(ring, 100)
        before = ring.kudos(bob)
        transfers = [partial(ring.transfer, key, f"bob#{bob}", 10)] * 16
        posts = [partial(post, ring, key)] * 16
        answers = at_once(*[call for pair in zip(transfers, posts, strict=True) for call in pair])
        found = statuses(answers)
        assert set(found) <= {200, 202, "KudosTransferNotEnough"}
        assert found[202] == 16  # what they could not pay is waived
        given, paid = 10 * found[200], -moved(ring, ada, "GENERATION")
        assert ring.kudos(ada) == FLOOR + 100 - given - paid >= FLOOR
        assert ring.kudos(bob) == before + given
        requests = [answer.body["id"] for answer in answers if answer.status == 202]
        assert statuses(at_once(*[partial(ring.cancel, one) for one in requests])) == {200: 16}
        assert ring.kudos(ada) == FLOOR + 100 - given


def test_32_posts_with_a_shared_key_spend_its_budget_and_no_more(ring: Arena) -> None:
    ada, key = rich(ring)
    for _ in range(FEW):
        before = ring.kudos(ada)
        made = ring.call(
            "PUT /api/v2/sharedkeys", {"name": "key", "kudos": 10 * SMALL_COST}, key=key
        )
        shared = made.body["id"]
        answers = at_once(*[partial(post, ring, shared)] * THREADS)
        found = statuses(answers)
        refusals = {"SharedKeyEmpty", "SharedKeyInsufficientKudos"}
        assert found[202] == 10
        assert set(found) <= {202, *refusals}
        assert ring.kudos(ada) == before - 10 * SMALL_COST
        left = ring.store.sharedkeys.get(shared)
        assert left is not None
        assert (left.kudos, left.utilized) == (0, 10 * SMALL_COST)
        requests = [answer.body["id"] for answer in answers if answer.status == 202]
        at_once(*[partial(ring.cancel, one) for one in requests])
        left = ring.store.sharedkeys.get(shared)
        assert left is not None
        assert (left.kudos, left.utilized) == (10 * SMALL_COST, 0)
        assert ring.kudos(ada) == before
        ring.call("DELETE /api/v2/sharedkeys/{id}", key=key, id=shared)


def test_32_posts_of_a_user_with_little_kudos_pay_what_there_is_and_get_that_back(
    ring: Arena,
) -> None:
    spendable = 50
    ada, key = rich(ring, spendable)
    for _ in range(FEW):
        answers = at_once(*[partial(post, ring, key)] * THREADS)
        assert statuses(answers) == {202: THREADS}
        assert ring.kudos(ada) == FLOOR
        requests = [ring.store.requests.get(answer.body["id"]) for answer in answers]
        assert sum(one.waived for one in requests if one) == THREADS * SMALL_COST - spendable
        at_once(*[partial(ring.cancel, one.id) for one in requests if one])
        assert ring.kudos(ada) == FLOOR + spendable


@pytest.mark.parametrize("affordable", [1, 3])
def test_of_16_posts_that_need_kudos_upfront_those_that_are_paid_are_taken(
    ring: Arena, affordable: int
) -> None:
    """The balance pays for so many, and a kudo less than for one more."""
    large: dict[str, Any] = {"params": {"width": 2048, "height": 2048, "steps": 50}}
    _, curious = ring.register("curious")
    cost = ring.generate(curious, **large, models=[MODEL], dry_run=True).body["kudos"]
    for _ in range(FEW):
        spendable = (affordable + 1) * cost - 1
        ada, key = rich(ring, spendable)
        made = ring.call("PUT /api/v2/sharedkeys", {"name": "key", "kudos": -1}, key=key)
        calls = [
            partial(ring.generate, one, **large, models=[MODEL]) for one in (key, made.body["id"])
        ]
        answers = at_once(*calls * 8)
        assert statuses(answers) == {202: affordable, "KudosUpfront": 16 - affordable}
        assert ring.kudos(ada) == FLOOR + spendable - affordable * cost
        requests = [answer.body["id"] for answer in answers if answer.status == 202]
        assert statuses(at_once(*[partial(ring.cancel, one) for one in requests])) == {
            200: affordable
        }
        assert ring.kudos(ada) == FLOOR + spendable


def test_images_that_end_at_once_give_back_what_was_paid_for_all_of_them(ring: Arena) -> None:
    spendable = 30
    ada, key = rich(ring, spendable)
    _, worker = owner(ring)
    for _ in range(FEW):
        request = ask(ring, key, n=20)
        assert (ring.kudos(ada), request.waived) == (FLOOR, 20 * SMALL_COST - spendable)
        given = pop(ring, worker, "w", amount=20).body["ids"]
        ring.cancel(request.id)
        faults = [partial(ring.submit, worker, one, state="faulted") for one in given]
        assert set(statuses(at_once(*faults, *[partial(ring.cancel, request.id)] * 4))) == {200}
        assert states(ring, request) == {State.CANCELLED: 20}
        assert ring.kudos(ada) == FLOOR + spendable


def test_of_32_ratings_of_one_request_one_is_kept_and_paid(ring: Arena) -> None:
    ada, key = rich(ring)
    _, worker = owner(ring)
    for _ in range(FEW):
        request = ask(ring, key, n=2, shared=True)
        jobs = pop(ring, worker, "w", amount=2).body
        for one, url in zip(jobs["ids"], jobs["r2_uploads"], strict=True):
            ring.upload(url)
            assert ring.submit(worker, one).status == 200
        before = ring.kudos(ada)
        bodies = [{"ratings": [{"id": one, "rating": 5}]} for one in jobs["ids"]]
        route = "POST /api/v2/generate/rate/{id}"
        calls = [partial(ring.call, route, body, id=request.id) for body in bodies]
        answers = at_once(*calls * (THREADS // 2))
        assert statuses(answers) == {200: 1, "AestheticsAlreadyExist": THREADS - 1}
        assert ring.kudos(ada) == before + 2 * SMALL_PRICE


# --- accounts and their keys ----------------------------------------------------------------------


def delete(ring: Arena, key: str, user: int) -> Reply:
    return ring.call("DELETE /api/v2/users/{id}", key=key, id=str(user))


def test_posts_and_a_deletion_at_once_leave_nothing_that_waits(ring: Arena) -> None:
    """A request that the deletion did not see is refused by the condition of its charge."""
    for _ in range(FEW):
        ada, key = rich(ring)
        before = ring.kudos(ada)
        posts = [partial(post, ring, key)] * (THREADS - 1)
        answers = at_once(*posts[:8], partial(delete, ring, key, ada), *posts[8:])
        assert set(statuses(answers)) <= {200, 202, "DeletedUser"}
        ring.clock.pass_seconds(61)
        ring.sweep()
        images = [row for row in ring.rows("GENERATION") if row["user_id"]["N"] == str(ada)]
        assert {row["state"]["S"] for row in images} <= {"cancelled"}
        assert ring.kudos(ada) == before
        assert statuses([post(ring, key)]) == {"DeletedUser": 1}


def test_of_32_rotations_of_one_key_one_makes_a_key(ring: Arena) -> None:
    ada, key = ring.register("ada")
    for _ in range(ROUNDS):
        name = ring.store.keys.of_user(ada)[0].id
        rotate = partial(ring.call, "POST /api/v2/keys/{id}/rotate", key=key, id=name)
        answers = at_once(*[rotate] * THREADS)
        # Those that come after the winner are not even let in.
        assert statuses(answers)[200] == 1
        assert set(statuses(answers)) <= {200, "KeyNotFound", "InvalidAPIKey"}
        (key,) = [answer.body["api_key"] for answer in answers if answer.status == 200]
        (left,) = ring.store.keys.of_user(ada)
        assert left.hash == key_hash(key)


def test_revocations_of_all_keys_at_once_leave_one(ring: Arena) -> None:
    for _ in range(FEW):
        ada, first = ring.register("ada")
        add = partial(ring.call, "POST /api/v2/keys", {}, key=first)
        keys = [first, *(add().body["api_key"] for _ in range(MAX_API_KEYS - 1))]
        calls = [
            partial(ring.call, "DELETE /api/v2/keys/{id}", key=key, id=key_hash(key)[:12])
            for key in keys
        ]
        answers = at_once(*calls)
        assert statuses(answers) == {200: MAX_API_KEYS - 1, "LastAccountKey": 1}
        assert len(ring.store.keys.of_user(ada)) == 1


def test_of_32_new_keys_at_once_there_are_as_many_as_may_be(ring: Arena) -> None:
    ada, key = ring.register("ada")
    answers = at_once(*[partial(ring.call, "POST /api/v2/keys", {}, key=key)] * THREADS)
    left = MAX_API_KEYS - 1
    assert statuses(answers) == {201: left, "TooManyKeys": THREADS - left}
    assert len(ring.store.keys.of_user(ada)) == MAX_API_KEYS


def test_a_refund_and_a_disabled_shared_key_at_once_leave_it_disabled(ring: Arena) -> None:
    _, key = rich(ring)
    for _ in range(FEW):
        made = ring.call("PUT /api/v2/sharedkeys", {"name": "ours", "kudos": 500}, key=key).body
        requests = [ask(ring, made["id"], n=2) for _ in range(8)]
        disable = partial(
            ring.call, "PATCH /api/v2/sharedkeys/{id}", {"kudos": 0}, key=key, id=made["id"]
        )
        cancels = [partial(ring.cancel, request.id) for request in requests]
        assert set(statuses(at_once(*cancels[:4], disable, *cancels[4:]))) == {200}
        shared = ring.store.sharedkeys.get(made["id"])
        assert shared is not None
        assert (shared.kudos, shared.utilized) == (0, 0)
        assert ring.call("DELETE /api/v2/sharedkeys/{id}", key=key, id=made["id"]).status == 200


# --- a table that refuses and loses ---------------------------------------------------------------


def post_at_once(ring: Arena, key: str, count: int) -> list[str]:
    """Post at once; returns the requests, after all of them were cancelled."""
    answers = at_once(*[partial(post, ring, key)] * count)
    assert statuses(answers) == {202: count}
    requests = [str(answer.body["id"]) for answer in answers]
    assert len(set(requests)) == count
    return requests


@pytest.mark.parametrize("count", [32, 64])
def test_posts_at_once_are_all_taken_where_transactions_meet(ring: Arena, count: int) -> None:
    """A table that is as strict as DynamoDB: of two transactions on one item one is refused."""
    ada, key = rich(ring)
    before = ring.kudos(ada)
    with ring.wire.bad(flight_s=0.01) as wire:
        requests = post_at_once(ring, key, count)
        assert wire.conflicts > 0
        print(f"{count} posts: {wire.transactions} transactions, {wire.conflicts} refused")  # noqa: T201
    assert ring.kudos(ada) == before - count * SMALL_COST
    assert len([one for one in ring.ledger(ada) if one["kind"] == "GENERATION"]) == count
    for one in requests:
        assert ring.store.requests.get(one) is not None


def test_every_flow_gets_through_where_transactions_meet(ring: Arena) -> None:
    """Cancels, pops, submits and sweeps of the same images at once, and no answer is a 5xx."""
    ada, key = rich(ring)
    _, worker = owner(ring)
    before = ring.kudos(ada)
    with ring.wire.bad(flight_s=0.02) as wire:
        for _ in range(FEW):
            requests = [ask(ring, key, n=4) for _ in range(4)]
            jobs = pop(ring, worker, "w", amount=4).body
            for url in jobs["r2_uploads"]:
                ring.upload(url)
            calls: list[Callable[[], Any]] = [
                *[partial(ring.submit, worker, one) for one in jobs["ids"]],
                *[partial(ring.submit, worker, one, state="faulted") for one in jobs["ids"]],
                *[partial(ring.cancel, request.id) for request in requests],
                *[partial(pop, ring, worker, "w", amount=4)] * 4,
                *[partial(ring.cancel, request.id) for request in requests],
                ring.sweep,
                ring.sweep,
            ]
            answers = at_once(*calls)
            assert set(statuses([one for one in answers if isinstance(one, Reply)])) <= {
                200,
                "DuplicateGen",
                "AbortedGen",
            }
            ring.clock.pass_seconds(200)
            ring.sweep()
        assert wire.conflicts > 0
    for _ in range(2):
        ring.clock.pass_seconds(OVER_S)
        ring.sweep()
    drawn = sum(1 for row in ring.rows("GENERATION") if row["state"]["S"] == "ok")
    assert ring.kudos(ada) == before - drawn * SMALL_COST


def test_an_answer_that_was_lost_moves_nothing_twice(ring: Arena) -> None:
    (ada, key), (bob, _) = rich(ring), ring.register("bob")
    paid_user, worker = owner(ring)
    before = ring.kudos(ada)
    with ring.wire.bad(lose=2, conflict=3) as wire:
        requests = [ask(ring, key) for _ in range(8)]
        for _ in range(8):
            assert ring.transfer(key, f"bob#{bob}", 10).status == 200
        job = pop(ring, worker, "w").body
        ring.upload(job["r2_upload"])
        assert ring.submit(worker, job["id"]).status == 200
        for request in requests:
            assert ring.cancel(request.id).status == 200
        assert wire.lost > 0
        assert wire.conflicts > 0
    assert ring.kudos(paid_user) == FLOOR + SMALL_PRICE
    assert ring.kudos(bob) == FLOOR + 80
    assert ring.kudos(ada) == before - 80 - SMALL_COST


# --- over HTTP -----------------------------------------------------------------------------------


def test_32_posts_at_once_through_the_gateway_are_charged_exactly(
    cloud: OperatedCloud, model: str
) -> None:
    client = cloud.user()
    account = client.expect(200, "GET", "/api/v2/find_user")
    user = cloud.local.store.accounts.get(account["id"])
    assert user is not None
    assert cloud.local.store.accounts.change(user, {"concurrency": 500})
    before = account["kudos"]
    body = small(models=[model])
    calls = [partial(client.call, "POST", "/api/v2/generate/async", body)] * THREADS
    answers = at_once(*calls)
    others = [answer.data[:200] for answer in answers if answer.status != 202]
    assert Counter(answer.status for answer in answers) == {202: THREADS}, others
    accepted = [json.loads(answer.data) for answer in answers]
    assert len({answer["id"] for answer in accepted}) == THREADS
    assert (
        before - client.kudos()
        == sum(answer["kudos"] for answer in accepted)
        == THREADS * SMALL_COST
    )
    cancels = [partial(client.cancel, answer["id"]) for answer in accepted]
    assert len(at_once(*cancels)) == THREADS
    assert client.kudos() == before

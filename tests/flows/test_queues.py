"""Queues: what a pop costs and finds, whatever waits and however many models it offers."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from moto.dynamodb.models import dynamodb_backends

from horde.claiming import FEW_MODELS, MAX_READS
from horde.planning import MAX_MODELS
from horde.records import Generation, State
from horde.rules.estimates import DEFAULT_SPEED
from horde.rules.marks import GRACE_S, LAPSE_S
from horde.rules.places import MIN_LIFE_MS
from horde.store import registry
from horde.store.items import TTL, Kind, key
from horde.store.places import RENEWAL_MS
from horde.store.queuenames import model_target, queue_of
from horde.store.requests import waiting_item
from tests.support.api_calls import ANONYMOUS, Reply
from tests.support.cloud import Cloud, fresh_cloud
from tests.support.counting import Counted, counted
from tests.support.moto_aws import ACCOUNT, REGION
from tests.support.numbers import SMALL
from tests.support.records import IMAGE

MODEL = "stable_diffusion"
CALLS = 5
"""Calls of a pop of one image, once its worker is known."""
SMALL_PIXELS = 64 * 64


@pytest.fixture
def full(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[Cloud]:
    """A cloud whose queues are filled by hand: its books need not be right."""
    with fresh_cloud(template, clients) as made:
        yield made


def fill(cloud: Cloud, n: int, **fields: Any) -> list[str]:
    """Put images of nobody's requests into their queue, each worse than the one before."""
    images = [
        replace(
            IMAGE,
            id=f"00000000-0000-4000-8000-{number:012x}",
            request_id=f"11111111-0000-4000-8000-{number:012x}",
            model=MODEL,
            user_id=0,
            priority=10**15 - number,
            extra_slow_workers=False,
            **fields,
        )
        for number in range(n)
    ]
    rows = dynamodb_backends[ACCOUNT][REGION].tables[cloud.table]
    for image in images:
        rows.put_item(waiting_item(image, queue_of(image)))
    cloud.store.registry.mark(queue_of(images[0]), images[0].priority)
    return [image.id for image in images]


def known(cloud: Cloud, worker: str, **offer: Any) -> None:
    """Make a worker known: its next pop writes nothing but claims."""
    cloud.pop(worker, **{"max_pixels": 1, **offer})


def popped(cloud: Cloud, worker: str, **offer: Any) -> tuple[Any, Counted]:
    with counted() as made:
        answer = cloud.pop(worker, **offer)
    assert answer.status == 200, answer
    return answer.body, made


def ask(cloud: Cloud, **fields: Any) -> Reply:
    """Ask for one small image, of models that nobody may draw, as an account may."""
    known = "models" not in fields
    key = ANONYMOUS if known else cloud.register("asker", kudos=1000)[1]
    answer = cloud.generate(key, **{"params": SMALL, **fields})
    assert answer.status == 202, answer
    return answer


def asked(cloud: Cloud, **fields: Any) -> str:
    """Ask for one image, and return its id."""
    answer = ask(cloud, **fields)
    request = cloud.store.requests.get(answer.body["id"])
    assert request is not None
    return request.generations[0]


@contextmanager
def other_process() -> Iterator[None]:
    """Run what is inside as a process that remembers nothing of this one, which learns nothing."""
    mine = dict(registry._views), dict(registry._best)
    registry.clear_cache()
    yield
    registry.clear_cache()
    registry._views.update(mine[0])
    registry._best.update(mine[1])


# --- what a pop costs -----------------------------------------------------------------------------


def test_a_pop_of_one_image_is_five_calls_and_few_read_units(cloud: Cloud, worker: str) -> None:
    known(cloud, worker)
    image = asked(cloud)
    job, made = popped(cloud, worker)
    assert job["id"] == image
    assert len(made.calls) <= CALLS, made.calls
    assert made.read_units < 15


def test_a_pop_that_finds_nothing_reads_no_queue_twice(cloud: Cloud, worker: str) -> None:
    known(cloud, worker)
    job, made = popped(cloud, worker)
    assert (job["id"], made.queues) == (None, [])
    assert len(made.calls) <= 3, made.calls


def test_a_pop_right_after_an_empty_one_finds_what_began_to_wait(cloud: Cloud, worker: str) -> None:
    cloud.clock.freeze()
    assert cloud.pop(worker).body["id"] is None
    with other_process():
        image = asked(cloud)
    assert cloud.pop(worker).body["id"] == image


BLOCKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nsfw": ({"nsfw": True}, {"nsfw": False}),
    "img2img": ({"img2img": True}, {"allow_img2img": False}),
    "painting": ({"img2img": True, "painting": True}, {"allow_painting": False}),
    "size": ({"pixels": 1024 * 1024}, {"max_pixels": 512 * 512}),
    "trusted": ({"trusted_only": True}, {}),
    "steps": ({"steps": 100}, {"limit_max_steps": True}),
    "slow": ({}, {"extra_slow_worker": True}),
    "named worker": ({"workers": ["x"]}, {}),
    "exact size": ({"pixels": SMALL_PIXELS}, {"max_pixels": SMALL_PIXELS - 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_a_drawable_image_behind_1600_others_is_found_at_once(full: Cloud, block: str) -> None:
    fields, offer = BLOCKS[block]
    worker = full.new_worker("volunteer", trusted=False)
    known(full, worker, **offer)
    fill(full, 1600, **fields)
    drawable: dict[str, Any] = {"nsfw": False, "extra_slow_workers": True, "steps": 1, "pixels": 1}
    image = replace(IMAGE, id=f"{7:032x}", model=MODEL, user_id=0, priority=-1, **drawable)
    full.store.registry.mark(queue_of(image), image.priority)
    full.store.table.put(waiting_item(image, queue_of(image)))
    with counted() as made:
        answer = full.pop(worker, **offer)
    found = full.store.requests.generation(image.id)
    assert found is not None
    assert found.state is State.PROCESSING, answer.body
    assert len(made.calls) <= CALLS + 2, made.calls
    assert len(made.calls) <= CALLS or block in {"exact size", "named worker"}


@pytest.mark.slow
@pytest.mark.parametrize("waiting", [100, 10_000])
def test_a_pop_costs_the_same_whatever_waits(full: Cloud, waiting: int) -> None:
    worker = full.new_worker("volunteer")
    known(full, worker)
    ids = fill(full, waiting)
    assert_level(full, worker, ids[0])


def assert_level(cloud: Cloud, worker: str, best: str) -> None:
    _, made = popped(cloud, worker)
    found = cloud.store.requests.generation(best)
    assert found is not None
    assert found.state is State.PROCESSING
    assert made.calls == [
        "BatchGetItem",
        "BatchGetItem",
        "Query",
        "TransactWriteItems",
        "UpdateItem",
    ]
    assert made.read_units < 15


@pytest.mark.parametrize("models", [1, FEW_MODELS, FEW_MODELS + 1, 300])
def test_a_pop_costs_the_same_however_many_models_it_offers(
    cloud: Cloud, worker: str, models: int
) -> None:
    offered = [MODEL, *(f"model {number}" for number in range(models - 1))]
    cloud.pop(worker, models=offered)
    image = asked(cloud, models=[offered[-1]])
    job, made = popped(cloud, worker, models=offered)
    assert job["id"] == image
    assert len(made.calls) <= CALLS + (models > FEW_MODELS), made.calls
    assert made.read_units < FEW_MODELS + 20


def test_the_first_pop_of_a_minute_writes_little_for_300_models(cloud: Cloud, worker: str) -> None:
    offered = [f"model {number}" for number in range(300)]
    cloud.pop(worker, models=offered)
    cloud.clock.pass_seconds(61)
    _, made = popped(cloud, worker, models=offered)
    assert len(made.calls) <= 8, made.calls


# --- priority -------------------------------------------------------------------------------------


def test_priority_is_exact_across_queues_and_models(cloud: Cloud, worker: str) -> None:
    keys = [cloud.register(f"u{number}", kudos=10_000 - 1000 * number)[1] for number in range(6)]
    wanted: tuple[dict[str, Any], ...] = (
        {},
        {"nsfw": False},
        {"params": {**SMALL, "width": 1024, "height": 1024}},
    )
    expected = []
    for number, key_of_user in enumerate(keys):
        fields = {"models": [MODEL if number % 2 else "b"], "params": SMALL}
        answer = cloud.generate(key_of_user, **{**fields, **wanted[number % 3]})
        assert answer.status == 202, answer
        expected.append(answer.body["id"])
    offer = {"models": [MODEL, "b"], "max_pixels": 2**24}
    served = []
    for _ in keys:
        job, made = popped(cloud, worker, **offer)
        image = cloud.store.requests.generation(job["id"])
        assert image is not None
        served.append(image.request_id)
        assert len(made.queues) <= MAX_READS
    assert served == expected


def test_a_richer_image_that_comes_later_is_served_first(cloud: Cloud, worker: str) -> None:
    poor = asked(cloud, nsfw=False)
    _, key_of_user = cloud.register("ada", kudos=1000)
    known(cloud, worker)
    rich = asked_by(cloud, key_of_user, nsfw=True)
    richer = asked_by(cloud, cloud.register("eve", kudos=9000)[1], nsfw=False)
    assert [cloud.pop(worker).body["id"] for _ in range(3)] == [richer, rich, poor]


def asked_by(cloud: Cloud, key_of_user: str, **fields: Any) -> str:
    answer = cloud.generate(key_of_user, params=SMALL, **fields)
    request = cloud.store.requests.get(answer.body["id"])
    assert request is not None
    return request.generations[0]


# --- preferred accounts ---------------------------------------------------------------------------


def test_ten_named_accounts_without_images_cost_a_read_unit_each(cloud: Cloud, worker: str) -> None:
    named = [f"u{n}#{cloud.register(f'u{n}')[0]}" for n in range(10)]
    known(cloud, worker)
    image = asked(cloud)
    job, made = popped(cloud, worker, priority_usernames=named)
    assert job["id"] == image
    assert len(made.calls) <= CALLS
    assert made.read_units < 30


def test_a_named_accounts_image_is_served_before_better_ones(cloud: Cloud, worker: str) -> None:
    user, poor = cloud.register("poor", kudos=20)
    _, rich = cloud.register("rich", kudos=10_000)
    known(cloud, worker)
    asked_by(cloud, rich)
    image = asked_by(cloud, poor)
    job, made = popped(cloud, worker, priority_usernames=[f"poor#{user}"])
    assert job["id"] == image
    assert len(made.calls) <= CALLS + 1


# --- marks ----------------------------------------------------------------------------------------


def marks(cloud: Cloud) -> dict[str, Any]:
    found = cloud.store.registry.read([model_target(MODEL)])
    return {queue.needs: mark for queue, mark in found.items()}


def test_the_mark_of_a_queue_lapses_only_after_it_was_seen_empty_twice(
    cloud: Cloud, worker: str
) -> None:
    known(cloud, worker)
    asked(cloud)
    assert cloud.pop(worker).body["id"]
    assert cloud.pop(worker).body["id"] is None
    (mark,) = marks(cloud).values()
    assert not mark.empty_at, "a moment after it was marked"
    cloud.clock.pass_seconds(GRACE_S)
    cloud.pop(worker)
    (mark,) = marks(cloud).values()
    assert mark.empty_at
    cloud.clock.pass_seconds(LAPSE_S - 1)
    cloud.pop(worker)
    assert marks(cloud)
    cloud.clock.pass_seconds(1)
    cloud.pop(worker)
    assert marks(cloud) == {}
    item = cloud.store.table.get(key(Kind.QUEUES, model_target(MODEL)))
    assert item is not None
    assert TTL in item
    assert "wait_queue" not in item


def test_an_image_whose_process_did_not_know_that_its_queue_was_seen_empty_is_found(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process believed a mark that another one changed a moment later."""
    known(cloud, worker)
    first = asked(cloud)
    assert cloud.pop(worker).body["id"] == first
    cloud.clock.pass_seconds(GRACE_S)
    assert cloud.pop(worker).body["id"] is None
    for seconds in (0, GRACE_S, LAPSE_S - GRACE_S):
        cloud.clock.pass_seconds(seconds)
        with monkeypatch.context() as patch:
            patch.setattr(type(cloud.store.registry), "mark", lambda *_: None)
            image = asked(cloud)
        assert cloud.pop(worker).body["id"] == image
        assert cloud.pop(worker).body["id"] is None


def test_the_sweep_unmarks_empty_queues_that_nobody_pops_from(cloud: Cloud) -> None:
    request = cloud.generate().body["id"]
    assert marks(cloud)
    cloud.cancel(request)
    for _ in range(2):
        cloud.clock.pass_seconds(LAPSE_S)
        cloud.sweep()
    assert marks(cloud) == {}


def test_a_requeued_image_is_marked_again(cloud: Cloud, worker: str) -> None:
    image = asked(cloud)
    assert cloud.pop(worker).body["id"] == image
    for seconds in (GRACE_S, LAPSE_S):
        cloud.clock.pass_seconds(seconds)
        cloud.pop(worker)
    assert marks(cloud) == {}
    assert cloud.submit(worker, image, state="faulted").status == 200
    assert marks(cloud)
    assert cloud.pop(cloud.new_worker("other"), name="other").body["id"] == image


# --- places ---------------------------------------------------------------------------------------


def test_a_check_of_a_waiting_request_is_two_calls_and_reads_no_queue(cloud: Cloud) -> None:
    requests = [cloud.generate(params=SMALL).body["id"] for _ in range(3)]
    assert cloud.check(requests[2]).body["queue_position"] == 3
    for number, request in enumerate(requests):
        with counted() as made:
            shown = cloud.check(request).body
        assert shown["queue_position"] == number + 1
        assert made.calls == ["GetItem", "BatchGetItem"]
        assert made.queues == []
        assert made.read_units < 5


def test_one_of_many_checks_renews_what_all_are_told(cloud: Cloud) -> None:
    request = cloud.generate(params=SMALL).body["id"]
    last = cloud.generate(params=SMALL).body["id"]
    assert cloud.check(last).body["queue_position"] == 2
    cloud.cancel(request)
    assert cloud.check(last).body["queue_position"] == 2
    cloud.clock.pass_seconds(MIN_LIFE_MS / 1000)
    with counted() as made:
        assert cloud.check(last).body["queue_position"] == 1
        assert cloud.check(last).body["queue_position"] == 1
    assert len(made.queues) == 1


def test_while_one_check_renews_the_others_are_told_what_was_known(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = cloud.generate(params=SMALL).body["id"]
    last = cloud.generate(params=SMALL).body["id"]
    cloud.check(last)
    cloud.cancel(request)
    cloud.clock.pass_seconds(MIN_LIFE_MS / 1000)
    room = type(cloud.store.places)

    def dies(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(room, "_sample", dies)
        assert cloud.check(last).status == 500
    assert cloud.check(last).body["queue_position"] == 2
    cloud.clock.pass_seconds(RENEWAL_MS / 1000)
    assert cloud.check(last).body["queue_position"] == 1


@pytest.mark.slow
def test_place_10_000_waits_longer_than_place_100(full: Cloud) -> None:
    fill(full, 9_999, created_at=0)
    request = full.generate(full.register("ada", kudos=1000)[1], params=SMALL).body["id"]
    with counted() as made:
        shown = full.check(request).body
    assert len(made.calls) <= 8
    assert shown["queue_position"] > 9_000
    assert shown["wait_time"] > 50 * (100 * SMALL_PIXELS * 30 // DEFAULT_SPEED)


# --- lost claims ----------------------------------------------------------------------------------


def test_a_pop_that_loses_its_claims_looks_again_after_a_few(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(cloud, worker)
    cloud.generate(params={**SMALL, "n": 20})
    real: Callable[..., Any] = type(cloud.store.queue).claim
    others = ["first", "second", "third", "fourth", "fifth"]

    def slower(self: Any, image: Generation, by: Any, **more: Any) -> Any:
        if others:
            other = replace(by, id=others.pop(), name="other")
            assert real(self, image, other, lease_until=10**10)
        return real(self, image, by, **more)

    monkeypatch.setattr(type(cloud.store.queue), "claim", slower)
    job, made = popped(cloud, worker)
    assert job["id"]
    assert made.calls.count("Query") == 2
    assert made.calls.count("TransactWriteItems") == len(["lost"] * 5 + ["the last"])


# --- shards ---------------------------------------------------------------------------------------


def test_a_queue_gets_more_shards_while_much_comes_and_fewer_after_it(
    cloud: Cloud, fleet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "is_counted", lambda _: True)
    monkeypatch.setattr(registry, "SAMPLE", 5000)
    monkeypatch.setattr(registry, "WINDOW_S", 1)
    known(cloud, fleet)
    images = []
    for _ in range(12):
        images.append(asked(cloud))
        cloud.clock.pass_seconds(1)
    queues = {str(queue) for queue in cloud.store.registry.marks(model_target(MODEL))}
    assert len(queues) > 3, "spread"
    assert {cloud.pop(fleet).body["id"] for _ in images} == set(images)
    cloud.clock.pass_seconds(100_000)
    for _ in range(2):
        asked(cloud)
    found = cloud.store.table.get(key(Kind.QUEUES, model_target(MODEL)))
    assert found is not None
    assert found["shards"] == {"N": "1"}


@pytest.mark.slow
def test_the_only_image_in_any_of_many_shards_is_found(
    cloud: Cloud, fleet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(cloud, fleet)

    def last(some: list[Any]) -> None:
        """Have the shard with the image read after all others."""
        some.sort(key=lambda one: -getattr(one, "shard", 0))

    monkeypatch.setattr(random, "shuffle", last)
    image = asked(cloud)
    (queue,) = cloud.store.registry.marks(model_target(MODEL))
    for shard in range(1, 3 * MAX_READS):
        cloud.store.registry.mark(queue._replace(shard=shard), 0)
    job, made = popped(cloud, fleet)
    assert job["id"] == image
    assert made.calls.count("Query") <= 3 * MAX_READS
    while popped(cloud, fleet)[1].calls.count("Query") > MAX_READS:
        pass  # the marks of those that were empty are corrected
    image = asked(cloud)
    job, made = popped(cloud, fleet)
    assert job["id"] == image
    assert made.calls.count("Query") <= MAX_READS


# --- several models, or any -----------------------------------------------------------------------


def entries(cloud: Cloud) -> list[str]:
    """Return the queues in which something is, however often."""
    found = [item["wait_queue"]["S"] for item in cloud.items() if "wait_queue" in item]
    return sorted(queue for queue in found if queue != "QUEUES")


@pytest.mark.parametrize("drawn_by", ["a", "b"])
def test_a_request_of_several_models_is_open_to_the_workers_of_each_and_drawn_once(
    cloud: Cloud, fleet: str, drawn_by: str
) -> None:
    answer = ask(cloud, models=["a", "b"])
    assert len(entries(cloud)) == 2
    job = cloud.pop(fleet, name="drawer", models=["other", drawn_by]).body
    assert job["model"] == drawn_by
    assert entries(cloud) == []
    for model in ("a", "b"):
        assert cloud.pop(fleet, name=model, models=[model]).body["id"] is None
    cloud.upload(job["r2_upload"])
    assert cloud.submit(fleet, job["id"]).status == 200
    (shown,) = cloud.status(answer.body["id"]).body["generations"]
    assert shown["model"] == drawn_by
    cloud.pay()
    assert cloud.store.counters.by_model(cloud.clock.now_ms()).total == {drawn_by: 1}


def test_a_worker_of_several_of_its_models_draws_all_images_of_a_request_with_one(
    cloud: Cloud, fleet: str
) -> None:
    ask(cloud, params={**SMALL, "n": 3}, models=["a", "b"])
    taken = cloud.pop(fleet, models=["b", "a"], amount=5).body
    assert len(taken["ids"]) == 3
    images = cloud.store.requests.generations_by_id(taken["ids"])
    assert {image.model for image in images} == {taken["model"]}


def test_a_faulted_image_waits_for_all_of_its_models_again(cloud: Cloud, fleet: str) -> None:
    request = ask(cloud, models=["a", "b"]).body["id"]
    first = cloud.pop(fleet, name="one", models=["b"]).body
    assert cloud.submit(fleet, first["id"], state="faulted").status == 200
    assert len(entries(cloud)) == 2
    assert cloud.pop(fleet, name="two", models=["a"]).body["id"] == first["id"]
    assert entries(cloud) == []
    assert cloud.check(request).body["processing"] == 1


def test_a_copy_of_an_image_that_has_ended_is_taken_out_by_who_meets_it(
    cloud: Cloud, fleet: str
) -> None:
    request = ask(cloud, models=["a", "b"]).body["id"]
    cloud.cancel(request)
    assert len(entries(cloud)) == 1
    assert cloud.pop(fleet, models=["b"]).body["id"] is None
    assert entries(cloud) == []


def test_a_claim_that_dies_before_it_took_the_copies_out_does_no_harm(
    cloud: Cloud, fleet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde.store import queue

    ask(cloud, models=["a", "b"])
    with monkeypatch.context() as patch:
        patch.setattr(queue, "withdraw", lambda *_: None)
        job = cloud.pop(fleet, name="one", models=["a"]).body
    assert job["id"]
    assert len(entries(cloud)) == 1
    assert cloud.pop(fleet, name="two", models=["b"]).body["id"] is None
    assert entries(cloud) == []


def test_an_image_that_one_worker_may_not_claim_stays_in_all_of_its_queues(
    cloud: Cloud, worker: str
) -> None:
    image = asked(cloud, models=["a", "b"])
    (found,) = cloud.store.queue.waiting("b", 5)
    cloud.pop(worker, models=["c"])
    context = cloud.store.workers.get(cloud.worker_named()["id"])
    assert context is not None
    stale = replace(found, faulted_by=[])
    row = key(Kind.GENERATION, image)
    cloud.store.table.change(row, {"faulted_by": [context.id]})
    assert cloud.store.queue.claim(stale, context, lease_until=1, held_limit=9) is None
    assert len(entries(cloud)) == 2
    cloud.store.table.change(row, {"faulted_by": None})


@pytest.mark.parametrize("amount", [1, 3])
def test_a_request_that_names_no_model_is_open_to_the_workers_of_all(
    cloud: Cloud, fleet: str, amount: int
) -> None:
    request = cloud.generate(params={**SMALL, "n": amount}, models=[]).body["id"]
    assert len(set(entries(cloud))) == 1
    offered = [f"m{number}" for number in range(FEW_MODELS + 1)] if amount > 1 else ["rare"]
    job = cloud.pop(fleet, models=offered, amount=5).body
    assert len(job["ids"]) == amount
    assert job["model"] == offered[0]
    for one, url in zip(job["ids"], job["r2_uploads"], strict=True):
        cloud.upload(url)
        assert cloud.submit(fleet, one).status == 200
    shown = cloud.status(request).body["generations"]
    assert {image["model"] for image in shown} == {offered[0]}


@pytest.mark.parametrize("models", [[""], [" "], ["", "\t"]])
def test_a_request_of_blank_models_is_one_that_names_no_model(
    cloud: Cloud, fleet: str, models: list[str]
) -> None:
    answer = ask(cloud, models=models)
    assert "warnings" not in answer.body
    assert cloud.pop(fleet, models=["rare"]).body["model"] == "rare"


def test_blank_models_among_others_are_left_out(cloud: Cloud, fleet: str) -> None:
    names = [f"m{number}" for number in range(MAX_MODELS)]
    ask(cloud, models=["", *names, " "])
    assert cloud.pop(fleet, models=["rare", " "]).body["id"] is None
    assert cloud.pop(fleet, models=names[-1:]).body["model"] == names[-1]


def test_only_the_first_models_of_a_request_count(cloud: Cloud, fleet: str) -> None:
    names = [f"m{number}" for number in range(MAX_MODELS + 1)]
    ask(cloud, params={**SMALL, "n": 20}, models=names)
    assert cloud.pop(fleet, models=names[-1:]).body["id"] is None
    assert cloud.pop(fleet, models=names[-2:-1]).body["id"]


def test_a_request_of_several_models_costs_what_the_dearest_costs(cloud: Cloud) -> None:
    cloud.overrides["MODELS"] = json.dumps(
        {"cheap": {"baseline": "stable_diffusion_1"}, "dear": {"baseline": "flux_1"}}
    )
    _, key_of_user = cloud.register("ada", kudos=1000)

    def price(*models: str) -> int:
        body = {"params": {"width": 1024, "height": 1024}, "dry_run": True}
        return int(cloud.generate(key_of_user, models=list(models), **body).body["kudos"])

    assert price("cheap") < price("dear")
    assert price("cheap", "dear") == price("dear", "cheap") == price("dear")


def test_a_preferred_image_of_several_models_is_drawn_with_one_that_the_worker_offers(
    cloud: Cloud, worker: str
) -> None:
    user, key_of_user = cloud.register("ada", kudos=100)
    cloud.generate(key_of_user, params=SMALL, models=["a", "b"])
    job = cloud.pop(worker, models=["x", "b"], priority_usernames=[f"ada#{user}"]).body
    assert job["model"] == "b"
    assert entries(cloud) == []


# --- what a request costs -------------------------------------------------------------------------


def test_the_marks_of_a_requests_queues_are_read_with_its_key(cloud: Cloud) -> None:
    _, key_of_user = cloud.register("ada", kudos=1000)
    asked_by(cloud, key_of_user, models=["a", "b"])
    registry.clear_cache()
    with counted() as made:
        assert cloud.generate(key_of_user, params=SMALL, models=["a", "b"]).status == 202
    reads = [call for call in made.calls if call in {"GetItem", "BatchGetItem", "Query"}]
    assert reads[:2] == ["BatchGetItem", "GetItem"]
    registry.clear_cache()
    with counted() as made:
        assert cloud.generate(key_of_user, params=SMALL, models=["a"]).status == 202
    assert made.calls.count("BatchGetItem") == 1
    assert "UpdateItem" not in made.calls

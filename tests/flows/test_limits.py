"""Rate admission and concurrency: the Horde's numbers, and whom they hold."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from botocore.client import BaseClient

from horde import overview
from horde.records import ANONYMOUS_PARTS, ONLINE_S, User
from horde.rules import ruleset
from horde.rules.refusals import TooManyPrompts
from horde.store import registry
from horde.store.charges import TooManyPosts
from horde.store.counts import MAX_DRAWN, no_places, open_key, opened, room_for, short_id
from horde.store.items import Item, encode_all
from horde.store.requests import Requests
from tests.support import rights
from tests.support.api_calls import ANONYMOUS, Reply, refused
from tests.support.cloud import Cloud
from tests.support.numbers import CONCURRENCY

GENERATE = "POST /api/v2/generate/async"


@pytest.fixture
def limited(cloud: Cloud) -> Cloud:
    cloud.overrides["RATE_LIMITS"] = "true"
    cloud.overrides["TRUSTED_IPS"] = "198.51.100.0/24, 2001:db8:1::/48"
    return cloud


def at_a_second(cloud: Cloud, second: int = 5) -> None:
    """Stand at the start of a second, so that no window ends in mid-test, and stay there."""
    now = cloud.clock.now_ms()
    cloud.clock.freeze(now - now % 60_000 + 60_000 + second * 1000)


def post(cloud: Cloud, times: int, *, key: str = ANONYMOUS, ip: str = "203.0.113.7") -> list[int]:
    body = {"prompt": "x", "dry_run": True}
    return [cloud.call(GENERATE, body, key=key, ip=ip).status for _ in range(times)]


def test_an_address_may_post_twice_a_second(limited: Cloud) -> None:
    at_a_second(limited)
    assert post(limited, 3) == [200, 200, 429]
    assert post(limited, 1, ip="203.0.113.8") == [200]
    limited.clock.pass_seconds(1)
    assert post(limited, 1) == [200]


def test_a_refusal_says_the_limit_and_when_to_come_back(limited: Cloud) -> None:
    at_a_second(limited)
    post(limited, 2)
    answer = limited.call(GENERATE, {"prompt": "x"}, key=ANONYMOUS)
    assert answer.status == 429
    assert answer.body == {"message": "2 per 1 second"}
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["X-RateLimit-Limit"] == "2"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert int(answer.headers["X-RateLimit-Reset"]) == limited.clock.now_ms() // 1000 + 1
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_every_answer_of_a_limited_route_says_how_much_is_left(limited: Cloud) -> None:
    at_a_second(limited)
    answer = limited.call(GENERATE, {"prompt": "x", "dry_run": True}, key=ANONYMOUS)
    assert answer.headers["X-RateLimit-Remaining"] == "1"
    refused = limited.call(GENERATE, {"prompt": 7}, key=ANONYMOUS)
    assert refused.status == 400
    assert refused.headers["X-RateLimit-Remaining"] == "0"


def test_an_address_may_post_90_times_a_minute(limited: Cloud) -> None:
    at_a_second(limited, 0)
    seen = []
    for _ in range(46):
        seen += post(limited, 2)
        limited.clock.pass_seconds(1)
    assert seen == [200] * 90 + [429] * 2
    limited.clock.pass_seconds(20)
    assert post(limited, 1) == [200]


def test_a_key_may_post_twice_a_second_from_wherever_it_is(limited: Cloud) -> None:
    at_a_second(limited)
    _, key = limited.register()
    assert [post(limited, 1, key=key, ip=f"203.0.113.{n}")[0] for n in range(3)] == [200, 200, 429]


def test_what_an_account_posts_in_a_second_is_counted_by_its_charges(limited: Cloud) -> None:
    from horde.edge import ratelimit

    at_a_second(limited)
    user, key = limited.register(kudos=1000)

    def generate(n: int) -> Reply:
        ratelimit.clear_cache()  # another Lambda process has counted nothing yet
        body = {"prompt": "x"}
        return limited.call(GENERATE, body, key=key, ip=f"203.0.113.{n}")

    assert [generate(n).status for n in range(2)] == [202, 202]
    left = limited.kudos(user)
    answer = generate(3)
    assert (answer.status, answer.body) == (429, {"message": "2 per 1 second"})
    assert (answer.headers["Retry-After"], limited.kudos(user)) == ("1", left)
    assert generate(4).status == 429
    limited.clock.pass_seconds(1)
    assert [generate(n).status for n in range(3)] == [202, 202, 429]
    limited.clock.pass_seconds(-1)  # a process whose clock is behind
    assert generate(5).status == 429


def test_a_post_that_others_outran_is_counted_where_it_is_charged(cloud: Cloud) -> None:
    cloud.clock.freeze(cloud.clock.now_ms())
    user, key = cloud.register(kudos=1000)
    seen = cloud.store.accounts.get(user)
    assert seen is not None
    request = cloud.store.requests.get(cloud.generate(key).body["id"])
    assert request is not None
    accept = cloud.store.requests.accept

    (image,) = cloud.store.requests.generations(request)

    def posted() -> None:
        new, drawn = str(uuid.uuid4()), str(uuid.uuid4())
        images = [replace(image, id=drawn, request_id=new)]
        accept(replace(request, id=new, generations=[drawn]), images, seen, posts_per_s=2)

    posted()
    posted()
    with pytest.raises(TooManyPosts):
        posted()
    fresh = cloud.store.accounts.get(user)
    assert fresh is not None
    assert (fresh.posted, fresh.requested) == (2, 3)


def test_anonymous_clients_of_different_addresses_do_not_share_that_limit(limited: Cloud) -> None:
    at_a_second(limited)
    assert {post(limited, 1, ip=f"203.0.113.{n}")[0] for n in range(30)} == {200}


def test_an_address_the_operator_trusts_has_wider_limits(limited: Cloud) -> None:
    at_a_second(limited)
    assert post(limited, 11, ip="198.51.100.9") == [200] * 10 + [429]


def test_a_household_of_ipv6_addresses_is_one_address(limited: Cloud) -> None:
    at_a_second(limited)
    assert [post(limited, 1, ip=f"2001:db8:2::{n}")[0] for n in range(3)] == [200, 200, 429]


def test_limits_hold_across_processes(limited: Cloud) -> None:
    from horde.edge import ratelimit

    at_a_second(limited)
    assert post(limited, 2) == [200, 200]
    ratelimit.clear_cache()  # another Lambda process has counted nothing yet
    assert post(limited, 1) == [429]


def test_a_flood_is_refused_without_writing(limited: Cloud) -> None:
    at_a_second(limited)
    post(limited, 3)
    before = limited.rows("RATELIMIT")
    post(limited, 20)
    assert limited.rows("RATELIMIT") == before


def test_no_address_and_no_key_is_kept(limited: Cloud) -> None:
    _, key = limited.register()
    post(limited, 1, key=key)
    kept = str(limited.rows("RATELIMIT"))
    assert kept != "[]"
    assert key not in kept
    assert "203.0.113" not in kept


def test_check_may_be_asked_ten_times_a_second_for_each_request(limited: Cloud) -> None:
    at_a_second(limited)
    first, second = (limited.generate().body["id"] for _ in range(2))
    assert [limited.check(first).status for _ in range(11)] == [200] * 10 + [429]
    assert limited.check(second).status == 200


IMAGES = 5
"""Of one request."""


def fill_but(cloud: Cloud, key: str, left: int) -> str:
    """Let all images wait that an account may have, but these; returns the first request."""
    requests = [
        cloud.generate(key, params={"n": IMAGES})
        for _ in range(IMAGES, CONCURRENCY - left + 1, IMAGES)
    ]
    rest = (CONCURRENCY - left) % IMAGES
    if rest:
        requests.append(cloud.generate(key, params={"n": rest}))
    assert {answer.status for answer in requests} == {202}
    return str(requests[0].body["id"])


def test_an_account_may_have_a_limited_number_of_images_waiting(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=10_000)
    fill_but(cloud, key, 10)
    answer = cloud.generate(key, params={"n": 11})
    refused(answer, "TooManyPrompts", 429)
    assert str(CONCURRENCY) in answer.body["message"]
    assert cloud.generate(key, params={"n": 10}).status == 202


def test_images_that_are_drawn_or_cancelled_no_longer_count(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=10_000)
    worker = cloud.new_worker()
    first = fill_but(cloud, key, 10)
    second = cloud.generate(key, params={"n": 10}).body["id"]
    assert cloud.generate(key).status == 429
    cloud.cancel(second)
    assert cloud.generate(key, params={"n": 10}).status == 202
    (job,) = cloud.pop(worker, amount=1).body["ids"]
    cloud.submit(worker, job, state="faulted")  # waits again, and counts again
    assert cloud.generate(key).status == 429
    assert cloud.check(first).body["waiting"] == IMAGES
    cloud.pop(worker, amount=1)
    assert cloud.generate(key).status == 202


def test_the_last_image_within_the_limit_is_accepted(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=10_000)
    fill_but(cloud, key, 1)
    assert cloud.generate(key).status == 202
    refused(cloud.generate(key), "TooManyPrompts", 429)


def test_what_ended_without_leaving_the_open_images_takes_no_place(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=10_000)
    account = cloud.store.accounts.get(user)
    assert account is not None
    gone = opened(str(uuid.uuid4()) for _ in range(CONCURRENCY))
    cloud.store.accounts.change(account, gone)
    assert cloud.generate(key).status == 202
    account = cloud.store.accounts.get(user)
    assert account is not None
    assert len(account.open_images) == 1


@pytest.mark.lengthy
def test_images_that_are_drawn_take_no_place_of_those_that_wait(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=10_000)
    fleet = cloud.new_worker("operator", fleet=True)
    fill_but(cloud, key, 0)
    assert cloud.generate(key).status == 429
    first = cloud.pop(fleet, name="operator", amount=5).body["ids"]
    assert cloud.generate(key, params={"n": len(first)}).status == 202
    refused(cloud.generate(key), "TooManyPrompts", 429)
    for image in first:
        assert cloud.submit(fleet, image, state="faulted").status == 200
    refused(cloud.generate(key), "TooManyPrompts", 429)


@pytest.mark.lengthy
@pytest.mark.parametrize("delivered", [1, 5])
def test_images_that_were_drawn_when_they_were_read_give_no_place_after_they_left(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, delivered: int
) -> None:
    """While a request decides, drawn images are delivered, and another takes their places."""
    user, key = cloud.register(kudos=10_000)
    fleet = cloud.new_worker("operator", fleet=True)
    fill_but(cloud, key, 0)
    popped = cloud.pop(fleet, name="operator", amount=5).body
    for url in popped["r2_uploads"]:
        cloud.upload(url)
    real, met = Requests.accept, list[bool]()

    def late(self: Requests, *given: Any, **more: Any) -> None:
        if not met:
            met.append(True)
            for job in popped["ids"][:delivered]:
                assert cloud.submit(fleet, job).status == 200
            with rights.held_to("the test", {"*"}):
                cloud.settle_async()
            assert cloud.generate(key, params={"n": delivered}).status == 202
        real(self, *given, **more)

    monkeypatch.setattr(Requests, "accept", late)
    answer = cloud.generate(key, params={"n": 5})
    account = cloud.store.accounts.get(user)
    assert account is not None
    waiting = [one for one in cloud.rows("GENERATION") if one["state"]["S"] == "waiting"]
    assert len(waiting) == CONCURRENCY - 5 + delivered  # 5 more would be too many
    refused(answer, "TooManyPrompts", 429)


def test_the_longest_condition_of_a_charge_has_less_than_the_4_kb_of_dynamodb() -> None:
    names = [short_id(str(uuid.uuid4())) for _ in range(500)]
    user = User(1, "u", kudos=0, floor=0, created_at=0, open_images=frozenset(names))
    told = no_places(user, frozenset(names))
    assert len(told) == MAX_DRAWN
    assert len(room_for(1, 30, told).expression) < 3000  # the charge's other conditions have 500


def test_a_delivered_image_takes_no_place_even_if_its_reward_is_not_posted(
    cloud: Cloud, worker: str
) -> None:
    _, key = cloud.register(kudos=10_000)
    fill_but(cloud, key, 0)
    job = cloud.pop(worker, amount=1).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).status == 200
    assert cloud.generate(key).status == 202
    refused(cloud.generate(key), "TooManyPrompts", 429)


def test_an_account_that_draws_its_own_image_is_paid_and_has_nothing_open(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=10_000)
    cloud.set_flags(user, trusted=True)
    worker = cloud.worker_key(user)
    cloud.generate(key)
    assert cloud.draw(worker, amount=1)
    cloud.settle_async()
    account = cloud.store.accounts.get(user)
    assert account is not None
    assert (account.open_images, account.fulfilled) == (frozenset(), 1)


def test_a_dry_run_is_not_limited_by_what_waits(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=10_000)
    fill_but(cloud, key, 0)
    assert cloud.generate(key).status == 429
    assert cloud.generate(key, dry_run=True).status == 200


# --- anonymous users -----------------------------------------------------------------------------


@pytest.fixture
def three_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let anonymous users have three images waiting in each part of their account."""
    few = replace(ruleset.IN_FORCE, concurrency_anonymous=3 * ANONYMOUS_PARTS)
    monkeypatch.setattr(ruleset, "IN_FORCE", few)


def opened_in(item: Item) -> list[str]:
    """Return the open images that an item lists."""
    found: list[str] = item.get("open_images", {"SS": []})["SS"]
    return found


def ask(cloud: Cloud, n: int = 1, *, ip: str = "203.0.113.7", **fields: Any) -> Reply:
    """Ask anonymously, in a second of its own."""
    cloud.clock.pass_seconds(1)
    body = {"prompt": "x", "params": {"n": n}, **fields}
    return cloud.call(GENERATE, body, key=ANONYMOUS, ip=ip)


@pytest.mark.usefixtures("three_a_part")
def test_anonymous_images_of_all_models_count_together(limited: Cloud) -> None:
    assert ask(limited, 2).status == 202
    assert ask(limited, models=["SDXL 1.0"]).status == 202
    for models in (["stable_diffusion"], ["SDXL 1.0"]):
        answer = ask(limited, models=models)
        refused(answer, "TooManyPrompts", 429)
        assert "limit of 3" in answer.body["message"]


@pytest.mark.usefixtures("three_a_part")
def test_no_address_takes_the_places_of_all_anonymous_users(limited: Cloud) -> None:
    assert ask(limited, 3).status == 202
    assert ask(limited).status == 429
    seen = {ask(limited, ip=f"203.0.113.{number}").status for number in range(8, 40)}
    assert 202 in seen
    (full,) = [item for item in limited.rows("ANONYMOUS") if len(opened_in(item)) == 3][:1]
    assert full["pk"]["S"].startswith("ANONYMOUS#")


@pytest.mark.lengthy
@pytest.mark.usefixtures("three_a_part")
def test_however_many_addresses_there_are_all_of_them_together_keep_the_limit(
    limited: Cloud,
) -> None:
    accepted = [ask(limited, ip=f"198.18.0.{number}").status for number in range(80)].count(202)
    assert accepted == 3 * ANONYMOUS_PARTS
    counted = [len(opened_in(item)) for item in limited.rows("ANONYMOUS")]
    assert counted == [3] * ANONYMOUS_PARTS


@pytest.mark.usefixtures("three_a_part")
def test_an_address_the_operator_trusts_may_use_all_places(limited: Cloud) -> None:
    seen = [ask(limited, 3, ip="198.51.100.9").status for _ in range(ANONYMOUS_PARTS + 1)]
    assert seen == [202] * ANONYMOUS_PARTS + [429]


def _drawn(cloud: Cloud, _request: str, worker: str) -> None:
    assert cloud.draw(worker, amount=1)


def _cancelled(cloud: Cloud, request: str, _worker: str) -> None:
    assert cloud.cancel(request).status == 200


def _faulted(cloud: Cloud, request: str, worker: str) -> None:
    del worker
    fleet = cloud.new_worker("operator", fleet=True)
    while not cloud.check(request).body["faulted"]:
        job = cloud.pop(fleet, name="operator", amount=1).body["id"]
        assert cloud.submit(fleet, job, state="faulted").status == 200


def _expired(cloud: Cloud, _request: str, _worker: str) -> None:
    cloud.clock.pass_seconds(ruleset.IN_FORCE.request_life_s + 1)
    cloud.sweep()


@pytest.mark.usefixtures("three_a_part")
@pytest.mark.parametrize("end", [_drawn, _cancelled, _faulted, _expired])
def test_an_anonymous_image_gives_its_place_back_when_it_no_longer_waits(
    limited: Cloud, worker: str, end: Callable[[Cloud, str, str], None]
) -> None:
    request = ask(limited, 3).body["id"]
    assert ask(limited).status == 429
    end(limited, request, worker)
    assert ask(limited).status == 202
    limited.recount()


@pytest.mark.lengthy
@pytest.mark.usefixtures("three_a_part")
def test_a_place_that_was_not_given_back_is_free_as_soon_as_it_is_needed(limited: Cloud) -> None:
    assert ask(limited, 2).status == 202
    (part,) = limited.rows("ANONYMOUS")
    limited.db.update_item(
        TableName=limited.table,
        Key={"pk": part["pk"], "sk": part["sk"]},
        UpdateExpression="ADD open_images :gone",
        ExpressionAttributeValues=encode_all({"gone": opened([str(uuid.uuid4())])["open_images"]}),
    )
    assert ask(limited).status == 202
    assert ask(limited).status == 429


@pytest.mark.usefixtures("three_a_part")
def test_posts_that_read_one_count_together_do_not_pass_it(limited: Cloud) -> None:
    request = limited.store.requests.get(ask(limited).body["id"])
    assert request is not None
    (image,) = limited.store.requests.generations(request)
    seen = limited.store.accounts.anonymous(image.part or 0)

    def posted() -> None:
        new, drawn = str(uuid.uuid4()), str(uuid.uuid4())
        images = [replace(image, id=drawn, request_id=new)]
        limited.store.requests.accept(replace(request, id=new, generations=[drawn]), images, seen)

    posted()
    posted()
    with pytest.raises(TooManyPrompts):
        posted()
    assert len(limited.store.accounts.anonymous(image.part or 0).open_images) == 3


def test_anonymous_posts_of_a_second_are_counted_where_they_are_accepted(limited: Cloud) -> None:
    from horde.edge import ratelimit

    at_a_second(limited)
    trusted = "198.51.100.9"
    seen = limited.store.accounts.anonymous(anonymous_part_of(limited, trusted))
    now = limited.clock.now_ms() // 1000
    limited.db.put_item(
        TableName=limited.table,
        Item={
            **open_key(0, seen.part),
            "posted_at": {"N": str(now)},
            "posted": {"N": "60"},
        },
    )
    answer = limited.call(GENERATE, {"prompt": "x"}, key=ANONYMOUS, ip=trusted)
    assert (answer.status, answer.body) == (429, {"message": "60 per 1 second"})
    ratelimit.clear_cache()
    limited.clock.pass_seconds(1)
    assert limited.call(GENERATE, {"prompt": "x"}, key=ANONYMOUS, ip=trusted).status == 202


def anonymous_part_of(cloud: Cloud, ip: str) -> int:
    """Ask once, and return in which part it was counted."""
    request = cloud.store.requests.get(ask(cloud, ip=ip).body["id"])
    assert request is not None
    (image,) = cloud.store.requests.generations(request)
    cloud.cancel(request.id)
    assert image.part is not None
    return image.part


def test_without_an_account_only_models_that_are_drawn_may_be_asked_for(
    cloud: Cloud, worker: str
) -> None:
    before = repr(cloud.everything())
    answer = cloud.generate(models=["rare model"])
    refused(answer, "NoValidWorkers")
    assert "rare model" in answer.body["message"]
    assert repr(cloud.everything()) == before
    _, key = cloud.register(kudos=100)
    assert cloud.generate(key, models=["rare model"]).status == 202
    cloud.cancel(cloud.generate(key, models=["rare model"]).body["id"])
    cloud.pop(worker, models=["rare model"])
    assert cloud.generate(models=["rare model"]).status == 202  # at once: no census has seen it
    cloud.sweep()
    overview.clear_cache()
    assert cloud.generate(models=["rare model"]).status == 202  # and by the census
    cloud.clock.pass_seconds(ONLINE_S + 60)
    refused(cloud.generate(models=["rare model"]), "NoValidWorkers")


@contextmanager
def counted_calls() -> Iterator[list[str]]:
    """Note the calls to AWS by name."""
    made: list[str] = []
    real = vars(BaseClient)["_make_api_call"]

    def noted(client: BaseClient, operation: str, params: Any) -> Any:
        made.append(operation)
        return real(client, operation, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", noted)
        yield made


def test_an_anonymous_request_is_accepted_in_four_calls(limited: Cloud) -> None:
    ask(limited)  # the process reads its secret, and the overview; the queue is marked
    registry.clear_cache()
    with counted_calls() as calls:
        assert ask(limited).status == 202
    assert sorted(calls) == ["GetItem", "GetItem", "TransactWriteItems", "UpdateItem"]

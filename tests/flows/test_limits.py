"""Rate admission and concurrency: the Horde's numbers, and whom they hold."""

import uuid
from dataclasses import replace

import pytest

from horde.rules import ruleset
from horde.store.charges import TooManyPosts
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


def test_an_account_whose_count_was_left_too_high_is_not_refused_for_long(cloud: Cloud) -> None:
    """Functions of a version that does not count may run beside those that do, for a while."""
    user, key = cloud.register(kudos=10_000)
    request = cloud.generate(key, params={"n": 5}).body["id"]
    account = cloud.store.accounts.get(user)
    assert account is not None
    cloud.store.accounts.change(account, {"waiting": CONCURRENCY})
    refused(cloud.generate(key), "TooManyPrompts", 429)  # the index might lag
    cloud.clock.pass_seconds(61)
    assert cloud.generate(key).status == 202
    cloud.cancel(request)


def test_images_of_before_the_count_end_without_it(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register(kudos=10_000)
    request = cloud.generate(key, params={"n": 3}).body["id"]
    for item in list(cloud.items()):
        kind, pk = item["sk"]["S"], {"pk": item["pk"], "sk": item["sk"]}
        names = {"GENERATION": "counted", "USER": "waiting"}
        if kind in names:
            expression = f"REMOVE {names[kind]}"
            cloud.db.update_item(TableName=cloud.table, Key=pk, UpdateExpression=expression)
    assert cloud.submit(worker, cloud.pop(worker).body["id"], state="faulted").status == 200
    assert len(cloud.draw(cloud.new_worker("honest"), name="honest", amount=1)) == 3
    cloud.cancel(request)
    assert cloud.generate(key).status == 202
    account = cloud.store.accounts.get(user)
    assert account is not None
    assert account.waiting == 1


def test_a_dry_run_is_not_limited_by_what_waits(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=10_000)
    fill_but(cloud, key, 0)
    assert cloud.generate(key).status == 429
    assert cloud.generate(key, dry_run=True).status == 200


def test_anonymous_images_are_counted_by_model_up_to_their_limit(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = replace(ruleset.IN_FORCE, concurrency_anonymous=3)
    monkeypatch.setattr(ruleset, "IN_FORCE", three)
    assert cloud.generate(params={"n": 3}).status == 202
    assert cloud.generate().status == 429
    assert cloud.generate(models=["SDXL 1.0"]).status == 202

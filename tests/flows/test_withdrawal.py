"""Taking shared images back."""

import json

import pytest

from infra.operate import commands
from tests.support.cloud import ANONYMOUS, Cloud


def shared(horde: Cloud, key: str, n: int = 1) -> list[str]:
    horde.generate(key, params={"n": n}, shared=True)
    owner, _ = horde.register("owner")
    drawn = horde.draw(horde.worker_key(owner), name=f"w{owner}")
    horde.settle_async()
    return drawn


def withdraw(horde: Cloud, what: str) -> int:
    return commands.withdraw(horde.store, horde.s3, horde.bucket("Laion"), what)


def test_one_image_is_taken_back_by_its_id(horde: Cloud) -> None:
    first, second = shared(horde, ANONYMOUS, n=2)
    assert withdraw(horde, first) == 1
    left = " ".join(horde.laion())
    assert first not in left
    assert left.count(second) == 2


def test_an_account_takes_back_all_that_it_shared_and_nothing_else(horde: Cloud) -> None:
    user, key = horde.register("ada", kudos=1000)
    mine = shared(horde, key, n=2)
    (other,) = shared(horde, ANONYMOUS)
    assert withdraw(horde, f"ada#{user}") == 2
    left = " ".join(horde.laion())
    assert not any(one in left for one in mine)
    assert left.count(other) == 2


def test_taking_back_twice_is_as_good_as_once(horde: Cloud) -> None:
    (image,) = shared(horde, ANONYMOUS)
    assert withdraw(horde, image) == 1
    assert withdraw(horde, image.upper()) == 0
    assert horde.laion() == {}


def test_an_event_that_comes_again_does_not_bring_a_withdrawn_image_back(horde: Cloud) -> None:
    (image,) = shared(horde, ANONYMOUS)
    assert withdraw(horde, image) == 1
    (row,) = (row for row in horde.rows("GENERATION") if row["id"]["S"] == image)
    again = {"s3": {"object": {"key": f"{image}/{row['attempt']['N']}.webp"}}}
    message = {
        "messageId": "1",
        "receiptHandle": "1",
        "body": json.dumps({"Records": [again]}),
        "attributes": {"ApproximateReceiveCount": "2"},
    }
    assert horde.invoke("share", {"Records": [message]}) == {"batchItemFailures": []}
    assert horde.laion() == {}


def test_what_was_never_shared_cannot_be_taken_back(horde: Cloud) -> None:
    _, key = horde.register(kudos=100)
    horde.generate(key)
    (image,) = horde.draw(horde.worker_key(horde.register("owner")[0]))
    horde.settle_async()
    with pytest.raises(commands.OperatorError, match="no image"):
        withdraw(horde, image)

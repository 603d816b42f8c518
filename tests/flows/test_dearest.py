"""What the dearest request costs to accept, in DynamoDB's write units."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.client import BaseClient

from horde.planning import MAX_MODELS
from horde.rules import admission
from horde.store.items import DUE, LISTED, PK, SK, WAITING
from tests.support.api_calls import ANONYMOUS, refused
from tests.support.cloud import Cloud
from tests.support.images import png_base64
from tests.support.units import Index, size_of, write_units

pytestmark = pytest.mark.slow
"""Slow: the largest bodies."""


@contextmanager
def written() -> Iterator[list[dict[str, Any]]]:
    """Note the parts of the transactions that are made."""
    parts: list[dict[str, Any]] = []
    real = vars(BaseClient)["_make_api_call"]

    def call(client: Any, operation: str, params: dict[str, Any]) -> Any:
        if operation == "TransactWriteItems":
            parts.extend(params["TransactItems"])
        return real(client, operation, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call)
        yield parts


USUAL, DEAREST, DEAREST_OF_ALL, PROMPT = 10, 201, 621, 130
"""Units of a usual request of one image, of the dearest of 20, of that with as many models as may
be named, and what the longest prompt adds."""
LETTERS = ("a", "\x01", "\\", '"', "\x7f", "\U0001f600", "\u00e9")
"""Characters of one to four bytes, and those that JSON escapes."""


def longest(letter: str, most: int = admission.MAX_PROMPT_BYTES) -> str:
    """Return the longest prompt of a character that is accepted."""
    return letter * (most // len(json.dumps(letter, ensure_ascii=False).encode()[1:-1]))


INDEXES = [
    Index(one.name, one.partition, one.sort, (PK, SK), keys_only=one is not WAITING)
    for one in (WAITING, DUE, LISTED)
]


def units_of(parts: list[dict[str, Any]]) -> int:
    """Return the units of a transaction that puts new items and updates small ones (under a KB).

    What an update changes in an index is not counted.
    """
    puts = [part["Put"]["Item"] for part in parts if "Put" in part]
    units = 2 * (len(parts) - len(puts))
    for item in puts:
        units += write_units(None, item, transaction=True)
        units += sum(cost for index in INDEXES for _, cost in index.writes(None, item))
    return units


def accepted(cloud: Cloud, key: str, **fields: Any) -> int:
    """Ask for images; return the units of the transaction that accepts them."""
    with written() as parts:
        answer = cloud.generate(key, **fields)
    assert answer.status == 202, answer
    cloud.cancel(answer.body["id"])
    return units_of(parts)


@pytest.fixture
def rich(cloud: Cloud) -> str:
    """The key of an account that can pay for anything."""
    return cloud.register(kudos=10**9)[1]


def test_a_usual_request_costs_ten_units_and_an_anonymous_one_eight(
    cloud: Cloud, rich: str
) -> None:
    assert accepted(cloud, rich) == USUAL
    assert accepted(cloud, ANONYMOUS) == 8


@pytest.mark.parametrize("letter", LETTERS, ids=ascii)
def test_a_prompt_costs_its_stored_bytes_whatever_is_in_it(
    cloud: Cloud, rich: str, letter: str
) -> None:
    assert accepted(cloud, rich, prompt="a") == USUAL
    for prompt in (longest(letter), "a###" + longest(letter, admission.MAX_PROMPT_BYTES - 4)):
        with written() as parts:
            assert cloud.generate(rich, prompt=prompt).status == 202
        assert 0 <= units_of(parts) - USUAL <= PROMPT
        (request,) = [item for item in cloud.rows("REQUEST") if len(item["payload"]["S"]) > 9000][
            :1
        ]
        assert size_of(request) < admission.MAX_PROMPT_BYTES + 1024
    refused(cloud.generate(rich, prompt=longest(letter) + "a" * 9), "InvalidPromptSize")


@pytest.mark.parametrize(("models", "dearest"), [(1, DEAREST), (MAX_MODELS, DEAREST_OF_ALL)])
@pytest.mark.parametrize("letter", LETTERS, ids=ascii)
def test_the_dearest_request_costs_what_the_documents_say(
    cloud: Cloud, rich: str, letter: str, models: int, dearest: int
) -> None:
    names = [f"w{number}" for number in range(5)]
    for name in names:
        cloud.pop(cloud.new_worker(name), name=name)
    tail = letter * (98 // len(letter.encode()))
    host = "https://a.example.com/"
    made = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends", "kudos": -1}, key=rich)
    cost = accepted(
        cloud,
        made.body["id"],
        prompt=longest(letter),
        models=[f"m{number}{tail}" for number in range(models)],
        workers=[cloud.worker_named(name)["id"] for name in names],
        worker_blacklist=True,
        trusted_workers=True,
        slow_workers=True,
        extra_slow_workers=True,
        censor_nsfw=True,
        nsfw=False,
        webhook=host + "a" * (1024 - len(host)),
        shared=True,
        source_image=png_base64(),
        params={
            "n": 20,
            "seed": "9" * 1000,
            "hires_fix": True,
            "hires_fix_denoising_strength": 0.12345678901234567,
            "denoising_strength": 0.12345678901234567,
            "cfg_scale": 77.77,
        },
    )
    assert cost <= dearest
    assert letter != "a" or cost == dearest


def test_the_name_of_a_model_has_at_most_100_bytes(cloud: Cloud, rich: str) -> None:
    assert cloud.generate(rich, models=["\u00fc" * 50]).status == 202
    answer = cloud.generate(rich, models=["\u00fc" * 51])
    assert (answer.status, list(answer.body["errors"])) == (400, ["models.0"])


def test_remarks_of_a_worker_take_at_most_eight_kilobytes(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    job = cloud.pop(worker).body["id"]
    remark = {"type": "information", "value": "\x01" * 255, "ref": "\x01" * 255}
    answer = cloud.submit(worker, job, gen_metadata=[remark] * 3)
    assert (answer.status, list(answer.body["errors"])) == (400, ["gen_metadata"])
    assert cloud.submit(worker, job, state="faulted", gen_metadata=[remark] * 2).status == 200

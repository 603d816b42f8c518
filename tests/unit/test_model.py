"""States, seeds, priority and matching: pure decisions."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.edge.bodies import GenerateRequest, PopRequest
from horde.planning import payload as payload_of
from horde.records import Generation, State
from horde.rules import ruleset
from horde.rules.estimates import wait_seconds
from horde.rules.lifecycle import FaultOutcome, Progress, after_fault, progress
from horde.rules.matching import batch_key, priority, seed_of, skip_reason
from tests.support.numbers import FLOOR_ANONYMOUS, PRICE, TAX
from tests.support.records import CONTEXT, IMAGE, REQUEST

LAST = ruleset.of(REQUEST.ruleset).max_faults
"""The claim whose fault ends a request."""


def images(*states: State) -> list[Generation]:
    return [replace(IMAGE, state=state) for state in states]


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("0", 0),
        ("42", 42),
        ("4294967295", 2**32 - 1),
        ("4294967296", 1),
        ("hello", int.from_bytes(b"hello", "little") >> 32),
        ("a", 97),
    ],
)
def test_a_seed_is_its_number_or_its_bytes_shifted_until_it_fits(text: str, seed: int) -> None:
    assert seed_of(text, 0, None) == seed


@given(text=st.text(max_size=30), index=st.integers(0, 19), step=st.none() | st.integers(1, 1000))
def test_every_seed_fits_32_bits(text: str, index: int, step: int | None) -> None:
    assert 0 <= seed_of(text, index, step) < 2**32


def test_images_of_a_seeded_request_differ_by_the_variation() -> None:
    assert [seed_of("10", index, 100) for index in range(3)] == [10, 110, 210]
    assert [seed_of("10", index, None) for index in range(3)] == [10, 11, 12]


@given(
    a=st.tuples(st.integers(FLOOR_ANONYMOUS, 10**6), st.integers(0, 10**6)),
    b=st.tuples(st.integers(FLOOR_ANONYMOUS, 10**6), st.integers(0, 10**6)),
    now=st.integers(10**6, 2 * 10**6),
)
def test_the_constant_key_orders_as_balance_plus_five_per_second_waited(
    a: tuple[int, int], b: tuple[int, int], now: int
) -> None:
    def aged(balance: int, created_at: int) -> float:
        return balance + 5 * (now - created_at)

    keys = [priority(balance, created * 1000) for balance, created in (a, b)]
    assert (keys[0] > keys[1]) == (aged(*a) > aged(*b))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([State.WAITING] * 3, (0, 0, 3, False)),
        ([State.OK, State.PROCESSING, State.WAITING], (1, 1, 1, False)),
        ([State.OK, State.CENSORED, State.OK], (3, 0, 0, True)),
        ([State.OK, State.CANCELLED, State.EXPIRED], (1, 0, 0, True)),
        ([State.FAULTED] * 3, (0, 0, 0, True)),
    ],
)
def test_progress_counts_what_clients_are_shown(
    states: list[State], expected: tuple[int, int, int, bool]
) -> None:
    found = progress(REQUEST, images(*states))
    assert (found.finished, found.processing, found.waiting, found.done) == expected


def test_a_faulted_request_is_done_whatever_is_in_flight() -> None:
    found = progress(replace(REQUEST, faulted=True), images(State.PROCESSING))
    assert (found.done, found.faulted) == (True, True)


def test_consumed_kudos_are_those_of_delivered_images() -> None:
    assert (
        progress(REQUEST, images(State.OK, State.CENSORED, State.FAULTED)).kudos == PRICE + 2 * TAX
    )


@pytest.mark.parametrize(
    ("change", "attempt", "now", "after"),
    [
        ({}, 1, 0, FaultOutcome.REQUEUE),
        ({}, LAST - 1, 0, FaultOutcome.REQUEUE),
        ({}, LAST, 0, FaultOutcome.FAULT),
        ({"faulted": True}, 1, 0, FaultOutcome.FAULT),
        ({"cancelled": True}, 1, 0, FaultOutcome.CANCEL),
        ({"cancelled": True}, LAST, 0, FaultOutcome.CANCEL),
        ({}, 1, 1000, FaultOutcome.EXPIRE),
    ],
)
def test_a_fault_requeues_unless_it_is_the_images_last_or_the_request_is_over(
    change: dict[str, Any], attempt: int, now: int, after: FaultOutcome
) -> None:
    held = replace(IMAGE, state=State.PROCESSING, attempt=attempt)
    assert after_fault(replace(REQUEST, **change), held, now) is after


@pytest.mark.parametrize(
    ("state", "attempt", "faults"),
    [
        (State.WAITING, 0, 0),
        (State.PROCESSING, 1, 0),
        (State.WAITING, 1, 1),
        (State.PROCESSING, 3, 2),
        (State.OK, 2, 1),
        (State.FAULTED, 3, 3),
        (State.CANCELLED, 0, 0),
    ],
)
def test_restarted_counts_the_claims_that_came_to_nothing(
    state: State, attempt: int, faults: int
) -> None:
    assert progress(REQUEST, [replace(IMAGE, state=state, attempt=attempt)]).restarted == faults


@given(
    ahead=st.integers(0, 10**12),
    speed=st.integers(0, 10**9),
    workers=st.integers(0, 100),
    states=st.lists(st.sampled_from(list(State)), min_size=1),
)
def test_the_wait_is_at_least_two_whole_seconds_until_done(
    ahead: int, speed: int, workers: int, states: list[State]
) -> None:
    found: Progress = progress(REQUEST, images(*states))
    wait = wait_seconds(found, ahead=ahead, own=IMAGE.pixels, speed=speed, workers=workers)
    assert isinstance(wait, int)
    assert wait == 0 if found.done else wait >= 2


@pytest.mark.parametrize(
    ("change", "worker", "reason"),
    [
        ({}, {}, None),
        ({"pixels": 10**9}, {}, "max_pixels"),
        ({"nsfw": True}, {"nsfw": False}, "nsfw"),
        ({"nsfw": True}, {}, None),
        ({"img2img": True}, {"allow_img2img": False}, "img2img"),
        ({"workers": ["w"]}, {}, None),
        ({"workers": ["x"]}, {}, "worker_id"),
        ({"workers": ["w"], "worker_blacklist": True}, {}, "worker_id"),
        ({"workers": ["x"], "worker_blacklist": True}, {}, None),
        ({"worker_blacklist": True}, {}, None),
    ],
)
def test_a_worker_is_told_why_it_cannot_take_an_image(
    change: dict[str, Any], worker: dict[str, Any], reason: str | None
) -> None:
    offer = PopRequest.model_validate({"name": "n", **worker}).offer
    assert skip_reason(replace(IMAGE, **change), CONTEXT, offer) == reason


@pytest.mark.parametrize(
    "change",
    [
        {"width": 576},
        {"steps": 31},
        {"sampler_name": "k_lms"},
        {"cfg_scale": 5.5},
        {"karras": False},
        {"clip_skip": 2},
        {"tiling": True},
        {"hires_fix": True},
        {"source_image": "x", "denoising_strength": 0.5},
        {"loras": [{"name": "ink"}]},
        {"loras": [{"name": "ink", "clip": 0.5}]},
        {"control_type": "canny"},
        {"control_type": "hed"},
        {"control_type": "canny", "return_control_map": True},
    ],
)
def test_what_cannot_share_a_pass_has_another_batch_key(change: dict[str, Any]) -> None:
    def payload(source_image: str | None = None, **params: Any) -> dict[str, Any]:
        body = {"prompt": "x", "source_image": source_image, "params": params}
        return payload_of(GenerateRequest.model_validate(body))

    plain = batch_key("m", payload())
    assert batch_key("m", payload(**change)) != plain
    assert batch_key("m", payload(seed="7")) == plain
    assert batch_key("m", payload(tis=[{"name": "x"}], post_processing=["GFPGAN"])) == plain
    assert batch_key("m", payload(denoising_strength=0.5)) == plain  # no source: no effect
    assert batch_key("m", payload(), kind="img2img") != plain
    assert batch_key("n", payload()) != plain


@pytest.mark.parametrize(
    ("states", "ahead", "wait"),
    [
        ([State.WAITING], 0, 10),
        ([State.WAITING] * 3, 0, 30),
        ([State.WAITING], 4000, 50),
        ([State.PROCESSING], 0, 20),
        ([State.PROCESSING, State.WAITING], 0, 30),
    ],
)
def test_the_wait_is_the_work_ahead_over_the_speed_of_all(
    states: list[State], ahead: int, wait: int
) -> None:
    # Two workers draw 100 pixelsteps a second together, so one of them an image in 20 seconds.
    found = progress(REQUEST, images(*states))
    assert wait_seconds(found, ahead=ahead, own=1000, speed=100, workers=2) == wait

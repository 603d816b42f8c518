"""What a fault and a censored image lead to, each at its boundary."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import State
from horde.rules import ruleset
from horde.rules.lifecycle import (
    FaultOutcome,
    Progress,
    after_fault,
    consumed,
    faulted_by,
    progress,
)
from tests.support.records import IMAGE, REQUEST

LAST = ruleset.of(REQUEST.ruleset).max_faults


@pytest.mark.parametrize(
    ("request_is", "attempt", "now", "outcome"),
    [
        ({}, LAST - 1, 999, FaultOutcome.REQUEUE),
        ({}, LAST, 999, FaultOutcome.FAULT),
        ({}, LAST + 1, 999, FaultOutcome.FAULT),
        ({"faulted": True}, 1, 999, FaultOutcome.FAULT),
        ({}, 1, 1000, FaultOutcome.EXPIRE),
        ({"faulted": True}, LAST, 1001, FaultOutcome.EXPIRE),
        ({"cancelled": True, "faulted": True}, LAST, 1001, FaultOutcome.CANCEL),
    ],
)
def test_a_fault_requeues_cancels_expires_or_ends_the_request(
    request_is: dict[str, Any], attempt: int, now: int, outcome: FaultOutcome
) -> None:
    request = replace(REQUEST, **request_is)
    assert after_fault(request, replace(IMAGE, attempt=attempt), now) is outcome


def test_who_faulted_an_image_is_its_worker_and_its_owner_each_once() -> None:
    drawn = replace(IMAGE, worker_id="w", worker_user=7)
    assert faulted_by(drawn) == ["w", 7]
    assert faulted_by(replace(drawn, faulted_by=[7, "v", 8])) == [7, "v", 8, "w"]
    assert faulted_by(replace(IMAGE, worker_id=None, worker_user=None)) == []


def test_progress_counts_each_image_once() -> None:
    states = [State.OK, State.OK, State.CENSORED, State.WAITING, State.PROCESSING, State.FAULTED]
    request = replace(REQUEST, price=50, tax=3)
    found = progress(request, [replace(IMAGE, state=state, attempt=2) for state in states])
    assert found == Progress(
        finished=3,
        processing=1,
        waiting=1,
        restarted=8,  # one for each that a worker has or had, and two for the other two
        done=False,
        faulted=False,
        kudos=109,
    )


@pytest.mark.parametrize(
    ("state", "kudos"),
    [(State.OK, 53), (State.CENSORED, 3), (State.WAITING, 0), (State.FAULTED, 0)],
)
def test_a_censored_image_consumes_its_tax_and_a_faulted_one_nothing(
    state: State, kudos: int
) -> None:
    assert consumed(replace(REQUEST, price=50, tax=3), replace(IMAGE, state=state)) == kudos

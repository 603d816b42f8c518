"""Every flow, cut at every call: nothing is lost, charged twice, or shared against the rules.

``make crash`` prints how many points each flow has.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import share
from horde import ending
from horde.records import Generation, Held, Request, State
from horde.rules import sharing
from horde.store import transfers
from horde.store.endings import Endings
from horde.store.requests import Requests
from tests.support.crashes import Flow, Report, World, calls, run, worlds
from tests.support.crashflows import FLOWS, SHARED, asked, cancel, delivered, queued, transfer
from tests.support.cuts import Made, Mode, Point, points


@pytest.fixture
def world(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[World]:
    with worlds(template, clients) as made:
        yield made


def dies_after(_made: Made, point: Point) -> bool:
    return point.mode is Mode.DIES_AFTER


def flow_named(name: str) -> Flow:
    (found,) = [flow for flow in FLOWS if flow.name == name]
    return found


QUICK = [
    "accept partly waived, two images",
    "submit shared, one of two",
    "share",
    "payouts",
    "sweep an expired request, partly waived",
    "cancel two waiting, once",
    "API key rotated, once",
    "transfer with an Idempotency-Key",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_process_that_dies_after_a_write_leaves_nothing_to_repair_by_hand(
    world: World, name: str
) -> None:
    report = run(world, flow_named(name), dies_after)
    assert report.points > 0
    assert report.wrong == []


def is_throttled(_made: Made, point: Point) -> bool:
    return point.mode is Mode.THROTTLED


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, "enqueue", "dispatch"])
def test_what_aws_throttles_is_answered_503_or_delivered_again_and_nothing_is_lost(
    world: World, name: str
) -> None:
    report = run(world, flow_named(name), is_throttled)
    assert report.points > 0
    assert report.wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_the_system_repairs_a_flow_that_is_cut_anywhere(world: World, flow: Flow) -> None:
    report = run(world, flow)
    assert report.points == len(points(report.made)) > 0
    assert report.wrong == []


@pytest.mark.slow
def test_every_function_that_moves_kudos_or_images_is_cut(world: World) -> None:
    seen = {made.by for flow in FLOWS for made in calls(world, flow)}
    # What ``finish`` does is cut by way of the sweep, which calls the same functions.
    handlers = set(world.functions) - {"about", "browse", "finish"}
    assert handlers | {"gpu_worker"} == seen


# --- the harness itself -----------------------------------------------------------------------


def wrong_with(world: World, flow: Flow) -> Report:
    report = run(world, flow)
    assert report.wrong, "the bug was not found"
    return report


def test_a_call_that_is_added_brings_its_points_by_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = cancel("two waiting", repeats=False)
    before = calls(world, flow)
    real = Requests.cancel

    def twice(self: Any, request: Request, due_at: int) -> Request | None:
        real(self, request, due_at)
        return real(self, request, due_at)

    monkeypatch.setattr(Requests, "cancel", twice)
    after = calls(world, flow)
    assert len(after) == len(before) + 1
    assert len(points(after)) == len(points(before)) + len(Mode)


@pytest.mark.slow
def test_an_image_marked_shared_before_it_is_copied_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sharing.row

    def marks(request: Request, generation: Generation, **file: Any) -> dict[str, Any]:
        image = Held(
            generation_id=generation.id,
            request_id=request.id,
            user_id=request.user_id,
            worker_user=generation.worker_user or 0,
        )
        world.store.sharing.mark_shared(image, "early", 1)
        return real(request, generation, **file)

    monkeypatch.setattr(share, "row", marks)
    report = wrong_with(world, queued("share", partial(delivered, **SHARED), "share"))
    assert any("0 objects in the data set" in what for what in report.wrong)


@pytest.mark.slow
def test_a_transfer_that_forgets_its_key_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_use", lambda *_: [])
    report = wrong_with(world, transfer("", repeats=True, with_key=True))
    assert any("20 kudos moved" in what for what in report.wrong)


@pytest.mark.slow
def test_a_cancel_that_refunds_before_it_flags_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancels(table: Any, request: Request, images: list[Generation]) -> None:
        ending.end_waiting(table, request, images, State.CANCELLED)
        table.requests.cancel(request, 0)

    monkeypatch.setattr(ending, "cancel", cancels)
    wrong_with(world, cancel("two waiting", repeats=False))


@pytest.mark.slow
def test_an_image_that_is_not_requeued_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endings, "requeue", lambda *_: True)
    report = wrong_with(world, flow_named("sweep a lease that ended"))
    assert any("an image was lost" in what for what in report.wrong)


def test_a_world_that_is_restored_is_as_it_was(world: World) -> None:
    kept = world.keep(asked(world))
    first = world.fingerprint(world.back(kept))
    world.generate()
    assert world.fingerprint({}) != first
    assert world.fingerprint(world.back(kept)) == first

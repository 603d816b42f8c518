"""On the local cloud, events that are handed over to one function run one after the other."""

import threading
from contextvars import copy_context
from typing import Any

from infra.local.ministack import in_order

HANG_S = 10


def test_events_of_one_function_run_in_turns_and_calls_that_wait_are_not_held_up() -> None:
    at_once, most, threads = 0, 0, list[threading.Thread]()
    first, go_on, guard = threading.Event(), threading.Event(), threading.Lock()

    def run(_function: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        nonlocal at_once, most
        if event["handed_over"]:
            with guard:
                at_once += 1
                most = max(most, at_once)
            first.set()
            assert go_on.wait(HANG_S)
            with guard:
                at_once -= 1
        return event

    def hand_over(function: dict[str, Any], event: dict[str, Any]) -> None:
        """Run in a thread that sees what is set here, as MiniStack does."""
        threads.append(threading.Thread(target=copy_context().run, args=(running, function, event)))
        threads[-1].start()

    handing, running = in_order(hand_over, run)
    function = {"config": {"FunctionName": "f"}}
    for _ in range(3):
        handing(function, {"handed_over": True})
    assert first.wait(HANG_S)
    assert running(function, {"handed_over": False}) == {"handed_over": False}
    go_on.set()
    for thread in threads:
        thread.join(HANG_S)
    assert (most, at_once) == (1, 0)

"""Run one handler on one event in this process, so that a breakpoint in it stops here.

Run ``python -m infra.local.dev.run_handler worker event.json`` in the environment that ``bin/dev
env worker`` prints; ``bin/dev invoke`` does both. The handler's log goes to stderr, its result to
stdout. Unlike on AWS, there is no time or memory limit.

This module imports only the standard library, so that it hides no missing import of the handler.
"""

import argparse
import contextlib
import importlib
import json
import os
import pdb  # noqa: T100 - what this is for
import sys
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLES = ("WORKER_KEY",)
"""The variables that an event file may use, as ``$NAME``."""


class DevError(Exception):
    """The command cannot be carried out; the message says why."""


@dataclass(frozen=True, slots=True)
class Context:
    """The context that Lambda passes to a handler with its event."""

    function_name: str
    memory_limit_in_mb: int
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_version: str = "$LATEST"
    invoked_function_arn: str = ""
    log_group_name: str = ""
    log_stream_name: str = ""

    def get_remaining_time_in_millis(self) -> int:
        """Return one minute, always, since a breakpoint must not run out of time."""
        return 60_000


class Debugger(pdb.Pdb):
    """The standard debugger, which also records that its user has quit."""

    left = False

    def set_quit(self) -> None:
        """Quit, and record it."""
        self.left = True
        super().set_quit()


def read_event(path: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the event in a file, or in stdin if ``path`` is ``-``; raises DevError.

    ``$WORKER_KEY`` in the text is replaced by the key of the local cloud's worker.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DevError(message) from None
    for variable in VARIABLES:
        if variable in variables:
            text = text.replace(f"${variable}", variables[variable])
    try:
        event = json.loads(text)
    except ValueError as error:
        message = f"{path} is not JSON: {error}"
        raise DevError(message) from None
    if not isinstance(event, dict):
        message = f"{path} is not an event, which must be a JSON object"
        raise DevError(message)
    return event


def invoke(name: str, path: str, *, debug: bool = False) -> Any:
    """Import ``functions/<name>.py`` and return the result of its handler for an event.

    ``debug`` stops at the handler's first line. Raises what the handler raises, and DevError.
    """
    event = read_event(path, os.environ)
    # The logger takes its stream at import. stdout is for the debugger and the result.
    with contextlib.redirect_stdout(sys.stderr):
        handler = importlib.import_module(name).handler
    context = Context(
        function_name=os.environ.get("AWS_LAMBDA_FUNCTION_NAME", name),
        memory_limit_in_mb=int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")),
    )
    if not debug:
        return handler(event, context)
    debugger = Debugger()
    answer = debugger.runcall(handler, event, context)
    if debugger.left:
        message = "left the debugger before the handler had ended"
        raise DevError(message)
    return answer


def timed(name: str, path: str, times: int) -> list[tuple[float, float]]:
    """Return the CPU and wall-clock seconds of a handler's first ``times`` calls, in order."""
    event = read_event(path, os.environ)
    with contextlib.redirect_stdout(sys.stderr):
        handler = importlib.import_module(name).handler
    context = Context(function_name=name, memory_limit_in_mb=128)
    found = []
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        handler(event, context)
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.local.dev.run_handler", description=__doc__
    )
    parser.add_argument("function")
    parser.add_argument("event")
    parser.add_argument("--debug", action="store_true", help="stop at the handler's first line")
    parser.add_argument("--times", type=int, default=0, help="time this many calls, in seconds")
    options = parser.parse_args(arguments)
    if options.debug and options.event == "-":
        parser.error("the debugger needs stdin, so the event must be a file")
    try:
        if options.times:
            print(json.dumps(timed(options.function, options.event, options.times)))
            return
        result = invoke(options.function, options.event, debug=options.debug)
    except DevError as error:
        sys.exit(f"bin/dev: {error}")
    except Exception:  # noqa: BLE001 - like Lambda, report any error that a handler raises
        traceback.print_exc()
        sys.exit(1)
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()

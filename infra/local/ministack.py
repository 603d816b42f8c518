"""MiniStack with four changes: ``python -m infra.local.ministack``.

The stack's buckets refuse plain HTTP, and MiniStack enforces this together with IAM. On loopback
there is no TLS terminator, so each request gets the header that one would add.

MiniStack unpacks the layer, 50 MB in 1,200 files, for every Lambda process that it starts. Here it
is unpacked once and linked. So cold starts are faster, and megabytes instead of gigabytes are left
to clean up.

MiniStack starts a process for each event that a function hands over while another is running. Here
the events of one function run one after the other, mostly in one process.

MiniStack asks for IAM actions that AWS does not have: the right to ``SendMessageBatch`` is that to
``SendMessage``. Here it asks for those.
"""

import hashlib
import tempfile
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any

ministack: Any = import_module("ministack.app")  # it has no type stubs

iam: Any = import_module("ministack.core.iam_actions")
lambdas: Any = import_module("ministack.services.lambda_svc")

SAME_RIGHT = {"sqs:SendMessageBatch": "sqs:SendMessage"}
"""Actions that only MiniStack knows, and those of AWS that cover them."""
HEADER = (b"x-forwarded-proto", b"https")

_plain = ministack.app
_unpacking = threading.Lock()


async def behind_tls(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve one ASGI scope as if it had come over TLS."""
    if scope["type"] == "http":
        headers = [pair for pair in scope["headers"] if pair[0] != HEADER[0]]
        scope = {**scope, "headers": [*headers, HEADER]}
    await _plain(scope, receive, send)


def as_on_aws(action_of: Callable[..., str | None]) -> Callable[..., str | None]:
    """Return a function that names the action a request needs as AWS does."""

    def named(*request: Any, **more: Any) -> str | None:
        action = action_of(*request, **more)
        return None if action is None else SAME_RIGHT.get(action, action)

    return named


class LinkedLayers(zipfile.ZipFile):
    """A zip file that unpacks links into a folder that MiniStack made for a layer."""

    def extractall(self, path: Any = None, members: Any = None, pwd: bytes | None = None) -> None:
        """Unpack all files, or for a layer, link to files that are unpacked once."""
        if path is None or not Path(path).name.startswith("layer_") or self.filename is None:
            super().extractall(path, members, pwd)
            return
        digest = hashlib.sha256(Path(self.filename).read_bytes()).hexdigest()
        unpacked = Path(tempfile.gettempdir()) / "layers" / digest
        with _unpacking:
            if not unpacked.exists():
                scratch = unpacked.with_name(f"{digest}.part")
                super().extractall(scratch)
                scratch.rename(unpacked)
        for entry in unpacked.iterdir():
            (Path(path) / entry.name).symlink_to(entry)


Run = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
"""Runs a function, as MiniStack describes it, with an event."""


def in_order(hand_over: Callable[..., None], run: Run) -> tuple[Callable[..., None], Run]:
    """Return how MiniStack hands events over and runs functions: of one function, in order."""
    handed_over = ContextVar("handed_over", default=False)
    turns: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def handing(function: dict[str, Any], event: dict[str, Any]) -> None:
        token = handed_over.set(True)
        try:
            hand_over(function, event)  # its thread sees what is set here
        finally:
            handed_over.reset(token)

    def running(function: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        if not handed_over.get():
            return run(function, event)
        with turns[(function.get("config") or function)["FunctionName"]]:
            return run(function, event)

    return handing, running


if __name__ == "__main__":
    both = ("invoke_async_with_retry", "_execute_function")
    ordered = in_order(*(getattr(lambdas, name) for name in both))
    vars(lambdas).update(zip(both, ordered, strict=True))
    zipfile.ZipFile = LinkedLayers  # type: ignore[misc]
    ministack.app = behind_tls
    iam.extract_iam_action = as_on_aws(iam.extract_iam_action)
    ministack.main()

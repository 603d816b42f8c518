"""What every client's script is given, and how it reports; nothing but the standard library.

Each script is one user with one client: it does the same round (draw two shared images, then meet
each refusal) in that client's own words, and prints what it saw as one line of JSON. The test
judges it. Scripts run in the clients' environment, where nothing of this project is installed.
"""

import base64
import json
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
UNKNOWN_KEY = "x" * 22
"""As long as a key: horde_sdk sends no other."""
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 4}
"""1 kudos an image."""
MODEL = "stable_diffusion"
PATIENCE_S = 300
"""Seconds after which a call hangs."""


class Task:
    """The addresses and keys that the test gave."""

    def __init__(self, given: dict[str, str]) -> None:
        self.api = given["api"]
        """Ends in ``/api``."""
        self.key = given["key"]
        """Of an account with kudos."""
        self.poor = given["poor"]
        """Of a new account: it has nothing above its floor."""
        self.model = given["model"]
        """What no endpoint draws: its requests wait, until a test's own worker pops them."""


def task() -> Task:
    """Return the task from the command line."""
    return Task(json.loads(sys.argv[1]))


def report(**seen: Any) -> None:
    """Print what was seen, as the last line."""
    sys.stdout.write(f"{json.dumps(seen, default=str)}\n")


def encoded(image: bytes) -> str:
    """Return an image's bytes as they fit JSON."""
    return base64.b64encode(image).decode()


def download(url: str) -> str:
    """Return the image behind a link, for clients that leave this to their user."""
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return encoded(answer.read())


def raised(call: Callable[[], object]) -> list[str]:
    """Return the name and text of what a call raises; [] where it raises nothing."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
        return [type(error).__name__, str(error)]
    return []


async def raised_async(call: Awaitable[object]) -> list[str]:
    """Return the same of a call that is awaited."""
    try:
        await call
    except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
        return [type(error).__name__, str(error)]
    return []

"""Doubles what Lambda and API Gateway refuse: events and answers that are too large.

Memory and time are limits as well. They cannot be held in this process, so ``hostile`` holds them
in a child process.
"""

import json
from typing import Any

MAX_EVENT = 6 * 1024 * 1024
"""Most bytes of a synchronous event, as JSON. A larger one is answered by API Gateway."""
MAX_ANSWER = 6_291_556
"""Most bytes of a function's answer, as JSON. A larger one becomes a 502."""
MAX_REQUEST = 10 * 1024 * 1024
"""Most bytes of an HTTP request's body at API Gateway."""
TOO_LARGE = {"message": "Request Entity Too Large"}
"""API Gateway's own answer, a 413."""
MB_PER_CPU = 1769
"""MB of memory with which a function has one CPU; with less it has a part of one."""


def json_bytes(value: Any) -> int:
    """Return the bytes of a value as the JSON that Lambda and a function exchange."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def too_large(event: dict[str, Any]) -> bool:
    """Return whether API Gateway refuses a request itself."""
    body = event.get("body") or ""
    large = len(body.encode("utf-8", "surrogatepass")) > MAX_REQUEST
    return large or json_bytes(event) > MAX_EVENT


def check_answer(file: str, answer: Any) -> None:
    """Fail if Lambda would refuse a function's answer."""
    size = json_bytes(answer)
    assert size <= MAX_ANSWER, f"{file} answers {size} bytes, and Lambda refuses them"

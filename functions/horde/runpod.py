"""RunPod's endpoint API, over plain HTTPS (gpu-worker.md 1.1 and 1.7: never import its SDK here).

A *ticket* is one job: it carries demand, not work. A lost, duplicate or superfluous ticket costs
one empty pop.
"""

import json
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any

import urllib3
from pydantic import BaseModel, BeforeValidator, ConfigDict

from horde import aws
from horde.rules import ruleset

TICKET_VERSION = 1
SHIFT_MS = 8 * 60 * 1000
"""Execution timeout of a ticket; a worker's shift is shorter."""
TICKET_LIFE_MS = ruleset.IN_FORCE.request_life_s * 1000 + SHIFT_MS
"""A ticket that nobody took in the life of a request may go: its images have expired too. RunPod
counts from the submission and drops running jobs as well, so a whole shift is added."""


class Model(BaseModel):
    """What the operator configured for one model."""

    model_config = ConfigDict(frozen=True)

    endpoint: str | None = None
    """RunPod's endpoint id; None where only volunteers draw it."""
    baseline: str = ""


Models = Annotated[dict[str, Model], BeforeValidator(json.loads)]
"""What the operator's endpoints draw, by the Horde's model names; JSON in the environment."""


def has_endpoint(models: dict[str, Model], name: str) -> bool:
    """Say whether an endpoint of the operator's draws a model."""
    return name in models and models[name].endpoint is not None


class RunPodError(Exception):
    """RunPod did not take a ticket or answer; the caller retries."""


@dataclass(frozen=True, slots=True)
class RunPod:
    """A client of one account."""

    url: str
    key: str

    def run(self, endpoint: str, *, model: str, request_id: str | None, images: int) -> str:
        """Queue one ticket and return RunPod's job id; raises RunPodError."""
        ticket = {
            "v": TICKET_VERSION,
            "model": model,
            "request_id": request_id,
            "images": images,
        }
        policy = {"executionTimeout": SHIFT_MS, "ttl": TICKET_LIFE_MS}
        answer = self._call("POST", f"/{endpoint}/run", {"input": ticket, "policy": policy})
        if not isinstance(answer.get("id"), str):
            message = "RunPod's answer names no job"
            raise RunPodError(message)
        return str(answer["id"])

    def queued(self, endpoint: str) -> int:
        """Return how many jobs an endpoint has in its queue and in progress."""
        jobs = self._call("GET", f"/{endpoint}/health").get("jobs", {})
        return int(jobs.get("inQueue", 0)) + int(jobs.get("inProgress", 0))

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            answer = _pool().request(
                method,
                self.url.rstrip("/") + path,
                body=None if body is None else json.dumps(body),
                headers={
                    "Authorization": f"Bearer {self.key}",
                    "Content-Type": "application/json",
                },
            )
            if answer.status == HTTPStatus.UNAUTHORIZED:
                connect.cache_clear()  # the operator may have changed the key: read it anew
            if answer.status != HTTPStatus.OK:
                message = f"RunPod answered {answer.status} to {method} {path}"
                raise RunPodError(message)
            parsed = json.loads(answer.data)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            message = f"RunPod did not answer {method} {path}: {type(error).__name__}"
            raise RunPodError(message) from None
        return parsed if isinstance(parsed, dict) else {}


@cache
def _pool() -> urllib3.PoolManager:
    # Retries are the queue's: a ticket that fails comes back by itself.
    return urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=8), retries=False)


@cache
def connect(url: str, key_parameter: str) -> RunPod:
    """Return the client of the account whose key is in an SSM SecureString parameter."""
    parameter = aws.ssm().get_parameter(Name=key_parameter, WithDecryption=True)
    return RunPod(url, parameter["Parameter"]["Value"])

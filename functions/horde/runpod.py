"""A client of RunPod's endpoint API over plain HTTPS, without its heavy SDK (gpu-worker.md 1.7).

A *ticket* is one RunPod job. It signals demand and carries no work, so a lost, duplicate or
superfluous ticket costs at most one empty pop.
"""

import json
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from horde import aws
from horde.rules import ruleset
from horde.rules.drawing import Ability

if TYPE_CHECKING:
    import urllib3

TICKET_VERSION = 1
SHIFT_MS = 8 * 60 * 1000
"""Execution timeout of a ticket in ms; a worker's shift is shorter."""
TICKET_LIFE_MS = ruleset.IN_FORCE.request_life_s * 1000 + SHIFT_MS
"""Time to live of a ticket in ms. After the life of a request its images have expired too. RunPod
counts from the submission and also drops running jobs, so a whole shift is added."""


MAX_PIXELS = 1024 * 1024
"""The largest image of an endpoint that says nothing else: the default of gpu_worker."""


class Model(BaseModel):
    """The operator's settings for one model."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    endpoint: str | None = None
    """RunPod's endpoint id; None if only volunteers draw the model."""
    baseline: str = ""
    max_pixels: int = MAX_PIXELS
    """Width times height of the largest image that the endpoint draws."""
    max_steps: int | None = None
    """Accurate steps up to which workers with ``limit_max_steps`` draw it; None: those that need no
    kudos upfront."""
    license: str = ""
    sha256: str = ""
    features: frozenset[str] = frozenset()
    """What the endpoint does that not every worker does (``rules.features``)."""


Models = Annotated[dict[str, Model], BeforeValidator(json.loads)]
"""The operator's models by the Horde's model names; JSON in the environment."""


def has_endpoint(models: dict[str, Model], name: str) -> bool:
    """Return whether one of the operator's endpoints draws a model."""
    return name in models and models[name].endpoint is not None


def abilities(models: dict[str, Model]) -> dict[str, Ability]:
    """Return what the operator's endpoints draw, by model; the operator's order is kept."""
    return {
        name: Ability(one.max_pixels, one.features)
        for name, one in models.items()
        if one.endpoint is not None
    }


class RunPodError(Exception):
    """RunPod did not accept a ticket or did not answer; the caller retries."""


@dataclass(frozen=True, slots=True)
class RunPod:
    """A client of one RunPod account."""

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
            message = "RunPod's response has no job id"
            raise RunPodError(message)
        return str(answer["id"])

    def queued(self, endpoint: str) -> int:
        """Return how many jobs an endpoint has in queue and in progress; raises RunPodError."""
        jobs = self._call("GET", f"/{endpoint}/health").get("jobs", {})
        return int(jobs.get("inQueue", 0)) + int(jobs.get("inProgress", 0))

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        import urllib3  # noqa: PLC0415 - 60 ms, and functions that know the models alone call nobody

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
                connect.cache_clear()  # the operator may have changed the key: read it again
            if answer.status != HTTPStatus.OK:
                message = f"RunPod answered {answer.status} to {method} {path}"
                raise RunPodError(message)
            parsed = json.loads(answer.data)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            message = f"RunPod did not answer {method} {path}: {type(error).__name__}"
            raise RunPodError(message) from None
        return parsed if isinstance(parsed, dict) else {}


@cache
def _pool() -> "urllib3.PoolManager":
    import urllib3  # noqa: PLC0415 - as above

    # No retries here: SQS redelivers the message of a ticket that fails.
    return urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=8), retries=False)


@cache
def connect(url: str, key_parameter: str) -> RunPod:
    """Return the client of the account whose key is in an SSM SecureString parameter."""
    parameter = aws.ssm().get_parameter(Name=key_parameter, WithDecryption=True)
    return RunPod(url, parameter["Parameter"]["Value"])

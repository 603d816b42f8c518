"""A client of RunPod's endpoint API over plain HTTPS, without its heavy SDK (gpu-worker.md 1.7).

A *ticket* is one RunPod job. It signals demand and carries no work, so a lost, duplicate or
superfluous ticket costs at most one empty pop.
"""

import json
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict

from horde import aws
from horde.rules import ruleset
from horde.rules.drawing import Ability
from horde.rules.tickets import Jobs

if TYPE_CHECKING:
    import urllib3

TICKET_VERSION = 1
SHIFT_MS = 8 * 60 * 1000
"""Execution timeout of a ticket in ms; a worker's shift is shorter."""
TICKET_LIFE_MS = ruleset.IN_FORCE.request_life_s * 1000 + SHIFT_MS
"""Time to live of a ticket in ms. After the life of a request its images have expired too. RunPod
counts from the submission and also drops running jobs, so a whole shift is added."""


MAX_COUNT = 1_000_000
"""A larger number of jobs or workers is not believed."""
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer of RunPod; a longer one is not read."""
MAX_PIXELS = 1024 * 1024
"""The largest image of an endpoint that says nothing else: the default of gpu_worker."""


class Model(BaseModel):
    """The operator's settings for one model."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    endpoint: str | None = None
    """RunPod's endpoint id; None if only volunteers draw the model."""
    baseline: str = ""
    max_workers: int | None = None
    """Most workers of the endpoint, as the sweep sets them anew; None: it leaves them alone."""
    price_family: str | None = None
    """The family by which it is priced, limited and leased, if not its own."""
    defaults: dict[str, Any] = {}
    """What ``params`` of a request get where they say nothing."""
    max_pixels: int = MAX_PIXELS
    """Width times height of the largest image that the endpoint draws."""
    max_steps: int | None = None
    """Accurate steps up to which workers with ``limit_max_steps`` draw it; None: those that need no
    kudos upfront."""
    license: str = ""
    sha256: str = ""
    features: frozenset[str] = frozenset()
    """What the endpoint does that not every worker does (``rules.features``)."""


def _table(text: str) -> Any:
    return json.loads(text if text.startswith("{") else Path(text).read_text("utf-8"))


Models = Annotated[dict[str, Model], BeforeValidator(_table)]
"""The operator's models by the Horde's model names: JSON in the environment, or a file of a layer
if it is too long for that."""


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


def endpoints(models: dict[str, Model]) -> dict[str, dict[str, Model]]:
    """Return the operator's endpoints, each with the models that it draws."""
    found: dict[str, dict[str, Model]] = {}
    for name, model in models.items():
        if model.endpoint is not None:
            found.setdefault(model.endpoint, {})[name] = model
    return found


class RunPodError(Exception):
    """RunPod did not accept a ticket or did not answer; the caller retries."""


def count(value: Any, what: str) -> int:
    """Return a number that RunPod says; raises RunPodError if it is none that can be true."""
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        message = f"RunPod's {what} is no number from 0 to {MAX_COUNT}"
        raise RunPodError(message)
    return value


class Health(NamedTuple):
    """What RunPod says of an endpoint: its jobs, and how many workers are in which state."""

    jobs: Jobs
    workers: dict[str, int]


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
        answer = self.call("POST", f"/{endpoint}/run", {"input": ticket, "policy": policy})
        if not isinstance(answer.get("id"), str):
            message = "RunPod's response has no job id"
            raise RunPodError(message)
        return str(answer["id"])

    def health(self, endpoint: str) -> Health:
        """Return what RunPod says of an endpoint; raises RunPodError, also if it is not readable.

        Only the states of workers that it counts are returned.
        """
        answer = self.call("GET", f"/{endpoint}/health")
        jobs, workers = answer.get("jobs"), answer.get("workers")
        if not isinstance(jobs, dict) or not isinstance(workers, dict):
            message = "RunPod's health has no jobs or no workers"
            raise RunPodError(message)
        states = {
            str(state): count(number, "number of workers") for state, number in workers.items()
        }
        queued, running = (count(jobs.get(name), name) for name in ("inQueue", "inProgress"))
        return Health(Jobs(queued=queued, running=running), states)

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Call RunPod and return the object that it answers; raises RunPodError."""
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
                preload_content=False,
            )
            data = answer.read(MAX_ANSWER + 1)
            if answer.status == HTTPStatus.UNAUTHORIZED:
                connect.cache_clear()  # the operator may have changed the key: read it again
            if answer.status != HTTPStatus.OK:
                message = f"RunPod answered {answer.status} to {method} {path}"
                raise RunPodError(message)
            if len(data) > MAX_ANSWER:
                message = f"RunPod's answer to {method} {path} is too long"
                raise RunPodError(message)
            parsed = json.loads(data)
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

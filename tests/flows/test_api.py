"""The API against its own description: schemathesis sends what fits it, and what does not.

`make fuzz` runs the same for longer (FUZZ=examples for each operation).
"""

import os
import random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from horde.edge import openapi
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud
from tests.support.wsgi import Gateway

EXAMPLES = int(os.environ.get("FUZZ", "12"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    allow_header_conformance,
]


bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Known:
    """Things that exist, so that not every guess ends at a 404 or 401."""

    def __init__(self, cloud: Cloud) -> None:
        user, key = cloud.register("ada", kudos=100_000)
        owner, _ = cloud.register("owner")
        worker = cloud.worker_key(owner)
        done = cloud.generate(key, shared=True, params={"n": 2}).body["id"]
        cloud.draw(worker)
        waiting = cloud.generate(key).body["id"]
        made = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
        self.keys = [key, key, ANONYMOUS, worker, made, "wrong"]
        (drawer,) = cloud.store.workers.seen_since(0, 1)
        self.paths = {"id": [done, waiting, str(user), drawer, made], "name": ["w1"]}
        self.dice = random.Random(0)

    def put_into(self, case: Any) -> None:
        """Replace most keys and ids of a case by known ones."""
        if self.dice.random() < 0.8:
            case.headers["apikey"] = self.dice.choice(self.keys)
        for name in case.path_parameters or {}:
            if self.dice.random() < 0.7 and name in self.paths:
                case.path_parameters[name] = self.dice.choice(self.paths[name])


DESCRIBED = sorted(
    name for name, route in openapi.routes().items() if not route.hidden and " " in name
)


@pytest.mark.slow
@pytest.mark.parametrize("route", DESCRIBED)
def test_every_answer_is_as_described(cloud: Cloud, route: str) -> None:
    method, _, path = route.partition(" ")
    known = Known(cloud)
    schema = schemathesis.openapi.from_wsgi("/api/swagger.json", Gateway(cloud))
    operation = schema[path][method]

    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    @bounded
    def fits(case: Any) -> None:
        known.put_into(case)
        case.call_and_validate(checks=CHECKS)

    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @bounded
    def does_not_fit(case: Any) -> None:
        known.put_into(case)
        case.call_and_validate(checks=CHECKS)

    fits()
    if operation.body or operation.query:
        does_not_fit()

"""A function builds the models of its own routes at its start, and none in its first request."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic._internal._mock_val_ser import set_model_mocks

from horde import aws
from horde.edge import http
from horde.edge.bodies import GenerateRequest, PopRequest
from horde.edge.other_responses import UserDetails
from tests.support.cloud import Cloud


def models() -> set[type[BaseModel]]:
    """Return the models of the API; settings are read at a function's start."""
    found, left = set[type[BaseModel]](), [BaseModel]
    while left:
        for kind in left.pop().__subclasses__():
            if kind not in found and not issubclass(kind, aws.Settings):
                found.add(kind)
                left.append(kind)
    return {kind for kind in found if kind.__module__.startswith("horde.edge")}


def built() -> set[str]:
    return {kind.__name__ for kind in models() if kind.__pydantic_complete__}


def start(function: str) -> set[str]:
    """Do what a new process of a function does with the models; returns those that it builds."""
    for kind in models():
        kind.__pydantic_complete__ = False
        set_model_mocks(kind)
    http.prepare(importlib.import_module(function).ROUTES)
    return built()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    for kind in models():
        kind.model_rebuild()


def test_a_model_is_built_at_its_first_use_and_not_when_it_is_imported() -> None:
    for kind in (GenerateRequest, PopRequest, UserDetails):
        assert kind.model_config["defer_build"]
    others = {kind.__name__ for kind in models() if not kind.model_config.get("defer_build")}
    # Pydantic's own, without a type; its name depends on the Python.
    assert others <= {"RootModel[list[~W]]", "RootModel[list[TypeVar]]"}


def test_a_function_builds_the_models_of_its_own_routes() -> None:
    made = start("generate")
    assert {"GenerateRequest", "RequestAccepted", "Warned"} <= made
    assert not {"PopRequest", "UserDetails", "RequestStatus"} & made
    assert {"RequestStatus", "GeneratedImage", "Remark"} <= start("status")


def test_no_first_request_of_a_hot_function_builds_a_model(cloud: Cloud, worker: str) -> None:
    def only_prepared(function: str, request: Any) -> Any:
        before = start(function)
        answer = request()
        assert answer.status in {200, 202}, answer
        assert built() - before == set(), function
        return answer

    asked = {"params": {"n": 1, "loras": [], "post_processing": []}, "models": None}
    _, key = cloud.register(kudos=100)
    accepted = only_prepared("generate", lambda: cloud.generate(key, **asked))
    request = accepted.body["id"]
    only_prepared("status", lambda: cloud.check(request))
    popped = only_prepared("worker", lambda: cloud.pop(worker)).body
    cloud.upload(popped["r2_upload"])
    only_prepared("worker", lambda: cloud.submit(worker, popped["id"]))
    shown = only_prepared("status", lambda: cloud.status(request))
    assert shown.body["generations"]

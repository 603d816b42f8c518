"""What the API says about itself is what it does."""

import json
from typing import Any

from horde.edge import openapi
from tests.support.cloud import Cloud


def document(cloud: Cloud) -> Any:
    answer = cloud.call("GET /api/swagger.json")
    assert answer.status == 200
    return answer.body


def test_every_deployed_route_is_described(cloud: Cloud) -> None:
    described = {
        f"{method.upper()} {path}"
        for path, methods in document(cloud)["paths"].items()
        for method in methods
    }
    hidden = {name for name, route in openapi.routes().items() if route.hidden}
    assert described == set(cloud.routes) - hidden - {"$default"}


def test_every_reference_of_the_description_resolves(cloud: Cloud) -> None:
    found = document(cloud)
    names = {part.split('"')[0] for part in json.dumps(found).split('"#/components/schemas/')[1:]}
    assert names <= set(found["components"]["schemas"])


def test_every_operation_has_a_summary_and_its_own_id(cloud: Cloud) -> None:
    operations = [
        operation for methods in document(cloud)["paths"].values() for operation in methods.values()
    ]
    assert all(operation["summary"].endswith(".") for operation in operations)
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)


def test_a_known_path_with_another_method_is_405(cloud: Cloud) -> None:
    answer = cloud.call("PUT /api/v2/generate/check/{id}", id="x")
    assert answer.status == 405
    assert answer.body == {"message": "The method is not allowed for the requested URL."}
    assert answer.headers["Allow"] == "GET"


def test_an_unknown_path_is_404(cloud: Cloud) -> None:
    answer = cloud.call("GET /api/v2/nothing")
    assert (answer.status, answer.body["rc"]) == (404, "NotFound")


def test_x_fields_leaves_only_what_was_asked_for(cloud: Cloud) -> None:
    request = cloud.generate().body["id"]
    answer = cloud.call(
        "GET /api/v2/generate/check/{id}", id=request, headers={"X-Fields": "done, waiting"}
    )
    assert answer.body == {"done": False, "waiting": 1}
    bad = cloud.call("GET /api/v2/generate/check/{id}", id=request, headers={"X-Fields": "{"})
    assert bad.status == 400
    wrong = cloud.call("GET /api/v2/generate/check/{id}", id="x", headers={"X-Fields": "done"})
    assert wrong.body["rc"] == "RequestNotFound"


def test_an_empty_query_value_is_no_value_on_every_route(cloud: Cloud) -> None:
    queries = {name: route.query for name, route in openapi.routes().items() if route.query}
    assert len(queries) >= 8
    for name, query in queries.items():
        shown = [
            cloud.call(name, query=sent, id="x", name="x", image_id="x", user_id="1")
            for sent in (None, dict.fromkeys(query.model_fields, ""))
        ]
        assert shown[0].status == shown[1].status != 500, name
        assert shown[0].body == shown[1].body, name


def test_the_default_list_of_workers_of_horde_sdk_is_answered(cloud: Cloud, worker: str) -> None:
    cloud.pop(worker)
    answer = cloud.call("GET /api/v2/workers", query={"type": "", "name": ""})
    assert (answer.status, [row["name"] for row in answer.body]) == (200, ["w1"])

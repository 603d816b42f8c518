"""The OpenAPI 3.1 document, generated from the routes and their models.

It is built on request, from the handlers that are deployed beside this package.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from horde import VERSION
from horde.edge.errors import (
    BodyTooLarge,
    MalformedBody,
    NulByteInPayload,
    PayloadError,
    TooManyRequests,
    UnsupportedMediaType,
)
from horde.edge.http import Key, Route
from horde.edge.responses import PlainError, RequestError, SchemaError, Wire
from horde.rules import ruleset
from horde.rules.refusals import (
    Busy,
    DeletedUser,
    HordeError,
    InvalidAPIKey,
    NotPrivileged,
    Throttled,
)

FUNCTIONS = Path(__file__).resolve().parents[2]
REFERENCE = "#/components/schemas/{model}"
UUID_PATHS = (
    "/generate/check/",
    "/generate/status/",
    "/generate/rate/",
    "/shared/images/",
    "/shared/requests/",
)
DESCRIPTION = """\
A serverless AI Horde: the AI Horde's image API. Shared images become an open data set (CC0) for
LAION. Sharing lowers the tax: +{tax_shared} kudos per image instead of +{tax_private}. Anonymous
text-to-image is always shared; image-to-image and inpainting never are.

Send your API key in the header `apikey`; `0000000000` is the anonymous key. The header `X-Fields`
selects the fields of a response.
"""


@cache
def routes() -> Mapping[str, Route]:
    """Return every route of every handler."""
    found: dict[str, Route] = {}
    for file in sorted(FUNCTIONS.glob("*.py")):
        found |= getattr(importlib.import_module(file.stem), "ROUTES", {})
    return found


def methods_of(path: str) -> list[str]:
    """Return the methods of a path such as ``/api/v2/find_user``; none if the path is unknown."""
    found = []
    for name in routes():
        method, _, template = name.partition(" ")
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if template and re.fullmatch(pattern, path):
            found.append(method)
    return sorted(found)


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    shown = {name: route for name, route in routes().items() if not route.hidden and " " in name}
    models: dict[tuple[type[BaseModel], str], None] = {}
    for route in shown.values():
        models |= dict.fromkeys(_models(route))
    references, schemas = models_json_schema(
        list(models),  # type: ignore[arg-type]
        ref_template=REFERENCE,
    )
    definitions = schemas["$defs"]
    for model, mode in models:
        if mode == "validation":
            _nullable(definitions[references[model, "validation"]["$ref"].rpartition("/")[2]])
    paths: dict[str, Any] = {}
    for name, route in shown.items():
        method, _, path = name.partition(" ")
        paths.setdefault(path, {})[method.lower()] = _operation(path, route, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Horde Commons",
            "version": VERSION,
            "description": ruleset.fill(DESCRIPTION),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"apikey": {"type": "apiKey", "in": "header", "name": "apikey"}},
        },
    }


def _models(route: Route) -> Iterator[tuple[type[BaseModel], str]]:
    for model in (route.body, route.query):
        if model is not None:
            yield model, "validation"
    for response in route.responses.values():
        if not isinstance(response, str):
            yield response, "serialization"
    for model in (RequestError, PlainError, SchemaError):
        yield model, "serialization"


def _nullable(schema: dict[str, Any]) -> None:
    """Allow null in optional fields: clients send it, and the parser treats it as absent."""
    required = schema.get("required", [])
    for name, inner in schema.get("properties", {}).items():
        if name not in required and {"type": "null"} not in inner.get("anyOf", []):
            about = {
                key: inner.pop(key) for key in ("title", "description", "default") if key in inner
            }
            schema["properties"][name] = {"anyOf": [inner, {"type": "null"}], **about}


def _errors(route: Route) -> Iterator[type[HordeError]]:
    yield from route.errors
    yield MalformedBody  # an X-Fields mask that cannot be parsed
    if route.body is not None:
        yield from (PayloadError, BodyTooLarge, UnsupportedMediaType, NulByteInPayload)
    if route.query is not None:
        yield PayloadError
    if route.key is not Key.UNUSED:
        yield from (InvalidAPIKey, DeletedUser, NotPrivileged)
    if route.key is Key.REQUIRED:
        yield PayloadError
    if route.limits:
        yield TooManyRequests
    if Busy in route.errors:
        yield Busy
    yield Throttled


def _shape(error: type[HordeError]) -> type[Wire]:
    if issubclass(error, PayloadError):
        return SchemaError
    return PlainError if issubclass(error, MalformedBody) else RequestError


def _operation(path: str, route: Route, references: Mapping[Any, Any]) -> dict[str, Any]:
    summary, _, more = (route.run.__doc__ or "").strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.run.__name__,
        "summary": summary,
        "tags": [route.tag or path.removeprefix("/api/").removeprefix("v2/").partition("/")[0]],
        "parameters": [*_parameters(path, route)],
        "responses": {},
    }
    if more.strip():
        operation["description"] = re.sub(r"\n    ", "\n", more).strip()
    if route.key is not Key.UNUSED:
        anybody: list[dict[str, list[str]]] = [{}] if route.key is Key.OPTIONAL else []
        operation["security"] = [{"apikey": []}, *anybody]
    if route.body is not None:
        content = {"application/json": {"schema": references[route.body, "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    for status, response in route.responses.items():
        if isinstance(response, str):
            content = {response: {}}
            text = "The file."
        else:
            content = {"application/json": {"schema": references[response, "serialization"]}}
            text = (response.__doc__ or "").strip().partition("\n")[0]
        operation["responses"][str(status)] = {"description": text, "content": content}
    refusals: dict[int, list[type[HordeError]]] = {}
    for error in _errors(route):
        if error not in refusals.setdefault(int(error.status), []):
            refusals[int(error.status)].append(error)
    for status, errors in sorted(refusals.items()):
        shapes = [*dict.fromkeys(_shape(error) for error in errors)]
        schemas = [references[shape, "serialization"] for shape in shapes]
        operation["responses"][str(status)] = {
            "description": " ".join((e.__doc__ or "").partition("\n")[0] for e in errors),
            "content": {
                "application/json": {
                    "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
                }
            },
        }
    return operation


def _parameters(path: str, route: Route) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        schema: dict[str, Any] = {"type": "string", "minLength": 1}
        if path.startswith(tuple(f"/api/v2{start}" for start in UUID_PATHS)):
            schema = {"type": "string", "format": "uuid"}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if route.query is not None:
        schema = route.query.model_json_schema()
        for name, inner in schema["properties"].items():
            required = name in schema.get("required", [])
            if not required:  # an empty value is no value (``Call.query``)
                inner = {"anyOf": [inner, {"type": "string", "maxLength": 0}]}  # noqa: PLW2901
            yield {"name": name, "in": "query", "required": required, "schema": inner}

"""A model's own defaults: what a request for it gets where its ``params`` say nothing."""

from collections.abc import Mapping
from typing import Any

from horde.edge.bodies import GenerateRequest


def with_defaults(body: GenerateRequest, defaults: Mapping[str, Any]) -> GenerateRequest:
    """Return a request with a model's defaults in fields of ``params`` that it does not set.

    The settings have checked them, so the price, the limits and the payload follow from the result.
    """
    said = body.params.model_fields_set
    missing = {name: value for name, value in defaults.items() if name not in said}
    if not missing:
        return body
    return body.model_copy(update={"params": body.params.model_copy(update=missing)})

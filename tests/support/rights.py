"""Doubles IAM: a Lambda may only make the calls that its role in the template allows.

moto allows everything, and MiniStack does not look into transactions: DynamoDB asks for the right
to each part of one. Of resources and prefixes nothing is known here; tests/e2e enforces them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import pytest
from botocore.client import BaseClient

PARTS = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}
"""The action that each part of a transaction needs."""
SAME = {
    "Invoke": ("InvokeFunction",),
    "CopyObject": ("GetObject", "PutObject"),
    "CreateMultipartUpload": ("PutObject",),
    "UploadPart": ("PutObject",),
    "CompleteMultipartUpload": ("PutObject",),
    "AbortMultipartUpload": ("AbortMultipartUpload",),
    "DeleteObjects": ("DeleteObject",),
    "HeadObject": ("GetObject",),
    "ListObjectsV2": ("ListBucket",),
    "ListObjectVersions": ("ListBucketVersions",),
}
"""Calls whose right has another name (AWS, service authorization reference)."""


def needed(service: str, operation: str, params: dict[str, Any]) -> set[str]:
    """Return the IAM actions that a call needs."""
    if operation == "TransactWriteItems":
        verbs = {PARTS[verb] for part in params["TransactItems"] for verb in part}
        return {f"{service}:{verb}" for verb in verbs}
    if operation == "DeleteObjects" and any(
        "VersionId" in one for one in params["Delete"]["Objects"]
    ):
        return {f"{service}:DeleteObjectVersion"}
    return {f"{service}:{verb}" for verb in SAME.get(operation, (operation,))}


_roles: list[tuple[set[str], set[str]]] = []
"""Of each Lambda that runs, the innermost last: what its role allows, and what it was denied."""


@contextmanager
def held_to(file: str, allowed: set[str]) -> Iterator[None]:
    """Fail if what runs in the block makes a call that ``allowed`` does not cover.

    Blocks may be nested, for tests in which one Lambda overtakes another.
    """
    denied = set[str]()
    _roles.append((allowed, denied))
    try:
        with _checked() if len(_roles) == 1 else nullcontext():
            yield
    finally:
        _roles.pop()
    assert not denied, f"the role of {file} does not allow {', '.join(sorted(denied))}"


@contextmanager
def _checked() -> Iterator[None]:
    make = vars(BaseClient)["_make_api_call"]

    def checked(client: Any, operation: str, params: dict[str, Any]) -> Any:
        allowed, denied = _roles[-1]
        for action in needed(client.meta.service_model.service_name, operation, params):
            if action not in allowed and not any(fnmatchcase(action, one) for one in allowed):
                denied.add(action)
        return make(client, operation, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", checked)
        yield

"""What the stack and the functions must agree on: routes, CORS, the table's keys.

The functions say it; the stack reads it here, so that neither can change alone. Importing this
needs no CDK.
"""

import importlib
import sys
from pathlib import Path
from typing import NamedTuple

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
if str(FUNCTIONS) not in sys.path:
    # ``cdk`` starts the app with no PYTHONPATH.
    sys.path.insert(0, str(FUNCTIONS))

_http = importlib.import_module("horde.http")

CORS_HEADERS: list[str] = _http.CORS["Access-Control-Allow-Headers"].split(", ")
CORS_METHODS: list[str] = _http.CORS["Access-Control-Allow-Methods"].split(", ")
CORS_EXPOSED: list[str] = _http.EXPOSED.split(", ")


class Index(NamedTuple):
    """A sparse index: its name, and the attributes that are its partition and sort key."""

    name: str
    partition: str
    sort: str


PK, SK = "pk", "sk"
TTL = "gone_at"
WAITING = Index("waiting", "wait_model", "priority")
DUE = Index("due", "due_shard", "due_at")
LISTED = Index("listed", "listed", "listed_at")
REQUEST, WEBHOOK = "REQUEST", "WEBHOOK"
"""Sort keys of a request and of a webhook that is to be called."""
ENTRY_KIND, REWARD = "kind", "REWARD"
"""The attribute that says what a ledger's entry is, and its value for a reward."""


def routes_of(file: str) -> list[str]:
    """Return the routes that ``functions/<file>.py`` answers, as API Gateway names them."""
    return list(importlib.import_module(file).ROUTES)

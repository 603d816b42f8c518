"""What the stack and the functions must agree on: routes, CORS, the table's keys.

The functions say it; the stack reads it here, so that neither can change alone. Importing this
needs no CDK.
"""

import importlib
import sys
from pathlib import Path

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
if str(FUNCTIONS) not in sys.path:
    # ``cdk`` starts the app with no PYTHONPATH.
    sys.path.insert(0, str(FUNCTIONS))

_http = importlib.import_module("horde.edge.http")
_items = importlib.import_module("horde.store.items")
_settlements = importlib.import_module("horde.store.settlements")

CORS_HEADERS: list[str] = _http.CORS["Access-Control-Allow-Headers"].split(", ")
CORS_METHODS: list[str] = _http.CORS["Access-Control-Allow-Methods"].split(", ")
CORS_EXPOSED: list[str] = _http.EXPOSED.split(", ")

PK, SK, TTL = _items.PK, _items.SK, _items.TTL
WAITING, DUE, LISTED = _items.WAITING, _items.DUE, _items.LISTED
NEW_REQUEST: dict[str, str] = _settlements.NEW_REQUEST
"""Attributes that a new request of the table has, by which the stream's filter knows it."""
NEW_WEBHOOK: dict[str, str] = _settlements.NEW_WEBHOOK
PENDING_REWARD: dict[str, str] = _settlements.PENDING_REWARD


def routes_of(file: str) -> list[str]:
    """Return the routes that ``functions/<file>.py`` answers, as API Gateway names them."""
    return list(importlib.import_module(file).ROUTES)

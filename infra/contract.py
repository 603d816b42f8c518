"""The names that the stack and the functions share: routes, CORS headers, the table's keys.

The functions define them and the stack reads them here, so that neither can change alone. This
module does not import the CDK.
"""

import importlib
import sys
import typing
from pathlib import Path

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
if str(FUNCTIONS) not in sys.path:
    # ``cdk`` starts the app without a PYTHONPATH.
    sys.path.insert(0, str(FUNCTIONS))

_bodies = importlib.import_module("horde.edge.bodies")
_http = importlib.import_module("horde.edge.http")
_records = importlib.import_module("horde.records")
_items = importlib.import_module("horde.store.items")
_ending = importlib.import_module("horde.ending")
_features = importlib.import_module("horde.rules.features")
_endpoints = importlib.import_module("horde.endpoints")
_work = importlib.import_module("horde.release.work")
_laion = importlib.import_module("horde.laion")
_settlements = importlib.import_module("horde.store.settlements")

CORS_HEADERS: list[str] = _http.CORS["Access-Control-Allow-Headers"].split(", ")
CORS_METHODS: list[str] = _http.CORS["Access-Control-Allow-Methods"].split(", ")
CORS_EXPOSED: list[str] = _http.EXPOSED.split(", ")

PK, SK, TTL = _items.PK, _items.SK, _items.TTL
WAITING, DUE, LISTED = _items.WAITING, _items.DUE, _items.LISTED
NEW_REQUEST: dict[str, str] = _settlements.NEW_REQUEST
"""The attributes by which the stream's filter recognises a new request."""
NEW_WEBHOOK: dict[str, str] = _settlements.NEW_WEBHOOK
NEW_CSAM_MARK: dict[str, str] = _settlements.NEW_CSAM_MARK
PENDING_REWARD: dict[str, str] = _settlements.PENDING_REWARD

SAMPLERS: tuple[str, ...] = typing.get_args(_bodies.Sampler)
"""The Horde's samplers."""
FEATURES: tuple[str, ...] = _features.FEATURES
"""What an endpoint may do that not every worker does."""

FLEET_DROP: str = _ending.FLEET_DROP
"""What is logged when one of the operator's own workers drops an image."""
NEEDS_ATTENTION: str = _endpoints.NEEDS_ATTENTION
"""What is logged of each thing that is wrong with an endpoint."""


UPLOADS: str = _records.UPLOADS
"""The prefixes of the outputs bucket: what workers upload, and what is delivered."""
SHARED: str = _records.SHARED
PRIVATE: str = _records.PRIVATE
HELD_DAYS: int = _records.HELD_DAYS
SHARED_DAYS: int = _records.SHARED_DAYS
PUBLISHED: tuple[str, ...] = _laion.PUBLISHED
"""What a reader of the data set's bucket may read."""
GALLERY_DAYS: int = _records.GALLERY_DAYS


BATCHES: str = _work.Folder.BATCHES
"""The folders of the work bucket from which the steps of a release are fanned out."""
PARTS: str = _work.Folder.PARTS
REWRITES: str = _work.Folder.REWRITES


def routes_of(file: str) -> list[str]:
    """Return the routes that ``functions/<file>.py`` answers, as API Gateway names them."""
    return list(importlib.import_module(file).ROUTES)

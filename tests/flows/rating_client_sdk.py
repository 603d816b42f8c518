"""horde_sdk asks a ratings API what moderators and raters ask. It is run by its own interpreter."""

import json
import sys
from typing import Any


def main() -> None:
    """Ask, and print what was answered."""
    import horde_sdk.ai_horde_api  # noqa: F401 - theirs import each other in a circle
    from horde_sdk.ratings_api import apimodels
    from horde_sdk.ratings_api.ratings_client import RatingsAPIClient

    task: dict[str, Any] = json.loads(sys.argv[1])
    apimodels.RATING_API_BASE_URL = f"{task['api']}/"  # a constant of theirs
    client, filters = RatingsAPIClient(), {"rating": None, "rating_comparison": None}
    lists = {**filters, "min_ratings": None, "format": "json"}
    asked = {
        "own": (
            apimodels.UserRatingsRequest(apikey=task["key"], limit=10, diverge=None, **lists),
            apimodels.UserRatingsResponse,
        ),
        "validate": (
            apimodels.UserValidateRequest(apikey=task["moderator"], user_id=task["user"], **lists),
            apimodels.UserValidateResponse,
        ),
        "check": (
            apimodels.UserCheckRequest(
                apikey=task["moderator"], user_id=task["user"], minutes=60, divergence=3
            ),
            apimodels.UserCheckResponse,
        ),
    }
    seen = {}
    for name, (request, response) in asked.items():
        answer = client.submit_request(request, response)
        seen[name] = {"is": type(answer).__name__, **json.loads(answer.model_dump_json())}
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()

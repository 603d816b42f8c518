"""One measured process: the CPU of handlers, in turns with a plain GetItem of boto3.

Run by the runtime's Python with the assets alone on its path, so it imports the standard library
and what is measured. It reads the stub's facts from the file that it is given, and writes there
the milliseconds of each call by row.
"""

import base64
import importlib
import json
import os
import sys
import time
from typing import Any

WARM = 8
"""Rounds that are not counted: connections, caches and the interpreter's own warming up."""


def event(route: str, path: str, body: Any, key: str, ip: str, **names: str) -> dict[str, Any]:
    """Return the event that API Gateway makes of a request."""
    method = route.partition(" ")[0]
    return {
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "requestContext": {"http": {"method": method, "sourceIp": ip}},
        "headers": {"content-type": "application/json", "apikey": key},
        "pathParameters": names or None,
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


def main() -> None:
    """Measure so many rounds."""
    file, rounds = sys.argv[1], int(sys.argv[2])
    with open(file) as given:  # noqa: PTH123 - the path is ours
        told = json.load(given)
    os.environ.update(told["env"])
    generate, status, worker = map(importlib.import_module, ("generate", "status", "worker"))
    boto3 = importlib.import_module("boto3")
    plain = boto3.client("dynamodb", endpoint_url=told["env"]["AWS_ENDPOINT_URL"])
    picture = base64.b64encode(bytes.fromhex(told["picture"])).decode()
    found: dict[str, list[float]] = {}
    counted = False

    def timed(name: str, call: Any) -> Any:
        begun = time.process_time_ns()
        answer = call()
        if counted:
            found.setdefault(name, []).append((time.process_time_ns() - begun) / 1e6)
        return answer

    def handled(name: str, module: Any, sent: dict[str, Any], expected: int) -> Any:
        answer = timed(name, lambda: module.handler(sent, None))
        if answer["statusCode"] != expected:
            sys.exit(f"{name}: {answer}")
        return json.loads(answer["body"])

    api = "/api/v2/generate"
    key, by = told["key"], told["worker"]
    for number in range(WARM + rounds):
        counted = number >= WARM
        ip = f"127.0.{number // 8}.1"
        row = {"pk": {"S": "FLEET"}, "sk": {"S": "MODES"}}
        timed(
            "cpu GetItem",
            lambda row=row: plain.get_item(TableName=told["table"], Key=row, ConsistentRead=True),
        )
        asked = {
            "prompt": "a red apple on a table",
            "params": {"n": 1, "width": 64, "height": 64},
            "shared": True,
        }
        sent = event(f"POST {api}/async", f"{api}/async", asked, key, ip)
        request = handled("cpu accept", generate, sent, 202)["id"]
        sent = event(f"GET {api}/check/{{id}}", f"{api}/check/{request}", None, key, ip, id=request)
        handled("cpu check", status, sent, 200)
        offer = {"name": "w1", "models": ["stable_diffusion"], "max_pixels": 4194304}
        sent = event(f"POST {api}/pop", f"{api}/pop", offer, by, ip)
        job = handled("cpu pop", worker, sent, 200)
        done = {"id": job["id"], "generation": picture, "state": "ok", "seed": 7}
        sent = event(f"POST {api}/submit", f"{api}/submit", done, by, ip)
        handled("cpu submit", worker, sent, 200)
    with open(file, "w") as answer:  # noqa: PTH123
        json.dump(found, answer)


if __name__ == "__main__":
    main()

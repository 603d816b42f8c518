"""A client on the standard library alone, as command lines and the plugins of editors are written.

It sends what those send: fields that mean nothing without a source image, empty lists, a seed that
is no number; and it takes an image as a link (``r2``) or, as plugins without TLS must, in base64.
"""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from tests.e2e.clients.common import (
    MODEL,
    PATIENCE_S,
    SMALL,
    UNKNOWN_ID,
    UNKNOWN_KEY,
    download,
    report,
    task,
)

given = task()


def call(method: str, path: str, body: Any = None, key: str | None = None) -> Any:
    """Send one request; raises HTTPError for anything but a success."""
    request = urllib.request.Request(
        f"{given.api}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **({"Apikey": key} if key else {})},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def refused(method: str, path: str, body: Any = None, key: str | None = None) -> list[Any]:
    """Return status and body of a refusal; [] where there was none."""
    try:
        call(method, path, body, key)
    except urllib.error.HTTPError as error:
        return [error.code, json.load(error)]
    return []


def small(params: Any = None, **fields: Any) -> dict[str, Any]:
    """Return a shared request for two small images."""
    return {
        "prompt": "a fox### blurry",
        "params": {
            **SMALL,
            "n": 2,
            "sampler_name": "k_euler_a",
            "cfg_scale": 7.5,
            "denoising_strength": 0.6,
            "seed": "",
            "karras": True,
            "post_processing": [],
            "loras": [],
            **(params or {}),
        },
        "models": [MODEL],
        "workers": [],
        "source_processing": "img2img",
        "nsfw": False,
        "censor_nsfw": False,
        "trusted_workers": False,
        "use_default_badwordsids": True,
        "shared": True,
        **fields,
    }


def drawn(body: dict[str, Any]) -> dict[str, Any]:
    """Send a request and poll until it is done."""
    accepted = call("POST", "v2/generate/async", body, given.key)
    while not call("GET", f"v2/generate/check/{accepted['id']}")["done"]:
        time.sleep(0.8)
    found: dict[str, Any] = call("GET", f"v2/generate/status/{accepted['id']}")
    return found


linked = drawn(small())
inline = drawn(small(r2=False))
report(
    shared=[linked["shared"], inline["shared"]],
    downloaded=[download(generation["img"]) for generation in linked["generations"]],
    inline=[generation["img"] for generation in inline["generations"]],
    bad_sampler=refused("POST", "v2/generate/async", small({"sampler_name": "k_no"}), given.key),
    bad_key=refused("POST", "v2/generate/async", small(), UNKNOWN_KEY),
    too_poor=refused("POST", "v2/generate/async", small({"steps": 60}), given.poor),
    unknown_check=refused("GET", f"v2/generate/check/{UNKNOWN_ID}"),
    unknown_status=refused("GET", f"v2/generate/status/{UNKNOWN_ID}"),
    unknown_cancel=refused("DELETE", f"v2/generate/status/{UNKNOWN_ID}"),
)

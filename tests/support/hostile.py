"""Bodies that cost much more than they weigh, and a child process with a function's real limits.

``python -m tests.support.hostile ROUTE...`` sends each of them along these routes and prints what
was answered. It may use the CPU and the memory that Lambda gives the function, by the template; a
body that takes more ends it.
"""

import base64
import importlib
import io
import json
import resource
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from tests.support import lambda_limits
from tests.support.api_calls import ANONYMOUS, UNKNOWN

MOST = 5_800_000
"""Bytes of the largest ones: what fits into an event with its headers, escapes included."""
ITEMS = ("7", '""', "[]", "{}", '{"a":1}', "null", "1e400", '"\\ud800"', "9" * 4000, '"x"')
"""JSON values that cost much, or many errors, when they are repeated."""
OWN_MB = 110
"""MB that a function's process has with its modules and clients; measured."""


def repeated(item: str, size: int) -> str:
    """Return a list of one value, of about ``size`` bytes."""
    return "[" + ",".join([item] * max(1, size // (len(item) + 1))) + "]"


def body_with(field: str, value: str, **usual: Any) -> str:
    """Return a body with a value, as JSON, in a field such as ``params.loras``."""
    outer, _, inner = field.partition(".")
    fields = {name: json.dumps(found) for name, found in usual.items()}
    fields[outer] = f"{{{json.dumps(inner)}: {value}}}" if inner else value
    return "{" + ", ".join(f"{json.dumps(name)}: {found}" for name, found in fields.items()) + "}"


def scans(count: int) -> str:
    """Return a JPEG in base64 whose last scan comes so often; each has 23 bytes and takes 6 ms."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (3072, 3072), "green").save(out, "JPEG", progressive=True, quality=10)
    whole = out.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return base64.b64encode(whole[:-2] + last * count + whole[-2:]).decode()


def largest_source() -> str:
    """Return the source image that takes most work, in base64: as many pixels as there may be."""
    from PIL import Image

    out = io.BytesIO()
    noise = Image.effect_noise((768, 768), 80).resize((3072, 3072)).convert("RGB")
    noise.save(out, "WEBP", quality=75, method=0)
    return base64.b64encode(out.getvalue()).decode()


def fields_of(model: Any) -> list[str]:
    """Return a model's fields, and as ``params.x`` those of its parameters."""
    from horde.edge.bodies import Params

    inner = (
        [f"params.{name}" for name in Params.model_fields] if "params" in model.model_fields else []
    )
    return [*model.model_fields, *inner]


def bodies(model: Any, most: int = MOST) -> Iterator[tuple[str, str]]:
    """Yield hostile bodies of a route whose body is ``model``, each with a name."""
    usual = {"prompt": "x"} if "prompt" in model.model_fields else {}
    for size in (35_000, most):
        for item in ITEMS:
            for field in ("models", "params.post_processing", "unknown"):
                yield (
                    f"{size} of {item[:8]} in {field}",
                    body_with(field, repeated(item, size - 100), **usual),
                )
    for field in fields_of(model):
        yield f"errors in {field}", body_with(field, repeated('{"a":[]}', 15_000), **usual)
        yield f"a long text in {field}", body_with(field, json.dumps("9" * (most - 200)), **usual)
    for depth in (150, 1000, most // 2 - 50):
        yield f"{depth} levels", body_with("unknown", "[" * depth + "]" * depth, **usual)
    yield "one key, often", "{" + '"prompt": "x", ' * (most // 16) + '"prompt": "x"}'
    keys = ", ".join(f'"{number}": 1' for number in range(most // 14))
    yield "many keys", f"{{{keys}}}"
    yield "backslashes", body_with("unknown", '"' + "\\\\" * (most // 4) + '"', **usual)
    yield "wide letters", body_with("unknown", '"' + "\\ud83d\\ude00" + "x" * (most - 300) + '"')
    yield "commas", body_with("prompt", json.dumps("," * (most - 200)))
    if usual:
        for count in (1000, 100_000):
            yield f"{count} scans", json.dumps({"prompt": "x", "source_image": scans(count)})
        source = largest_source()
        painted = {"source_image": source, "source_mask": source, "source_processing": "inpainting"}
        yield "the largest source image and mask", json.dumps({"prompt": "x", **painted})


def main(routes: list[str]) -> None:
    """Send the bodies; end by a signal or MemoryError at the first that takes too much."""
    from tests.support.cloud import fresh_cloud
    from tests.support.moto_aws import moto_clients
    from tests.support.template import synthesize

    with moto_clients() as clients, fresh_cloud(synthesize(), clients) as cloud:
        worker = cloud.new_worker()
        cloud.generate(dry_run=True)
        for route in routes:
            file = cloud.routes[route]
            memory = int(cloud.functions[file][1]["MemorySize"])
            seconds = int(cloud.functions[file][1]["Timeout"])
            cpu = seconds * min(1.0, memory / lambda_limits.MB_PER_CPU)
            found = importlib.import_module(file).ROUTES[route]
            keys = {"anonymous": ANONYMOUS, "nobody": UNKNOWN, "a worker": worker}
            for caller, key in keys.items():
                for name, raw in bodies(found.body):
                    sys.stdout.write(f"\n{route} by {caller}: {name} ")
                    sys.stdout.flush()
                    _limit(memory, cpu)
                    started = time.process_time()
                    answer = cloud.call(route, raw=raw, key=key, id=UNKNOWN)
                    took = time.process_time() - started
                    assert answer.status < HTTPStatus.INTERNAL_SERVER_ERROR, answer
                    size = lambda_limits.json_bytes(answer.body)
                    sys.stdout.write(f"-> {int(answer.status)}, {size} bytes, {took:.2f} s")


def _limit(memory: int, cpu: float) -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - not a file of ours
        pages = int(file.read().split()[0])
    room = pages * resource.getpagesize() + (memory - OWN_MB) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    until = int(time.process_time() + cpu + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main(sys.argv[1:])

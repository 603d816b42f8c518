"""``make demo``: five requests through the whole of Horde Commons, each checked against the rules.

A plain HTTP client sends them to a real ``cdk deploy`` on this machine; a real gpu_worker draws
them with the model that ships with the project.
"""

import base64
import io
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from horde import dataset
from horde.rules import ruleset
from infra.local.api_client import Client, until
from infra.local.local_cloud import ROOT, LocalCloud, run
from infra.local.processes import BEAT_S, LocalCloudError, say
from infra.local.sheet import Picture, contact_sheet
from infra.operate import account_commands

FOLDER = ROOT / "demo-images"
SIDE, STEPS = 512, 12
GRANT = 1000
ALIASES = ("demo-ada", "demo-ben", "demo-cam")
PATIENCE_S = 600
"""Seconds for all images, and for their sharing; an idle machine needs 20."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What must come of a request. ``price`` and ``tax`` are kudos per image."""

    shared: bool
    why: str
    price: int
    tax: int
    message: str = ""
    """A part of what the 202 must say; '' where it must say nothing."""


@dataclass(slots=True)
class DemoRequest:
    """One of the five requests, and what came of it."""

    name: str
    title: str
    client: Client
    body: dict[str, Any]
    rule: Rule
    alias: str = ""
    before: int = 0
    after: int = 0
    dry_run: int = 0
    accepted: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    objects: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Keys in the LAION bucket, with the rows in these archives."""

    @property
    def n(self) -> int:
        """How many images."""
        return int(self.body["params"].get("n", 1))


def drawing() -> Image.Image:
    """Return the source image: a house on a hill, as a child would draw it."""
    image = Image.new("RGB", (SIDE, SIDE), "#9fd3f2")
    draw = ImageDraw.Draw(image)
    draw.ellipse((360, 48, 456, 144), fill="#ffd23f")
    draw.ellipse((-180, 300, 420, 720), fill="#6aa84f")
    draw.ellipse((220, 340, 720, 760), fill="#4f8a3c")
    draw.rectangle((168, 236, 316, 372), fill="#e8e0d0", outline="#5a4632", width=6)
    draw.polygon(((148, 240), (242, 152), (336, 240)), fill="#b5442e", outline="#5a4632")
    draw.rectangle((224, 296, 264, 372), fill="#7a4b2a")
    draw.rectangle((184, 260, 216, 292), fill="#fff3b0", outline="#5a4632", width=4)
    return image


def as_base64(image: Image.Image) -> str:
    """Return an image as clients send it."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def demo_requests(cloud: LocalCloud) -> list[DemoRequest]:
    """Open three accounts and make up the five requests."""

    def body(prompt: str, **fields: Any) -> dict[str, Any]:
        params = {
            "width": SIDE,
            "height": SIDE,
            "steps": STEPS,
            "sampler_name": "k_euler",
            **fields.pop("params", {}),
        }
        return {"prompt": prompt, "params": params, "nsfw": False, "censor_nsfw": False, **fields}

    clients = {}
    for alias in ALIASES:
        account = cloud.client().register(alias)
        account_commands.grant(cloud.store, account["username"], GRANT)
        clients[alias] = cloud.client(account["api_key"])
        say(f"registered {account['username']}; the operator grants {GRANT} kudos")
    anonymous, rules = cloud.client(), ruleset.IN_FORCE
    # 512x512 at 12 steps is 2.60 kudos by the Horde's formula, so 3; with a LoRA 5.60, so 6.
    # Image-to-image at strength 0.6 computes 7.2 steps, 1.56, times 1.3 for the source, so 2.
    return [
        DemoRequest(
            "a",
            "registered, shared: true",
            clients["demo-ada"],
            body("a red apple", shared=True, params={"n": 2}),
            Rule(shared=True, why="requested", price=3, tax=rules.tax_shared),
            alias="demo-ada",
        ),
        DemoRequest(
            "b",
            "registered, no flag",
            clients["demo-ben"],
            body("a purple heart", params={"seed": "7"}),
            Rule(shared=False, why="not requested", price=3, tax=rules.tax_private),
            alias="demo-ben",
        ),
        DemoRequest(
            "e",
            "the same with a LoRA",
            clients["demo-cam"],
            body(
                "a purple heart",
                params={"seed": "7", "loras": [{"name": "neon", "inject_trigger": "any"}]},
            ),
            Rule(shared=False, why="not requested", price=6, tax=rules.tax_private),
            alias="demo-cam",
        ),
        DemoRequest(
            "c",
            "anonymous, no flag",
            anonymous,
            body("a fox in the snow"),
            Rule(
                shared=True,
                why="anonymous text-to-image is always shared",
                price=3,
                tax=rules.tax_shared,
                message="Anonymous text-to-image is always shared",
            ),
        ),
        DemoRequest(
            "d",
            "anonymous, source image",
            anonymous,
            body(
                "a castle at sunset",
                source_image=as_base64(drawing()),
                source_processing="img2img",
                params={"denoising_strength": 0.6},
            ),
            Rule(
                shared=False,
                why="image-to-image is never shared",
                price=2,
                tax=rules.tax_private,
            ),
        ),
    ]


def send(request: DemoRequest) -> None:
    """Ask for the price, then send the request."""
    request.before = request.client.kudos()
    request.dry_run = request.client.dry_run(request.body)
    request.accepted = request.client.generate(request.body)
    said = request.accepted.get("message")
    say(
        f"({request.name}) {request.title}: {request.n} x {request.body['prompt']!r}: "
        f"{request.accepted['kudos']} kudos" + (f'\n          "{said}"' if said else "")
    )


def watch(requests: list[DemoRequest]) -> None:
    """Poll until all are done, with a line whenever something changes."""
    shown, said, begun = "", time.monotonic(), time.monotonic()
    while True:
        for request in requests:
            if not request.counts.get("done"):
                request.counts = request.client.check(request.accepted["id"])
        line = "   ".join(f"({request.name}) {_state(request.counts)}" for request in requests)
        if line != shown or time.monotonic() > said + BEAT_S:
            say(line)
            shown, said = line, time.monotonic()
        if all(request.counts["done"] for request in requests):
            return
        if time.monotonic() > begun + PATIENCE_S:
            message = f"not all images were drawn within {PATIENCE_S} s"
            raise TimeoutError(message)
        time.sleep(0.5)


def _state(counts: dict[str, Any]) -> str:
    if counts["faulted"]:
        return "faulted"
    names = ("waiting", "processing", "finished")
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name]) or "ended"


def collect(cloud: LocalCloud, requests: list[DemoRequest]) -> None:
    """Download the images, then look into the LAION bucket once sharing has come to rest."""
    FOLDER.mkdir(exist_ok=True)
    for request in requests:
        request.status = request.client.status(request.accepted["id"])
        request.after = request.client.kudos()
        for number, generation in enumerate(request.status["generations"], 1):
            kind = "shared" if request.status["shared"] else "private"
            path = FOLDER / f"{request.name}{number}-{kind}.webp"
            path.write_bytes(request.client.download(generation["img"]))
            request.files.append(path)
    say(f"downloaded {sum(len(request.files) for request in requests)} images to {FOLDER.name}/")

    s3, bucket = cloud.aws("s3"), cloud.outputs["LaionBucket"]

    def keys() -> list[str]:
        found = s3.list_objects_v2(Bucket=bucket, Prefix="incoming/").get("Contents", [])
        return [row["Key"] for row in found]

    expected = sum(request.n for request in requests if request.rule.shared)
    say(f"waiting for {expected} images and their metadata in the LAION bucket")
    try:
        until("the shared images", lambda: len(keys()) >= expected, seconds=PATIENCE_S)
        # So that a missing one is not just late: every upload has been judged.
        until(
            "the uploads queue to be empty",
            lambda: cloud.uploads_waiting() == 0,
            seconds=PATIENCE_S,
        )
    except TimeoutError as error:
        say(f"  {error}")
    for key in keys():
        for request in requests:
            ids = {generation["id"] for generation in request.status["generations"]}
            if Path(key).stem in ids:
                archive = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
                request.objects.append((key, dataset.unpack(archive)[1]))


# --- the table -----------------------------------------------------------------------------------

Cell = list[tuple[str, bool]]
"""Lines, each with whether it is as the rules want it."""
HEADS = ("request", "shared, and why", "kudos", "balance", "image", "LAION bucket")


def cells(request: DemoRequest) -> list[Cell]:
    """Return a request's row; every line of it is checked."""
    rule, charged = request.rule, int(request.accepted["kudos"])
    price = charged - rule.tax * request.n
    said = request.accepted.get("message", "")
    shared = request.status["shared"]
    why = [(part, True) for part in _wrap(rule.why, 24)]
    if rule.message:
        told = rule.message in said
        why.append(("and the 202 said so" if told else "but the 202 did not say so", told))
    elif said:
        why.append((f"but the 202 said {said[:40]!r}", False))
    paid = charged if request.alias else 0
    return [
        [
            (f"({request.name}) {request.title}", True),
            (f"{request.n} x {request.body['prompt'][:24]!r}", True),
        ],
        [("yes:" if shared else "no:", shared is rule.shared), *why],
        [
            (f"price {price} = {request.n} x {rule.price}", price == request.n * rule.price),
            (f"tax   {request.n * rule.tax} = {request.n} x {rule.tax}", True),
            (f"total {charged}", charged == (rule.price + rule.tax) * request.n),
            (f"dry run {request.dry_run}", request.dry_run == charged),
        ],
        [
            (f"{request.before} -> {request.after}", request.after == request.before - paid),
            (f"paid {paid}" if request.alias else "anonymous: untouched", True),
        ],
        _images(request),
        _objects(request),
    ]


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _images(request: DemoRequest) -> Cell:
    lines: Cell = []
    for path in request.files:
        with Image.open(path) as image:
            good = image.format == "WEBP" and image.size == (SIDE, SIDE)
            size = f"{image.format} {image.width}x{image.height}"
        lines += [(path.name, True), (f"  {size}", good)]
    if len(request.files) != request.n:
        lines.append((f"{len(request.files)} of {request.n}", False))
    return lines


def _objects(request: DemoRequest) -> Cell:
    expected = request.n if request.rule.shared else 0
    if not request.objects:
        return [("none", not expected)]
    lines: Cell = []
    for key, row in request.objects:
        folder, _, name = key.rpartition("/")
        lines += [(f"{folder}/", True), (f"  {name[:8]}...tar", _is_clean(request, row))]
    if len(request.objects) != expected:
        lines.append((f"{len(request.objects)} instead of {expected}", False))
    return lines


def _is_clean(request: DemoRequest, row: dict[str, Any]) -> bool:
    """Say whether a metadata row is flat, has the prompt, and leads to nobody."""
    flat = bool(row) and not any(isinstance(value, dict | list) for value in row.values())
    text = json.dumps(row)
    nobody = not any(name in text for name in (*ALIASES, str(request.client.api_key)))
    return flat and nobody and row.get("prompt") == request.body["prompt"]


def table(rows: Iterable[list[Cell]]) -> tuple[str, bool]:
    """Return the table as text, and whether all of it is right."""
    right = True
    shown: list[list[list[str]]] = [[[head] for head in HEADS]]
    for row in rows:
        right = right and all(ok for cell in row for _, ok in cell)
        shown.append([[text if ok else f"WRONG: {text}" for text, ok in cell] for cell in row])
    widths = [max(len(text) for row in shown for text in row[at]) for at in range(len(HEADS))]
    rule = "-+-".join("-" * width for width in widths)
    lines = []
    for texts_of in shown:
        for at in range(max(len(cell) for cell in texts_of)):
            texts = [cell[at] if at < len(cell) else "" for cell in texts_of]
            lines.append(" | ".join(t.ljust(w) for t, w in zip(texts, widths, strict=True)))
        lines.append(rule)
    return "\n".join(line.rstrip() for line in lines), right


def pictures(requests: list[DemoRequest]) -> list[Picture]:
    """Return what the contact sheet shows."""
    shown = []
    for request in requests:
        if "source_image" in request.body:
            shown.append(Picture(drawing(), "source image", f"({request.name}) sent by the client"))
        for path in request.files:
            with Image.open(path) as image:
                picture = image.convert("RGB")
            shown.append(
                Picture(
                    picture,
                    request.body["prompt"],
                    f"({request.name}) {request.title}",
                    shared=request.status["shared"],
                )
            )
    return shown


def main() -> int:
    """Run the demo; 0 only if every cell of the table is right."""
    with LocalCloud("demo", auth=os.environ.get("AUTH", "0") not in {"", "0"}) as cloud:
        requests = demo_requests(cloud)
        try:
            for request in requests:
                send(request)
            watch(requests)
            collect(cloud, requests)
        except TimeoutError as error:
            raise LocalCloudError(str(error), cloud.worker_log()) from None
        sheet = contact_sheet(pictures(requests))
        sheet.save(FOLDER / "demo.png", optimize=True)
        text, right = table(cells(request) for request in requests)
    print(f"\n{text}\n")
    print(f"images: {FOLDER.name}/, all of them on {FOLDER.name}/demo.png")
    print("every line was checked against the rules: all right" if right else "NOT ALL RIGHT")
    return 0 if right else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: python -m infra.local.demo")
    run(main)

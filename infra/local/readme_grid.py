"""``make grid``: the README's grid of prompts, drawn through the whole local cloud.

Each prompt is a request by an ordinary client: send, poll, download. The worker draws many of them
in one batch, since they differ only in prompt and seed.
"""

import io

from PIL import Image

from gpu_worker.grid import COLUMNS, PROMPTS, sheet
from infra.local.api_client import Client, until
from infra.local.local_cloud import ROOT, LocalCloud, run
from infra.local.processes import say

OUT = ROOT / "docs" / "grid.png"
SIDE, SHOWN, STEPS, SEED = 512, 200, 12, "7"
TIMEOUT_S = 300


def drawn(client: Client, request_id: str) -> Image.Image:
    """Wait for a request's image and return it, scaled down; raises TimeoutError."""

    def done() -> bool:
        return bool(client.check(request_id)["done"])

    until(request_id, done, seconds=TIMEOUT_S, every=0.5)
    image = client.download(client.status(request_id)["generations"][0]["img"])
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    return picture.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)


def main() -> int:
    """Draw the grid; returns the exit status."""
    with LocalCloud("grid", rate_limits=False) as cloud:
        client = cloud.client()
        params = {"width": SIDE, "height": SIDE, "steps": STEPS, "seed": SEED}
        requests = {
            prompt: client.generate({"prompt": prompt, "params": params})["id"]
            for prompt in PROMPTS
        }
        pictures = []
        for prompt, request_id in requests.items():
            pictures.append((prompt, drawn(client, request_id)))
            say(f"{len(pictures)} of {len(requests)}: {prompt}")
    sheet(pictures, COLUMNS).save(OUT, optimize=True)
    say(f"{OUT.relative_to(ROOT)} is drawn")
    return 0


if __name__ == "__main__":
    run(main)

"""``make dataset``: a thousand images, from their requests to what researchers load.

A real ``cdk deploy`` on this machine gets requests of every kind over its HTTP API. The gpu_worker
draws some images with the model that ships with the project, and made-up workers upload the others.
The state machine makes a release of them, and another one after some are withdrawn. The command
``horde-dataset`` downloads both, and each library that researchers use reads every row and pixel.
"""

import math
import os
import shutil
import sys
from pathlib import Path

from PIL import Image

from gpu_worker.grid import PROMPTS
from infra.local.dataset.batch import MADE_UP, asks
from infra.local.dataset.checking import tool
from infra.local.dataset.story import Story, table
from infra.local.local_cloud import MODEL, ROOT, LocalCloud, run
from infra.local.processes import LocalCloudError
from infra.values import WORDS

FOLDER = ROOT / "build" / "dataset"
DOCS = ROOT / "docs"
IMAGES, SIDE = 1000, 512
SHOWN, SMALL_SHOWN = 96, 60
"""Images on the contact sheet, and on the small one: whole rows."""
MOST_BYTES = 150_000
"""Of a picture in docs/."""
PLOTS = ("models.png", "sizes.png", "prompt-lengths.png", "nsfw-scores.png")
"""The plots of the README, two in a row."""


def pictures(cloud: LocalCloud, story: Story) -> None:
    """Draw the contact sheet and the plots, and small versions for the README."""
    tool(cloud, "contact-sheet", story.copy, "-o", FOLDER / "contact-sheet.png", "-n", SHOWN)
    print(tool(cloud, "stats", story.copy, "-o", FOLDER / "stats"))
    # One query: all that the model drew, and as many of the others.
    shown = FOLDER / "shown"
    query = f"model = '{MODEL}' OR (model = '{MADE_UP}' AND seed % 24 = 0)"
    tool(cloud, "download", f"s3://{cloud.outputs['LaionBucket']}", shown, "--where", query)
    tool(cloud, "contact-sheet", shown, "-o", FOLDER / "shown.png", "-n", SMALL_SHOWN)
    shutil.rmtree(shown)
    small(FOLDER / "shown.png", FOLDER / "dataset-sheet.webp", 1000)
    together([FOLDER / "stats" / name for name in PLOTS], FOLDER / "plots.png")
    small(FOLDER / "plots.png", FOLDER / "dataset-stats.png", 1200)
    if os.environ.get("DOCS"):
        for name in ("dataset-sheet.webp", "dataset-stats.png"):
            shutil.copyfile(FOLDER / name, DOCS / name)


def together(plots: list[Path], target: Path) -> None:
    """Write plots of one size as one picture, two in a row."""
    images = [Image.open(plot).convert("RGB") for plot in plots]
    width, height = images[0].size
    sheet = Image.new("RGB", (2 * width, math.ceil(len(images) / 2) * height), "white")
    for number, image in enumerate(images):
        sheet.paste(image, (number % 2 * width, number // 2 * height))
    sheet.save(target)


def small(source: Path, target: Path, width: int) -> None:
    """Write a smaller version of a picture. Raises LocalCloudError if it is not small."""
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    image.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
    if target.suffix == ".png":
        image.quantize(64).save(target, optimize=True)
    else:
        image.save(target, quality=80, method=6)
    if target.stat().st_size > MOST_BYTES:
        message = f"{target} has more than {MOST_BYTES} bytes"
        raise LocalCloudError(message)


def main() -> int:
    """Make the releases; 0 only if all of it is right."""
    images = int(os.environ.get("IMAGES") or IMAGES)
    requests = asks(images, PROMPTS, SIDE, WORDS[0])
    auth = os.environ.get("AUTH", "0") not in {"", "0"}
    with LocalCloud("dataset", auth=auth, rate_limits=False) as cloud:
        story = Story(cloud, FOLDER)
        try:
            story.run(requests)
        except TimeoutError as error:
            raise LocalCloudError(str(error), cloud.worker_log()) from None
        pictures(cloud, story)
        print(table(story))
    print(f"\n{FOLDER.relative_to(ROOT)}/release: the data set, as researchers download it")
    right = not story.problems
    print("everything was checked: all right" if right else f"{len(story.problems)} WRONG")
    return 0 if right else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: IMAGES=1000 python -m infra.local.dataset")
    run(main)

"""The card of a scorer: what it was fitted to, what it is worth, and what it cannot do."""

from typing import TYPE_CHECKING

from horde_dataset.errors import shown

if TYPE_CHECKING:
    from horde_dataset.train import Report

_USE = """## Use

`scorer.onnx` takes `image`, `uint8 [N, H, W, 3]`: RGB of any size, all of a batch of one. It gives
`aesthetic_score`, `float [N]`, from 1 to 10. Resizing and embedder are in the file.

```python
import numpy as np, onnxruntime
from PIL import Image

scorer = onnxruntime.InferenceSession("scorer.onnx")
image = np.asarray(Image.open("image.webp").convert("RGB"))[None]
print(scorer.run(None, {"image": image})[0])
```

`horde-dataset score FOLDER --model scorer.onnx -o scores.parquet` scores a copy of the data set."""
_LIMITS = """## Limits

- It predicts what these raters liked among these images, on average. It is no measure of art, and
  it does not know who looks.
- Raters see an image without its prompt: whether the image shows what was asked for is not in it.
- Scores of images unlike the rated ones (photographs, other models, other sizes) were not measured.
- Ratings of one image differ; scores are drawn to the middle. Compare ranks, not distances.
- Chosen by score, a data set gets more alike: what few raters liked is lost first.
- Do not judge people's pictures of themselves or others by it."""

_LICENCE = """## Licence

The head is CC0-1.0, as the images and ratings are. An embedder of your own is in the file with its
weights, and keeps its own licence."""


def card(report: "Report") -> str:
    """Return the card as Markdown."""
    at_most = "unknown" if report.ceiling is None else f"{report.ceiling:.2f}"
    rows = [
        ("rank correlation (Spearman) on held-out images", str(report.correlation)),
        ("the same of a constant score", "0"),
        ("highest that the raters' disagreement allows (estimate)", at_most),
        ("the same, cross-validated on the other images", f"{report.cross_validated:.2f}"),
        ("mean error on held-out images, in points", f"{report.error:.2f}"),
        ("the same of the mean rating alone", f"{report.baseline_error:.2f}"),
    ]
    left_out = [f"- {number:,} {shown(why)}" for why, number in report.left_out.items()]
    verdict = (
        "The interval includes 0: **this scorer was not shown to know anything.**"
        if report.correlation.low <= 0
        else "The interval is above 0."
    )
    parts = [
        f"# Aesthetic scorer `{shown(report.version)}`",
        f"A linear head on {report.embedder}, fitted to release {report.release} of Horde Commons.",
        "![Scores and mean ratings of the held-out images](held-out.png)",
        "## What it is worth\n\n| | |\n|---|---|\n"
        + "\n".join(f"| {name} | {value} |" for name, value in rows)
        + f"\n\nIntervals are of 95 %: a bootstrap of 2000 draws of whole groups. {verdict}",
        f"## What it was fitted to\n\n{report.ratings:,} ratings of {report.images:,} images with "
        f"{report.least} or more each. {report.held_out:,} images are held out; the head has seen "
        "none of them. Images of one request, one prompt or one file are one group, and no group "
        f"is in both halves ({report.groups:,} groups, chosen by hash, seed {report.seed}).\n\n"
        f"The head is a ridge regression on {report.dimension:,} standardised numbers. Images are "
        f"weighted by their ratings. Its strength, {report.strength:.4g}, was chosen by "
        "cross-validation on the images that are not held out."
        + ("\n\nLeft out:\n\n" + "\n".join(left_out) if left_out else ""),
        _USE,
        _LIMITS,
        _LICENCE,
    ]
    return "\n\n".join(parts) + "\n"

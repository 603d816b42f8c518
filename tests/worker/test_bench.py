"""`python -m gpu_worker.bench`: every way of drawing runs, and what is compared is what it says."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    # Importing torch and diffusers takes seconds.
    pytest.mark.slow,
    # diffusers with numpy 2.
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


def test_each_way_of_drawing_is_measured_beside_one_image_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from gpu_worker.bench.__main__ import main

    threads = torch.get_num_threads()
    json_file, plot = tmp_path / "found.json", tmp_path / "found.svg"
    monkeypatch.setattr(
        sys,
        "argv",
        ["bench", "sd15", "--device", "cpu", "--seconds", "0.1", "--batch", "2", "--no-compile",
         "--out", str(json_file), "--plot", str(plot)],
    )  # fmt: skip
    main()
    torch.set_num_threads(threads)
    told = capsys.readouterr().out
    assert "figures say nothing of a GPU" in told
    found = json.loads(json_file.read_text())
    ((what, rows),) = found["rows"].items()
    assert what in told
    assert [row["kind"] for row in rows] == ["stock", "stock", "ours", "stock", "ours"]
    assert rows[0]["times"] == 1
    for row in rows:
        assert row["rate"] > 0
        assert row["times"] == pytest.approx(row["rate"] / rows[0]["rate"])
        measured = row["peak"] if row["idle"] is None else row["idle"]
        assert 0 <= measured < 1
    # The waits of a horde are many times as long as drawing a tiny image.
    alone, batched = rows[3], rows[4]
    assert alone["idle"] > batched["idle"]
    bars = ET.parse(plot).getroot()
    assert len(bars.findall("{http://www.w3.org/2000/svg}rect")) == len(rows) + 1


@pytest.mark.parametrize(
    ("arguments", "why"), [(["sd9"], "no such architecture: sd9"), (["--batch", "3"], "1, 2, 4")]
)
def test_what_cannot_be_measured_is_refused_at_once(
    arguments: list[str],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gpu_worker.bench.__main__ import main

    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "weights"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684), ("flux", None)]
)
def test_the_models_have_the_shapes_of_the_published_ones(name: str, weights: int | None) -> None:
    from gpu_worker.bench.architectures import FULL

    (shape,) = (one for one in FULL if one.name == name)
    parts = shape.build("meta").components
    network = parts.get("unet") or parts["transformer"]
    found = sum(weight.numel() for weight in network.parameters())
    if weights:
        assert found == weights  # of the published checkpoints
    else:
        # FLUX.1 [dev] has 11,901,408,320 in 19 and 38 blocks; its ends have no quarter.
        double, single = (
            sum(one.numel() for one in blocks[0].parameters())
            for blocks in (network.transformer_blocks, network.single_transformer_blocks)
        )
        assert found + 14 * double + 28 * single == 11_901_408_320

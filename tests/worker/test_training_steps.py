"""The steps of a training: which parts learn, what a checkpoint keeps, what it ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpu_worker.train.data import SIZE, Pictures
from gpu_worker.train.drawings import Drawings
from gpu_worker.train.nouns import Noun

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # importing torch takes seconds


def training(checkpoint: Path | None, steps: int, **more: Any) -> tuple[Any, Any]:
    import torch

    from gpu_worker.train.progress import Training

    torch.manual_seed(3)
    layer = torch.nn.Linear(4, 4)
    options = {"rate": 0.01, "cooldown": 0, "checkpoint": checkpoint, **more}
    return layer, Training("test", {layer: 1.0}, steps, **options)


def learn(layer: Any, steps: Any) -> list[Any]:
    """Take the steps, each with a loss of its own, and return the weights after each."""
    import torch

    seen = []
    for step in steps.steps():
        steps.learn((layer(torch.full((1, 4), 1.0 + step)) - step).square().mean())
        seen.append(layer.weight.detach().clone())
    return seen


def test_an_interrupted_training_ends_with_the_weights_of_one_that_ran_through(
    tmp_path: Path,
) -> None:
    import torch

    whole, steps = training(tmp_path / "whole.pt", 8, averaging=True)
    learn(whole, steps)
    steps.finish()
    for end in (5, 8):
        layer, steps = training(tmp_path / "parts.pt", end, averaging=True)
        assert steps.done == (0 if end == 5 else 5)
        learn(layer, steps)
    steps.finish()
    assert torch.equal(layer.weight, whole.weight)


def test_a_training_ends_with_the_mean_of_its_last_weights() -> None:
    import torch

    layer, steps = training(None, 6, averaging=True)
    first = layer.weight.detach().clone()
    mean = first
    for number, weights in enumerate(learn(layer, steps)):
        decay = min(0.995, (1 + number) / (10 + number))
        mean = decay * mean + (1 - decay) * weights
    last = layer.weight.detach().clone()
    steps.finish()
    assert torch.allclose(layer.weight, mean, atol=1e-6)
    assert not torch.allclose(layer.weight, last, atol=1e-4)


@pytest.mark.parametrize("share", [0, 0.3])
def test_the_text_encoder_learns_with_the_unet_only_if_it_has_a_share(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from gpu_worker.train import adapt, text, unet, vae

    monkeypatch.setattr(adapt, "FIRST", 32)
    cutout = np.full((SIZE, SIZE, 4), 255, np.uint8)
    emoji = Pictures(
        {("a", "3d"): cutout, ("b", "3d"): cutout}, 1, (Noun("a", ("a",)), Noun("b", ("b",)))
    )
    torch.manual_seed(4)
    tokenizer = text.tokenizer_of(["a and b", "two a"])
    encoder, model = text.encoder_for(tokenizer), unet.build()
    mixture = adapt.Mixture(
        emoji, Drawings(2), vae.build(), tokenizer, share_groups=0.4, pool=64, new_per_step=2
    )
    before = [one.detach().clone() for one in (*encoder.parameters(), *model.parameters())]
    adapt.train(mixture, model, encoder, tmp_path / "both.pt", 2, text_share=share)
    count = len([*encoder.parameters()])
    changed = [
        not torch.equal(one, other)
        for one, other in zip(before, (*encoder.parameters(), *model.parameters()), strict=True)
    ]
    assert any(changed[count:])
    assert any(changed[:count]) == bool(share)

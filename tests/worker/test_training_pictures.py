"""What the demo model is trained on, and how its autoencoder learns more than emoji."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from gpu_worker.train.data import PLAIN, SIZE, Pictures
from gpu_worker.train.drawings import Drawings
from gpu_worker.train.groups import NUMBERS, Groups, plural
from gpu_worker.train.nouns import Noun

# Two emoji, one a red disc and one a blue, in place of those that npm has.
NOUNS = (Noun("a", ("apple",)), Noun("b", ("berry",)))


def disc(red: int, blue: int) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[0:SIZE, 0:SIZE] - SIZE / 2
    rgba = np.zeros((SIZE, SIZE, 4), np.uint8)
    rgba[..., 0], rgba[..., 2] = red, blue
    rgba[..., 3] = 255 * (np.hypot(x, y) < 0.4 * SIZE)
    return rgba


def pictures(seed: int) -> Pictures:
    cutouts = {("a", "3d"): disc(220, 20), ("b", "3d"): disc(20, 220)}
    return Pictures(cutouts, seed, NOUNS)


def things(picture: npt.NDArray[np.uint8]) -> int:
    """How many pieces of a white picture are not white."""
    left, count = Image.fromarray(picture.min(-1)).point(lambda level: 255 * (level < 128)), 0
    while (found := np.argwhere(np.asarray(left))).size:
        ImageDraw.floodfill(left, (int(found[0][1]), int(found[0][0])), 0)
        count += 1
    return count


def test_a_seed_makes_the_same_drawings_again_and_another_seed_others() -> None:
    def drawn(seed: int) -> npt.NDArray[np.uint8]:
        source = Drawings(seed)
        return np.stack([source.draw() for _ in range(8)])

    assert (drawn(1) == drawn(1)).all()
    assert (drawn(1) != drawn(2)).any()


@pytest.mark.lengthy
def test_drawings_are_of_many_colours_and_kinds() -> None:
    source = Drawings(3)
    drawn = [source.draw() for _ in range(300)]
    assert {picture.shape for picture in drawn} == {(SIZE, SIZE, 3)}
    means = np.stack([picture.mean((0, 1)) for picture in drawn])
    assert (means.std(0) > 40).all()
    assert (means.argmax(1) == 1).mean() > 0.1  # green, of which emoji have little
    detail = np.array([np.abs(np.diff(picture.astype(int), axis=0)).mean() for picture in drawn])
    assert (detail < 3).mean() > 0.05
    assert (detail > 15).mean() > 0.05


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("apple", "apples"), ("cherry", "cherries"), ("monkey", "monkeys"), ("mouse", "mice"),
        ("bus", "buses"), ("fox", "foxes"), ("slice of pizza", "slices of pizza"),
        ("tomato", "tomatoes"), ("fish", "fish"), ("teddy bear", "teddy bears"),
    ],
)  # fmt: skip
def test_plurals_are_spelt_as_people_write_them(word: str, expected: str) -> None:
    assert plural(word) == expected


@pytest.mark.lengthy
def test_a_group_shows_as_many_things_as_its_caption_says() -> None:
    groups, seen = Groups(pictures(4)), set()
    numbers = {word: count for count, words in NUMBERS.items() for word in words}
    for _ in range(300):
        picture, caption = groups.draw()
        on_white = (picture[[0, 0, -1], [0, -1, -1]] == 255).all()
        number = next((word for word in numbers if f"{word} " in caption), None)
        coloured = any(f" {word} " in f" {caption} " for word in PLAIN)
        if number and on_white and not coloured and " on " not in caption:
            assert things(picture) == numbers[number], caption
            seen.add(numbers[number])
    assert seen == {2, 3, 4}


@pytest.mark.lengthy
def test_of_two_things_the_first_named_is_on_the_left() -> None:
    groups, seen = Groups(pictures(5)), set()
    for _ in range(600):
        picture, caption = groups.draw()
        if caption in ("an apple and a berry", "a berry and an apple"):
            left, right = (int(picture[33, x].astype(int).argmax()) for x in (16, 48))
            assert (left, right) == ((0, 2) if caption.startswith("an apple") else (2, 0))
            seen.add(caption)
    assert len(seen) == 2


@pytest.mark.slow
def test_the_deepened_autoencoder_starts_as_what_it_was() -> None:
    import torch

    from gpu_worker.train import vae, widen

    torch.manual_seed(1)
    teacher = vae.build().eval()
    student = widen.deepened(teacher).eval()
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        latents = teacher.encode(pixels).latent_dist.mode()
        assert torch.allclose(student.encode(pixels).latent_dist.mode(), latents, atol=1e-4)
        assert torch.allclose(
            student.decode(latents).sample, teacher.decode(latents).sample, atol=1e-4
        )


@pytest.mark.slow
def test_a_latent_channel_that_was_not_read_is_set_free() -> None:
    import torch

    from gpu_worker.train import vae, widen

    teacher = vae.build()
    with torch.no_grad():
        teacher.post_quant_conv.weight[:, 1] *= 0.01
    assert widen.read_channels(teacher).tolist() == [True, False, True, True]
    read = widen.deepened(teacher).post_quant_conv.weight
    assert float(read[:, 1].detach().norm()) > 0.1
    assert torch.equal(read[:, 2:], teacher.post_quant_conv.weight[:, 2:])


@pytest.mark.slow
def test_made_pictures_are_learnt_at_little_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from gpu_worker.train import adapt, text, unet, vae

    tokenizer = text.tokenizer_of(["an apple and a berry", "two apples"])

    def steps(share: float) -> torch.Tensor:
        monkeypatch.setattr(adapt, "SHARE_MADE", share)
        monkeypatch.setattr(adapt, "FIRST", 64)
        emoji = pictures(6)
        mixture = adapt.Mixture(emoji, Drawings(7), vae.build(), tokenizer, share_groups=0.2)
        latents, tokens, steps = zip(*(mixture.batch() for _ in range(4)), strict=True)
        assert latents[0].shape == (unet.BATCH, 4, 16, 16)
        assert tokens[0].shape == (unet.BATCH, text.MAX_TOKENS)
        return torch.cat(steps)

    assert 300 < int(steps(1.0).max()) < adapt.LATEST
    assert int(steps(0.0).max()) > 900
    assert 0.2 < float((steps(0.5) > adapt.LATEST).float().mean()) < 0.7

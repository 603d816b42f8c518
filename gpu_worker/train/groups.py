"""Training pictures of two things, and of two to four of a thing, with their captions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gpu_worker.train.data import LEADS, Bytes, Pictures, PictureSpec, paste

if TYPE_CHECKING:
    from gpu_worker.train.nouns import Noun

NUMBERS = {2: ("two", "2", "a pair of"), 3: ("three", "3"), 4: ("four", "4")}
VAGUE = ("", "some", "many", "several")
SHARE_PAIRS = 0.65
"""Share of groups that are two different things, which are harder than some of one."""
CENTRES = {
    2: ((16, 33), (48, 33)),
    3: ((32, 17), (16, 47), (48, 47)),
    4: ((17, 17), (47, 17), (17, 47), (47, 47)),
}
"""Where the things of a group stand, as (x, y) in pixels."""
IRREGULAR = {"mouse": "mice", "snowman": "snowmen", "fish": "fish", "grapes": "grapes"}
JOINTS = ("and", "and", "and", "with", "next to", "beside")


def plural(word: str) -> str:
    """Return the plural of a noun or of a phrase that ends in one."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if " of " in word:
        head, _, rest = word.partition(" of ")
        return f"{plural(head)} of {rest}"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    if word.endswith(("s", "x", "ch", "sh")) or word == "tomato":
        return f"{word}es"
    return f"{word}s"


class Groups:
    """A random source of captioned groups, made of the emoji of `pictures`."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    @property
    def random(self) -> np.random.Generator:
        """The generator of the pictures, which draws for the groups too."""
        return self._pictures.random

    def _thing(self) -> PictureSpec:
        """Return the content of a picture that has a background."""
        while (spec := self._pictures.spec()).noun.is_scene:
            pass
        return spec if self.random.random() < 0.5 else replace(spec, colour="")

    def _one_of(self, options: tuple[str, ...]) -> str:
        return options[int(self.random.integers(len(options)))]

    def _named(self, noun: Noun) -> str:
        return noun.words[0] if self.random.random() < 0.6 else self._one_of(noun.words)

    def _pair(self) -> tuple[list[Bytes], str]:
        """Return two different things, the one that is named first on the left."""
        first, second = self._thing(), self._thing()
        names = []
        for spec in (first, second):
            name = f"{spec.colour} {self._named(spec.noun)}".strip()
            article = "an" if name[0] in "aeiou" else "a"
            names.append(self._one_of((f"{article} {name}", f"{article} {name}", name)))
        return [self._pictures.cutout(spec) for spec in (first, second)], (
            f"{names[0]} {self._one_of(JOINTS)} {names[1]}"
        )

    def _many(self) -> tuple[list[Bytes], str]:
        """Return some copies of one thing."""
        spec, count = self._thing(), int(self.random.integers(2, 5))
        number = self._one_of(VAGUE if self.random.random() < 0.15 else NUMBERS[count])
        words = [word for word in spec.noun.words if not word.endswith("ies")]
        name = words[0] if self.random.random() < 0.6 else self._one_of((*words,))
        text = " ".join(part for part in (number, spec.colour, plural(name)) if part)
        return [self._pictures.cutout(spec)] * count, text

    def draw(self) -> tuple[Bytes, str]:
        """Return the next picture and its caption."""
        random = self.random
        cutouts, text = self._pair() if random.random() < SHARE_PAIRS else self._many()
        ground = self._thing()
        if ground.ground:
            text = f"{text} {ground.phrase}"
        if random.random() < 0.2:
            text = f"{self._one_of(LEADS)} {text}"
        background = self._pictures.background(ground)
        side = int(random.integers(27, 32))
        for cutout, (x, y) in zip(cutouts, CENTRES[len(cutouts)], strict=True):
            left, top = (
                int(np.clip(at - side // 2 + random.integers(-2, 3), 0, 64 - side)) for at in (x, y)
            )
            paste(background, cutout, side, left, top)
        return np.clip(background, 0, 255).astype(np.uint8), text

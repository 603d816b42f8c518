"""Pictures that a seed makes: what the autoencoder sees of the world beside emoji.

Nothing is downloaded. Photographs are stood in for by leaves that cover each other and by fields of
noise, whose statistics are like theirs (Baradad et al., "Learning to See by Looking at Noise",
2021); the rest are skies, ramps, shapes, lines, letters, faces and patterns.
"""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from gpu_worker.train.data import SIZE, Bytes, Floats

if TYPE_CHECKING:
    from collections.abc import Callable

FINE = 2 * SIZE
"""Side in which shapes are drawn before they are reduced, so that their edges are smooth."""
LETTERS = "ABCDEFGHKLMNOPRSTUVWXYZabcdefghiklmnoprstuvwxyz0123456789&?!"

Colour = tuple[int, int, int]
Reals = npt.NDArray[np.floating[Any]]


class Drawings:
    """A random source of made pictures: RGB bytes of shape (SIZE, SIZE, 3)."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._hues = self.random.random(3)
        self._kinds: list[tuple[float, Callable[[], Floats]]] = [
            (0.26, self._leaves), (0.14, self._field), (0.15, self._landscape), (0.08, self._ramp),
            (0.10, self._shapes), (0.06, self._lines), (0.04, self._letters), (0.07, self._face),
            (0.05, self._pattern), (0.05, self._ball),
        ]  # fmt: skip
        self._weights = np.array([weight for weight, _ in self._kinds])
        self._weights /= self._weights.sum()

    def draw(self) -> Bytes:
        """Return the next picture."""
        random = self.random
        self._hues = random.random(3) if random.random() < 0.5 else random.random() + (
            random.normal(0, 0.06, 3)
        )  # fmt: skip
        image = self._one()
        if random.random() < 0.25:  # another picture behind a soft or hard edge
            edge = self._noise(float(random.uniform(1.2, 2.5)))
            share = np.clip((edge - random.normal()) * random.choice([2.0, 30.0]) + 0.5, 0, 1)
            image = image * (1 - share[..., None]) + self._one() * share[..., None]
        return np.clip(self._developed(image), 0, 255).astype(np.uint8)

    def _one(self) -> Floats:
        return self._kinds[int(self.random.choice(len(self._kinds), p=self._weights))][1]()

    def _developed(self, image: Reals) -> Floats:
        """Return a picture with a random exposure, contrast, cast, softness and grain."""
        random = self.random
        if random.random() < 0.4:
            image = 255 * (np.clip(image, 0, 255) / 255) ** np.exp(random.normal(0, 0.35))
        if random.random() < 0.3:
            mean = image.mean()
            image = mean + (image - mean) * random.uniform(0.5, 1.4)
        if random.random() < 0.15:
            grey = image.mean(-1, keepdims=True)
            image = grey + (image - grey) * random.uniform(0, 0.6)
        if random.random() < 0.2:
            image = image * random.uniform(0.7, 1.15, 3)
        if random.random() < 0.35:
            image = _blurred(image, float(random.uniform(0.3, 1.2)))
        if random.random() < 0.2:
            image = image + random.normal(0, random.uniform(1, 8), image.shape)
        return image.astype(np.float32)

    def _colour(self) -> Colour:
        """Return a colour: mostly a muted one of the picture's own hues, else any."""
        random = self.random
        chance = random.random()
        if chance < 0.15:
            red, green, blue = random.random(3)
        else:
            hue = random.random() if chance < 0.3 else random.choice(self._hues)
            hue += random.normal(0, 0.03)
            red, green, blue = colorsys.hsv_to_rgb(
                float(hue) % 1, float(random.beta(1.2, 1.8)), float(random.beta(1.6, 1.2))
            )
        return round(255 * red), round(255 * green), round(255 * blue)

    def _noise(self, falloff: float) -> Floats:
        """Return a field (SIZE, SIZE) of mean 0 and deviation 1; amplitudes are 1/f**falloff."""
        axis = np.fft.fftfreq(SIZE)
        stretch = np.exp(self.random.normal(0, 0.5))
        radius = np.hypot(axis[:, None] * stretch, axis[None] / stretch)
        radius[0, 0] = 1
        spectrum = np.fft.fft2(self.random.normal(size=(SIZE, SIZE))) / radius**falloff
        spectrum[0, 0] = 0
        field = np.fft.ifft2(spectrum).real
        level: Floats = (field / field.std()).astype(np.float32)
        return level

    def _ramp(self) -> Floats:
        """Return two to five colours that run into each other along a line or from a point."""
        random = self.random
        y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1)
        angle = random.choice([0.0, math.pi / 2, random.uniform(0, 2 * math.pi)], p=[0.2, 0.4, 0.4])
        along = x * math.cos(angle) + y * math.sin(angle)
        if random.random() < 0.25:
            along = np.hypot(x - random.uniform(-0.2, 1.2), y - random.uniform(-0.2, 1.2))
        along = (along - along.min()) / np.ptp(along)
        stops = int(random.integers(2, 6))
        at = np.sort(np.concatenate([[0, 1], random.random(stops - 2)]))
        colours = np.array([self._colour() for _ in range(stops)], np.float32)
        return np.stack([np.interp(along, at, colours[:, band]) for band in range(3)], -1).astype(
            np.float32
        )

    def _ground(self) -> Floats:
        if self.random.random() < 0.45:
            return self._ramp()
        colour = np.array(self._colour(), np.float32)
        if self.random.random() < 0.3:
            colour[:] = self.random.choice([255, 250, 0, 20, 128])
        return np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.float32).copy()

    def _field(self) -> Floats:
        """Return noise, in the colours of a ramp or with a little noise of its own in each band."""
        random = self.random
        falloff = float(random.uniform(0.7, 2.4))
        if random.random() < 0.5:
            light = self._noise(falloff)
            bands = [light + random.uniform(0, 0.7) * self._noise(falloff) for _ in range(3)]
            spread = random.uniform(15, 70)
            return np.stack(
                [c + spread * b for c, b in zip(self._colour(), bands, strict=True)], -1
            )
        share = np.clip(self._noise(falloff) * 0.25 + 0.5, 0, 1)
        colours = np.array([self._colour() for _ in range(4)], np.float32)
        return np.stack(
            [np.interp(share, np.linspace(0, 1, 4), colours[:, band]) for band in range(3)], -1
        ).astype(np.float32)

    def _canvas(self, ground: Floats) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8)).resize((FINE, FINE))
        return image, ImageDraw.Draw(image)

    def _shape(self, pen: ImageDraw.ImageDraw, radius: float, colour: Colour) -> None:
        """Draw one ellipse, box, polygon or bar of about `radius` fine pixels somewhere."""
        random = self.random
        x, y = random.uniform(-8, FINE + 8, 2)
        wide, high = radius * np.exp(random.normal(0, 0.35, 2))
        box = (x - wide, y - high, x + wide, y + high)
        outline = self._colour() if random.random() < 0.15 else None
        width = int(random.integers(1, 5))
        kind = random.random()
        if kind < 0.4:
            pen.ellipse(box, colour, outline, width)
        elif kind < 0.55:
            pen.rectangle(box, colour, outline, width)
        elif kind < 0.65:
            pen.line(box, colour, max(1, int(radius / 3)))
        else:
            corners = int(random.integers(3, 9))
            turn = np.sort(random.random(corners)) * 2 * math.pi
            reach = random.uniform(0.5, 1.2, corners)
            points = [
                (x + wide * r * math.cos(t), y + high * r * math.sin(t))
                for r, t in zip(reach, turn, strict=True)
            ]
            pen.polygon(points, colour, outline)

    def _textured(self, image: Image.Image) -> Floats:
        """Return a fine drawing reduced, with light, grain or shadows over it or not."""
        random = self.random
        pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.float32)
        if random.random() < 0.5:
            light = self._noise(float(random.uniform(0.6, 2.2)))[..., None]
            pixels = pixels * (1 + random.uniform(0.03, 0.25) * light)
        return pixels

    def _leaves(self) -> Floats:
        """Return shapes of many sizes that cover each other, as things do in photographs."""
        random = self.random
        image, pen = self._canvas(self._ground())
        small = float(random.uniform(1.5, 10))
        for _ in range(int(random.integers(30, 220))):
            # Radii of a power law: the pictures look alike at every scale.
            radius = small / math.sqrt(max(random.random(), (small / 60) ** 2))
            self._shape(pen, radius, self._colour())
        return self._textured(image)

    def _shapes(self) -> Floats:
        """Return a few shapes on a plain ground."""
        image, pen = self._canvas(self._ground())
        for _ in range(int(self.random.integers(1, 8))):
            self._shape(pen, float(self.random.uniform(6, 50)), self._colour())
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.float32)

    def _landscape(self) -> Floats:
        """Return a sky of any hour with clouds, a sun, hills, and trees and houses, or not all."""
        random = self.random
        high, low = (
            ((60, 120, 210), (190, 220, 245)), ((110, 180, 245), (225, 240, 252)),
            ((30, 80, 180), (120, 180, 235)), ((150, 165, 185), (215, 220, 225)),
            ((70, 60, 120), (250, 160, 100)), ((8, 10, 35), (40, 45, 90)),
            (self._colour(), self._colour()),
        )[int(random.integers(7))]  # fmt: skip
        share = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None] ** random.uniform(0.6, 1.6)
        sky = np.array(high, np.float32) * (1 - share) + np.array(low, np.float32) * share
        sky = np.broadcast_to(sky + random.normal(0, 8, 3), (SIZE, SIZE, 3)).astype(np.float32)
        if random.random() < 0.6:
            cloud = np.clip(self._noise(1.7) * random.uniform(0.3, 0.9) - random.random() / 2, 0, 1)
            white = np.full(3, random.uniform(150, 255), np.float32) + random.normal(0, 6, 3)
            sky = sky * (1 - cloud[..., None]) + white * cloud[..., None]
        image, pen = self._canvas(sky)
        if random.random() < 0.4:
            x, y, r = random.uniform(0, FINE), random.uniform(0, FINE / 2), random.uniform(4, 16)
            pen.ellipse((x - r, y - r, x + r, y + r), (255, 240 - int(random.integers(90)), 150))
        across = np.arange(0, FINE + 1, 2)
        for layer in range(int(random.integers(0, 4))):
            level = FINE * random.uniform(0.35 + 0.12 * layer, 0.75 + 0.1 * layer)
            ridge = self._noise(float(random.uniform(1.2, 2.2)))[0] * random.uniform(1, 12) + level
            points = list(zip(across.tolist(), [*ridge.tolist(), float(ridge[-1])], strict=True))
            ground = self._colour()
            if random.random() < 0.5:
                ground = (int(random.integers(20, 130)), int(random.integers(70, 180)), int(
                    random.integers(20, 90)))  # fmt: skip
            pen.polygon([(0, FINE), *points, (FINE, FINE)], ground)
            for _ in range(int(random.integers(0, 5))):
                x, y, r = (
                    random.uniform(0, FINE),
                    level + random.normal(0, 6),
                    random.uniform(4, 14),
                )
                if random.random() < 0.6:
                    pen.line((x, y, x, y - 2 * r), (90, 60, 40), 3)
                    pen.ellipse((x - r, y - 3 * r, x + r, y - r), self._colour())
                else:
                    pen.rectangle((x - r, y - r, x + r, y + r), self._colour())
                    pen.polygon([(x - r, y - r), (x, y - 2 * r), (x + r, y - r)], self._colour())
        return self._textured(image)

    def _lines(self) -> Floats:
        """Return a drawing of strokes, dark on light or the other way around."""
        random = self.random
        image, pen = self._canvas(self._ground())
        colour = self._colour()
        if random.random() < 0.5:
            colour = (20, 20, 20) if np.asarray(image).mean() > 110 else (240, 240, 240)
        for _ in range(int(random.integers(2, 14))):
            points = np.cumsum(random.normal(0, random.uniform(4, 26), (9, 2)), 0)
            points = _blurred_line(points) + random.uniform(0, FINE, 2)
            pen.line([*map(tuple, points.tolist())], colour, int(random.integers(1, 7)), "curve")
            if random.random() < 0.15:
                colour = self._colour()
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.float32)

    def _letters(self) -> Floats:
        """Return lines of random letters."""
        random = self.random
        image, pen = self._canvas(self._ground())
        size = float(random.uniform(14, 70))
        font = ImageFont.load_default(size)
        y, colour = float(random.uniform(-20, 30)), self._colour()
        while y < FINE:
            text = "".join(random.choice([*LETTERS, " "], 16))
            pen.text((random.uniform(-30, 20), y), text, colour, font)
            y += size * random.uniform(1, 1.6)
            if random.random() < 0.3:
                colour = self._colour()
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.float32)

    def _face(self) -> Floats:
        """Return a head of ellipses with hair and shoulders, in front of something."""
        random = self.random
        image, pen = self._canvas(self._one() if random.random() < 0.4 else self._ground())
        tone = random.uniform(0.3, 1)
        skin = (round(245 * tone), round((190 + random.normal(0, 10)) * tone), round(150 * tone))
        if random.random() < 0.15:
            skin = self._colour()
        x, y, r = random.uniform(45, 85), random.uniform(45, 75), random.uniform(16, 44)
        tall = r * random.uniform(1, 1.4)
        pen.ellipse((x - 1.9 * r, y + tall * 0.9, x + 1.9 * r, y + 4 * tall), self._colour())
        pen.rectangle((x - r * 0.4, y, x + r * 0.4, y + tall * 1.2), skin)
        hair = self._colour() if random.random() < 0.4 else (int(random.integers(10, 90)),) * 3
        pen.ellipse((x - r * 1.15, y - tall * 1.2, x + r * 1.15, y + tall * 0.7), hair)
        pen.ellipse((x - r, y - tall * random.uniform(0.7, 1), x + r, y + tall), skin)
        for side in (-1, 1):
            eye, level, wide = x + side * r * 0.42, y - tall * 0.1, r * 0.2
            pen.ellipse((eye - wide, level - wide / 2, eye + wide, level + wide / 2), (245,) * 3)
            pen.ellipse(
                (eye - wide / 2, level - wide / 2, eye + wide / 2, level + wide / 2), 1310720
            )
        mouth = (x - r * 0.4, y + tall * 0.35, x + r * 0.4, y + tall * 0.65)
        pen.chord(mouth, 0, 180, (170, 60, 60)) if random.random() < 0.5 else pen.arc(
            mouth, 0, 180, (120, 40, 40), 3
        )
        shade = np.linspace(random.uniform(0.6, 1.1), random.uniform(0.6, 1.1), SIZE)
        return self._textured(image) * shade[None, :, None].astype(np.float32)

    def _pattern(self) -> Floats:
        """Return stripes, checks, waves, bricks or dots, at an angle."""
        random = self.random
        y, x = np.mgrid[0:FINE, 0:FINE].astype(np.float32)
        angle = random.choice([0.0, random.uniform(0, math.pi)])
        along = x * math.cos(angle) + y * math.sin(angle)
        aside = y * math.cos(angle) - x * math.sin(angle)
        length, width = random.uniform(5, 40, 2)
        kind = int(random.integers(5))
        if kind == 0:
            share = (along / length % 1 < random.uniform(0.2, 0.8)).astype(np.float32)
        elif kind == 1:
            share = ((along // length + aside // length) % 2).astype(np.float32)
        elif kind == 2:
            share = np.sin(2 * math.pi * along / length) / 2 + 0.5
        elif kind == 3:
            row = aside // width
            share = ((aside % width > 2) & ((along + row % 2 * length) % (2 * length) > 2)) * 1.0
        else:
            dot = np.hypot(along % length - length / 2, aside % length - length / 2)
            share = (dot < length * random.uniform(0.2, 0.5)).astype(np.float32)
        share = share.reshape(SIZE, 2, SIZE, 2).mean((1, 3))[..., None]
        return np.asarray(self._ground() * (1 - share) + self._ground() * share, np.float32)

    def _ball(self) -> Floats:
        """Return one to four balls, lit from one side, with their shadows."""
        random = self.random
        image = self._ground()
        y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
        light = random.normal(size=3) + np.array([0, -0.6, 1.2])
        light /= np.linalg.norm(light)
        for _ in range(int(random.integers(1, 5))):
            cx, cy, r = *random.uniform(5, SIZE - 5, 2), random.uniform(4, 26)
            shadow = np.clip(1 - np.hypot((x - cx - 2) / r, (y - cy - r) / (0.35 * r)), 0, 1)
            image = image * (1 - 0.6 * shadow[..., None])
            across, down = (x - cx) / r, (y - cy) / r
            distance = np.hypot(across, down)
            height = np.sqrt(np.clip(1 - distance**2, 0, 1))
            lit = np.clip(across * light[0] + down * light[1] + height * light[2], 0, 1)
            ball = np.array(self._colour(), np.float32) * (0.25 + 0.75 * lit[..., None])
            ball = ball + 255 * random.random() * (lit**24)[..., None]
            inside = np.clip((1 - distance) * r + 0.5, 0, 1)[..., None]
            image = image * (1 - inside) + ball * inside
        return image.astype(np.float32)


def _blurred(image: Reals, radius: float) -> Floats:
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))).astype(np.float32)


def _blurred_line(points: Reals) -> Reals:
    """Return a path of nine points as a smooth one of 33, by splitting corners twice."""
    for _ in range(2):
        quarter = 0.75 * points[:-1] + 0.25 * points[1:]
        points = np.stack([quarter, 0.25 * points[:-1] + 0.75 * points[1:]], 1).reshape(-1, 2)
    return points

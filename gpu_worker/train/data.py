"""Training pictures and captions, composed from two emoji packages of the npm registry.

Every picture is one emoji, cut out, sometimes recoloured or mirrored, on a background. Its caption
describes this in one of many ways. Only the two pinned packages are downloaded.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from gpu_worker.train.nouns import NOUNS, Noun

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SIZE = 64
"""Side of every picture, in pixels."""
CUTOUT = 64
"""Side of the stored cut-outs, in pixels; none is drawn larger."""

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Package:
    """An npm package; `integrity` is from `npm view NAME@VERSION dist.integrity`."""

    spec: str
    file: str
    integrity: str


FLUENT = Package(
    "@lobehub/fluent-emoji-3d@1.1.0",
    "lobehub-fluent-emoji-3d-1.1.0.tgz",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
NOTO = Package(
    "emoji-datasource-google@16.0.0",
    "emoji-datasource-google-16.0.0.tgz",
    "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
)
STYLES = {
    "3d": (FLUENT, "package/assets/", ".webp"),
    "flat": (NOTO, "package/img/google/64/", ".png"),
}

SHARE_3D = 0.8
"""Share of 3D pictures among nouns that have both styles."""
MIRRORED = 0.5
"""Share of mirrored pictures."""

HUES = {
    "red": 356, "orange": 27, "yellow": 50, "green": 115, "blue": 214, "purple": 270, "pink": 330,
}  # fmt: skip
"""Hues in degrees. Black and white have none."""
COLOURS = [*HUES, "black", "white"]
PLAIN: dict[str, tuple[int, int, int]] = {
    "red": (226, 54, 54), "orange": (250, 150, 50), "yellow": (252, 216, 72),
    "green": (88, 184, 92), "blue": (76, 144, 236), "purple": (150, 92, 214),
    "pink": (250, 160, 200), "black": (22, 22, 26), "white": (255, 255, 255),
}  # fmt: skip
PLACES = {
    "meadow": ("in a meadow", "on grass", "on a green field", "in a garden", "in a park"),
    "night": ("at night", "in space", "under the stars", "in the night sky"),
    "sunset": ("at sunset", "at sunrise", "at dusk", "in the evening"),
    "snow": ("in the snow", "in winter"),
    "sea": ("underwater", "in the sea", "in the ocean", "under the sea"),
    "beach": ("on the beach", "on sand", "in the desert"),
}
LEADS = (
    "a photo of", "a picture of", "an image of", "a painting of", "photo of", "picture of",
    "an illustration of", "a drawing of", "a portrait of", "an icon of", "draw", "a close up of",
)  # fmt: skip
STYLE_LEADS = {
    "3d": ("a 3d render of", "3d", "a 3d icon of", "a realistic", "a glossy"),
    "flat": ("a flat icon of", "flat", "a cartoon of", "a sticker of", "a simple drawing of"),
}
ADJECTIVES = (
    "cute", "beautiful", "big", "small", "little", "pretty", "happy", "funny", "old", "new",
    "lovely", "nice", "shiny", "tiny", "large", "fantasy", "magic", "single", "fresh", "wild",
)  # fmt: skip
NOISE = (
    "masterpiece", "best quality", "highly detailed", "4k", "8k", "hdr", "sharp focus",
    "trending on artstation", "cinematic lighting", "digital art", "concept art", "emoji style",
    "intricate", "photorealistic", "ultra realistic", "studio lighting", "octane render",
    "by greg rutkowski", "high resolution", "vibrant colors", "centered", "minimalist",
    "professional photography", "soft light", "unreal engine", "award winning", "bokeh",
    "simple background", "dramatic", "epic", "detailed fur", "dslr", "wallpaper", "icon",
)  # fmt: skip


def fetch(package: Package, folder: Path) -> Path:
    """Return the path of a package's archive, downloading it with npm if needed.

    Raises ValueError if its hash is wrong, or CalledProcessError if npm fails.
    """
    archive = folder / package.file
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(  # noqa: S603
            ["npm", "pack", "--silent", package.spec],  # noqa: S607
            cwd=folder, check=True, timeout=600,
        )  # fmt: skip
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package.integrity:
        message = f"{archive} is not {package.spec}"
        raise ValueError(message)
    return archive


def _cut_out(image: Image.Image) -> Bytes:
    """Return the visible part of an image, scaled to CUTOUT, on a transparent square."""
    rgba = image.convert("RGBA")
    rgba = rgba.crop(rgba.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())
    scale = CUTOUT / max(rgba.size)
    # Premultiplied, so that hidden colours do not bleed into the edges.
    rgba = rgba.convert("RGBa").resize(
        (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale))),
        Image.Resampling.LANCZOS,
    )
    canvas = Image.new("RGBA", (CUTOUT, CUTOUT))
    canvas.paste(rgba.convert("RGBA"), ((CUTOUT - rgba.width) // 2, (CUTOUT - rgba.height) // 2))
    return np.asarray(canvas).copy()


def load(folder: Path) -> dict[tuple[str, str], Bytes]:
    """Return the cut-outs of all nouns by (code, style), as RGBA of shape (CUTOUT, CUTOUT, 4)."""
    wanted = {noun.code for noun in NOUNS}
    cutouts: dict[tuple[str, str], Bytes] = {}
    for style, (package, prefix, suffix) in STYLES.items():
        with tarfile.open(fetch(package, folder)) as tar:
            for member in tar:
                if not member.name.startswith(prefix) or not member.name.endswith(suffix):
                    continue
                code = member.name[len(prefix) : -len(suffix)].lower().replace("-fe0f", "")
                if code in wanted and (data := tar.extractfile(member)):
                    with Image.open(data) as image:
                        cutouts[code, style] = _cut_out(image)
    return cutouts


def recolour(rgba: Bytes, colour: str) -> Bytes:
    """Return a cut-out with its main colour changed; a grey cut-out is tinted as a whole."""
    alpha = rgba[..., 3:]
    hsv = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV")).astype(np.float32) / 255
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    weight = saturation * (alpha[..., 0] > 128) * (value > 0.2)
    # The dominant hue is the mode of a histogram, smoothed around the colour circle.
    histogram = np.bincount((hue * 36).astype(int).ravel() % 36, weight.ravel(), 36)
    smooth = histogram + np.roll(histogram, 1) + np.roll(histogram, -1)
    main = (int(np.argmax(smooth)) + 0.5) / 36
    is_grey = np.max(smooth) < 0.16 * (alpha[..., 0] > 128).sum()
    distance = np.abs((hue - main + 0.5) % 1 - 0.5)
    share = np.clip((0.17 - distance) / 0.05, 0, 1) * np.clip((saturation - 0.12) / 0.15, 0, 1)
    if is_grey:
        share = np.ones_like(share)
    if colour in HUES:
        new_hue = np.full_like(hue, HUES[colour] / 360)
        new_saturation = np.clip(np.maximum(saturation, 0.75 if is_grey else 0.0) * 1.05, 0, 1)
        new_value = value
        if colour == "pink":
            new_saturation, new_value = new_saturation * 0.55, value**0.5
        elif colour in ("yellow", "orange"):
            new_value = value**0.6
        elif colour == "purple":
            new_saturation = new_saturation * 0.8
    else:
        new_hue, new_saturation = hue, saturation * 0.08
        new_value = 0.08 + 0.32 * value**1.5 if colour == "black" else 0.72 + 0.28 * value
    changed = np.stack([new_hue % 1, new_saturation, new_value], -1)
    rgb = Image.fromarray((np.clip(changed, 0, 1) * 255).astype(np.uint8), "HSV").convert("RGB")
    mixed = rgba[..., :3] * (1 - share[..., None]) + np.asarray(rgb) * share[..., None]
    return np.concatenate([np.clip(mixed, 0, 255).astype(np.uint8), alpha], -1)


def plain(colour: str) -> Floats:
    """Return a background of one colour, slightly lighter at the top: (SIZE, SIZE, 3), 0 to 255."""
    rgb = np.array(PLAIN[colour], np.float32)
    if colour == "white":
        return np.broadcast_to(rgb, (SIZE, SIZE, 3)).copy()
    mix = np.linspace(0.16, 0, SIZE, dtype=np.float32)[:, None, None]
    return np.broadcast_to(rgb * (1 - mix) + 255 * mix, (SIZE, SIZE, 3)).copy()


def _gradient(*stops: tuple[float, tuple[int, int, int]]) -> Floats:
    at = np.linspace(0, 1, SIZE)
    where, colours = [s for s, _ in stops], np.array([c for _, c in stops], np.float32)
    line = np.stack([np.interp(at, where, colours[:, band]) for band in range(3)], -1)
    return np.broadcast_to(line[:, None], (SIZE, SIZE, 3)).astype(np.float32).copy()


def place(name: str, random: np.random.Generator) -> Floats:
    """Return a background that shows one of PLACES: (SIZE, SIZE, 3), 0 to 255."""
    ground = 0.62 + 0.08 * random.random()
    if name == "night":
        image = _gradient((0, (12, 14, 44)), (1, (46, 36, 98)))
        for y, x in random.integers(1, SIZE - 2, (14, 2)):
            image[y : y + random.integers(1, 3), x : x + random.integers(1, 3)] = (240, 236, 200)
        return image
    if name == "sunset":
        return _gradient((0, (104, 72, 160)), (0.5, (240, 110, 110)), (1, (255, 204, 110)))
    if name == "sea":
        return _gradient((0, (90, 200, 236)), (1, (16, 74, 150)))
    floor = {"meadow": ((124, 196, 84), (74, 150, 62)), "snow": ((250, 252, 255), (214, 228, 244)),
             "beach": ((246, 222, 158), (226, 190, 116))}[name]  # fmt: skip
    sky = (
        ((176, 204, 232), (226, 236, 246)) if name == "snow" else ((112, 188, 246), (208, 234, 252))
    )
    return _gradient((0, sky[0]), (ground, sky[1]), (ground + 0.01, floor[0]), (1, floor[1]))


def paste(background: Floats, cutout: Bytes, side: int, x: int, y: int) -> None:
    """Draw a cut-out over the square of `side` pixels whose upper left corner is (x, y)."""
    image = Image.fromarray(cutout).convert("RGBa").resize((side, side), Image.Resampling.BILINEAR)
    scaled = np.asarray(image).astype(np.float32)
    window = background[y : y + side, x : x + side]
    window *= 1 - scaled[..., 3:] / 255
    window += scaled[..., :3]


def caption(
    random: np.random.Generator, noun: Noun, colour: str, ground: str, style: str, *, rich: bool
) -> str:
    """Return a random caption of a picture, worded as people write prompts.

    `rich` captions also have adjectives, lead-ins and quality words.
    """

    def one_of(options: tuple[str, ...] | list[str]) -> str:
        return options[int(random.integers(len(options)))]

    word = noun.words[0] if random.random() < 0.6 else one_of(noun.words)
    adjective = one_of(ADJECTIVES) if rich and random.random() < 0.2 else ""
    thing = " ".join(part for part in (adjective, colour, word) if part)
    article = "an" if thing[0] in "aeiou" else "a"
    thing = one_of([f"{article} {thing}", f"{article} {thing}", thing, f"the {thing}"])
    lead = ""
    chance = random.random()
    if rich and chance < 0.15:
        lead = one_of(STYLE_LEADS[style])
    elif rich and chance < 0.4:
        lead = one_of(LEADS)
    text = " ".join(part for part in (lead, thing, ground) if part)
    if rich and random.random() < 0.2:
        noise = [one_of(NOISE) for _ in range(int(random.integers(1, 6)))]
        split = int(random.integers(len(noise) + 1))
        text = ", ".join([*noise[:split], text, *noise[split:]])
    return text + one_of(["", "", "", ".", "!"])


@dataclass(frozen=True, slots=True)
class PictureSpec:
    """The content of one picture, and its caption."""

    noun: Noun
    style: str
    colour: str
    """A colour of COLOURS, or empty for the emoji's own."""
    ground: str
    """A key of PLAIN or PLACES, or empty for white, which the caption does not mention."""
    phrase: str
    """The ground as the caption words it, such as "on grass"."""
    caption: str


class Pictures:
    """A random source of captioned pictures: RGB bytes of shape (SIZE, SIZE, 3)."""

    def __init__(
        self,
        cutouts: dict[tuple[str, str], Bytes],
        seed: int,
        nouns: Sequence[Noun] = NOUNS,
        *,
        share_3d: float = SHARE_3D,
        mirrored: float = MIRRORED,
    ) -> None:
        self._share_3d, self._mirrored = share_3d, mirrored
        self.random = np.random.default_rng(seed)
        self.nouns = nouns
        self._cutouts = dict(cutouts)

    def cutout(self, spec: PictureSpec) -> Bytes:
        """Return a spec's emoji in its colour, mirrored at random: RGBA."""
        key = (spec.noun.code, f"{spec.style} {spec.colour}".rstrip())
        if key not in self._cutouts:
            self._cutouts[key] = recolour(self._cutouts[spec.noun.code, spec.style], spec.colour)
        cutout = self._cutouts[key]
        return cutout[:, ::-1] if self.random.random() < self._mirrored else cutout

    def background(self, spec: PictureSpec) -> Floats:
        """Return what a spec's emoji stands on: (SIZE, SIZE, 3), 0 to 255."""
        if spec.ground in PLACES:
            return place(spec.ground, self.random)
        return plain(spec.ground or "white")

    def spec(self) -> PictureSpec:
        """Return the random content and caption of the next picture."""
        random = self.random
        noun = self.nouns[int(random.integers(len(self.nouns)))]
        styles = [style for style in STYLES if (noun.code, style) in self._cutouts]
        style = styles[0] if len(styles) == 1 or random.random() < self._share_3d else styles[1]
        colour = ground = phrase = ""
        if not noun.is_scene:
            if random.random() < 0.45:
                colour = COLOURS[int(random.integers(len(COLOURS)))]
            chance = random.random()
            if chance < 0.25:
                ground = [*PLAIN][int(random.integers(len(PLAIN)))]
                article = "an" if ground[0] in "aeiou" else "a"
                phrase = f"on {ground}"
                if random.random() < 0.8:
                    phrase = f"on {article} {ground} background"
            elif chance < 0.38:
                ground = [*PLACES][int(random.integers(len(PLACES)))]
                phrase = PLACES[ground][int(random.integers(len(PLACES[ground])))]
        rich = bool(random.random() < 0.5)
        text = caption(random, noun, colour, phrase, style, rich=rich)
        return PictureSpec(noun, style, colour, ground, phrase, text)

    def draw(self) -> tuple[Bytes, str]:
        """Return the next picture and its caption."""
        random, spec = self.random, self.spec()
        background, cutout = self.background(spec), self.cutout(spec)
        side = int(random.integers(56, 60))
        slack = SIZE - side
        low, high = max(0, slack // 2 - 1), min(slack, slack // 2 + 1)
        y, x = random.integers(low, high + 1, 2)
        paste(background, cutout, side, int(x), int(y))
        return np.clip(background, 0, 255).astype(np.uint8), spec.caption

    def take(self, count: int) -> Iterator[tuple[Bytes, str]]:
        """Yield the next `count` pictures and their captions."""
        return (self.draw() for _ in range(count))

"""The demo's contact sheet: every image with its prompt and whether it is shared."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLUMNS = 3
SIDE, GAP, TEXT, HEAD = 256, 28, 74, 96
PAPER, CARD, INK, FAINT = "#f4f1ea", "#ffffff", "#23262b", "#6d7178"
SHARED, PRIVATE, SOURCE = "#1d7a4c", "#7c4a03", "#5c6570"
TITLE = "Horde Commons"
SUBTITLE = "drawn by `make demo`: real requests, a real worker, a 20 MB model on a CPU"


@dataclass(frozen=True, slots=True)
class Picture:
    """One card of the sheet. ``shared`` is None for a source image."""

    image: Image.Image
    prompt: str
    caption: str
    shared: bool | None = None


def contact_sheet(pictures: Sequence[Picture]) -> Image.Image:
    """Return all pictures as cards on one sheet."""
    rows = -(-len(pictures) // COLUMNS)
    width = COLUMNS * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, HEAD + rows * (SIDE + TEXT + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 20), TITLE, INK, font=ImageFont.load_default(26))
    draw.text((GAP, 54), SUBTITLE, FAINT, font=ImageFont.load_default(14))
    for number, picture in enumerate(pictures):
        left = GAP + number % COLUMNS * (SIDE + GAP)
        top = HEAD + number // COLUMNS * (SIDE + TEXT + GAP)
        _card(sheet, draw, left, top, picture)
    return sheet


def _card(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, picture: Picture
) -> None:
    frame = (left - 6, top - 6, left + SIDE + 5, top + SIDE + TEXT - 1)
    draw.rounded_rectangle(frame, 8, CARD, outline="#ddd8cc")
    sheet.paste(picture.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
    badge, colour = {
        True: ("shared: in the open data set", SHARED),
        False: ("not shared", PRIVATE),
        None: ("for the worker only", SOURCE),
    }[picture.shared]
    draw.text((left + 4, top + SIDE + 6), _fit(draw, picture.prompt, 15), INK, font=_font(15))
    draw.text((left + 4, top + SIDE + 27), _fit(draw, picture.caption, 12), FAINT, font=_font(12))
    end = left + 16 + draw.textlength(badge, font=_font(12))
    box = (left + 4, top + SIDE + 46, end, top + SIDE + 64)
    draw.rounded_rectangle(box, 9, colour)
    draw.text((left + 10, top + SIDE + 48), badge, "#ffffff", font=_font(12))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int) -> str:
    """Return a text truncated to the width of a card."""
    while draw.textlength(text, font=_font(size)) > SIDE - 8:
        text = text.rstrip("…")[:-1].rstrip() + "…"
    return text

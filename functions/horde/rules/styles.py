"""Styles: how one is named, and what a request becomes with it."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from horde.records import Style, User
from horde.rules.accounts import user_number

PARAMS = (
    "sampler_name",
    "cfg_scale",
    "denoising_strength",
    "hires_fix_denoising_strength",
    "height",
    "width",
    "post_processing",
    "karras",
    "tiling",
    "hires_fix",
    "clip_skip",
    "facefixer_strength",
    "loras",
    "tis",
    "steps",
)
"""The ``params`` that a style may set (horde-api.md 1.1, but for those of a request alone)."""
OF_THE_REQUEST = ("n", "seed", "seed_variation")
"""Those that always come from the request."""
UNLESS_SET = ("denoising_strength", "hires_fix_denoising_strength")
"""Those that come from the request if the style says nothing of them."""
SIZE = ("width", "height")
"""They come from the request if the style sets neither."""
MAX_STYLES, MAX_STYLES_TRUSTED = 50, 500
"""Most styles of an account."""
MAX_EXAMPLES = 10
POSITIVE, NEGATIVE = "{p}", "{np}"


def max_styles(user: User) -> int:
    """Return how many styles an account may have."""
    return MAX_STYLES_TRUSTED if user.trusted or user.moderator else MAX_STYLES


class Named(NamedTuple):
    """A style as a request names it."""

    name: str
    user_id: int | None = None
    """Its author, if the name says so."""


def named(text: str) -> Named | None:
    """Return what ``name``, ``alias#id::name``, and either after ``style::``, stand for.

    None for what names no style, such as a collection.
    """
    *before, name = text.split("::")
    if before[:1] == ["style"]:
        before = before[1:]
    if not before:
        return Named(name)
    number = user_number(before[0].rpartition("#")[2])
    return Named(name, number) if len(before) == 1 and number is not None else None


def prompt_of(template: str, prompt: str) -> str:
    """Return a request's prompt in a style's template.

    A template without ``###`` has its negative part begin at ``{np}``; without ``{np}`` the
    request's negative prompt follows the template's.
    """
    positive, _, negative = prompt.partition("###")
    if "###" not in template:
        template = template.replace(NEGATIVE, f"###{NEGATIVE}", 1)
    if NEGATIVE not in template and negative:
        template += NEGATIVE if "###" in template else f"###{NEGATIVE}"

    def filled(found: re.Match[str]) -> str:
        if found[0] == POSITIVE:
            return positive
        # What ends in a word is a list that goes on.
        goes_on = negative and re.search(r"\w\s*$", template[: found.start()])
        return (", " if goes_on and not re.match(r"\s*,", negative) else "") + negative

    # In one pass, so that a prompt that has braces itself is taken as it is.
    return re.sub(r"\{n?p\}", filled, template)


def params_of(style: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``params`` of a request with a style; ``asked`` are those that it sent."""
    taken = [*OF_THE_REQUEST, *(name for name in UNLESS_SET if name not in style)]
    if not any(name in style for name in SIZE):
        taken += SIZE
    return {**style, **{name: asked[name] for name in taken if name in asked}}


def chosen(found: list[Style]) -> Style | None:
    """Return which of several authors' styles of one name is meant: the oldest."""
    return min(found, key=lambda style: (style.created_at, style.id), default=None)

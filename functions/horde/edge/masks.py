"""``X-Fields``: the fields of a response that a client wants, as in ``id,generations{img,seed}``.

The grammar is flask-restx's (horde-api.md 1.0). The mask of a list applies to each of its elements;
``*`` stands for all other fields.
"""

import re
from typing import Any

from horde.rules.refusals import HordeError

Mask = dict[str, "Mask | None"]

_TOKEN = re.compile(r"\s*([{},]|[^{},\s]+)\s*")
MAX_LENGTH = 2000
"""Longest mask, in characters."""
MAX_BRACES = 20
"""Most pairs of braces in a mask; each is a level of recursion at worst."""


class BadMask(HordeError):  # noqa: N818 - named like its rc
    """The mask cannot be parsed."""


def parse(text: str) -> Mask:
    """Parse a mask; an empty one selects everything. Raises BadMask."""
    if len(text) > MAX_LENGTH:
        raise BadMask("The X-Fields mask is too long.")
    if text.count("{") > MAX_BRACES:
        raise _bad()
    tokens = _TOKEN.findall(text)
    if tokens[:1] == ["{"]:
        tokens = tokens[1:-1] if tokens[-1] == "}" else ["{"]
    mask, rest = _fields(tokens)
    if rest:
        raise _bad()
    return mask


def _bad() -> BadMask:
    return BadMask("The X-Fields mask cannot be parsed. Example: id,generations{img,seed}")


def _fields(tokens: list[str]) -> tuple[Mask, list[str]]:
    mask: Mask = {}
    while tokens and tokens[0] != "}":
        name, *tokens = tokens
        if name in "{,":
            raise _bad()
        inner: Mask | None = None
        if tokens[:1] == ["{"]:
            inner, tokens = _fields(tokens[1:])
            if tokens[:1] != ["}"]:
                raise _bad()
            tokens = tokens[1:]
        mask[name] = inner
        if tokens[:1] == [","]:
            tokens = tokens[1:]
        elif tokens[:1] not in ([], ["}"]):
            raise _bad()
    return mask, tokens


def apply(mask: Mask, body: Any) -> Any:
    """Return the parts of a JSON body that a mask selects."""
    if isinstance(body, list):
        return [apply(mask, part) for part in body]
    if not isinstance(body, dict):
        return body
    return {
        name: value if mask.get(name) is None else apply(mask[name] or {}, value)
        for name, value in body.items()
        if name in mask or "*" in mask
    }

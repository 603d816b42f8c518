"""The mutation tester: which bugs it plants, which tests it asks, and what it makes of them."""

import textwrap
from pathlib import Path

import pytest

from tests.mutation.explained import Explanation, explanations
from tests.mutation.forks import Functions, codes
from tests.mutation.operators import Mutant, mutants
from tests.mutation.selection import Map

FILE = "functions/horde/rules/example.py"


def planted(source: str) -> dict[str, list[str]]:
    """Return what stands instead, by the line that stood there."""
    found: dict[str, list[str]] = {}
    for mutant in mutants(FILE, textwrap.dedent(source).encode()):
        found.setdefault(mutant.was, []).append(mutant.now)
    return found


@pytest.mark.parametrize(
    ("line", "bugs"),
    [
        ("if a < b: pass", {"if a <= b: pass", "if (not (a < b)): pass"}),
        ("x.y = a + 1", {"x.y = a - 1", "x.y = a + 2", "x.y = a + 0", "pass"}),
        ("return a and b", {"return a or b", "return a", "return b", "return None"}),
        ("a = True", {"a = False"}),
        ("a = [b, c]", {"a = [b]", "a = [c]"}),
        ("a = f(b, c=d)", {"a = f(b)"}),
        ('a = "KEY"', {'a = "KEYX"'}),
        ('a = Decimal("1.50")', {'a = Decimal("1.501")', 'a = Decimal("11.50")'}),
    ],
)
def test_a_line_is_changed_in_each_of_these_ways(line: str, bugs: set[str]) -> None:
    assert set(planted(f"def f():\n    {line}\n")[line]) == bugs


def test_a_condition_of_dynamodb_is_reversed_moved_dropped_and_joined_otherwise() -> None:
    line = 'a = "attribute_exists(pk) AND kudos >= :price AND at <= :now"'
    assert set(planted(f"def f():\n    {line}\n")[line]) == {
        'a = "attribute_not_exists(pk) AND kudos >= :price AND at <= :now"',
        'a = "attribute_exists(pk) AND kudos > :price AND at <= :now"',
        'a = "attribute_exists(pk) AND kudos >= :price AND at < :now"',
        'a = "attribute_exists(pk) OR kudos >= :price AND at <= :now"',
        'a = "attribute_exists(pk) AND kudos >= :price OR at <= :now"',
        'a = "kudos >= :price AND at <= :now"',
        'a = "attribute_exists(pk) AND at <= :now"',
        'a = "attribute_exists(pk) AND kudos >= :price"',
    }


def test_an_assignment_of_an_update_is_dropped() -> None:
    line = 'a = "SET state = :new, attempt = :next ADD faults :one, tries :one"'
    bugs = planted(f"def f():\n    {line}\n")[line]
    assert 'a = "SET state = :new ADD faults :one, tries :one"' in bugs
    assert 'a = "SET attempt = :next ADD faults :one, tries :one"' in bugs
    assert 'a = "SET state = :new, attempt = :next ADD tries :one"' in bugs


def test_two_effects_change_places_unless_one_needs_the_other() -> None:
    bugs = planted("def f():\n    pay()\n    share()\n    a = read()\n    write(a)\n")
    assert "share() pay()" in bugs["pay() share()"]
    assert "a = read() write(a)" not in bugs


def test_docstrings_sentences_annotations_and_decorators_are_left_alone() -> None:
    source = '''
        """Not code: 1 < 2."""
        @dataclass(frozen=True)
        class A:
            """Neither."""
            a: Literal["x"]
        def f(a: Literal[1]) -> Literal[2]:
            raise Refused("A sentence of three words.")
    '''
    assert planted(source) == {'raise Refused("A sentence of three words.")': ["pass"]}


def test_a_mutant_is_known_by_what_it_says_and_not_by_its_line() -> None:
    (one,) = mutants(FILE, b"A = True\n")
    (other,) = mutants(FILE, b"# a comment\n\nA = True\n")
    assert one.key == other.key
    assert one.name == other.name


def test_two_lines_that_read_alike_are_two_mutants() -> None:
    found = mutants(FILE, b"def f():\n    a = True\n    a = True\n")
    assert [mutant.nth for mutant in found] == [0, 1]
    assert len({mutant.name for mutant in found}) == 2


def example(deferred: bool, function: str = "f", line: int = 2) -> Mutant:
    return Mutant(FILE, function, deferred, (line, line), 0, 0, "", "", "")


KNOWN = Map(
    tests=[
        "tests/flows/test_a.py::slow",
        "tests/flows/test_a.py::quick",
        "tests/unit/test_b.py::t",
    ],
    seconds=[2.0, 0.1, 1.0],
    lines={FILE: {"2": [0, 1, 2], "3": [0]}},
    files={"tests/flows/test_a.py": "1", "tests/unit/test_b.py": "2"},
)


def test_the_tests_of_a_mutant_are_those_that_run_its_line_the_telling_and_quick_ones_first() -> (
    None
):
    slow, quick, unit = KNOWN.tests
    assert KNOWN.select(example(deferred=True)) == [unit, quick, slow]
    assert KNOWN.select(example(deferred=True), hints=[slow, "gone"]) == [slow, unit, quick]
    assert KNOWN.select(example(deferred=True, line=3)) == [slow]
    assert KNOWN.select(example(deferred=True, line=4)) == []


def test_what_an_import_defines_is_seen_by_the_tests_of_the_lines_that_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_text("HOUR = 3600\n\nprint(DAY)\nDAY = 24 * HOUR\n")
    assert KNOWN.select(example(deferred=False, function="HOUR", line=1)) == [KNOWN.tests[0]]


def test_a_map_forgets_a_changed_file_and_takes_it_in_again() -> None:
    rest = KNOWN.without({"tests/flows/test_a.py"})
    assert rest.tests == ["tests/unit/test_b.py::t"]
    assert rest.lines[FILE]["2"] == [0]
    again = Map(tests=["tests/flows/test_a.py::new"], seconds=[0.5], lines={FILE: {"3": [0]}})
    whole = rest.plus(again)
    assert whole.select(example(deferred=True, line=3)) == ["tests/flows/test_a.py::new"]
    assert whole.select(example(deferred=True)) == ["tests/unit/test_b.py::t"]


def test_a_function_gets_the_code_with_the_bug_wherever_it_is_held() -> None:
    source = b"def f(a):\n    return a + 1\n"
    (mutant,) = [each for each in mutants(FILE, source) if each.now == "return a - 1"]
    before = dict(codes(compile(source, FILE, "exec")))
    after = dict(codes(compile(mutant.apply(source), FILE, "exec")))
    assert before.keys() == after.keys() == {"f#0"}
    assert before["f#0"] != after["f#0"]


@pytest.mark.lengthy
def test_nothing_is_planted_in_a_function_that_this_process_has_not() -> None:
    file = "functions/horde/rules/dates.py"
    mutant = next(each for each in mutants(file, Path(file).read_bytes()) if each.deferred)
    assert not Functions([]).plant(mutant)


def test_an_explanation_fits_a_function_or_one_change_of_it() -> None:
    mutant = Mutant(FILE, "A.f", True, (1, 1), 0, 0, "", "a < b", "a <= b")
    whole = Explanation(FILE, "A.*", "")
    assert whole.fits(mutant)
    assert Explanation(FILE, "A.f", "", was="a < b", now="a <= b").fits(mutant)
    assert not Explanation(FILE, "A.f", "", was="a < b", now="a > b").fits(mutant)
    assert not Explanation(FILE, "f", "").fits(mutant)
    assert not Explanation("other.py", "A.f", "").fits(mutant)


@pytest.mark.slow
def test_each_explanation_has_a_reason_and_fits_a_bug_that_can_be_planted() -> None:
    explained = explanations()
    files = {each.file for each in explained}
    possible = [one for file in files for one in mutants(file, Path(file).read_bytes())]
    for each in explained:
        assert any(each.fits(mutant) for mutant in possible), each
        assert len(each.reason.split()) > 3, each

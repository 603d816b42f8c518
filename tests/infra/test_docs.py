"""What the docs say is checked where it can be."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from horde import VERSION
from tests.support.template import ROOT

PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("gpu_worker/**/*.md")]
    )
}
README = PAGES["README.md"]
ARCHITECTURE = PAGES["docs/architecture.md"]
API = PAGES["docs/api.md"]
OPERATIONS = PAGES["docs/operations.md"]
DECISIONS = PAGES["docs/decisions.md"]
GLOSSARY = PAGES["docs/glossary.md"]
THREATS = PAGES["docs/threat-model.md"]
CHANGELOG = PAGES["CHANGELOG.md"]
yaml = importlib.import_module("yaml")  # moto's; it has no types here
DOCUMENTS = ROOT / "functions" / "horde" / "edge" / "documents"

MOST_LINES, MOST_WORDS = 130, 1500
"""Of the README."""
LONGEST_SENTENCE = 40
"""Words; a reader stops at fifty."""

NAMES = """
body offer priority_users WorkerContext WorkerStats workers.register workers.delete extend_expiry
reschedule faulted_by top_by_kudos IdempotencyKey used_with sent_recently pending posted payouts
conditions post apply_to_balance append_entry try_transact retry_on_conflict effective_kudos
LimitStatus slow_workers extra_slow_workers moving_speed env outputs_env sources_env READ READ_WRITE
MANAGE ratelimit Response
"""
"""Names of the code that need a line in the glossary."""
WORDS = """
waive settle lease claim ledger outbox ticket census sweep withdraw due request generation worker
kudos tax floor refund reward share room ruleset stage audit
"""
PRIVATE = """
wish wishes favoured crew enlist enlisted forget_worker slide slides look_again blame blames richest
just_sent tally tallied _move _ledger _adds _holds _insist hasty forgiven forgiveness forgive
forgives RATE ONCE TALLIED
"""
"""Words that the code once had for itself. A reader would have to learn them."""


# --- how the pages are read ----------------------------------------------------------------


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table that begins with a line."""
    lines = text[text.index(heading) :].splitlines()
    found = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def blocks(text: str) -> list[str]:
    """Return the fenced code blocks of a page."""
    return re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Return a page without its fenced code blocks."""
    return re.sub(r"^ *```\w*\n.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """Return what stands in backticks in a page's text."""
    return re.findall(r"`([^`]+)`", prose(text))


def code(text: str) -> list[str]:
    """Return all code of a page: blocks by line, and what stands in backticks."""
    return [line for block in blocks(text) for line in block.splitlines()] + spans(text)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page's paragraphs, lists and cells."""
    lines = re.sub(r"<!--.*?-->", "", prose(text), flags=re.DOTALL).splitlines()
    paragraph = ""
    for line in [*lines, ""]:
        begins = re.match(r"\s*([-*]|\d+\.) ", line)
        if begins or not line.strip() or line.startswith(("#", "|")):
            yield from re.split(r"(?<=[.!?:;])\s+", paragraph)
            paragraph = ""
        if line.startswith("|"):
            for cell in line.strip("|").split(" | "):
                yield from re.split(r"(?<=[.!?:;])\s+", cell)
        elif not line.startswith("#"):
            paragraph += " " + line.strip()


# --- tables that follow the code -----------------------------------------------------------


def test_the_architecture_lists_every_function() -> None:
    listed = {row[0].strip("`") for row in rows(ARCHITECTURE, "| function | trigger")}
    assert listed == {path.stem for path in (ROOT / "functions").glob("*.py")}


def test_a_function_is_listed_with_its_routes() -> None:
    for name, trigger, *_ in rows(ARCHITECTURE, "| function | trigger"):
        routes = getattr(importlib.import_module(name.strip("`")), "ROUTES", {})
        assert bool(routes) == bool(re.search("GET|POST|PUT|DELETE|register", trigger)), name
        for route in routes:
            path = route.partition(" ")[2].replace("/generate", "")
            short = re.sub(r"^/(api/)?(v2/)?", "", path)
            assert short.split("/")[0] in trigger or not path, (name, route)


def test_the_architecture_lists_every_kind_of_item() -> None:
    from horde.store.items import Kind

    table = rows(ARCHITECTURE, "| key | holds")
    listed = {word for row in table for word in re.findall(r"`([A-Z]+)\b", " ".join(row))}
    assert listed == {str(kind) for kind in Kind}


def test_operations_lists_every_setting_with_its_default() -> None:
    from infra.settings import StackSettings

    listed = {row[0].strip("`"): row[1] for row in rows(OPERATIONS, "| setting | default")}
    fields = StackSettings.model_fields
    assert set(listed) == set(fields)
    for name, default in listed.items():
        if fields[name].is_required():
            assert default == "required", name
            continue
        found = fields[name].default
        shown = found if found and isinstance(found, str) else json.dumps(found)
        assert default == f"`{shown}`", name


def test_the_api_page_lists_every_rate_limit() -> None:
    from horde.edge.ratelimit import By

    listed = {
        (route.strip("`"), row[1]): row
        for row in rows(API, "| routes | limit")
        for route in row[0].split(", ")
    }
    made = {}
    for path in sorted((ROOT / "functions").glob("*.py")):
        for name, route in getattr(importlib.import_module(path.stem), "ROUTES", {}).items():
            for limit in route.limits:
                short = re.sub(r" /(api/)?(v2/)?", " ", name)
                made[short, str(limit)] = limit
    assert set(listed) == set(made)
    for key, limit in made.items():
        _, _, by, trusted = listed[key]
        assert by.startswith({By.IP: "address", By.PATH: "address and", By.KEY: "key"}[limit.by])
        assert trusted == str(limit.trusted or limit.count)
        assert limit.anonymous is None or f"the anonymous one: {limit.anonymous}" in by


def test_the_api_page_lists_every_refusal_of_what_cannot_be_drawn() -> None:
    refusals = rows(API, "| in the request | `rc`")
    listed = {row[1].strip("`") for row in refusals}
    source = (ROOT / "functions" / "generate.py").read_text()
    checks = source[source.index("def check_drawable") :].partition("\ndef ")[0]
    checks += (ROOT / "functions" / "horde" / "rules" / "features.py").read_text()
    raised = set(re.findall(r'rc="(\w+)"', checks))
    assert raised
    assert raised <= listed
    known = "".join(path.read_text() for path in (ROOT / "functions").rglob("*.py"))
    for rc in listed:
        assert f'"{rc}"' in known, rc


def test_every_alarm_that_can_ring_is_in_the_runbook() -> None:
    parts = sorted((ROOT / "infra" / "parts").glob("*.py"))
    text = (ROOT / "infra" / "stack.py").read_text()
    queues = re.findall(r'parts\.DeadLetters\(self, "(\w+)"', text)
    queues += [f"{name}Dead" for name in re.findall(r'parts\.WorkQueue\(\s*self, "(\w+)"', text)]
    listed = {row[0].strip("`") for row in rows(OPERATIONS, "| alarm | what happened")}
    assert len(queues) >= 6
    marks = re.findall(r'alarms\.on_line\("(\w+)"', text)
    others = {
        name
        for path in parts
        for name in re.findall(r'(?:alarms\.on|self\.on_line)\(\s*"(\w+)"', path.read_text())
    }
    assert "NotReleased" in others
    assert listed == {*queues, *marks, *others, "ApiFaults", "…Errors"}


def test_every_attack_of_the_threat_model_is_a_test() -> None:
    rows_of_attacks = [line for line in THREATS.splitlines() if "::" in line]
    assert len(rows_of_attacks) >= 35
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", THREATS):
        path = ROOT / (file if "/" in file else f"tests/flows/{file}")
        assert f"def {name}(" in path.read_text("utf-8"), name


def test_the_queue_position_is_exact_as_far_as_the_api_page_says() -> None:
    from horde.rules import places

    assert f"`queue_position` is exact up to {places.EXACT}" in API


def test_the_formula_on_the_kudos_page_is_the_price() -> None:
    from horde.rules import pricing

    (formula,) = [block for block in blocks(PAGES["docs/kudos.md"]) if "8.75" in block]
    for pixels in (64 * 64, 512 * 512, 1024 * 1024, 3072 * 3072):
        for steps in (1, 7.2, 50, 500):
            found: dict[str, float] = {}
            exec(formula, {"pixels": pixels, "steps": steps}, found)
            assert abs(float(pricing.base_kudos(pixels, steps)) - found["kudos"]) <= 0.005001


def test_no_page_prints_a_number_that_belongs_to_a_ruleset() -> None:
    texts = PAGES | {path.name: path.read_text("utf-8") for path in DOCUMENTS.glob("*.md")}
    for name, text in texts.items():
        found = re.findall(r"\d[\d,]* kudos?\b|\btax(?:es)? (?:of|is) \+?\d", text)
        assert not found, (name, found)
    assert "{tax_shared}" in texts["terms.md"]
    assert "{tax_private}" in texts["terms.md"]


# --- names, links and commands -------------------------------------------------------------


@pytest.mark.parametrize("name", list(PAGES))
def test_every_make_target_that_a_page_names_exists(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in code(PAGES[name]):
        for target in re.findall(r"(?:^|[ &;])make ([a-z][\w-]*)", line.partition("#")[0]):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_pages_show_every_operator_command_and_no_other() -> None:
    from infra.operate import commands

    known = set(re.findall(r"^    ([a-z-]+) ", commands.parser().format_help(), re.MULTILINE))
    assert known
    command = re.compile(r"bin/operator (?:--\w+ \S+ )?([a-z][\w-]*)")
    shown = {name: set(command.findall("\n".join(code(text)))) for name, text in PAGES.items()}
    for name, commands_shown in shown.items():
        assert commands_shown <= known, name
    assert shown["docs/operations.md"] == known


@pytest.mark.parametrize("name", list(PAGES))
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[name])):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / name
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text("utf-8")), target


@pytest.mark.parametrize("name", list(PAGES))
def test_every_path_that_a_page_names_exists(name: str) -> None:
    tops = "functions|infra|tests|gpu_worker|bin|docs|settings|layers|requirements|\\.github"
    for path in spans(PAGES[name]):
        if re.fullmatch(rf"(?:{tops})/[\w./-]*", path):
            assert (ROOT / path).exists(), path


def test_every_page_of_the_docs_is_linked() -> None:
    linked = {
        ((ROOT / name).parent / target.partition("#")[0]).resolve()
        for name, text in PAGES.items()
        for target in re.findall(r"\]\(([^)\s]+\.md(?:#[\w-]+)?)\)", text)
    }
    for name in PAGES:
        assert name == "README.md" or (ROOT / name) in linked, name


def test_the_readme_is_one_page() -> None:
    assert len(README.splitlines()) <= MOST_LINES
    assert len(README.split()) <= MOST_WORDS


@pytest.mark.parametrize("name", list(PAGES))
def test_a_sentence_is_short(name: str) -> None:
    for sentence in sentences(PAGES[name]):
        assert len(sentence.split()) <= LONGEST_SENTENCE, sentence


@pytest.mark.parametrize("word", [*NAMES.split(), *WORDS.split()])
def test_the_glossary_explains_each_word(word: str) -> None:
    explained = {
        one.strip("` ")
        for line in GLOSSARY.splitlines()
        if line.startswith("| ")
        for one in line.split(" | ")[0].strip("| ").split(", ")
    }
    assert word in explained


@pytest.mark.lengthy
def test_a_name_in_the_glossary_is_one_of_the_code() -> None:
    sources = [path for top in ("functions", "infra") for path in (ROOT / top).rglob("*.py")]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    for line in GLOSSARY.splitlines():
        for name in re.findall(r"`([\w.]+)`", line.split(" | ")[0]):
            assert re.search(rf"\b_?{name.rpartition('.')[2]}\b", text), name


@pytest.mark.parametrize("name", list(PAGES))
def test_no_page_uses_a_private_word(name: str) -> None:
    for word in PRIVATE.split():
        assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", PAGES[name]), word


# --- decisions, versions, templates --------------------------------------------------------


def test_every_decision_is_dated() -> None:
    table = rows(DECISIONS, "| date | decision")
    assert len(table) > 30
    for row in table:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row[0]), row
        assert len(row) == 4


def test_the_six_decisions_that_cost_most_have_a_page() -> None:
    pages = sorted(name for name in PAGES if name.startswith("docs/decisions/"))
    assert len(pages) == 6
    for name in pages:
        assert f"({name.removeprefix('docs/')})" in DECISIONS
        titles = re.findall(r"^## (.+)$", PAGES[name], re.MULTILINE)
        assert titles == ["Context", "Decision", "Options that lost", "Consequences", "Way back"]
        assert len(rows(PAGES[name], "| option | why it lost |")) >= 2


def test_the_version_is_one() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'^version = "([\d.]+)"', pyproject, re.MULTILINE) == [VERSION]


def test_the_changelog_is_in_groups() -> None:
    releases = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    for release in releases[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release), release
    groups = re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)
    assert set(groups) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_issue_templates_and_hooks_can_be_read() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= set(form), path
        ids = [part["id"] for part in form["body"] if "id" in part]
        assert len(set(ids)) == len(ids)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["entry"].startswith(".venv/bin/python -m "), hook
        assert hook["language"] == "system", hook


def test_no_lock_file_names_a_registry_or_a_machine() -> None:
    for path in [*(ROOT / "requirements").glob("*"), ROOT / "package-lock.json", ROOT / ".npmrc"]:
        text = path.read_text()
        assert "://" not in text, path
        assert "/work/" not in text, path


def test_every_locked_package_has_hashes() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        pinned = len(re.findall(r"^[\w.\[\]-]+==", text, re.MULTILINE))
        assert pinned > 0
        for block in re.split(r"\n(?=[a-zA-Z])", text):
            if re.match(r"[\w.\[\]-]+==", block):
                assert "--hash=sha256:" in block, (path, block[:80])


def test_pages_are_found() -> None:
    assert len(PAGES) >= 20
    assert all(Path(ROOT / name).is_file() for name in PAGES)

"""The documents of a release: made from the columns, and by nobody else's words."""

import json
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from horde.release import contact_sheet, documents
from horde.release.names import File, Manifest, Part, next_release, release_parts
from horde.rules.columns import AT_INTAKE, COLUMNS, IN_SHARD, RowError, Type, checked
from tests.support.images import webp

STATISTICS: dict[str, Any] = {
    "images": 2,
    "first": "2026-11-25",
    "last": "2026-11-26",
    "prompt_length": 30.0,
    "nsfw_score": 0.01,
    "bytes": 2_000_000,
    "models": [("stable_diffusion", 2)],
    "consent": [("request-flag", 2)],
    "sizes": [("512 x 512", 2)],
    "drawn_by": [("endpoint", 2)],
}
FILES = (
    File("images/date=2026-11-25/part-2026-11-25-00000.tar", 10, "a" * 64, 2),
    File("metadata/date=2026-11-25/part-2026-11-25-00000.parquet", 5, "b" * 64, 2),
    File("metadata.parquet", 5, "c" * 64, 2, "releases/2026-11-28/metadata.parquet"),
)
MADE = Manifest("2026-11-28", "2026-11-28T03:20:00Z", 2, 1, {"prompt": 3}, FILES)


def card(**changes: Any) -> str:
    return documents.card(MADE, {**STATISTICS, **changes}, sheet=True).decode()


def test_the_card_has_every_column_with_its_meaning() -> None:
    text = card()
    for column in COLUMNS:
        assert f"| `{column.name}` | {column.type.lower()} | {column.meaning} |" in text


def test_the_cards_front_matter_is_one_configuration_of_shards() -> None:
    _, front, _ = card().split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == "cc0-1.0"
    assert found["configs"] == [{"config_name": "default", "data_files": "images/**/*.tar"}]


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "[x](javascript:1)", "a|b\n# c", "`x`", "y" * 500]
)
def test_a_models_name_writes_nothing_into_the_card_but_itself(name: str) -> None:
    (line,) = [one for one in card(models=[(name, 1)]).splitlines() if one.startswith("| models")]
    cell = line.removeprefix("| models | ").removesuffix(" |")
    assert cell.startswith("`")
    assert cell.endswith("` (1)")
    assert "`" not in cell[1:-5]
    assert len(cell) < 120


def test_croissant_has_every_column_and_every_shard_with_its_checksum() -> None:
    found = json.loads(documents.croissant(MADE, "https://bucket.example.org"))
    records, _pictures = found["recordSet"]
    assert [field["name"] for field in records["field"]] == [column.name for column in COLUMNS]
    files = {one["@id"]: one for one in found["distribution"]}
    table = files["metadata.parquet"]
    (shard,) = [one for one in files.values() if one.get("encodingFormat") == "application/x-tar"]
    assert (table["@id"], table["sha256"]) == ("metadata.parquet", "c" * 64)
    assert shard["contentUrl"] == f"https://bucket.example.org/{FILES[0].path}"
    assert shard["sha256"] == FILES[0].sha256


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert Manifest.load(MADE.dump()) == Manifest(
        "2026-11-28", "2026-11-28T03:20:00Z", 2, 1, {"prompt": 3}, tuple(sorted(FILES))
    )
    assert Manifest.load(None) == Manifest()
    with pytest.raises(ValueError, match="form"):
        Manifest.load(b'{"format": 2}')


def test_a_part_that_is_written_anew_has_another_name_and_keeps_its_number() -> None:
    part = Part("2026-11-25", 7)
    assert part.rewritten().rewritten().name == "part-2026-11-25-00007-2"
    for one in (part, part.rewritten()):
        assert Part.parse(one.name) == Part.parse(one.shard) == Part.parse(one.table) == one
    for wrong in ("part-x", "images/date=2026-11-25/part-2026-11-25-1.tar", ""):
        with pytest.raises(ValueError, match="not the name"):
            Part.parse(wrong)
    assert MADE.next_number("2026-11-25") == 1
    assert MADE.next_number("2026-11-26") == 0


def test_releases_of_a_day_are_numbered_and_never_go_back() -> None:
    assert next_release(None, "2026-11-28") == "2026-11-28"
    assert next_release("2026-11-27.3", "2026-11-28") == "2026-11-28"
    assert next_release("2026-11-28", "2026-11-28") == "2026-11-28.1"
    assert next_release("2026-11-28.9", "2026-11-28") == "2026-11-28.10"
    assert next_release("2026-11-28", "2026-11-27") == "2026-11-28.1"  # the clock went back
    assert release_parts("2026-11-28.10") == ("2026-11-28", 10)


# --- rows ----------------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    column.name: {Type.TEXT: "x", Type.FLOAT: 7.0, Type.BOOL: True}.get(column.type, 1)
    for column in IN_SHARD
}


def test_a_row_has_its_columns_in_their_order_and_no_others() -> None:
    mixed = {"more": 1, **dict(reversed(ROW.items()))}
    assert list(checked(mixed, IN_SHARD)) == [column.name for column in IN_SHARD]
    assert checked({**ROW, "cfg_scale": 7}, IN_SHARD)["cfg_scale"] == 7.0
    assert isinstance(checked({**ROW, "cfg_scale": 7}, IN_SHARD)["cfg_scale"], float)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 2**63),
        ("steps", 2**31),
        ("steps", True),
        ("karras", 1),
        ("prompt", None),
        ("cfg_scale", "7"),
        ("steps", 1.0),
    ],
)
def test_a_row_that_is_not_what_its_columns_say_is_refused(name: str, value: Any) -> None:
    with pytest.raises(RowError, match=name):
        checked({**ROW, name: value}, IN_SHARD)


def test_a_row_of_an_earlier_version_gets_what_it_could_not_have() -> None:
    late = {"model_sha256", "model_license", "backend", "backend_version", "post_processing"}
    late |= {"loras", "tis"}
    early = {name: value for name, value in ROW.items() if name not in {*late, "user_hash"}}
    found = checked(early, AT_INTAKE)
    assert (found["backend"], found["user_hash"], found["model_sha256"]) == ("other", "", "")


# --- the contact sheet ---------------------------------------------------------------------------


def test_a_contact_sheet_shows_each_image_once_and_a_broken_one_in_grey() -> None:
    from io import BytesIO

    from PIL import Image

    page = contact_sheet.sheet([webp(), b"broken", *[webp()] * 10])
    with Image.open(BytesIO(page)) as opened:
        step = contact_sheet.CELL + contact_sheet.GAP
        assert opened.size == (10 * step + contact_sheet.GAP, 2 * step + contact_sheet.GAP)
    with pytest.raises(ValueError, match="needs an image"):
        contact_sheet.sheet([])


@pytest.mark.parametrize("count", [0, 1, 59, 60, 61, 1000, 10**7])
def test_what_is_shown_is_evenly_spread(count: int) -> None:
    found = contact_sheet.spread(count)
    assert len(found) == len(set(found)) == min(count, contact_sheet.MOST)
    assert all(0 <= one < count for one in found)
    assert found == sorted(found)

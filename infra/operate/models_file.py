"""The table of models of a stage: read, shown, and written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from horde.rules import pricing
from infra.settings import StackSettings
from infra.stages import FOLDER, ROOT, SettingsError, load


class ModelsError(Exception):
    """A command about models cannot be carried out; the message says why."""


def settings_file(stage: str) -> Path:
    """Return a stage's file."""
    return ROOT / FOLDER / f"{stage}.json"


def written(file: Path, change: Mapping[str, Mapping[str, Any] | None]) -> StackSettings:
    """Write entries of the table, or take them out where they are None; all of it or nothing.

    The other settings stay as they are. Raises SettingsError if the result is refused.
    """
    load(file)
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    models = found["models"]
    for name, entry in change.items():
        if entry is None:
            models.pop(name, None)
        else:
            models[name] = dict(entry)
    part = file.with_name(f".{file.stem}.part.json")
    part.write_text(_shown(found), "utf-8")
    try:
        settings = load(part)
    except SettingsError as error:
        raise SettingsError(str(error).replace(part.name, file.name)) from None
    else:
        part.replace(file)
        return settings
    finally:
        part.unlink(missing_ok=True)


def _shown(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON, each model in a line."""
    text = json.dumps({**settings, "models": {}}, indent=2, ensure_ascii=False)
    lines = [
        f"    {json.dumps(name, ensure_ascii=False)}: {{ {line(entry)} }}"
        for name, entry in settings["models"].items()
    ]
    models = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
    return text.replace('"models": {}', f'"models": {models}', 1) + "\n"


def line(entry: Mapping[str, Any]) -> str:
    """Return an entry as it stands in the file, without its braces."""
    return json.dumps(entry, ensure_ascii=False)[1:-1]


def listed(settings: StackSettings) -> str:
    """Return the table as a page shows it."""
    rows = [("model", "family", "side", "memory", "files", "licence", "endpoint", "features")]
    for name, one in settings.models.items():
        side = one.native_size or pricing.NATIVE_SIDE.get(one.baseline, pricing.NATIVE_SIDE_OTHERS)
        family = one.baseline + (f", priced as {one.price_family}" if one.price_family else "")
        files = one.source + (f" at {one.revision[:12]}" if one.revision else "")
        rows.append(
            (
                name,
                family,
                str(side),
                f"{one.memory_gb:g} GB" if one.memory_gb else "-",
                files or "-",
                one.license or "-",
                one.endpoint or "volunteers",
                ", ".join(one.features) or "-",
            )
        )
    head, *body = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def worker_table(settings: StackSettings, endpoint: str) -> str:
    """Return ``MODELS`` of an endpoint's workers, as JSON; raises ModelsError."""
    models = {name: one for name, one in settings.models.items() if one.endpoint == endpoint}
    if not models:
        message = f"no model of the table has the endpoint {endpoint!r}"
        raise ModelsError(message)
    if without := [name for name, one in models.items() if not one.source]:
        message = f"{without[0]!r} has no source: its worker would not find its files"
        raise ModelsError(message)
    keys = ("source", "revision", "memory_gb", "controlnets")
    return json.dumps(
        {
            name: {key: value for key in keys if (value := getattr(one, key))}
            for name, one in models.items()
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )

"""The last census, and the modes that the operator has set."""

import json
from dataclasses import asdict, fields

from horde import clock
from horde.records import Census, Drawer, Load
from horde.store.items import PK, Kind, by_kind, encode, json_text, key_of
from horde.store.table import Table

_CENSUS, _MODES = "CENSUS", "MODES"


class Censuses:
    """The census and the modes: two items of one partition, read together."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def put(self, census: Census) -> None:
        """Replace the last census."""
        rows = {name: list(asdict(load).values()) for name, load in census.models.items()}
        counts = {"at": census.at, "workers": census.workers, "threads": census.threads}
        drawers = json_text([_row(one) for one in census.drawers or ()])
        self._table.put(
            {
                **key_of((Kind.FLEET, _CENSUS)),
                "models": {"S": json_text(rows)},
                **({} if census.drawers is None else {"drawers": {"S": drawers}}),
                **{name: encode(value) for name, value in counts.items()},
            }
        )

    def read(self) -> tuple[Census, bool]:
        """Return the last census, and whether the horde is in maintenance."""
        answer = self._table.query(f"{PK} = :fleet", {"fleet": Kind.FLEET})
        found = by_kind(answer["Items"])
        census, names = Census(), [spec.name for spec in fields(Load)]
        if _CENSUS in found:
            item = found[_CENSUS]
            rows = json.loads(item["models"]["S"])
            drawers = json.loads(item["drawers"]["S"]) if "drawers" in item else None
            census = Census(
                at=int(item["at"]["N"]),
                workers=int(item["workers"]["N"]),
                threads=int(item["threads"]["N"]),
                models={
                    name: Load(**dict(zip(names, row, strict=True))) for name, row in rows.items()
                },
                drawers=None if drawers is None else tuple(_drawer(*row) for row in drawers),
            )
        return census, bool(found.get(_MODES, {}).get("maintenance", {}).get("BOOL"))

    def set_maintenance(self, *, on: bool) -> None:
        """Switch maintenance on or off."""
        modes = {"maintenance": encode(on), "changed_at": encode(clock.now())}
        self._table.put({**key_of((Kind.FLEET, _MODES)), **modes})


def _row(drawer: Drawer) -> list[object]:
    """Return a worker in as few bytes as names a thousand of them in one item."""
    return [drawer.id, drawer.max_pixels, drawer.lacks, int(drawer.fleet), f"{drawer.models:x}"]


def _drawer(worker_id: str, max_pixels: int, lacks: str, fleet: int, models: str) -> Drawer:
    return Drawer(worker_id, max_pixels, lacks, bool(fleet), int(models, 16))

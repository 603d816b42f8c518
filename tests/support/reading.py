"""Doubles nothing: reads the table, the ledger and the data set past the API, and audits them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from moto.dynamodb.models import dynamodb_backends
from moto.s3.models import FakeDeleteMarker as _Marker
from moto.s3.models import s3_backends

from horde.records import OPEN, Generation, State, WorkerStats
from horde.rules.kudos import Kind
from horde.store.audit import AuditStore, numbers_of
from horde.store.counts import full_id, open_key
from horde.store.due import Due, DueRow
from horde.store.items import Row, from_item, id_of, row_of
from infra.operate.audit.run import audit
from tests.support.archives import opened
from tests.support.deployment import Deployment, Item
from tests.support.moto_aws import ACCOUNT, REGION


class Reading(Deployment):
    """What is stored."""

    def items(self) -> Iterator[Item]:
        """Yield every item from moto's own memory: a scan costs more than what was tested."""
        table = dynamodb_backends[ACCOUNT][REGION].tables[self.table]
        for rows in table.items.values():
            for item in rows.values():
                yield item.to_json()["Attributes"]

    def rows(self, kind: str) -> list[Item]:
        """Return every item of one kind."""
        pages = self.db.get_paginator("scan").paginate(
            TableName=self.table,
            FilterExpression="sk = :kind",
            ExpressionAttributeValues={":kind": {"S": kind}},
        )
        return [dict(item) for page in pages for item in page["Items"]]

    def due(self, now: int) -> list[DueRow]:
        """Return all that is due by a time (seconds)."""
        return [row for kind in Due for row in self.store.due.until(kind, now)]

    def ledger(self, user_id: int) -> list[dict[str, Any]]:
        """Return a user's ledger, oldest first."""
        items = self.db.query(
            TableName=self.table,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :ledger)",
            ExpressionAttributeValues={
                ":pk": {"S": f"USER#{user_id}"},
                ":ledger": {"S": "LEDGER#"},
            },
        )["Items"]
        return [
            {
                "kind": item["kind"]["S"],
                "amount": int(item["amount"]["N"]),
                "postings": {name: int(n["N"]) for name, n in item["postings"]["M"].items()},
                "reference": item["reference"]["S"],
            }
            for item in items
        ]

    def objects_of(self, part: str) -> dict[str, bytes]:
        """Return every object of the bucket whose logical id starts so, by its key.

        They are read from moto's own memory: tests that compare all there is ask for it often.
        """
        kept = s3_backends[ACCOUNT]["aws"].buckets[self.bucket(part)].keys
        there = {key: kept[key] for key in sorted(kept)}
        return {key: file.value for key, file in there.items() if not isinstance(file, _Marker)}

    def date_files(self) -> None:
        """Have the outputs bucket's files be written now, by this cloud's clock and not by ours."""
        now = datetime.fromtimestamp(self.clock.now_ms() // 1000, UTC)
        for file in s3_backends[ACCOUNT]["aws"].buckets[self.bucket("Outputs")].keys.values():
            file.last_modified = now

    def laion(self) -> dict[str, bytes]:
        """Return every object of the data set."""
        return self.objects_of("Laion")

    def archives(self, part: str = "Laion") -> dict[str, tuple[bytes, dict[str, Any]]]:
        """Return the image and the row of every archive of the data set, or of another bucket."""
        found = {}
        for name, body in self.objects_of(part).items():
            if part == "Laion" and not name.startswith("incoming/"):
                continue
            folder, _, file = name.rpartition("/")
            image, row = opened(body)
            assert file == f"{row['id']}.tar"
            assert folder == ("" if part == "Held" else f"incoming/date={row['created_on']}")
            found[row["id"]] = (image, row)
        return found

    def everything(self) -> dict[str, Any]:
        """Return all that is stored: every item, by its key, and every object of every bucket."""
        stored: dict[str, Any] = {"/".join(row_of(item)): item for item in self.items()}
        for part in ("Outputs", "Held", "Sources", "Laion"):
            stored |= {f"{part} {name}": body for name, body in self.objects_of(part).items()}
        return stored

    def audit(self) -> None:
        """Prove the table, as ``bin/operator audit`` does, and the counts that limit."""
        report = audit(Still(self), segments=1, pauses=(0,))
        assert not report.findings, "\n".join(report.lines())
        self.recount()

    def recount(self) -> None:
        """Prove that accounts list what they have open, and workers what they hold.

        A delivered image is listed for as long as its reward is pending.
        """
        opened: dict[str, set[str]] = defaultdict(set)
        held: dict[str, set[str]] = defaultdict(set)
        pending: set[str] = set()
        found_open: dict[str, set[str]] = {}
        found_held: dict[str, set[str]] = {}
        for item in self.items():
            match item["sk"]["S"]:
                case "GENERATION":
                    image = from_item(Generation, item)
                    if image.state in OPEN:
                        opener = open_key(image.user_id, image.part)
                        opened[opener["pk"]["S"]].add(image.id)
                    assert not image.held or image.state is State.PROCESSING
                    if image.held:
                        held[image.worker_id or ""].add(image.id)
                case "USER" | "ANONYMOUS":
                    names = item.get("open_images", {"SS": []})["SS"]
                    found_open[item["pk"]["S"]] = set(map(full_id, names))
                case "STATS" if item["pk"]["S"].startswith("WORKER#"):
                    found_held[id_of(item)] = set(from_item(WorkerStats, item).held)
                case _ if item.get("kind", {}).get("S") == Kind.REWARD and "posted" not in item:
                    pending.add(item["reference"]["S"])
        for user in found_open.keys() | opened.keys():
            assert found_open[user] - opened[user] <= pending
            assert opened[user] <= found_open[user]
        assert {one: ids for one, ids in found_held.items() if ids} == held


class Still(AuditStore):
    """A table that nothing moves, read at once: the audit after each test costs next to nothing."""

    def __init__(self, cloud: Reading) -> None:
        super().__init__(cloud.store.table)
        self._items = list(cloud.items())

    def everything(self, segment: int = 0, segments: int = 1) -> Iterator[list[Item]]:
        """Yield the whole table."""
        assert (segment, segments) == (0, 1)
        yield self._items

    def counted(self, rows: Iterable[Row] | None = None) -> dict[Row, dict[str, int]]:
        """Return the counters, and what workers have done."""
        there = {row_of(item): item for item in self._items}
        workers = [Row(row.pk, "STATS") for row in there if row.sk == "WORKER"]
        wanted = [Row("USER#0", "STATS"), *(workers if rows is None else rows)]
        counted = [row for row in wanted if row.sk == "STATS"]
        counted += [row for row in there if row.pk == "STATS"]
        return {row: numbers_of(there.get(row, {})) for row in counted}

"""What the release of an image uses: from ``incoming/`` through screening into a shard.

Counted from the steps' code, since a million images are not released here. Of a day with full
parts; a small day pays for its few state transitions and runs, whatever its images.
"""

from collections.abc import Mapping
from typing import Any

from tests.bench.cost import Inputs, Use, gb_seconds
from tests.support import template as templates

LISTED = 1000
"""Objects in an answer of S3's list."""
OF_A_CHILD = 2
"""State transitions of an item of a distributed map: its start and its one state."""


def of_image(template: dict[str, Any], inputs: Inputs, measured: Mapping[str, float]) -> Use:
    """Return what the release of one image uses; CPU by row in ms."""
    import pack  # late: DuckDB, which only this needs
    import screen
    from horde.release.batches import BATCH
    from horde.release.shard import PIECE

    part = inputs.value("parts_of_a_release")
    kb, wait = inputs.value("image_kb"), inputs.value("wait_s3_ms")
    functions = templates.functions(template)

    def runs(file: str, cpu_ms: float, wait_ms: float, images: float) -> Use:
        memory = functions[file][1]["MemorySize"]
        seconds = gb_seconds(memory, cpu_ms * images, wait_ms * images) / images
        log = inputs.value("log_bytes") / 1e9 / images
        return Use({"lambda_request": 1 / images, "lambda_gb_second": seconds, "log_gb": log})

    batches = BATCH
    pieces = kb * 1000 / PIECE
    # A batch and a part are each written, read and answered as one object; a part has four files.
    puts = pieces + 2 / batches + (2 + 4) / part + 1 / LISTED
    whole = inputs.value("rows_for_a_new_one")
    gets = 2 + 3 / batches + (4 + whole) / part
    moved = Use(
        {
            "s3_write": puts,
            "s3_read": gets,  # by screen and by pack
            "read_unit": 1.0,  # the record, with strong consistency
            "transition": OF_A_CHILD / batches + OF_A_CHILD / part,
        }
    )
    return (
        moved
        + runs("screen", measured["release screen"], wait / screen.THREADS, batches)
        + runs("pack", measured["release pack"], wait / pack.THREADS, part)
        + runs("release", inputs.value("publish_cpu_ms") * whole, 0, part)
    )

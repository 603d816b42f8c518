"""What is used: by one accepted request, by the whole life of an image, and by a month at rest.

Counted from the functions on moto (``life``) and from the synthesized template. What cannot be
counted is an assumption with a name (``prices.toml``).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.cost import Inputs, Use, gb_seconds
from tests.bench.life import LIVES
from tests.bench.meter import Meter
from tests.support import template as templates

MEASURED = Path(__file__).resolve().parents[2] / "docs" / "performance.json"
"""What ``make bench`` has measured last, CPU times included."""
API = ("accept", "check", "pop", "submit", "status")
"""Steps that are requests to the API."""
QUIET = ("check", "status")
"""Those of them that log nothing if they succeed (``horde.edge.http.QUIET``)."""
MONTH_MINUTES = 30 * 24 * 60


def cpu_of(step: str, measured: Mapping[str, float]) -> float:
    """Return the CPU of one run of a step's functions, in ms; what is not measured is a check.

    ``share`` reads, checks and copies an image, as a submit does.
    """
    row = "cpu submit" if step == "share" else f"cpu {step}"
    return measured.get(row, measured["cpu check"])


def measured_cpu(path: Path = MEASURED) -> dict[str, float]:
    """Return the CPU times that the last bench has measured, in ms, by row."""
    found = json.loads(path.read_text())
    return {name: row["ms"] for name, row in found["rows"].items() if "ms" in row}


def waits(meter: Meter, inputs: Inputs) -> float:
    """Return the ms that calls to AWS take, one after the other."""
    kinds = {
        "dynamodb.TransactWriteItems": "wait_transaction_ms",
        "dynamodb.UpdateItem": "wait_write_ms",
        "dynamodb.PutItem": "wait_write_ms",
        "dynamodb.DeleteItem": "wait_write_ms",
    }
    services = {"sqs": "wait_sqs_ms", "s3": "wait_s3_ms", "lambda": "wait_invoke_ms"}
    return sum(
        times * inputs.value(kinds.get(name, services.get(name.partition(".")[0], "wait_get_ms")))
        for name, times in meter.calls.items()
    )


def of_step(
    name: str,
    meter: Meter,
    template: dict[str, Any],
    inputs: Inputs,
    measured: Mapping[str, float],
) -> Use:
    """Return what one life uses in a step that ``LIVES`` went through."""
    functions = templates.functions(template)
    runs = meter.invocations.total()
    seconds = 0.0
    for file, times in meter.invocations.items():
        memory = functions[file][1].get("MemorySize", 128)
        wait = waits(meter, inputs) / runs
        if name == "ticket":  # RunPod is asked what it has, and then given a ticket
            wait += 2 * inputs.value("wait_runpod_ms")
        cpu = cpu_of(name, measured)
        cpu += inputs.value("image_cpu_ms") if name in {"submit", "share"} else 0
        if name == "submit" and not meter.calls["s3.GetObject"]:
            cpu += inputs.value("inline_cpu_ms")
        seconds += times * gb_seconds(memory, cpu, wait)
    puts = sum(n for call, n in meter.calls.items() if call in {"s3.PutObject", "s3.CopyObject"})
    gets = sum(n for call, n in meter.calls.items() if call in {"s3.GetObject", "s3.HeadObject"})
    sqs = sum(n for call, n in meter.calls.items() if call.startswith("sqs."))
    used = {
        "api_request": float(runs if name in API else 0),
        "lambda_request": float(runs),
        "lambda_gb_second": seconds,
        "write_unit": float(meter.write_units),
        "read_unit": meter.read_units,
        "sqs_request": float(sqs),
        "s3_write": float(puts),
        "s3_read": float(gets),
        "log_gb": (0 if name in QUIET else runs) * inputs.value("log_bytes") / 1e9,
        "egress_gb": (meter.answered + _framing(name, runs, inputs)) / 1e9,
    }
    return Use(used) * (1 / LIVES)


def _framing(name: str, runs: int, inputs: Inputs) -> float:
    """Return the bytes that API Gateway adds to the answers of a step's functions."""
    return runs * inputs.value("framing_bytes") if name in API else 0.0


def of_life(
    lives: Mapping[str, Meter],
    template: dict[str, Any],
    inputs: Inputs,
    measured: Mapping[str, float],
) -> dict[str, Use]:
    """Return what one shared image uses by step, and by what no function calls (``around``).

    ``lives`` has one poll for each request; a life has ``polls``. The worker's GPU and the image's
    way to its client are not in it.
    """
    found = {
        name: of_step(name, meter, template, inputs, measured) for name, meter in lives.items()
    }
    found["check"] *= inputs.value("polls")
    found["around"] = Use(
        {
            # The worker's upload, which its submit reads; others carry their image.
            "s3_write": lives["submit"].calls["s3.GetObject"] / LIVES,
            "s3_read": 1.0,  # the client's download
            "sqs_request": 3.0,  # S3 sends a message, which is received and deleted
        }
    )
    return found


def _alarm_metrics(template: dict[str, Any]) -> int:
    """Return how many metrics all alarms watch: an alarm is priced by them."""
    alarms = templates.of_type(template, "AWS::CloudWatch::Alarm").values()
    lists = [alarm["Properties"].get("Metrics", [{"MetricStat": {}}]) for alarm in alarms]
    return sum("MetricStat" in one for metrics in lists for one in metrics)


def _custom_metrics(template: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the metrics that filters of logs feed, each by its namespace and name.

    Filters are free, and several may feed one metric. None here has dimensions, each value of which
    would be a metric.
    """
    found = templates.of_type(template, "AWS::Logs::MetricFilter").values()
    fed = [one for each in found for one in each["Properties"]["MetricTransformations"]]
    assert not any(one.get("Dimensions") for one in fed)
    return {(str(one["MetricNamespace"]), one["MetricName"]) for one in fed}


def at_rest(idle_sweep: Meter, template: dict[str, Any], inputs: Inputs, cpu_ms: float) -> Use:
    """Return what a month uses in which nobody asks for anything."""
    mappings = templates.of_type(template, "AWS::Lambda::EventSourceMapping").values()
    queues = sum("StartingPosition" not in one["Properties"] for one in mappings)
    memory = templates.functions(template)["sweep"][1].get("MemorySize", 128)
    sweep = Use(
        {
            "lambda_request": 1.0,
            "lambda_gb_second": gb_seconds(memory, cpu_ms, waits(idle_sweep, inputs)),
            "write_unit": float(idle_sweep.write_units),
            "read_unit": idle_sweep.read_units,
            "log_gb": inputs.value("log_bytes") / 1e9,
        }
    )
    fixed = Use(
        {
            "alarm": float(_alarm_metrics(template)),
            "custom_metric": float(len(_custom_metrics(template))),
            "secret": float(len(templates.of_type(template, "AWS::SecretsManager::Secret"))),
            "sqs_request": queues * inputs.value("idle_receives"),
        }
    )
    return fixed + sweep * MONTH_MINUTES

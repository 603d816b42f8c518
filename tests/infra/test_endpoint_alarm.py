"""What an endpoint needs rings an alarm that is there anyway, for no dollar more."""

import json
from typing import Any

from horde.endpoints import NEEDS_ATTENTION
from tests.support.template import functions, of_type


def test_one_line_that_an_endpoint_needs_attention_rings_the_fleets_alarm(
    template: dict[str, Any],
) -> None:
    (found,) = [
        one["Properties"]
        for one in of_type(template, "AWS::Logs::MetricFilter").values()
        if NEEDS_ATTENTION in one["Properties"]["FilterPattern"]
    ]
    log = functions(template)["sweep"][1]["LoggingConfig"]["LogGroup"]
    assert json.dumps(found["LogGroupName"]) == json.dumps(log)
    (counted,) = found["MetricTransformations"]
    (alarm,) = [
        one["Properties"]
        for one in of_type(template, "AWS::CloudWatch::Alarm").values()
        if one["Properties"].get("MetricName") == counted["MetricName"]
    ]
    assert alarm["Namespace"] == counted["MetricNamespace"]
    assert int(counted["MetricValue"]) > alarm["Threshold"]

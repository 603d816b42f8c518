"""The code that the Lambdas share: records, rules, the table and the HTTP edge."""

import gc
import os

if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    # A tenth of a cold start: what is imported is no garbage. ``startup.ready`` enables it again.
    gc.disable()
    # The layer has no plugin; pydantic would read what every package says of itself to find one.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"

VERSION = "0.1.0"

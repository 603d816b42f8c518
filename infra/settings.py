"""The operator's choices, from cdk.json's ``context`` or ``cdk deploy -c name=value``."""

import json
from dataclasses import dataclass
from typing import Any

from constructs import Construct


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """See the README's table of settings; every field is a context key of the same name."""

    models: dict[str, dict[str, str | None]]
    images_per_ticket: int
    runpod_url: str
    runpod_key_parameter: str
    layer: str
    laion_bucket: str | None = None
    laion_role: str | None = None
    alarm_email: str | None = None
    endpoint_url: str | None = None
    rate_limits: bool = True
    trusted_ips: str = ""
    admins: str = ""
    contact: str = ""
    monthly_kudos: int = 0

    @classmethod
    def of(cls, scope: Construct) -> "StackSettings":
        """Read the context; ``-c`` gives text, so JSON is parsed where a field needs it."""
        read = scope.node.try_get_context
        models: Any = read("models")
        if isinstance(models, str):
            models = json.loads(models)
        return cls(
            models=models,
            images_per_ticket=int(read("images_per_ticket")),
            runpod_url=read("runpod_url"),
            runpod_key_parameter=read("runpod_key_parameter"),
            laion_bucket=read("laion_bucket") or None,
            laion_role=read("laion_role") or None,
            alarm_email=read("alarm_email") or None,
            layer=read("layer"),
            endpoint_url=read("endpoint_url") or None,
            rate_limits=str(read("rate_limits")).lower() != "false",
            trusted_ips=read("trusted_ips") or "",
            admins=str(read("admins") or ""),
            contact=read("contact") or "",
            monthly_kudos=int(read("monthly_kudos") or 0),
        )

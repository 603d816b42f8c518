"""The operator's settings of endpoints: AWS's in the local cloud, and RunPod's with their costs."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationInfo, field_validator

LOOPBACK = ("127.0.0.1", "localhost", "::1")

MaxWorkers = Annotated[int, Field(ge=1, le=1000)] | None
"""Most workers of a model's endpoint, which RunPod cuts after idle days and the sweep sets anew; of
several models of an endpoint the most counts. None: the sweep leaves them alone."""


class EndpointSettings(BaseModel):
    """Where AWS and RunPod are, and what tickets cost."""

    endpoint_url: str | None = None
    """The address of the local cloud; None for AWS itself."""
    runpod_url: str = "https://api.runpod.ai/v2"
    cold_start_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds from a ticket to the first pass of a GPU that was not running."""
    max_wait_seconds: Annotated[int, Field(ge=1, le=3600)] = 90
    """The wait that is wanted for the last of many images; less makes more GPUs start."""
    runpod_management_url: str | None = "https://api.runpod.io/v2"
    """The address of RunPod's management API; None: endpoints are not looked after."""

    @field_validator("endpoint_url")
    @classmethod
    def _is_loopback(cls, url: str | None) -> str | None:
        if url is not None and not _is_local(url):
            raise ValueError("is not the local cloud: http on 127.0.0.1")
        return url

    @field_validator("runpod_url", "runpod_management_url")
    @classmethod
    def _is_https(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        at_home = bool(info.data.get("endpoint_url")) and _is_local(url)
        if not at_home and (parts.scheme != "https" or not parts.hostname):
            raise ValueError("is not an https address; plain http is for the local cloud alone")
        if parts.query or parts.fragment or parts.username:
            raise ValueError("has more than a host and a path")
        return url.rstrip("/")


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOOPBACK

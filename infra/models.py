"""The table of models: ``models`` in ``settings/<stage>.json``, by the Horde's names.

It is the one place that says what a model is. The functions read what price, limits and tickets
follow from (``parts.models_env``); the worker reads where its files are (``bin/operator model
env``); the rows of the data set have its licence; ``bin/operator model list`` shows all of it.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from infra.contract import FEATURES, SAMPLERS
from infra.endpoint_settings import MaxWorkers
from infra.values import EndpointId, matching, one_of

BASELINES = (
    "stable_diffusion_1",
    "stable_diffusion_2",
    "stable_diffusion_2_512",
    "stable_diffusion_2_768",
    "stable_diffusion_xl",
    "stable_cascade",
    "flux_1",
    "qwen_image",
    "z_image_turbo",
)
"""The AI Horde's names of the model families; price, lease and free size depend on the family."""
MAX_MODELS = 300
"""Models in a table: as many as a census counts and a pop offers."""
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
HUB = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"

Side = Annotated[int, Field(ge=64, le=3072, multiple_of=64)]
Baseline = one_of(BASELINES, "a model family")


def _two_decimals(value: float) -> float:
    if round(value, 2) != value:
        raise ValueError("has more than two decimals")
    return value


class Defaults(BaseModel):
    """What a request for the model gets where its ``params`` say nothing."""

    model_config = STRICT

    steps: Annotated[int, Field(ge=1, le=500)] | None = None
    cfg_scale: Annotated[float, Field(ge=0, le=100), AfterValidator(_two_decimals)] | None = None
    sampler_name: Annotated[str, one_of(SAMPLERS, "a sampler")] | None = None
    karras: bool | None = None
    clip_skip: Annotated[int, Field(ge=1, le=12)] | None = None
    width: Side | None = None
    height: Side | None = None


class ModelSettings(BaseModel):
    """The settings of one of the Horde's models."""

    model_config = STRICT

    endpoint: EndpointId | None
    """The RunPod endpoint that draws it; None if only volunteers do. Models may share one."""
    baseline: Annotated[str, Baseline]
    """Its model family."""
    price_family: Annotated[str, Baseline] | None = None
    """The family by which it is priced, limited and leased, if not its own."""
    max_workers: MaxWorkers = None
    max_pixels: Annotated[int, Field(ge=64 * 64, le=3072 * 3072)] = 1024 * 1024
    """Width times height of the largest image that its endpoint draws: ``MAX_PIXELS`` of the
    worker there. No GPU is started for a larger one."""
    max_steps: Annotated[int, Field(ge=1, le=500)] | None = None
    """Accurate steps up to which workers with ``limit_max_steps`` draw it; None: those that need no
    kudos upfront."""
    features: Annotated[
        list[Annotated[str, one_of(FEATURES, "a feature of a worker")]],
        Field(max_length=len(FEATURES)),
    ] = []
    """What its endpoint does that not every worker does: ``lora``, which covers textual inversions,
    control types and post-processors. No GPU is started for an image that asks for another."""
    defaults: Defaults | None = None
    """What a request for it gets where its ``params`` say nothing, instead of the Horde's."""
    source: Annotated[
        str, matching(rf"(/[^\0]{{1,1000}}|{HUB})?", "a path in the worker, or ORG/NAME of the hub")
    ] = ""
    """Where the worker finds its files: a directory, or a model of the hub in its cache."""
    revision: Annotated[
        str, matching(r"([0-9a-f]{40})?", "a commit of the hub: 40 hexadecimal digits")
    ] = ""
    """The hub's commit."""
    memory_gb: Annotated[float, Field(gt=0, lt=10_000, strict=False)] | None = None
    """Memory of a GPU that draws it, in 10^9 bytes; the worker offers it on no smaller one. That of
    ControlNets comes on top: the worker reads it from their files."""
    controlnets: Annotated[str, matching(r"(/[^\0]{1,1000})?", "a path in the worker")] = ""
    """Where the worker finds its ControlNets, a folder for each type; empty: those of its family in
    ``CONTROLNET_DIR``, if there are any."""
    native_size: Side | None = None
    """Side in pixels of the images that it was trained on; None for its family's."""
    license: Annotated[str, Field(max_length=100)] = ""
    """The licence of its weights, for the rows of the data set; best an SPDX identifier."""
    sha256: Annotated[str, matching(r"([0-9a-f]{64})?", "a SHA-256 in hexadecimal")] = ""
    """The SHA-256 of its weights, for the rows of the data set."""

    @field_validator("revision")
    @classmethod
    def _is_of_the_hub(cls, revision: str, info: ValidationInfo) -> str:
        source = info.data.get("source", "")
        if revision and (not source or source.startswith("/")):
            raise ValueError("needs a source on the hub, ORG/NAME")
        return revision


FOR_THE_WORKER = frozenset({"source", "revision", "memory_gb", "native_size", "controlnets"})
"""What no function needs."""

"""The bodies and queries that clients and workers may send, as pydantic models.

Those of functions that no image waits for are in ``other_bodies``.

Names, ranges, enums and defaults are the AI Horde's. Where its published schema and its parser
disagree, the parser wins (horde-api.md 1.1). Unknown fields are ignored, ``null`` means absent, and
booleans must be JSON booleans. Every list and every text has a maximal length: the Horde's, or one
that no client comes near (horde-clients.md).
"""

import reprlib
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from horde.edge.errors import PayloadError
from horde.records import ImageSpec, Offer
from horde.records import Rating as ImageRating
from horde.rules import features
from horde.rules.features import ControlType, PostProcessor

ANONYMOUS_KEY = "0000000000"

Sampler = Literal[
    "k_lms",
    "k_heun",
    "k_euler",
    "k_euler_a",
    "k_dpm_2",
    "k_dpm_2_a",
    "k_dpm_fast",
    "k_dpm_adaptive",
    "k_dpmpp_2s_a",
    "k_dpmpp_2m",
    "dpmsolver",
    "k_dpmpp_sde",
    "DDIM",
    "lcm",
]
SourceProcessing = Literal["img2img", "inpainting", "outpainting", "remix"]

MAX_PIXELS_STORED = 2**53
"""The largest integer that every JSON client reads exactly."""
MAX_PROMPT = 100_000
"""Characters of a prompt that are read at all; ``admission.check_prompt`` has the real bound."""
MAX_IMAGE_TEXT = 8_000_000
"""Characters of an image in base64 or of its URL: more than any body has (``images``)."""
MAX_NAMES = 1000
"""Models, or workers, that a request names."""
MAX_MODEL_BYTES = 100
"""Bytes of a model's name, which each of its waiting images has three times."""
MAX_OFFERED = 20_000
"""Bytes of all model names in a pop, so that an answer can list hundreds of workers."""
MAX_REMARKS = 8_000
"""Bytes of all remarks about an image, as they are stored."""
MAX_TEXT = 10_000
"""Characters of a text for a workflow."""
MAX_SEED = 1000
"""Characters of a seed."""
STEPS = 30
STEPS_CONTROLNET = 20
STEPS_CONTROLNET_MAX = 40


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100
_REPR.maxlevel = 3


def _shown(value: object) -> str:
    """Return the start of a value for an error, however large or deep the value is."""
    return _REPR.repr(value)[:100]


def _number(value: object) -> object:
    # As strict about types as JSON Schema: 7 and 7.5 are numbers, "7" and true are not.
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{_shown(value)} is not of type 'number'"
        raise ValueError(message)  # noqa: TRY004 - pydantic turns only ValueError into a message
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Size = Annotated[StrictInt, Field(ge=64, le=3072, multiple_of=64)]
Strength = Annotated[Number, Field(ge=0.01, le=1)]
Weight = Annotated[Number, Field(ge=-5, le=5)]


def _stored_size(text: str) -> int:
    """Return the bytes that a text takes in the table."""
    return len(text.encode("utf-8", "surrogatepass"))


def _short_name(name: str) -> str:
    if _stored_size(name) > MAX_MODEL_BYTES:
        message = f"{_shown(name)} has more than {MAX_MODEL_BYTES} bytes"
        raise ValueError(message)
    return name


ModelName = Annotated[
    StrictStr, Field(min_length=1, max_length=MAX_MODEL_BYTES), AfterValidator(_short_name)
]
WantedModel = Annotated[StrictStr, Field(max_length=MAX_MODEL_BYTES), AfterValidator(_short_name)]
"""A model that a request names; a blank one names none."""


class Body(BaseModel):
    """A body or a query; ``null`` is an absent field."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class Lora(Body):
    """One LoRA: by the name of its file, or by CivitAI's number of it or of its version."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=255)]
    model: Weight = 1.0
    clip: Weight = 1.0
    inject_trigger: Annotated[StrictStr, Field(min_length=1, max_length=30)] | None = None
    is_version: StrictBool = False


class TextualInversion(Body):
    """One textual inversion, by the name of its file or by CivitAI's number of it."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=255)]
    inject_ti: Literal["prompt", "negprompt"] | None = None
    strength: Weight = 1.0


class ExtraText(Body):
    """A text for workflows such as ``qr_code``."""

    text: Annotated[StrictStr, Field(min_length=1, max_length=MAX_TEXT)]
    reference: Annotated[StrictStr, Field(min_length=3, max_length=255)]


ImageText = Annotated[StrictStr, Field(min_length=1, max_length=MAX_IMAGE_TEXT)]
"""An image in base64, or its URL."""


class ExtraSourceImage(Body):
    """One more source image for ``remix``."""

    image: ImageText
    strength: Number = 1.0


class Params(Body):
    """``params`` of a request: how to draw its images."""

    sampler_name: Sampler = "k_euler_a"
    cfg_scale: Annotated[Number, Field(ge=0, le=100)] = 5.0
    denoising_strength: Strength | None = None
    hires_fix_denoising_strength: Strength | None = None
    height: Size = 512
    width: Size = 512
    post_processing: Annotated[
        list[PostProcessor], Field(max_length=len(get_args(PostProcessor)))
    ] = []
    karras: StrictBool = True
    tiling: StrictBool = False
    hires_fix: StrictBool = False
    transparent: StrictBool = False
    image_is_control: StrictBool = False
    return_control_map: StrictBool = False
    clip_skip: Annotated[StrictInt, Field(ge=1, le=12)] = 1
    facefixer_strength: Annotated[Number, Field(ge=0, le=1)] | None = None
    control_type: ControlType | None = None
    loras: Annotated[list[Lora], Field(max_length=5)] = []
    tis: Annotated[list[TextualInversion], Field(max_length=20)] = []
    workflow: Literal["qr_code"] | None = None
    extra_texts: Annotated[list[ExtraText], Field(max_length=20)] = []
    special: Annotated[dict[str, Any], Field(max_length=100)] | None = None
    seed: Annotated[StrictStr, Field(max_length=MAX_SEED)] = ""
    seed_variation: Annotated[StrictInt, Field(ge=1, le=1000)] | None = None
    steps: Annotated[StrictInt, Field(ge=1, le=500)] = STEPS
    n: Annotated[StrictInt, Field(ge=1, le=20)] = 1

    @field_validator("seed", mode="before")
    @classmethod
    def _seed_is_text(cls, value: object) -> object:
        # The schema asks for a string, but several clients send a number.
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("cfg_scale")
    @classmethod
    def _two_decimals(cls, value: float) -> float:
        if round(value, 2) != value:
            message = f"{value} has more than 2 decimals"
            raise ValueError(message)
        return value

    @field_validator("post_processing")
    @classmethod
    def _unique(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            message = f"{_shown(value)} has non-unique elements"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _controlnet_steps(self) -> "Params":
        if self.control_type:
            default = "steps" not in self.model_fields_set
            self.steps = STEPS_CONTROLNET if default else min(self.steps, STEPS_CONTROLNET_MAX)
        return self


class GenerateRequest(Body):
    """The body of ``POST /v2/generate/async``."""

    prompt: Annotated[StrictStr, Field(min_length=1, max_length=MAX_PROMPT)]
    params: Params = Field(default_factory=Params)
    nsfw: StrictBool = True
    censor_nsfw: StrictBool = True
    trusted_workers: StrictBool = False
    validated_backends: StrictBool = False
    slow_workers: StrictBool = True
    extra_slow_workers: StrictBool = False
    workers: Annotated[
        list[Annotated[StrictStr, Field(max_length=100)]], Field(max_length=MAX_NAMES)
    ] = []
    worker_blacklist: StrictBool = False
    models: Annotated[list[WantedModel], Field(max_length=MAX_NAMES)] = ["stable_diffusion"]
    """Without blank names; empty if any model may draw it."""
    source_image: ImageText | None = None
    source_processing: SourceProcessing = "img2img"
    source_mask: ImageText | None = None
    extra_source_images: Annotated[list[ExtraSourceImage], Field(max_length=5)] = []
    r2: StrictBool = True
    shared: StrictBool = Field(default=False, validation_alias=AliasChoices("shared", "share"))
    replacement_filter: StrictBool = True
    dry_run: StrictBool = False
    proxied_account: Annotated[StrictStr, Field(max_length=255)] | None = None
    disable_batching: StrictBool = False
    allow_downgrade: StrictBool = False
    webhook: (
        Annotated[StrictStr, Field(min_length=10, max_length=1024, pattern="^https://")] | None
    ) = None
    style: Annotated[StrictStr, Field(min_length=3, max_length=1024)] | None = None

    @field_validator("models")
    @classmethod
    def _without_blanks(cls, value: list[str]) -> list[str]:
        # SillyTavern sends [""] until its user chooses a model.
        return [name for name in value if name.strip()]

    @property
    def painting(self) -> bool:
        """Whether only part of the source image is repainted: inpainting or outpainting."""
        return bool(self.source_image) and self.source_processing in {"inpainting", "outpainting"}

    @property
    def uses_images(self) -> bool:
        """Whether the request is based on any image; such requests are never shared."""
        return bool(self.source_image or self.source_mask or self.extra_source_images)

    @property
    def spec(self) -> ImageSpec:
        """The values that the price, the limits and the lease depend on."""
        params = self.params
        return ImageSpec(
            width=params.width,
            height=params.height,
            steps=params.steps,
            sampler_name=params.sampler_name,
            n=params.n,
            denoising_strength=params.denoising_strength,
            img2img=self.source_image is not None,
            hires_fix=params.hires_fix,
            loras=len(params.loras),
            tis=bool(params.tis),
            control_type=params.control_type,
            return_control_map=params.return_control_map,
            post_processing=tuple(params.post_processing),
            slow_workers=self.slow_workers,
            extra_slow_workers=self.extra_slow_workers,
            worker_blacklist=self.worker_blacklist and bool(self.workers),
        )

    def reduced_to(self, spec: ImageSpec) -> "GenerateRequest":
        """Return this request with the size, steps, sampler and slow workers of ``spec``."""
        changes = {name: getattr(spec, name) for name in ("width", "height", "steps")}
        params = self.params.model_copy(update={**changes, "sampler_name": spec.sampler_name})
        return self.model_copy(update={"slow_workers": spec.slow_workers, "params": params})


Names = Annotated[
    list[Annotated[StrictStr, Field(max_length=100)]], Field(max_length=len(features.FEATURES))
]


class PopRequest(Body):
    """The body of ``POST /v2/generate/pop``: which images a worker can draw."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=100)]
    models: Annotated[list[ModelName], Field(max_length=300)] = []
    bridge_agent: Annotated[StrictStr, Field(max_length=1000)] = "unknown:0:unknown"
    nsfw: StrictBool = True
    amount: Annotated[StrictInt, Field(ge=1, le=20)] = 1
    threads: Annotated[StrictInt, Field(ge=1, le=50)] = 1
    max_pixels: Annotated[StrictInt, Field(ge=1)] = 262144
    allow_img2img: StrictBool = True
    allow_painting: StrictBool = True
    allow_post_processing: StrictBool = True
    allow_controlnet: StrictBool = False
    allow_sdxl_controlnet: StrictBool = False
    allow_lora: StrictBool = False
    limit_max_steps: StrictBool = False
    """The worker draws no more accurate steps than its model usually takes."""
    require_upfront_kudos: StrictBool = False
    """The worker draws only what was paid in full: nothing anonymous, and nothing that was waived
    in part."""
    allow_unsafe_ipaddr: StrictBool = True
    """Without effect: this horde knows no unsafe addresses, so no request comes from one."""
    extra_slow_worker: StrictBool = False
    blacklist: Annotated[
        list[Annotated[StrictStr, Field(max_length=15)]], Field(max_length=200)
    ] = []
    priority_usernames: Annotated[
        list[Annotated[StrictStr, Field(max_length=100)]], Field(max_length=100)
    ] = []
    """``alias#id``; the first ten count, after the owner's own."""
    mixed_batch: StrictBool = False
    """Extension: the worker accepts images of several requests in one response (``jobs``)."""
    post_processors: Names | None = None
    """Extension: the post-processors that it has; without it, and with ``allow_post_processing``,
    all of them."""
    controls: Names | None = None
    """Extension: the control types that it has, in the same way."""

    @field_validator("models")
    @classmethod
    def _bounded(cls, value: list[str]) -> list[str]:
        if sum(map(_stored_size, value)) > MAX_OFFERED:
            message = f"all names together have more than {MAX_OFFERED} bytes"
            raise ValueError(message)
        return value

    @property
    def offer(self) -> Offer:
        """The images that the worker can draw."""
        return Offer(
            bridge_agent=self.bridge_agent,
            models=list(dict.fromkeys(self.models)),
            max_pixels=min(self.max_pixels, MAX_PIXELS_STORED),
            threads=self.threads,
            nsfw=self.nsfw,
            img2img=self.allow_img2img,
            painting=self.allow_painting,
            post_processing=self.allow_post_processing,
            lora=self.allow_lora,
            controlnet=self.allow_controlnet,
            sdxl_controlnet=self.allow_sdxl_controlnet,
            extra_slow=self.extra_slow_worker,
            limit_max_steps=self.limit_max_steps,
            require_upfront_kudos=self.require_upfront_kudos,
            amount=self.amount,
            mixed_batch=self.mixed_batch,
            unable=[
                *features.others(self.post_processors, features.POST_PROCESSORS),
                *features.others(self.controls, features.CONTROLS),
            ],
            blacklist=tuple(self.blacklist),
        )


RemarkType = Literal[
    "lora",
    "ti",
    "censorship",
    "source_image",
    "source_mask",
    "extra_source_images",
    "batch_index",
    "information",
    "aesthetic_score",
]
RemarkText = Annotated[StrictStr, Field(max_length=255)]


class GenMetadata(Body):
    """One remark by a worker about an image; ``value`` is a word of the Horde's or free text."""

    type: RemarkType
    value: RemarkText
    ref: RemarkText | None = None


class SubmitRequest(Body):
    """The body of ``POST /v2/generate/submit``."""

    id: Annotated[StrictStr, Field(min_length=36, max_length=36)]
    generation: StrictStr
    """``R2`` if the image was uploaded, else the WebP file in base64."""
    state: Literal["ok", "censored", "faulted", "csam"] = "ok"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)]
    """What it was drawn with; a signed 64-bit integer in the data set."""
    gen_metadata: Annotated[list[GenMetadata], Field(max_length=50)] = []

    @field_validator("gen_metadata")
    @classmethod
    def _bounded(cls, value: list[GenMetadata]) -> list[GenMetadata]:
        if sum(_stored_size(remark.model_dump_json()) for remark in value) > MAX_REMARKS:
            message = f"all remarks together have more than {MAX_REMARKS} bytes"
            raise ValueError(message)
        return value

    @field_validator("seed", mode="before")
    @classmethod
    def _digits(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdigit() else value


UuidText = Annotated[StrictStr, Field(min_length=36, max_length=36)]


class Rating(Body):
    """One person's rating of one image."""

    id: UuidText
    rating: Annotated[StrictInt, Field(ge=1, le=10)]
    artifacts: Annotated[StrictInt, Field(ge=0, le=5)] | None = None
    """How flawed the image is, from 0 (not at all) to 5 (completely)."""


class RateRequest(Body):
    """The body of ``POST /v2/generate/rate/{id}``."""

    best: UuidText | None = None
    ratings: Annotated[list[Rating], Field(max_length=20)] = []

    @property
    def best_id(self) -> str | None:
        """The id of the best image, in lower case as it is stored."""
        return self.best.lower() if self.best else None

    @property
    def rated(self) -> list[ImageRating]:
        """The ratings, with image ids in lower case as they are stored."""
        return [
            ImageRating(generation_id=one.id.lower(), rating=one.rating, artifacts=one.artifacts)
            for one in self.ratings
        ]


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], body: object) -> M:
    """Return a JSON body as a model.

    Raises PayloadError with all errors, by dotted path, in the Horde's wording.
    """
    if not isinstance(body, dict):
        raise PayloadError({"": f"{_shown(body)} is not of type 'object'"})
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise PayloadError({_path(one["loc"]): _message(one) for one in found}) from None


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _message(error: Any) -> str:  # noqa: C901, PLR0911 - a flat table of pydantic's errors
    value, context = error["input"], error.get("ctx", {})
    shown = _shown(value)
    match error["type"]:
        case "missing":
            return f"'{error['loc'][-1]}' is a required property"
        case "multiple_of":
            return f"{shown} is not a multiple of {context['multiple_of']}"
        case "literal_error":
            return f"{shown} is not one of [{context['expected'].replace(' or ', ', ')}]"
        case "greater_than_equal":
            return f"{shown} is less than the minimum of {context['ge']:g}"
        case "less_than_equal":
            return f"{shown} is greater than the maximum of {context['le']:g}"
        case "bool_type":
            return f"{shown} is not of type 'boolean'"
        case "int_type":
            return f"{shown} is not of type 'integer'"
        case "string_type":
            return f"{shown} is not of type 'string'"
        case "list_type":
            return f"{shown} is not of type 'array'"
        case "value_error":
            return str(context["error"])
        case _:
            return str(error["msg"])

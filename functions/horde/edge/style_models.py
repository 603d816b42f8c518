"""The bodies, queries and responses of the routes of styles."""

import unicodedata
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictBool, StrictStr, field_validator

from horde.edge.bodies import Body, ModelName, Params
from horde.edge.responses import Count, Uuid, Wire, WireList
from horde.rules.styles import PARAMS, POSITIVE

MAX_PROMPT = 8_000
MAX_MODELS = 5
MAX_PAGE = 40


def _name(text: str) -> str:
    """Return a style's name; refuse what looks like another one or names two things."""
    name = unicodedata.normalize("NFKC", text).strip()
    if not name.isprintable() or "::" in name or not name:
        message = f"{text[:100]!r} is no name of a style: it has control characters or '::'"
        raise ValueError(message)
    return name


def _template(text: str) -> str:
    if POSITIVE not in text:
        message = "has no {p}, which stands for the prompt of a request"
        raise ValueError(message)
    return text


def _https(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.username or not text.isprintable():
        message = f"{text[:100]!r} is no https URL"
        raise ValueError(message)
    return text


StyleName = Annotated[StrictStr, Field(min_length=1, max_length=100), AfterValidator(_name)]
Info = Annotated[StrictStr, Field(max_length=1000)]
Template = Annotated[
    StrictStr, Field(min_length=1, max_length=MAX_PROMPT), AfterValidator(_template)
]
StyleTags = Annotated[
    list[Annotated[StrictStr, Field(min_length=1, max_length=25)]], Field(max_length=10)
]
StyledModels = Annotated[list[ModelName], Field(min_length=1, max_length=MAX_MODELS)]


class StyleParams(Params):
    """The ``params`` that a style sets; those of a request alone are refused."""

    def chosen(self) -> dict[str, Any]:
        """Return those that were sent, as they are stored."""
        return self.model_dump(exclude_unset=True, exclude_none=True)


class StyleChange(Body):
    """The body of ``PATCH /v2/styles/image/{id}``: what is sent replaces what was."""

    name: StyleName | None = None
    info: Info | None = None
    prompt: Template | None = None
    params: StyleParams | None = None
    public: StrictBool | None = None
    nsfw: StrictBool | None = None
    tags: StyleTags | None = None
    models: StyledModels | None = None
    sharedkey: Annotated[StrictStr, Field(max_length=36)] | None = None
    """Refused: a style does not pay for its requests."""
    parameter_policy: Any = None
    """Refused, as are ``template_fields``: a style alone says what its requests set."""
    template_fields: Any = None

    @field_validator("params")
    @classmethod
    def _of_a_style(cls, params: StyleParams | None) -> StyleParams | None:
        others = sorted(params.model_fields_set - set(PARAMS)) if params else []
        if others:
            message = f"a style cannot set {', '.join(others)}"
            raise ValueError(message)
        return params

    @property
    def refused(self) -> str | None:
        """What this horde's styles do not have."""
        names = ("sharedkey", "parameter_policy", "template_fields")
        return next((name for name in names if getattr(self, name) is not None), None)

    def changes(self) -> dict[str, Any]:
        """Return the fields of a style that the body sets."""
        found = self.model_dump(include={"name", "info", "prompt", "public", "nsfw", "tags"})
        found |= {"models": list(dict.fromkeys(self.models)) if self.models else None}
        found |= {"params": None if self.params is None else self.params.chosen()}
        return {name: value for name, value in found.items() if value is not None}


class StyleRequest(StyleChange):
    """The body of ``POST /v2/styles/image``."""

    name: StyleName
    prompt: Template = POSITIVE
    models: StyledModels
    public: StrictBool = True
    nsfw: StrictBool = False


class ExampleChange(Body):
    """The body of ``PATCH /v2/styles/image/{id}/example/{example_id}``."""

    url: Annotated[StrictStr, Field(max_length=1000), AfterValidator(_https)] | None = None
    primary: StrictBool | None = None


class ExampleRequest(ExampleChange):
    """The body of ``POST /v2/styles/image/{id}/example``."""

    url: Annotated[StrictStr, Field(max_length=1000), AfterValidator(_https)]
    primary: StrictBool = False


class StylesQuery(Body):
    """The query of ``GET /v2/styles/image``."""

    sort: Literal["popular", "age"] = "popular"
    page: Annotated[int, Field(ge=1)] = 1
    tag: Annotated[str, Field(max_length=25)] | None = None
    model: Annotated[str, Field(max_length=100)] | None = None


class StyleExample(Wire):
    """An example image of a style. This horde never fetches ``url``."""

    id: Uuid
    url: str
    primary: bool


class StyleShown(Wire):
    """A style."""

    nulls = frozenset({"shared_key", "parameter_policy", "template_fields"})

    id: Uuid
    name: str
    info: str
    prompt: str
    params: dict[str, Any]
    public: bool
    nsfw: bool
    tags: list[str]
    models: list[str]
    use_count: Count
    """Images that were drawn with it."""
    creator: str
    examples: list[StyleExample]
    shared_key: None = None
    parameter_policy: None = None
    template_fields: None = None


class StyleList(WireList[StyleShown]):
    """Styles."""


class StyleModified(Wire):
    """What was made or changed."""

    id: Uuid
    message: str = "OK"


class NoStyles(WireList[StyleShown]):
    """No styles: this horde generates no text, and has no collections."""

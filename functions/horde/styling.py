"""A request with a style: as if it had been sent with the style's prompt, params and models."""

from dataclasses import dataclass

from horde.edge.bodies import GenerateRequest, Params, parse
from horde.edge.ids import is_uuid
from horde.records import Style
from horde.rules import styles
from horde.rules.refusals import StyleNotFound
from horde.store import Store


@dataclass(frozen=True, slots=True)
class Styled:
    """A request as it is with its style."""

    body: GenerateRequest
    style: Style | None = None

    def of(self, body: GenerateRequest) -> "Styled":
        """Return this style with its request as it was reduced."""
        return Styled(body, self.style)

    def author_for(self, user_id: int) -> int | None:
        """Return the account that earns by it if this one pays; nobody earns by its own style."""
        if self.style is None or self.style.user_id == user_id:
            return None
        return self.style.user_id


def styled(store: Store, body: GenerateRequest) -> Styled:
    """Return a request with the style that it names; raises StyleNotFound or PayloadError.

    A request that says ``nsfw: false`` stays so, whatever the style says.
    """
    if body.style is None:
        return Styled(body)
    style = find(store, body.style)
    if style is None:
        message = f"Style '{body.style[:100]}' not found."
        raise StyleNotFound(message)
    asked = body.params.model_dump(exclude_unset=True)
    return Styled(
        body.model_copy(
            update={
                "prompt": styles.prompt_of(style.prompt, body.prompt),
                "params": parse(Params, styles.params_of(style.params, asked)),
                "models": style.models,
                "nsfw": body.nsfw and style.nsfw,
            }
        ),
        style,
    )


def find(store: Store, text: str) -> Style | None:
    """Return the style of this id or name, or None; of several of a name, the oldest."""
    if is_uuid(text):
        return store.styles.get(text.lower())
    named = styles.named(text)
    if named is None:
        return None
    ids = store.styles.named(named.name, named.user_id)
    return styles.chosen(store.styles.get_many(ids))

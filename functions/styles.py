"""Styles of images: made, listed, changed and deleted. ``generate`` uses them.

Each change is one transaction, under the condition that the style is as it was read, so that of two
changes at once none is lost. There is no crash window.
"""

import uuid
from typing import Any

from horde import clock, startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import parse
from horde.edge.http import ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.other_responses import Done
from horde.edge.style_models import (
    MAX_PAGE,
    ExampleChange,
    ExampleRequest,
    NoStyles,
    StyleChange,
    StyleExample,
    StyleList,
    StyleModified,
    StyleRequest,
    StyleShown,
    StylesQuery,
)
from horde.records import Style, User
from horde.rules import accounts, styles
from horde.rules.refusals import AnonForbidden, Busy, NotOwner, StyleNotFound, StyleRefused
from horde.store import Store, connect
from horde.store.table import DECISION_TRIES
from horde.styling import find

PAGE = 25
MAX_READ = 250
"""Styles that a list with a filter looks through: the most used, or the newest."""


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str


def _store() -> Store:
    return connect(Settings.load().table_name)


def list_styles(call: Call) -> Response:
    """List the public styles, 25 a page: the most used first, or the newest (``sort=age``)."""
    query = parse(StylesQuery, dict(call.query))
    if query.page > MAX_PAGE:
        return Response(StyleList([]))
    store, popular = _store(), query.sort == "popular"
    start, end = (query.page - 1) * PAGE, query.page * PAGE
    if query.tag is None and query.model is None:
        page = store.styles.get_many(store.styles.ids(popular=popular, limit=end)[start:])
    else:
        page = [
            style
            for style in store.styles.get_many(store.styles.ids(popular=popular, limit=MAX_READ))
            if (query.tag is None or query.tag in style.tags)
            and (query.model is None or query.model in style.models)
        ][start:end]
    # The index may be a moment behind a style that was made private.
    return Response(StyleList(_with_uses(store, [style for style in page if style.public])))


def add_style(call: Call) -> Response:
    """Make a style, for yourself or (``public``) for all."""
    store, api_key = _store(), call.required_key()
    body = parse(StyleRequest, call.json())
    author = _author(store, api_key)
    _check(body)
    style = Style(
        id=str(uuid.uuid4()),
        user_id=author.id,
        creator=author.username,
        created_at=clock.now(),
        **body.changes(),
    )
    limit = styles.max_styles(author)
    if not store.styles.add(style, limit):
        if len(author.style_ids) >= limit:
            message = f"You have {limit} styles, and cannot have more."
            raise StyleRefused(message, rc="TooManyStyles")
        message = f"You have a style named '{style.name}' already."
        raise StyleRefused(message, rc="StyleNameTaken")
    return Response(StyleModified(id=style.id))


def show_style(call: Call) -> Response:
    """Show a style by its id."""
    store = _store()
    return Response(_with_uses(store, [_by_id(store, call)])[0])


def show_named_style(call: Call) -> Response:
    """Show a style by its name, or by ``alias#id::name``; of several of a name, the oldest."""
    store, name = _store(), call.path.get("name", "")
    style = find(store, name)
    if style is None:
        raise StyleNotFound(_not_found(name))
    return Response(_with_uses(store, [style])[0])


def change_style(call: Call) -> Response:
    """Change one of your styles."""
    store, api_key = _store(), call.required_key()
    body = parse(StyleChange, call.json())
    author = _author(store, api_key)
    _check(body)
    changes = body.changes()
    if not changes:
        message = "No change to the style was specified."
        raise StyleRefused(message, rc="NoStyleModSelected")
    for _ in range(DECISION_TRIES):
        style = _own(store, call, author)
        if store.styles.change(style, {**changes, "creator": author.username}):
            return Response(StyleModified(id=style.id))
        name = changes.get("name", style.name)
        if style.id not in store.styles.named(name, author.id) and name != style.name:
            message = f"You have a style named '{name}' already."
            raise StyleRefused(message, rc="StyleNameTaken")
    raise Busy


def delete_style(call: Call) -> Response:
    """Delete a style of yours, or any as a moderator. Requests made with it are still drawn."""
    store, api_key = _store(), call.required_key()
    user = auth.user_of(store, api_key)
    style = _by_id(store, call)
    if not accounts.is_moderator(user, Settings.load().admins) and user.id != style.user_id:
        raise NotOwner
    if not store.styles.remove(style):
        raise StyleNotFound(_not_found(style.id))
    return Response(Done())


def add_example(call: Call) -> Response:
    """Add an example image to one of your styles, by its URL."""
    api_key, example = call.required_key(), parse(ExampleRequest, call.json()).model_dump()
    author, example_id = _author(_store(), api_key), str(uuid.uuid4())

    def add(examples: dict[str, Any]) -> dict[str, Any]:
        if len(examples) >= styles.MAX_EXAMPLES:
            message = f"A style has at most {styles.MAX_EXAMPLES} examples."
            raise StyleRefused(message, rc="TooManyStyleExamples")
        return {**_demoted(examples, by=example), example_id: example}

    _change_examples(call, author, add)
    return Response(StyleModified(id=example_id))


def change_example(call: Call) -> Response:
    """Change an example image of one of your styles."""
    api_key, body = call.required_key(), parse(ExampleChange, call.json())
    author, example_id = _author(_store(), api_key), _example_id(call)
    changes = body.model_dump(exclude_none=True)

    def change(examples: dict[str, Any]) -> dict[str, Any]:
        if example_id not in examples:
            raise StyleNotFound(_no_example(example_id))
        changed = {**examples[example_id], **changes}
        return {**_demoted(examples, by=changes), example_id: changed}

    _change_examples(call, author, change)
    return Response(StyleModified(id=example_id))


def delete_example(call: Call) -> Response:
    """Delete an example image of one of your styles."""
    author, example_id = _author(_store(), call.required_key()), _example_id(call)

    def remove(examples: dict[str, Any]) -> dict[str, Any]:
        if example_id not in examples:
            raise StyleNotFound(_no_example(example_id))
        return {name: one for name, one in examples.items() if name != example_id}

    _change_examples(call, author, remove)
    return Response(Done())


def list_text_styles(_call: Call) -> Response:
    """List the styles of text: there are none, since this horde generates no text."""
    return Response(NoStyles([]))


def list_collections(_call: Call) -> Response:
    """List the collections of styles: there are none."""
    return Response(NoStyles([]))


def _author(store: Store, api_key: str) -> User:
    """Return who makes or changes a style; raises AnonForbidden or StyleRefused."""
    user = auth.user_of(store, api_key)
    if user.anonymous:
        raise AnonForbidden
    if user.flagged:
        message = "A flagged account makes no styles."
        raise StyleRefused(message, rc="SourceAccountFlagged")
    return user


def _check(body: StyleChange) -> None:
    if body.refused is not None:
        message = f"Styles of this horde have no {body.refused}."
        raise StyleRefused(message, rc="StyleFieldUnsupported")


def _by_id(store: Store, call: Call) -> Style:
    style_id = call.path.get("id", "")
    found = store.styles.get(style_id.lower()) if is_uuid(style_id) else None
    if found is None:
        raise StyleNotFound(_not_found(style_id))
    return found


def _own(store: Store, call: Call, user: User) -> Style:
    style = _by_id(store, call)
    if style.user_id != user.id:
        raise NotOwner
    return style


def _example_id(call: Call) -> str:
    return call.path.get("example_id", "").lower()


def _change_examples(call: Call, author: User, change: Any) -> None:
    """Replace the examples of one of the author's styles by what ``change`` makes of them."""
    store = _store()
    for _ in range(DECISION_TRIES):
        style = _own(store, call, author)
        if store.styles.change(style, {"examples": change(style.examples)}):
            return
    raise Busy


def _demoted(examples: dict[str, Any], *, by: dict[str, Any]) -> dict[str, Any]:
    """Return the other examples: at most one of a style is the primary one."""
    if not by.get("primary"):
        return examples
    return {name: {**one, "primary": False} for name, one in examples.items()}


def _not_found(name: str) -> str:
    return f"Style '{name[:100]}' not found."


def _no_example(name: str) -> str:
    return f"Example '{name[:100]}' not found."


def _with_uses(store: Store, found: list[Style]) -> list[StyleShown]:
    uses = store.styles.uses(style.id for style in found)
    return [_shown(style, uses.get(style.id, 0)) for style in found]


def _shown(style: Style, uses: int) -> StyleShown:
    return StyleShown(
        id=style.id,
        name=style.name,
        info=style.info,
        prompt=style.prompt,
        params=style.params,
        public=style.public,
        nsfw=style.nsfw,
        tags=style.tags,
        models=style.models,
        use_count=uses,
        creator=style.creator,
        examples=[StyleExample(id=name, **one) for name, one in style.examples.items()],
    )


CHANGE = (StyleNotFound, NotOwner, AnonForbidden, StyleRefused, Busy)
ROUTES = {
    "GET /api/v2/styles/image": Route(
        run=list_styles, query=StylesQuery, responses={200: StyleList}, limits=ratelimit.READ
    ),
    "POST /api/v2/styles/image": Route(
        run=add_style,
        body=StyleRequest,
        responses={200: StyleModified},
        key=Key.REQUIRED,
        errors=(AnonForbidden, StyleRefused, Busy),
        limits=ratelimit.STYLES,
    ),
    "GET /api/v2/styles/image/{id}": Route(
        run=show_style,
        responses={200: StyleShown},
        errors=(StyleNotFound,),
        limits=ratelimit.READ,
    ),
    "PATCH /api/v2/styles/image/{id}": Route(
        run=change_style,
        body=StyleChange,
        responses={200: StyleModified},
        key=Key.REQUIRED,
        errors=CHANGE,
        limits=ratelimit.STYLE_CHANGE,
    ),
    "DELETE /api/v2/styles/image/{id}": Route(
        run=delete_style,
        responses={200: Done},
        key=Key.REQUIRED,
        errors=(StyleNotFound, NotOwner, Busy),
        limits=ratelimit.STYLE_CHANGE,
    ),
    "GET /api/v2/styles/image_by_name/{name}": Route(
        run=show_named_style,
        responses={200: StyleShown},
        errors=(StyleNotFound,),
        limits=ratelimit.READ,
    ),
    "POST /api/v2/styles/image/{id}/example": Route(
        run=add_example,
        body=ExampleRequest,
        responses={200: StyleModified},
        key=Key.REQUIRED,
        errors=CHANGE,
        limits=ratelimit.STYLE_CHANGE,
    ),
    "PATCH /api/v2/styles/image/{id}/example/{example_id}": Route(
        run=change_example,
        body=ExampleChange,
        responses={200: StyleModified},
        key=Key.REQUIRED,
        errors=CHANGE,
        limits=ratelimit.STYLE_CHANGE,
    ),
    "DELETE /api/v2/styles/image/{id}/example/{example_id}": Route(
        run=delete_example,
        responses={200: Done},
        key=Key.REQUIRED,
        errors=CHANGE,
        limits=ratelimit.STYLE_CHANGE,
    ),
    "GET /api/v2/styles/text": Route(
        run=list_text_styles, responses={200: NoStyles}, limits=ratelimit.READ
    ),
    "GET /api/v2/collections": Route(
        run=list_collections, responses={200: NoStyles}, limits=ratelimit.READ
    ),
}
prepare(ROUTES)
startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)

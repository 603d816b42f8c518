"""Styles: made by accounts, used by requests, paid out of their tax."""

import uuid
from typing import Any

import pytest

from horde.records import Style
from horde.rules.ruleset import IN_FORCE
from horde.store.table import Table
from tests.support.api_calls import Reply
from tests.support.cloud import Cloud
from tests.support.images import png_base64
from tests.support.numbers import FLOOR, PRICE

IMAGE = "/api/v2/styles/image"
PIXELS = {
    "name": "pixelart",
    "prompt": "pixel-art, {p}, 16-bit###sloppy, photo{np}",
    "params": {"steps": 12, "sampler_name": "k_euler", "width": 512, "height": 768},
    "models": ["SDXL 1.0"],
    "tags": ["retro"],
}
RICH = 1000


def made(cloud: Cloud, key: str, **fields: Any) -> str:
    answer = cloud.call(f"POST {IMAGE}", {**PIXELS, **fields}, key=key)
    assert answer.status == 200, answer
    return str(answer.body["id"])


def shown(cloud: Cloud, style: str) -> Any:
    answer = cloud.call(f"GET {IMAGE}/{{id}}", id=style)
    assert answer.status == 200, answer
    return answer.body


def change(cloud: Cloud, key: str, style: str, **fields: Any) -> Reply:
    return cloud.call(f"PATCH {IMAGE}/{{id}}", fields, key=key, id=style)


def asked(cloud: Cloud, key: str, style: str, **fields: Any) -> Any:
    answer = cloud.generate(key, style=style, **fields)
    assert answer.status == 202, answer
    return answer.body


def request_of(cloud: Cloud, answer: Any) -> Any:
    request = cloud.store.requests.get(answer["id"])
    assert request
    return request


def names(answer: Reply) -> list[str]:
    return [style["name"] for style in answer.body]


# --- made, listed, changed, deleted ---------------------------------------------------------------


def test_a_style_is_shown_as_it_was_made(cloud: Cloud) -> None:
    user, key = cloud.register("ada")
    style = made(cloud, key)
    assert shown(cloud, style) == {
        "id": style,
        "name": "pixelart",
        "info": "",
        "prompt": PIXELS["prompt"],
        "params": PIXELS["params"],
        "public": True,
        "nsfw": False,
        "tags": ["retro"],
        "models": ["SDXL 1.0"],
        "use_count": 0,
        "creator": f"ada#{user}",
        "examples": [],
        "shared_key": None,
        "parameter_policy": None,
        "template_fields": None,
    }
    found = cloud.call(f"GET {IMAGE}_by_name/{{name}}", name="PixelArt")
    assert found.body["id"] == style
    assert cloud.find_user(key)["styles"] == [{"name": "pixelart", "id": style, "type": "image"}]


def test_the_list_has_public_styles_the_most_used_first(cloud: Cloud) -> None:
    _, key = cloud.register("ada")
    made(cloud, key, name="old")
    cloud.clock.pass_seconds(60)
    used = made(cloud, key, name="used", tags=["x"], models=["stable_diffusion"])
    made(cloud, key, name="secret", public=False)
    worker = cloud.new_worker()
    asked(cloud, cloud.register("bob", kudos=RICH)[1], used)
    cloud.draw(worker)
    cloud.stream()
    assert names(cloud.call(f"GET {IMAGE}", query={"sort": "popular"})) == ["used", "old"]
    assert names(cloud.call(f"GET {IMAGE}", query={"sort": "age"})) == ["used", "old"]
    assert names(cloud.call(f"GET {IMAGE}", query={"tag": "retro"})) == ["old"]
    assert names(cloud.call(f"GET {IMAGE}", query={"model": "stable_diffusion"})) == ["used"]
    assert names(cloud.call(f"GET {IMAGE}", query={"page": "2"})) == []
    assert names(cloud.call(f"GET {IMAGE}", query={"page": "9999"})) == []
    assert shown(cloud, used)["use_count"] == 1


@pytest.mark.parametrize("sort", ["popular", "age"])
def test_a_style_is_in_the_lists_while_it_is_public(cloud: Cloud, sort: str) -> None:
    _, key = cloud.register("ada")
    style = made(cloud, key, models=["stable_diffusion"])
    assert change(cloud, key, style, public=False).status == 200
    asked(cloud, cloud.register("bob", kudos=RICH)[1], style)
    drawn(cloud)
    assert names(cloud.call(f"GET {IMAGE}", query={"sort": sort})) == []
    assert shown(cloud, style)["use_count"] == 1
    assert change(cloud, key, style, public=True).status == 200
    assert names(cloud.call(f"GET {IMAGE}", query={"sort": sort})) == ["pixelart"]
    assert shown(cloud, style)["use_count"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("query", "most"), [({}, 50), ({"tag": "x"}, 250), ({"page": "2"}, 50)])
def test_anybody_who_lists_styles_costs_a_bounded_number_of_reads(
    cloud: Cloud, query: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, real = cloud.register("ada")[0], Table.batch
    for number in range(300):
        style = Style(
            id=str(uuid.UUID(int=number)),
            user_id=author,
            creator=f"ada#{author}",
            name=f"style {number}",
            created_at=number,
            prompt="{p}",
            models=["stable_diffusion"],
            public=True,
        )
        assert cloud.store.styles.add(style, 1000)
    read: list[Any] = []

    def counted(table: Table, keys: Any) -> Any:
        wanted = list(keys)
        read.extend(wanted)
        return real(table, wanted)

    monkeypatch.setattr(Table, "batch", counted)
    answer = cloud.call(f"GET {IMAGE}", query=query)
    assert (len(answer.body), len(read)) == (0 if "tag" in query else 25, most)


def test_a_private_style_is_found_by_who_knows_its_id_or_name_and_listed_for_its_author(
    cloud: Cloud,
) -> None:
    user, key = cloud.register("ada")
    style = made(cloud, key, public=False)
    assert shown(cloud, style)["public"] is False
    stranger = cloud.call("GET /api/v2/users/{id}", id=str(user)).body
    assert (stranger["styles"], len(cloud.find_user(key)["styles"])) == ([], 1)


def test_its_author_changes_what_is_sent_and_nothing_else(cloud: Cloud) -> None:
    _, key = cloud.register("ada")
    style = made(cloud, key)
    before = shown(cloud, style)
    assert change(cloud, key, style, public=False, params={"steps": 9}).status == 200
    after = {**before, "public": False, "params": {"steps": 9}}
    assert shown(cloud, style) == after
    assert names(cloud.call(f"GET {IMAGE}", query={"sort": "age"})) == []
    assert change(cloud, key, style, name="voxelart", public=True).status == 200
    assert names(cloud.call(f"GET {IMAGE}", query={"sort": "age"})) == ["voxelart"]
    assert cloud.call(f"GET {IMAGE}_by_name/{{name}}", name="pixelart").status == 404
    assert cloud.call(f"GET {IMAGE}_by_name/{{name}}", name="voxelart").body["id"] == style
    made(cloud, key)  # the name is free again


def test_only_its_author_changes_a_style_and_a_moderator_may_delete_it(cloud: Cloud) -> None:
    _, key = cloud.register("ada")
    style = made(cloud, key)
    other, stranger = cloud.register("bob")
    assert change(cloud, stranger, style, info="mine").body["rc"] == "NotOwner"
    example = {"url": "https://a.example/x.webp"}
    refused = cloud.call(f"POST {IMAGE}/{{id}}/example", example, key=stranger, id=style)
    assert refused.body["rc"] == "NotOwner"
    gone = cloud.call(f"DELETE {IMAGE}/{{id}}", key=stranger, id=style)
    assert gone.body["rc"] == "NotOwner"
    cloud.set_flags(other, moderator=True)
    assert change(cloud, stranger, style, info="mine").body["rc"] == "NotOwner"
    assert cloud.call(f"DELETE {IMAGE}/{{id}}", key=stranger, id=style).status == 200
    assert cloud.call(f"DELETE {IMAGE}/{{id}}", key=stranger, id=style).status == 404
    assert cloud.call(f"GET {IMAGE}/{{id}}", id=style).status == 404
    assert cloud.find_user(key)["styles"] == []
    assert cloud.generate(key, style=style).body["rc"] == "StyleNotFound"


def test_an_author_has_one_style_of_a_name_and_others_may_have_it_too(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    first = made(cloud, key)
    again = cloud.call(f"POST {IMAGE}", {**PIXELS, "name": "PIXELART "}, key=key)
    assert (again.status, again.body["rc"]) == (400, "StyleNameTaken")
    cloud.clock.pass_seconds(1)
    bob, other = cloud.register("bob")
    second = made(cloud, other)
    for text, style in (
        ("pixelart", first),  # of several, the oldest: nobody takes over a name
        (f"bob#{bob}::pixelart", second),
        (f"style::ada#{ada}::pixelart", first),
        ("style::pixelart", first),
    ):
        assert cloud.call(f"GET {IMAGE}_by_name/{{name}}", name=text).body["id"] == style
    for text in ("collection::pixelart", "bob::pixelart", f"bob#{bob}::x::pixelart"):
        assert cloud.call(f"GET {IMAGE}_by_name/{{name}}", name=text).status == 404
    made(cloud, other, name="mine")
    taken = change(cloud, other, second, name="mine")
    assert (taken.status, taken.body["rc"]) == (400, "StyleNameTaken")


def test_the_number_of_an_authors_styles_is_bounded(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horde.rules.styles.MAX_STYLES", 2)
    _, key = cloud.register("ada")
    for name in ("a", "b"):
        made(cloud, key, name=name)
    third = cloud.call(f"POST {IMAGE}", {**PIXELS, "name": "c"}, key=key)
    assert (third.status, third.body["rc"]) == (400, "TooManyStyles")


BAD: dict[str, dict[str, Any]] = {
    "no {p}": {"prompt": "pixel-art"},
    "a long prompt": {"prompt": "{p}" + "x" * 8_000},
    "two names": {"name": "ada#1::pixelart"},
    "an invisible letter": {"name": "pixel\u200bart"},
    "no name": {"name": "  "},
    "no models": {"models": []},
    "a count": {"params": {"n": 20}},
    "a seed": {"params": {"seed": "7"}},
    "a ControlNet": {"params": {"control_type": "canny"}},
    "too many steps": {"params": {"steps": 501}},
    "eleven tags": {"tags": [str(number) for number in range(11)]},
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_style_is_refused(cloud: Cloud, name: str) -> None:
    _, key = cloud.register("ada")
    answer = cloud.call(f"POST {IMAGE}", {**PIXELS, **BAD[name]}, key=key)
    assert answer.status == 400
    assert answer.body["errors"]
    style = made(cloud, key)
    assert change(cloud, key, style, **BAD[name]).status == 400


@pytest.mark.parametrize("field", ["sharedkey", "parameter_policy", "template_fields"])
def test_what_styles_of_this_horde_do_not_have_is_refused_and_not_ignored(
    cloud: Cloud, field: str
) -> None:
    _, key = cloud.register("ada")
    answer = cloud.call(f"POST {IMAGE}", {**PIXELS, field: "x"}, key=key)
    assert (answer.status, answer.body["rc"]) == (400, "StyleFieldUnsupported")


def test_anonymous_and_flagged_accounts_make_no_styles(cloud: Cloud) -> None:
    answer = cloud.call(f"POST {IMAGE}", PIXELS, key="0000000000")
    assert answer.body["rc"] == "AnonForbidden"
    user, key = cloud.register("ada")
    cloud.set_flags(user, flagged=True)
    answer = cloud.call(f"POST {IMAGE}", PIXELS, key=key)
    assert answer.body["rc"] == "SourceAccountFlagged"


def test_a_style_has_a_few_examples_and_one_primary(cloud: Cloud) -> None:
    _, key = cloud.register("ada")
    style = made(cloud, key)

    def example(verb: str, body: Any = None, example_id: str = "") -> Reply:
        path = f"{verb} {IMAGE}/{{id}}/example" + ("/{example_id}" if example_id else "")
        return cloud.call(path, body, key=key, id=style, example_id=example_id)

    first = example("POST", {"url": "https://a.example/1.webp", "primary": True}).body["id"]
    second = example("POST", {"url": "https://a.example/2.webp", "primary": True}).body["id"]
    assert [one["primary"] for one in shown(cloud, style)["examples"]] == [False, True]
    assert example("PATCH", {"url": "https://a.example/3.webp"}, first).status == 200
    assert example("DELETE", example_id=second).status == 200
    assert shown(cloud, style)["examples"] == [
        {"id": first, "url": "https://a.example/3.webp", "primary": False}
    ]
    assert example("DELETE", example_id=second).status == 404
    for url in ("http://a.example/1.webp", "javascript:alert(1)", "https://", "x" * 2000):
        assert example("POST", {"url": url}).status == 400
    for number in range(9):
        assert example("POST", {"url": f"https://a.example/{number}"}).status == 200
    full = example("POST", {"url": "https://a.example/11"})
    assert (full.status, full.body["rc"]) == (400, "TooManyStyleExamples")


def test_there_are_no_styles_of_text_and_no_collections(cloud: Cloud) -> None:
    for route in ("GET /api/v2/styles/text", "GET /api/v2/collections"):
        assert (cloud.call(route).status, cloud.call(route).body) == (200, [])


# --- used -----------------------------------------------------------------------------------------


def test_a_request_is_drawn_as_its_style_says(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=RICH)
    style = made(cloud, key)
    params = {"steps": 30, "n": 2, "seed": "42", "width": 1024, "height": 1024}
    answer = asked(cloud, key, style, prompt="a ship###blurry", params=params)
    request = request_of(cloud, answer)
    assert request.payload["prompt"] == "pixel-art, a ship, 16-bit###sloppy, photo, blurry"
    assert request.payload["ddim_steps"] == 12
    assert request.image_size == (512, 768)
    assert (request.model, request.n, request.baseline) == ("SDXL 1.0", 2, "stable_diffusion_xl")
    images = cloud.store.requests.generations(request)
    assert [image.seed for image in images] == [42, 43]
    told = cloud.generate(key, style=style, prompt="a ship", params=params, dry_run=True)
    assert told.body["kudos"] == answer["kudos"]


def test_a_style_without_a_size_leaves_it_to_the_request(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=RICH)
    style = made(cloud, key, params={"steps": 5})
    answer = asked(cloud, key, style, params={"width": 640, "height": 576})
    assert request_of(cloud, answer).image_size == (640, 576)


@pytest.mark.parametrize(
    ("asks", "says", "nsfw"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_style_makes_no_request_nsfw_that_does_not_want_it(
    cloud: Cloud, asks: bool, says: bool, nsfw: bool
) -> None:
    _, key = cloud.register("ada", kudos=RICH)
    style = made(cloud, key, nsfw=says)
    assert request_of(cloud, asked(cloud, key, style, nsfw=asks)).nsfw is nsfw


def test_a_style_that_is_changed_or_deleted_changes_no_request_that_was_accepted(
    cloud: Cloud,
) -> None:
    _, key = cloud.register("ada", kudos=RICH)
    style = made(cloud, key, models=["stable_diffusion"])
    answer = asked(cloud, key, style, prompt="a ship")
    change(cloud, key, style, prompt="something else, {p}")
    cloud.call(f"DELETE {IMAGE}/{{id}}", key=key, id=style)
    worker = cloud.new_worker()
    assert cloud.pop(worker).body["payload"]["prompt"].startswith("pixel-art, a ship")
    assert request_of(cloud, answer).style_id == style


def test_a_prompt_that_has_braces_itself_is_taken_as_it_is(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=RICH)
    style = made(cloud, key)
    answer = asked(cloud, key, style, prompt="{np} {p} {x}###{p}")
    prompt = request_of(cloud, answer).payload["prompt"]
    assert prompt == "pixel-art, {np} {p} {x}, 16-bit###sloppy, photo, {p}"


def test_a_style_and_its_prompt_are_no_way_around_the_length_of_a_prompt(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=RICH)
    style = made(cloud, key, prompt="{p} " * 2_000)
    refused = cloud.generate(key, style=style, prompt="long " * 100)
    assert (refused.status, refused.body["rc"]) == (400, "InvalidPromptSize")


# --- rewards --------------------------------------------------------------------------------------


def drawn(cloud: Cloud) -> None:
    cloud.draw(cloud.new_worker())
    cloud.stream()


@pytest.mark.lengthy
def test_the_author_earns_for_each_delivered_image_that_another_account_paid_for(
    cloud: Cloud,
) -> None:
    author, key = cloud.register("ada")
    style = made(cloud, key, models=["stable_diffusion"], params={})
    payer, other = cloud.register("bob", kudos=RICH)
    asked(cloud, other, style, shared=True, params={"n": 2})
    assert cloud.kudos(author) == FLOOR
    drawn(cloud)
    earned = 2 * IN_FORCE.style_reward
    assert cloud.kudos(author) == FLOOR + earned
    assert cloud.find_user(key)["kudos_details"]["styled"] == earned
    assert cloud.kudos(payer) == FLOOR + RICH - 2 * (PRICE + IN_FORCE.tax_shared)
    assert shown(cloud, style)["use_count"] == 2


def test_the_reward_is_no_more_than_the_lower_tax() -> None:
    assert IN_FORCE.style_reward <= IN_FORCE.tax_shared


@pytest.mark.parametrize("who", ["the author", "anonymous", "one without kudos"])
def test_nobody_earns_by_a_style_what_nobody_else_paid(cloud: Cloud, who: str) -> None:
    author, key = cloud.register("ada", kudos=RICH)
    style = made(cloud, key, models=["stable_diffusion"], params={})
    keys = {"the author": key, "anonymous": "0000000000"}
    asked(cloud, keys.get(who) or cloud.register("poor")[1], style)
    before = cloud.kudos(author)
    drawn(cloud)
    assert cloud.kudos(author) == before
    assert shown(cloud, style)["use_count"] == 1


def test_a_cancelled_or_censored_image_earns_its_styles_author_nothing(cloud: Cloud) -> None:
    author, key = cloud.register("ada")
    style = made(cloud, key, models=["stable_diffusion"], params={})
    _, other = cloud.register("bob", kudos=RICH)
    cancelled = asked(cloud, other, style)
    cloud.call("DELETE /api/v2/generate/status/{id}", id=cancelled["id"])
    asked(cloud, other, style)
    worker = cloud.new_worker()
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    said = [{"type": "censorship", "value": "nsfw"}]
    assert cloud.submit(worker, job["id"], gen_metadata=said).status == 200
    cloud.stream()
    assert cloud.kudos(author) == FLOOR


def test_a_reward_is_paid_once_however_often_the_stream_tells_of_it(cloud: Cloud) -> None:
    author, key = cloud.register("ada")
    style = made(cloud, key, models=["stable_diffusion"], params={})
    asked(cloud, cloud.register("bob", kudos=RICH)[1], style)
    cloud.draw(cloud.new_worker())
    cloud.stream()
    cloud.stream(again=True)
    assert cloud.kudos(author) == FLOOR + IN_FORCE.style_reward


def test_an_author_who_draws_and_asks_too_gets_all_in_one_transaction(cloud: Cloud) -> None:
    author, key = cloud.register("ada", kudos=RICH)
    cloud.set_flags(author, trusted=True)
    worker = cloud.worker_key(author)
    style = made(cloud, key, models=["stable_diffusion"], params={})
    asked(cloud, cloud.register("bob", kudos=RICH)[1], style)
    cloud.generate(key)
    cloud.draw(worker)
    cloud.stream()
    details = cloud.find_user(key)["kudos_details"]
    assert details["styled"] == IN_FORCE.style_reward


def test_image_to_image_takes_its_strength_from_the_request_unless_the_style_has_one(
    cloud: Cloud,
) -> None:
    _, key = cloud.register("ada", kudos=RICH)
    free = made(cloud, key, name="free")
    fixed = made(cloud, key, name="fixed", params={"denoising_strength": 0.3})
    fields = {"source_image": png_base64(), "params": {"denoising_strength": 0.6}}
    found = [
        request_of(cloud, asked(cloud, key, style, **fields)).payload["denoising_strength"]
        for style in (free, fixed)
    ]
    assert found == [0.6, 0.3]

"""Bad input gets a clear answer in the Horde's shape, moves nothing, and is never a 5xx."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from tests.support.api_calls import ANONYMOUS, UNKNOWN
from tests.support.cloud import Cloud
from tests.support.images import png_base64
from tests.support.numbers import FLOOR

GENERATE = "POST /api/v2/generate/async"
LONE = r'{"prompt": "a lone surrogate: \ud800"}'


@pytest.mark.parametrize(
    "raw", ["", "{", "nonsense", '{"prompt": "a"', "\ud800", "[" * 100_000, LONE]
)
def test_malformed_json_is_a_400_with_a_message(cloud: Cloud, raw: str) -> None:
    answer = cloud.call(GENERATE, raw=raw, key=ANONYMOUS)
    assert answer.status == 400
    assert answer.body["message"]


@pytest.mark.parametrize("raw", ['"text"', "7", "null", "[]"])
def test_a_body_that_is_not_an_object_is_a_400(cloud: Cloud, raw: str) -> None:
    answer = cloud.call(GENERATE, raw=raw, key=ANONYMOUS)
    assert (answer.status, answer.body["message"]) == (400, "Input payload validation failed")


def test_another_content_type_is_a_415(cloud: Cloud) -> None:
    answer = cloud.call(
        GENERATE, raw="prompt=x", key=ANONYMOUS, headers={"content-type": "text/plain"}
    )
    assert answer.status == 415
    assert "application/json" in answer.body["message"]


def test_a_huge_body_is_a_413(cloud: Cloud) -> None:
    answer = cloud.call(GENERATE, raw='{"prompt":"' + "x" * 6_000_000 + '"}', key=ANONYMOUS)
    assert (answer.status, list(answer.body)) == (413, ["message"])


def test_a_base64_body_is_read_like_any_other(cloud: Cloud) -> None:
    raw = base64.b64encode(b'{"prompt": "a red apple"}').decode()
    event = {
        "routeKey": GENERATE,
        "headers": {"apikey": ANONYMOUS, "content-type": "application/json; charset=utf-8"},
        "body": raw,
        "isBase64Encoded": True,
    }
    assert cloud.invoke("generate", event)["statusCode"] == 202
    assert cloud.invoke("generate", {**event, "body": "%%"})["statusCode"] == 400


WRONG: list[tuple[str, Any]] = [
    ("prompt", 7),
    ("prompt", ""),
    ("params", "x"),
    ("params.width", 500),
    ("params.width", 0),
    ("params.height", 3136),
    ("params.height", "512"),
    ("params.n", 0),
    ("params.n", 21),
    ("params.n", 1.5),
    ("params.n", True),
    ("params.n", 10**30),
    ("params.steps", 501),
    ("params.steps", -1),
    ("params.cfg_scale", 101),
    ("params.cfg_scale", 7.555),
    ("params.cfg_scale", "7"),
    ("params.cfg_scale", float("nan")),
    ("params.cfg_scale", float("inf")),
    ("params.denoising_strength", 0),
    ("params.denoising_strength", 1.01),
    ("params.sampler_name", "k_bad"),
    ("params.clip_skip", 13),
    ("params.karras", "yes"),
    ("params.post_processing", ["GFPGAN", "GFPGAN"]),
    ("params.post_processing", ["nope"]),
    ("params.control_type", "magic"),
    ("params.seed_variation", 1001),
    ("params.loras", [{"name": ""}]),
    ("params.seed", [1]),
    ("nsfw", "yes"),
    ("shared", 1),
    ("r2", None.__class__.__name__),
    ("models", "stable_diffusion"),
    ("models", [7]),
    ("models", ["x" * 256]),
    ("source_processing", "magic"),
    ("webhook", "http://plain.example/hook"),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_a_wrong_value_is_named_by_its_dotted_path(cloud: Cloud, path: str, value: Any) -> None:
    user, key = cloud.register(kudos=100)
    body: dict[str, Any] = {"prompt": "a red apple"}
    outer, _, inner = path.partition(".")
    body[outer] = {inner: value} if inner else value
    answer = cloud.call(GENERATE, raw=json.dumps(body), key=key)
    assert answer.status == 400, answer
    assert answer.body["message"] == "Input payload validation failed"
    assert "rc" not in answer.body
    assert any(name.startswith(path) for name in answer.body["errors"]), answer.body
    assert cloud.kudos(user) == FLOOR + 100


def test_all_schema_errors_come_at_once(cloud: Cloud) -> None:
    answer = cloud.generate(params={"width": 500, "n": 0, "sampler_name": "x"}, shared="no")
    assert answer.body["errors"] == {
        "params.width": "500 is not a multiple of 64",
        "params.n": "0 is less than the minimum of 1",
        "params.sampler_name": answer.body["errors"]["params.sampler_name"],
        "shared": "'no' is not of type 'boolean'",
    }
    assert answer.body["errors"]["params.sampler_name"].startswith("'x' is not one of ['k_lms'")


def test_a_missing_prompt_is_named(cloud: Cloud) -> None:
    answer = cloud.call(GENERATE, {}, key=ANONYMOUS)
    assert answer.body["errors"] == {"prompt": "'prompt' is a required property"}


def test_unknown_fields_are_ignored_and_null_means_absent(cloud: Cloud) -> None:
    answer = cloud.generate(
        use_default_badwordsids=True,
        sampler_name="x",
        source_image=None,
        workers=None,
        params={"sampler": "x", "post-processing": [], "denoising_strength": None, "seed": 5},
    )
    assert answer.status == 202


@pytest.mark.parametrize(
    ("prompt", "rc"),
    [
        (" ", "MissingPrompt"),
        ("###only negative", "MissingPrompt"),
        ("word " * 7501, "InvalidPromptSize"),
        ("x" * 70_000, "InvalidPromptSize"),
        ("a\x00b", "NulByteInPayload"),
    ],
)
def test_a_prompt_that_cannot_be_drawn_is_refused_with_its_code(
    cloud: Cloud, prompt: str, rc: str
) -> None:
    answer = cloud.generate(prompt=prompt)
    assert (answer.status, answer.body["rc"]) == (400, rc)


def controlled(**params: Any) -> dict[str, Any]:
    return {"source_image": png_base64(), "params": {"control_type": "canny", **params}}


UNSUPPORTED: list[tuple[dict[str, Any], int, str]] = [
    ({"source_mask": "AAAA"}, 400, "SourceMaskUnnecessary"),
    ({"source_image": "AAAA", "source_processing": "remix"}, 400, "InvalidRemix"),
    ({"extra_source_images": [{"image": "AAAA"}]}, 400, "InvalidExtraSourceImages"),
    ({"params": {"control_type": "canny"}}, 400, "ControlNetSourceMissing"),
    ({"params": {"image_is_control": True}}, 400, "ControlTypeMissing"),
    ({"params": {"return_control_map": True}}, 400, "ControlTypeMissing"),
    (controlled(image_is_control=True, return_control_map=True), 400, "ControlNetInvalidPayload"),
    ({**controlled(), "source_processing": "inpainting"}, 400, "ControlNetInpaintingMismatch"),
    ({"params": {"loras": [{"name": "ink", "is_version": True}]}}, 400, "BadLoraVersion"),
    (
        {"params": {"post_processing": ["RealESRGAN_x4plus", "4x_AnimeSharp"]}},
        400,
        "TooManyUpscalers",
    ),
    (
        {"params": {"post_processing": ["RealESRGAN_x4plus"], "width": 1088, "height": 1024}},
        400,
        "UpscaledTooLarge",
    ),
    ({"params": {"transparent": True}}, 400, "InvalidTransparencyModel"),
    ({"params": {"workflow": "qr_code"}}, 400, "InvalidExtraTexts"),
    ({"params": {"special": {"a": 1}}}, 400, "SpecialForbidden"),
    ({"style": "no such style"}, 404, "StyleNotFound"),
    ({"proxied_account": "x"}, 400, "OnlyServiceAccountProxy"),
    ({"disable_batching": True, "params": {"n": 2}}, 400, "RequiresTrust"),
    ({"workers": [UNKNOWN]}, 404, "WorkerNotFound"),
]


@pytest.mark.parametrize(("fields", "status", "rc"), UNSUPPORTED)
def test_what_cannot_be_drawn_yet_is_refused_and_never_skipped(
    cloud: Cloud, fields: dict[str, Any], status: int, rc: str
) -> None:
    user, key = cloud.register(kudos=100)
    answer = cloud.generate(key, **fields)
    assert (answer.status, answer.body.get("rc")) == (status, rc), answer.body
    assert cloud.kudos(user) == FLOOR + 100


@pytest.mark.parametrize(
    ("source", "rc"),
    [
        ("not base64!", "SourceImageUnreadable"),
        (base64.b64encode(b"GIF89a nothing").decode(), "SourceImageUnreadable"),
        (png_base64()[:60], "SourceImageUnreadable"),
        (png_base64((4096, 4096)), "SourceImageResolutionExceeded"),
        (png_base64((16, 65_500)), "SourceImageResolutionExceeded"),
        ("https://localhost/a.png", "SourceImageUrlInvalid"),
        ("http://169.254.169.254/latest/meta-data", "SourceImageUrlInvalid"),
    ],
    ids=["text", "gif", "cut", "pixels", "side", "host", "url"],
)
def test_a_source_image_is_bounded_before_it_is_decoded(cloud: Cloud, source: str, rc: str) -> None:
    user, key = cloud.register(kudos=100)
    answer = cloud.generate(key, source_image=source)
    assert (answer.status, answer.body["rc"]) == (400, rc), answer.body
    assert cloud.kudos(user) == FLOOR + 100


def test_a_source_image_is_kept_without_its_metadata(cloud: Cloud) -> None:
    photo = Image.new("RGB", (64, 64), "green")
    exif = photo.getexif()
    exif[0x010E] = "where I live"
    out = io.BytesIO()
    photo.save(out, "JPEG", exif=exif)
    answer = cloud.generate(source_image=base64.b64encode(out.getvalue()).decode())
    assert answer.status == 202
    kept = cloud.s3.get_object(Bucket=cloud.bucket("Sources"), Key=f"{answer.body['id']}_src.webp")
    body = kept["Body"].read()
    assert b"where I live" not in body
    assert Image.open(io.BytesIO(body)).size == (64, 64)


def test_a_missing_key_is_a_schema_error_and_a_wrong_one_a_401(cloud: Cloud) -> None:
    answer = cloud.call(GENERATE, {"prompt": "x"})
    assert (answer.status, list(answer.body["errors"])) == (400, ["apikey"])
    for key in ("wrong", "x" * 5000, "ключ"):
        answer = cloud.generate(key)
        assert (answer.status, answer.body["rc"]) == (401, "InvalidAPIKey")


@pytest.mark.parametrize(
    "request_id", [UNKNOWN, "x", "", "x" * 5000, "%00", UNKNOWN.replace("-", "")]
)
def test_an_unknown_request_is_a_404(cloud: Cloud, request_id: str) -> None:
    for reply in (cloud.check(request_id), cloud.status(request_id), cloud.cancel(request_id)):
        assert (reply.status, reply.body["rc"]) == (404, "RequestNotFound")


def test_check_status_and_cancel_need_no_key(cloud: Cloud) -> None:
    request = cloud.generate().body["id"]
    for reply in (cloud.check(request), cloud.status(request), cloud.cancel(request)):
        assert reply.status == 200


def test_an_unknown_route_is_a_json_404(cloud: Cloud) -> None:
    answer = cloud.call("GET /api/v2/nothing/here")
    assert (answer.status, answer.body["rc"]) == (404, "NotFound")


def test_every_answer_has_cors_headers_also_errors(cloud: Cloud) -> None:
    for answer in (cloud.call("GET /nope"), cloud.generate("wrong"), cloud.generate()):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("username", ["", " ", "a#b", "x" * 31, "a\nb", 7, None])
def test_a_bad_username_is_refused(cloud: Cloud, username: Any) -> None:
    answer = cloud.call("POST /api/register", {"username": username})
    assert answer.status == 400, answer.body


def test_find_user_answers_for_a_key_and_refuses_others(cloud: Cloud) -> None:
    user, key = cloud.register("ada")
    found = cloud.call("GET /api/v2/find_user", key=key).body
    assert (found["username"], found["id"], found["kudos"]) == (f"ada#{user}", user, FLOOR)
    assert cloud.call("GET /api/v2/find_user", key=ANONYMOUS).body["username"] == "Anonymous#0"
    missing, wrong = (
        cloud.call("GET /api/v2/find_user"),
        cloud.call("GET /api/v2/find_user", key="x"),
    )
    assert (missing.status, missing.body["rc"]) == (401, "InvalidAPIKey")
    assert (wrong.status, wrong.body["rc"]) == (404, "UserNotFound")


def test_a_key_is_22_characters_and_only_its_hash_is_stored(cloud: Cloud) -> None:
    _, key = cloud.register()
    assert len(key) == 22
    scanned = json.dumps(cloud.db.scan(TableName=cloud.table)["Items"])
    assert key not in scanned


def test_workers_need_a_worker_key(cloud: Cloud) -> None:
    _, key = cloud.register()
    refusals = {
        ANONYMOUS: (403, "AnonForbiddenWorker"),
        "wrong": (401, "InvalidAPIKey"),
        key: (403, "NotPrivileged"),
    }
    for sent, refusal in refusals.items():
        for answer in (cloud.pop(sent), cloud.submit(sent, UNKNOWN)):
            assert (answer.status, answer.body["rc"]) == refusal


@pytest.mark.parametrize("generation_id", [UNKNOWN, "x" * 36])
def test_submitting_an_unknown_job_is_a_404(cloud: Cloud, generation_id: str) -> None:
    worker = cloud.new_worker()
    answer = cloud.submit(worker, generation_id)
    assert (answer.status, answer.body["rc"]) == (404, "InvalidJobID")
    assert "Processing Job with ID" in answer.body["message"]
    assert "does not exist" in answer.body["message"]


@pytest.mark.parametrize(
    "fields",
    [{"seed": "x"}, {"state": "great"}, {"id": "short"}, {"gen_metadata": [{"type": "x"}]}],
)
def test_a_malformed_submit_is_a_schema_error(cloud: Cloud, fields: dict[str, Any]) -> None:
    worker = cloud.new_worker()
    answer = cloud.call(
        "POST /api/v2/generate/submit",
        {"id": UNKNOWN, "generation": "R2", "seed": 1, **fields},
        key=worker,
    )
    assert (answer.status, answer.body["message"]) == (400, "Input payload validation failed")


@pytest.mark.parametrize("amount", [0, 21, "1", 1.5])
def test_a_malformed_pop_is_a_schema_error(cloud: Cloud, amount: Any) -> None:
    worker = cloud.new_worker()
    assert list(cloud.pop(worker, amount=amount).body["errors"]) == ["amount"]

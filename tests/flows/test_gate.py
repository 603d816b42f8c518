"""What a worker hands in is checked once, and these bytes are delivered, shared and paid.

Each attack here worked before there was a gate: what was uploaded needed twelve right bytes.
"""

import base64
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import requests
from PIL import Image

from horde import aws, images
from horde.store.endings import Endings
from tests.support.api_calls import Reply, refused
from tests.support.cloud import Cloud
from tests.support.images import drawn, webp
from tests.support.numbers import COST_SHARED, FLOOR, HANG_S, MAX_FAULTS, PRICE, REWARD

NAME = b"Jane Q. Example"
PERSON = Image.Exif()
PERSON[0x013B] = NAME.decode()  # Artist


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def container(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("payload.txt", NAME * 20)
    return out.getvalue()


def saved(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, options.pop("format", "WEBP"), **options)
    return out.getvalue()


def animation() -> bytes:
    frames = [drawn(colour) for colour in ("red", "green", "blue")] * 10
    return saved(frames[0], save_all=True, append_images=frames[1:])


def hidden_in_the_pixels() -> bytes:
    """A ZIP archive behind the last coded pixel, inside of the pixels' own chunk."""
    return container(chunk(b"VP8 ", webp()[20:] + zipped()))


def hidden_in_the_alpha(quality: int) -> bytes:
    """A ZIP archive behind the last coded value of the transparency."""
    file = saved(glass(), quality=95, alpha_quality=quality)
    start = file.index(b"ALPH") + 8
    length = int.from_bytes(file[start - 4 : start], "little")
    rest = file[start + length + length % 2 :]
    return container(file[12:30], chunk(b"ALPH", file[start : start + length] + zipped()), rest)


def glass() -> Image.Image:
    image = drawn("blue").convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


BAD: dict[str, Callable[[], bytes]] = {
    "HTML": lambda: b"<!doctype html><script>alert(1)</script>",
    "HTML that starts like a WebP": lambda: b"RIFF\x00\x10\x00\x00WEBP<script>alert(1)</script>",
    "an ELF": lambda: b"\x7fELF\x02\x01\x01" + b"\0" * 500,
    "12 bytes": lambda: b"RIFF\x04\x00\x00\x00WEBP",
    "nothing": lambda: b"",
    "a PNG": lambda: saved(drawn(), format="PNG"),
    "another size": lambda: webp(width=512, height=576),
    "a single pixel": lambda: saved(Image.new("RGB", (1, 1), "red")),
    "30 frames": animation,
    "one colour": lambda: saved(Image.new("RGB", (512, 512), "red")),
    "nothing to see": lambda: saved(Image.new("RGBA", (512, 512), (255, 0, 0, 0)), exact=True),
    "half a file": lambda: webp()[:400],
    "half of its pixels": lambda: container(chunk(b"VP8 ", webp()[20:400])),
    "two images": lambda: container(
        chunk(b"VP8X", bytes(4) + (511).to_bytes(3, "little") * 2),
        chunk(b"VP8 ", webp()[20:]),
        chunk(b"VP8 ", webp("blue")[20:]),
    ),
    "a ZIP behind its pixels": hidden_in_the_pixels,
    "a ZIP behind its alpha": lambda: hidden_in_the_alpha(100),
    "a ZIP behind its coarse alpha": lambda: hidden_in_the_alpha(20),
    "2 MB of metadata": lambda: webp() + b"\0" * 2_000_000,
}
"""Each was paid, and copied to the data set if it was shared, or it is a variant of what was."""


def popped(cloud: Cloud, worker: str, **fields: Any) -> tuple[str, Any]:
    """Ask for an anonymous, so shared, image and pop it; returns the request's id and the job."""
    request = cloud.generate(**fields).body["id"]
    return request, cloud.pop(worker).body


def hand_in(cloud: Cloud, worker: str, job: Any, file: bytes, **says: Any) -> Reply:
    cloud.upload(job["r2_upload"], file)
    return cloud.submit(worker, job["id"], **says)


def shown(cloud: Cloud, request: str) -> bytes:
    """What the requester downloads."""
    (generation,) = cloud.status(request).body["generations"]
    return requests.get(generation["img"], timeout=HANG_S).content


def published(cloud: Cloud) -> tuple[bytes, dict[str, Any]]:
    """The only image in the data set, and its row."""
    (found,) = cloud.archives().values()
    return found


def is_one_image(cloud: Cloud, request: str, image: bytes) -> None:
    """Assert that requester and data set have these bytes, and that the row says so."""
    assert shown(cloud, request) == image
    copied, row = published(cloud)
    assert copied == image
    assert (row["sha256"], row["bytes"]) == (hashlib.sha256(image).hexdigest(), len(image))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.lengthy
@pytest.mark.parametrize("name", BAD)
def test_what_is_not_the_image_that_was_asked_for_is_a_fault(
    cloud: Cloud, owner: int, worker: str, name: str
) -> None:
    request, job = popped(cloud, worker)
    answer = hand_in(cloud, worker, job, BAD[name]())
    refused(answer, "ImageRefused")
    assert cloud.objects_of("Outputs") == {}
    assert cloud.kudos(owner) == FLOOR
    counts = cloud.check(request).body
    assert (counts["waiting"], counts["restarted"], counts["finished"]) == (1, 1, 0)
    assert cloud.worker_named()["uncompleted_jobs"] == 1
    cloud.settle_async()
    assert cloud.laion() == {}
    cloud.draw(cloud.new_worker("honest"), name="honest")
    cloud.settle_async()
    is_one_image(cloud, request, webp())


@pytest.mark.parametrize("name", BAD)
@pytest.mark.slow
def test_an_image_in_the_submit_is_checked_like_an_upload(
    cloud: Cloud, owner: int, worker: str, name: str
) -> None:
    request, job = popped(cloud, worker, r2=False)
    sent = base64.b64encode(BAD[name]()).decode()
    refused(cloud.submit(worker, job["id"], generation=sent), "ImageRefused")
    assert (cloud.objects_of("Outputs"), cloud.kudos(owner)) == ({}, FLOOR)
    assert cloud.check(request).body["restarted"] == 1


def test_a_submit_that_is_neither_an_upload_nor_base64_is_a_fault(
    cloud: Cloud, worker: str
) -> None:
    request, job = popped(cloud, worker)
    refused(cloud.submit(worker, job["id"], generation="%%%"), "ImageRefused")
    assert cloud.check(request).body["waiting"] == 1


def test_the_last_refused_image_ends_its_request_and_refunds_it(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, shared=True).body["id"]
    assert cloud.kudos(user) == FLOOR + 100 - COST_SHARED
    for number in range(MAX_FAULTS):
        mine = cloud.new_worker(f"w{number}")
        job = cloud.pop(mine, name=f"w{number}").body
        refused(hand_in(cloud, mine, job, b"<html>"), "ImageRefused")
    assert cloud.check(request).body["faulted"] is True
    assert cloud.kudos(user) == FLOOR + 100


def test_of_a_file_that_is_too_long_one_byte_too_many_is_read(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, job = popped(cloud, worker)
    most = images.most_bytes((job["payload"]["width"], job["payload"]["height"]))
    cloud.upload(job["r2_upload"], webp().ljust(most + 999, b"\0"))
    real, read = aws.s3().get_object, list[int]()

    def counted(**asked: Any) -> Any:
        file = real(**asked)["Body"].read()
        read.append(len(file))
        return {"Body": io.BytesIO(file)}

    with monkeypatch.context() as patch:
        patch.setattr(aws.s3(), "get_object", counted)
        refused(cloud.submit(worker, job["id"]), "ImageRefused")
    assert read == [most + 1]
    assert cloud.objects_of("Outputs") == {}
    assert cloud.check(request).body["waiting"] == 1


def test_a_file_without_a_byte_is_refused(cloud: Cloud, worker: str) -> None:
    request, job = popped(cloud, worker)
    cloud.upload(job["r2_upload"], b"")
    refused(cloud.submit(worker, job["id"]), "ImageRefused")
    assert cloud.check(request).body["waiting"] == 1


# --- what is accepted -----------------------------------------------------------------------------


def test_a_persons_name_beside_the_pixels_reaches_nobody(cloud: Cloud, worker: str) -> None:
    """EXIF, XMP, a colour profile's text, an unknown chunk, and a ZIP archive behind the file."""
    said: dict[str, Any] = {"exif": PERSON, "xmp": b"<x:xmpmeta>" + NAME, "icc_profile": NAME * 9}
    rich = saved(drawn(), quality=95, method=0, **said)
    with_more = container(rich[12:], chunk(b"NAME", NAME)) + zipped()
    assert with_more.count(NAME) > 4
    request, job = popped(cloud, worker)
    assert hand_in(cloud, worker, job, with_more).status == 200
    cloud.settle_async()
    is_one_image(cloud, request, webp())


def test_pixels_keep_the_code_that_their_worker_gave_them(cloud: Cloud, worker: str) -> None:
    request, job = popped(cloud, worker)
    lossless = saved(drawn("green"), lossless=True, exif=PERSON)
    assert hand_in(cloud, worker, job, lossless).status == 200
    delivered = shown(cloud, request)
    assert delivered == saved(drawn("green"), lossless=True)
    with Image.open(io.BytesIO(delivered)) as image:
        assert image.convert("RGB").tobytes() == drawn("green").tobytes()
        assert (image.format, image.size, dict(image.getexif())) == ("WEBP", (512, 512), {})


HONEST: dict[str, Callable[[], bytes]] = {
    "quality 95": lambda: webp("purple"),
    "quality 95, as reGen": lambda: webp("purple", method=6),
    "lossless": lambda: webp("purple", lossless=True),
    "with alpha": lambda: saved(glass(), quality=95),
    "with coarse alpha": lambda: saved(glass(), quality=95, alpha_quality=20),
    "lossless with alpha": lambda: saved(glass(), lossless=True),
    "noise": lambda: saved(Image.effect_noise((512, 512), 90).convert("RGB"), lossless=True),
    "white with one black pixel": lambda: saved(dotted(), lossless=True),
}


def dotted() -> Image.Image:
    image = Image.new("RGB", (512, 512), "white")
    image.putpixel((0, 0), (0, 0, 0))
    return image


@pytest.mark.lengthy
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_workers_file_is_delivered_as_it_is(
    cloud: Cloud, owner: int, worker: str, name: str
) -> None:
    request, job = popped(cloud, worker)
    image = HONEST[name]()
    answer = hand_in(cloud, worker, job, image)
    assert (answer.status, answer.body) == (200, {"reward": REWARD})
    cloud.settle_async()
    is_one_image(cloud, request, image)
    assert cloud.kudos(owner) == FLOOR + REWARD


# --- delivered, shared and paid are the same bytes ------------------------------------------------


@pytest.mark.parametrize("first", ["share", "swap"])
def test_a_picture_swapped_after_its_settlement_reaches_nobody(
    cloud: Cloud, worker: str, first: str
) -> None:
    """The upload URL works for half an hour."""
    request, job = popped(cloud, worker)
    assert hand_in(cloud, worker, job, webp("green")).status == 200
    if first == "share":
        cloud.settle_async()
    cloud.upload(job["r2_upload"], webp("black"))
    cloud.settle_async()
    is_one_image(cloud, request, webp("green"))
    cloud.upload(job["r2_upload"], b"<html>")
    cloud.settle_async()
    is_one_image(cloud, request, webp("green"))


def test_of_two_pictures_that_race_the_settled_one_is_delivered_and_shared(
    cloud: Cloud, owner: int, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload is swapped between its check and its settlement, and submitted again."""
    request, job = popped(cloud, worker)
    cloud.upload(job["r2_upload"], webp("black"))
    real, inner = Endings.settle, list[bool]()

    def after_another(*args: Any, **more: Any) -> bool:
        if not inner:
            inner.append(True)
            assert hand_in(cloud, worker, job, webp("green")).status == 200
            cloud.upload(job["r2_upload"], webp("black"))
        return real(*args, **more)

    monkeypatch.setattr(Endings, "settle", after_another)
    refused(cloud.submit(worker, job["id"]), "DuplicateGen")
    cloud.settle_async()
    is_one_image(cloud, request, webp("green"))
    assert cloud.kudos(owner) == FLOOR + REWARD


def test_a_bad_picture_does_not_take_a_settled_one_back(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good submit settles while a bad one is refused."""
    request, job = popped(cloud, worker)
    cloud.upload(job["r2_upload"], webp("green"))
    real, inner = Endings.requeue, list[bool]()

    def after_a_good_one(*args: Any) -> bool:
        if not inner:
            inner.append(True)
            assert hand_in(cloud, worker, job, webp("green")).status == 200
        return real(*args)

    monkeypatch.setattr(Endings, "requeue", after_a_good_one)
    sent = base64.b64encode(b"no image").decode()
    refused(cloud.submit(worker, job["id"], generation=sent), "ImageRefused")
    cloud.settle_async()
    is_one_image(cloud, request, webp("green"))


def test_share_publishes_nothing_but_the_settled_bytes(cloud: Cloud, worker: str) -> None:
    """Whoever could write the outputs bucket could still not reach the data set."""
    _, job = popped(cloud, worker)
    assert hand_in(cloud, worker, job, webp()).status == 200
    ((key, _),) = [one for one in cloud.objects_of("Outputs").items() if "shared/" in one[0]]
    cloud.s3.put_object(Bucket=cloud.bucket("Outputs"), Key=key, Body=webp("black"))
    other = key.replace(key.rpartition("/")[2], f"{hashlib.sha256(b'x').hexdigest()}.webp")
    cloud.s3.put_object(Bucket=cloud.bucket("Outputs"), Key=other, Body=b"x")
    cloud.deliver("share")
    assert cloud.laion() == {}
    assert len(cloud.pending["share"]) == 2  # an operator hears of it, not the data set


def test_what_has_no_verdict_is_not_published(cloud: Cloud, worker: str) -> None:
    _, job = popped(cloud, worker)
    assert hand_in(cloud, worker, job, webp()).status == 200
    key = {"pk": {"S": f"GENERATION#{job['id']}"}, "sk": {"S": "GENERATION"}}
    cloud.db.update_item(TableName=cloud.table, Key=key, UpdateExpression="REMOVE screened")
    cloud.deliver("share")
    assert (cloud.laion(), cloud.pending["share"]) == ({}, [])


def test_an_unshared_image_is_announced_to_nobody(cloud: Cloud, worker: str) -> None:
    _, key = cloud.register(kudos=100)
    cloud.generate(key)
    job = cloud.pop(worker).body
    assert hand_in(cloud, worker, job, webp()).status == 200
    assert cloud.deliver("share") == 0
    kept = sorted(name.partition("/")[0] for name in cloud.objects_of("Outputs"))
    assert kept == ["private", "uploads"]


def test_an_image_that_an_earlier_version_settled_is_not_available(
    cloud: Cloud, worker: str
) -> None:
    """Its upload is where its worker can still swap it."""
    request, job = popped(cloud, worker)
    assert hand_in(cloud, worker, job, webp()).status == 200
    key = {"pk": {"S": f"GENERATION#{job['id']}"}, "sk": {"S": "GENERATION"}}
    gone = "REMOVE sha256, #size, screened, shareable"
    cloud.db.update_item(
        TableName=cloud.table,
        Key=key,
        UpdateExpression=gone,
        ExpressionAttributeNames={"#size": "size"},
    )
    (generation,) = cloud.status(request).body["generations"]
    assert generation["img"] == "N/A"


# --- censored images ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["12 bytes", "one colour", "30 frames", "a single pixel"])
@pytest.mark.slow
def test_a_censored_image_without_a_picture_is_not_paid(
    cloud: Cloud, owner: int, worker: str, name: str
) -> None:
    _, job = popped(cloud, worker)
    answer = hand_in(cloud, worker, job, BAD[name](), state="censored")
    refused(answer, "ImageRefused")
    assert cloud.kudos(owner) == FLOOR
    assert cloud.worker_named()["uncompleted_jobs"] == 1


def test_a_censored_images_placeholder_may_have_a_size_of_its_own(
    cloud: Cloud, owner: int, worker: str
) -> None:
    """An unmodified worker uploads the same placeholder whatever was asked for."""
    user, key = cloud.register(kudos=100)
    request = cloud.generate(key, shared=True).body["id"]
    job = cloud.pop(worker).body
    placeholder = webp("black", 768, 512)
    assert hand_in(cloud, worker, job, placeholder, state="censored").status == 200
    cloud.settle_async()
    assert shown(cloud, request) == placeholder
    assert (cloud.laion(), cloud.kudos(owner)) == ({}, FLOOR + REWARD)
    assert cloud.kudos(user) == FLOOR + 100 - COST_SHARED + PRICE
    assert not [name for name in cloud.objects_of("Outputs") if name.startswith("shared/")]


# --- what a worker says about its image -----------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"gen_metadata": [{"type": "<script>", "value": "nsfw"}]},
        {"gen_metadata": [{"type": "information", "value": "x" * 256}]},
        {"gen_metadata": [{"type": "lora", "value": "see_ref", "ref": "x" * 256}]},
        {"gen_metadata": [{"type": "information", "value": {"a": 1}}]},
        {"gen_metadata": [{"type": "information", "value": "x"}] * 51},
        {"seed": -1},
        {"seed": 2**63},
    ],
    ids=["type", "value", "ref", "object", "51 of them", "negative seed", "64-bit seed"],
)
def test_what_a_worker_says_of_its_image_is_bounded_and_typed(
    cloud: Cloud, worker: str, said: dict[str, Any]
) -> None:
    request, job = popped(cloud, worker)
    answer = hand_in(cloud, worker, job, webp(), **said)
    assert answer.status == 400
    assert answer.body["message"] == "Input payload validation failed"
    assert cloud.check(request).body["processing"] == 1
    assert cloud.submit(worker, job["id"]).status == 200


REMARKS = [
    {"type": "lora", "value": "download_failed", "ref": "12345"},
    {"type": "ti", "value": "parse_failed", "ref": "a name"},
    {"type": "lora", "value": "baseline_mismatch", "ref": "12345"},
    {"type": "source_image", "value": "parse_failed"},
    {"type": "source_mask", "value": "parse_failed"},
    {"type": "extra_source_images", "value": "parse_failed", "ref": "1"},
    {"type": "batch_index", "value": "see_ref", "ref": "3"},
    {"type": "information", "value": "see_ref", "ref": "nsfw concepts detected"},
    {"type": "aesthetic_score", "value": "7.25"},
]


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**63 - 1, "77"])
def test_what_an_unmodified_worker_says_is_shown(cloud: Cloud, worker: str, seed: Any) -> None:
    request, job = popped(cloud, worker)
    remarks = [*REMARKS, {"type": "batch_index", "value": "see_ref", "ref": None}]
    assert hand_in(cloud, worker, job, webp(), seed=seed, gen_metadata=remarks).status == 200
    (generation,) = cloud.status(request).body["generations"]
    assert generation["gen_metadata"] == [*REMARKS, {"type": "batch_index", "value": "see_ref"}]
    assert generation["seed"] == str(seed)


def test_our_workers_safety_score_is_kept_and_breaks_no_client(cloud: Cloud, worker: str) -> None:
    """pyAIHorde knows no ``information``, and every image has a score."""
    request, job = popped(cloud, worker)
    score = {"type": "information", "value": "see_ref", "ref": "nsfw_score=0.0123 by mine 1"}
    remarks = [score, REMARKS[0]]
    assert hand_in(cloud, worker, job, webp(), gen_metadata=remarks).status == 200
    (generation,) = cloud.status(request).body["generations"]
    assert generation["gen_metadata"] == [REMARKS[0]]
    stored = cloud.store.requests.generation(generation["id"])
    assert stored is not None
    assert stored.gen_metadata == remarks


# --- our own worker's upload ----------------------------------------------------------------------


def test_our_own_workers_upload_is_bounded_by_its_signature(cloud: Cloud, worker: str) -> None:
    cloud.generate(params={"width": 64, "height": 128, "steps": 4})
    (job,) = cloud.pop(worker, mixed_batch=True).body["jobs"]
    form = job["r2_post"]["fields"]
    policy = json.loads(base64.b64decode(form["policy"]))
    key = f"uploads/{job['id']}/1.webp"
    assert ["content-length-range", 1, 64 * 128 * 4 + 256 * 1024] in policy["conditions"]
    assert {"Content-Type": "image/webp"} in policy["conditions"]
    assert {"key": key} in policy["conditions"]
    assert (form["key"], form["Content-Type"]) == (key, "image/webp")
    files = {"file": ("image.webp", webp(width=64, height=128), "image/webp")}
    sent = requests.post(job["r2_post"]["url"], data=form, files=files, timeout=HANG_S)
    assert sent.status_code == 204, sent.text
    assert cloud.submit(worker, job["id"]).status == 200


def test_another_hordes_worker_gets_plain_upload_urls(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    assert "r2_post" not in cloud.pop(worker).body

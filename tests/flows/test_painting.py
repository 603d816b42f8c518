"""Inpainting, outpainting and source images by URL."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from horde import outbound
from tests.support import tls
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud
from tests.support.images import encoded, png_base64
from tests.support.numbers import FLOOR, HANG_S, OVER_S


def half_mask() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    return mask


def level(mask: Image.Image, at: tuple[int, int]) -> int:
    found = mask.getpixel(at)
    assert isinstance(found, int)
    return found


def fetched(url: str) -> Image.Image:
    answer = requests.get(url, timeout=HANG_S)
    assert answer.headers["Content-Type"] == "image/webp"
    return Image.open(io.BytesIO(answer.content))


def popped(cloud: Cloud, **more: Any) -> Any:
    return cloud.pop(cloud.new_worker(), **more).body


@pytest.mark.parametrize("processing", ["inpainting", "outpainting"])
def test_a_worker_gets_the_image_and_the_mask(cloud: Cloud, processing: str) -> None:
    answer = cloud.generate(
        source_image=png_base64(), source_mask=encoded(half_mask()), source_processing=processing
    )
    assert answer.status == 202, answer
    job = popped(cloud)
    assert job["source_processing"] == processing
    assert fetched(job["source_image"]).size == (64, 64)
    mask = fetched(job["source_mask"]).convert("L")
    assert level(mask, (8, 32)) > 250
    assert level(mask, (56, 32)) < 5


def test_without_a_mask_the_transparent_part_is_painted(cloud: Cloud) -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 255, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    cloud.generate(source_image=encoded(image), source_processing="inpainting")
    mask = fetched(popped(cloud)["source_mask"]).convert("L")
    assert level(mask, (8, 32)) > 250
    assert level(mask, (56, 32)) < 5


@pytest.mark.parametrize("mask", [None, encoded(Image.new("L", (64, 64)))])
def test_inpainting_with_nothing_to_paint_is_refused(cloud: Cloud, mask: str | None) -> None:
    user, key = cloud.register(kudos=100)
    answer = cloud.generate(
        key, source_image=png_base64(), source_mask=mask, source_processing="inpainting"
    )
    assert (answer.status, answer.body["rc"]) == (400, "InpaintingMissingMask")
    assert cloud.kudos(user) == FLOOR + 100


def test_inpainting_is_never_shared_and_pays_the_full_tax(cloud: Cloud) -> None:
    fields: dict[str, Any] = {
        "source_image": png_base64(),
        "source_mask": encoded(half_mask()),
        "source_processing": "inpainting",
        "shared": True,
    }
    for key in (ANONYMOUS, cloud.register(kudos=100)[1]):
        answer = cloud.generate(key, **fields)
        assert "never" in answer.body["message"]
        assert cloud.status(answer.body["id"]).body["shared"] is False
        plain = cloud.generate(key, **{**fields, "dry_run": True})
        assert plain.body["kudos"] == answer.body["kudos"]
    cloud.draw(cloud.new_worker())
    cloud.settle_async()
    assert cloud.laion() == {}


def test_a_worker_that_cannot_paint_gets_none_of_it(cloud: Cloud) -> None:
    cloud.generate(
        source_image=png_base64(),
        source_mask=encoded(half_mask()),
        source_processing="inpainting",
    )
    answer = popped(cloud, allow_painting=False)
    assert answer["id"] is None
    assert answer["skipped"] == {"painting": 1}


def test_image_to_image_and_inpainting_are_not_drawn_in_one_pass(cloud: Cloud) -> None:
    mask = encoded(half_mask())
    cloud.generate(source_image=png_base64(), source_processing="img2img")
    cloud.generate(source_image=png_base64(), source_mask=mask, source_processing="inpainting")
    assert len(popped(cloud, mixed_batch=True, amount=4)["jobs"]) == 1


def test_the_mask_goes_with_its_request(cloud: Cloud) -> None:
    answer = cloud.generate(
        source_image=png_base64(),
        source_mask=encoded(half_mask()),
        source_processing="inpainting",
    )
    kept = cloud.s3.list_objects_v2(Bucket=cloud.bucket("Sources"))["Contents"]
    assert {item["Key"] for item in kept} == {
        f"{answer.body['id']}_src.webp",
        f"{answer.body['id']}_msk.webp",
    }
    cloud.clock.pass_seconds(OVER_S)
    cloud.sweep()
    assert "Contents" not in cloud.s3.list_objects_v2(Bucket=cloud.bucket("Sources"))


def test_a_source_image_may_come_from_a_public_url(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "resolve", lambda *_: "127.0.0.1")
    with tls.serving(tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        server.body = base64.b64decode(png_base64())
        assert cloud.generate(source_image=server.url("/a.png")).status == 202
        server.status = 404
        refused = cloud.generate(source_image=server.url("/b.png"))
    assert (refused.status, refused.body["rc"]) == (400, "SourceImageUrlInvalid")
    assert fetched(popped(cloud)["source_image"]).size == (64, 64)

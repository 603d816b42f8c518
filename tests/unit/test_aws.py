"""Settings and clients."""

import pytest
from pydantic import ValidationError

from dispatch import Settings
from horde import aws


def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    aws.clear_settings()
    monkeypatch.setenv("MODELS", "{}")
    monkeypatch.delenv("RUNPOD_URL", raising=False)
    with pytest.raises(ValidationError, match="runpod_url"):
        Settings.load()


def test_importing_a_function_needs_no_environment_and_makes_no_client() -> None:
    import generate
    import sweep
    import worker

    assert {module.__name__ for module in (generate, sweep, worker)}


@pytest.mark.parametrize(
    ("endpoint", "start"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "https://outputs.s3.eu-west-1.amazonaws.com/k?"),
        ("http://127.0.0.1:4566", "http://127.0.0.1:4566/outputs/k?"),
    ],
)
def test_presigned_urls_name_the_region_and_the_buckets_own_host(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, start: str
) -> None:
    from horde import images

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    aws.clear_cache()
    assert images.upload_url(aws.s3(), "outputs", "k").startswith(start)
    aws.clear_cache()

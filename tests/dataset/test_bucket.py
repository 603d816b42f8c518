"""A release is read from a bucket, by whoever may read it."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from horde_dataset import sources
from tests.dataset import made
from tests.dataset.conftest import Run
from tests.dataset.test_download import contents

BUCKET = "the-data-set"


@pytest.fixture
def bucket(pristine: made.Release, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bucket with the release, twice: at its top and below a prefix."""
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        for path in pristine.folder.rglob("*"):
            if path.is_file():
                name = path.relative_to(pristine.folder).as_posix()
                client.upload_file(str(path), BUCKET, name)
                client.upload_file(str(path), BUCKET, f"a/copy/{name}")
        client.put_object(Bucket=BUCKET, Key="incoming/x.tar", Body=b"private")
        client.put_object(Bucket=BUCKET, Key="releases/notes.txt", Body=b"no manifest")
        yield f"s3://{BUCKET}"


@pytest.mark.slow
def test_a_release_is_downloaded_from_a_bucket_and_below_a_prefix(
    bucket: str, pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    for source in (bucket, f"{bucket}/a/copy", f"{bucket}/a/copy/"):
        target = tmp_path / source.strip("/").replace("/", "-")
        assert run("download", source, target, "--request-payer")[0] == 0
        assert contents(target) == contents(pristine.folder)
    assert run("releases", bucket)[1].splitlines()[1].startswith(made.RELEASE)


@pytest.mark.slow
def test_a_query_reads_ranges_of_a_buckets_tars(
    bucket: str, pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy"
    assert run("download", bucket, copy, "--where", "steps = 22")[0] == 0
    found = {path.stem: path.read_bytes() for path in (copy / "images").iterdir()}
    rows = [row for row in pristine.rows if row["steps"] == 22]
    assert found == {row["id"]: pristine.pictures[row["id"]] for row in rows}


@pytest.mark.slow
def test_a_bucket_that_cannot_be_read_is_said(
    bucket: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, why in (
        ("s3://none-such", "NoSuchBucket"),
        (f"{bucket}/none", "there is no release"),
        ("s3://", "no name of a bucket"),
        ("s3://Not_A_Bucket", "no name of a bucket"),
    ):
        code, _, said = run("releases", source)
        assert (code, why in said, said.count("\n")) == (1, True, 1), source
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, _, said = run("releases", bucket)
    assert (code, "--no-sign-request" in said) == (1, True)
    assert run("releases", bucket, "--no-sign-request")[0] in {0, 1}


def test_without_boto3_a_bucket_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    code, _, said = run("releases", "s3://some-bucket")
    assert (code, "pip install 'horde-dataset[s3]'" in said) == (1, True)
    assert sources.FolderSource(Path()).releases() == []

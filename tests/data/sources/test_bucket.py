"""A prefix of a bucket as a source, on a real S3 server."""

from collections import Counter
from pathlib import Path
from typing import Any

import boto3
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from flows import cli
from kontext.data.layouts.bucket_object import bucket
from kontext.data.sources import read
from kontext.data.sources.bucket import BucketSource
from kontext.data.sources.external import fingerprint
from kontext.data.sources.found import findings, source_at
from kontext.errors import ChangedError, SourceError
from kontext.store.objects import open_store
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig
from tests.data.pictures import scene_png
from tests.stages.stage_harness import Harness

pytestmark = pytest.mark.s3


@pytest.fixture
def url(s3_url: str) -> str:
    store = open_store(s3_url)
    for number, season in enumerate(("summer", "winter")):
        store.put(f"house/a__season={season}.png", scene_png(number))
    store.put("red car.png", scene_png(2))
    store.put("notes.txt", b"no picture")
    bucket.cache_clear()
    return s3_url


def hide(url: str, *keys: str) -> None:
    """Objects under names that our own stores refuse."""
    name, _, prefix = url.removeprefix("s3://").partition("/")
    client: Any = boto3.client("s3")
    for key in keys:
        client.put_object(Bucket=name, Key=f"{prefix}/{key}", Body=b"x")


def test_objects_are_items_named_as_files_are(url: str) -> None:
    hide(url, ".hidden/a.png", "@eaDir/b.png")
    found = read(BucketSource(path=url, license_spdx="CC0-1.0"))
    assert [item.ref for item in found.items] == [
        "house/a__season=summer.png", "house/a__season=winter.png", "notes.txt", "red car.png"
    ]  # fmt: skip
    assert [item.read() for item in found.items][:2] == [scene_png(0), scene_png(1)]
    assert [item.concept for item in found.items] == ["a", "a", "notes", "red car"]
    assert found.items[0].attributes == {"season": "summer"}
    assert found.items[0].group_key == found.items[1].group_key
    assert {one.ref: one.reason for one in found.skipped} == {
        ".hidden/a.png": "hidden", "@eaDir/b.png": "junk"
    }  # fmt: skip


def test_what_is_ingested_is_what_was_listed(url: str, tmp_path: Path) -> None:
    source = source_at(url)
    assert findings(source).warnings == [] and source == BucketSource(path=url)
    ingest = IngestConfig(sources=(source,), processes=1)
    before = fingerprint(ingest)
    made = Harness(tmp_path, Recipe(name="test", ingest=ingest)).run("ingest")
    assert made.table("images").num_rows == 3
    rejects = made.table("rejects.parquet").to_pylist()
    assert Counter(row["reason"] for row in rejects if row["source"] != "canary") == {
        "unsupported_format": 1
    }
    (item,) = (item for item in read(source).items if item.ref == "red car.png")
    open_store(url).put("red car.png", scene_png(9))
    assert fingerprint(ingest) != before
    with pytest.raises(ChangedError, match="was changed since it was listed"):
        item.read()


def test_nothing_is_written_to_a_bucket_that_is_read(url: str) -> None:
    store = open_store(url)
    before = store.list()
    read(BucketSource(path=url))
    assert store.list() == before
    nowhere = "s3://kontext-nobody-has-this/x"
    with pytest.raises(SourceError, match="kontext-nobody-has-this"):
        read(BucketSource(path=nowhere))
    names = [one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]]
    assert "kontext-nobody-has-this" not in names


def test_one_command_reads_a_bucket(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path))
    arguments = ["run", "--direct", "--json", "--recipe", "ci", "--until", "ingest"]
    result = CliRunner().invoke(cli.app, [*arguments, "--source", url])
    assert result.exit_code == 0, result.output
    name = url.rpartition("/")[2]
    assert f"dataset {name}-ci, model" in result.stderr and "4 pictures" in result.stderr


def test_clear_errors(url: str) -> None:
    with pytest.raises(SourceError, match="nothing is below"):
        read(BucketSource(path=f"{url}/empty"))
    for path in ("s3://", "pictures", "http://a/b"):
        with pytest.raises(ValidationError, match="s3://bucket/prefix"):
            BucketSource(path=path)

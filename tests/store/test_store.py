"""What the store promises, on a folder and on a real S3 server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import BadConfig, DamagedArtifact, NotFound, StoreError, StoreUnreachable
from nanochat.store.artifacts import Manifest, Store
from nanochat.store.lineage import ancestors, tree
from nanochat.store.objects import Objects
from nanochat.store.producer import describe_producer

KEY = "k" * 64


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "file":
        yield Store(str(tmp_path / "store"), tmp_path / "cache")
        return
    for name, value in request.getfixturevalue("s3_server").items():
        monkeypatch.setenv(name, value)
    yield Store(f"s3://bucket/{uuid.uuid4().hex}", tmp_path / "cache")


def publish(
    store: Store, folder: Path, text: str, *, key: str = KEY, stage: str = "download", **inputs: Any
) -> Manifest:
    out = folder / uuid.uuid4().hex
    (out / "deep").mkdir(parents=True)
    (out / "train.parquet").write_text(text)
    (out / "deep/notes.txt").write_text("notes of " + text)
    return store.publish(
        out, stage=stage, stage_version=1, kind="RawShard", key=key, config={"name": "shard_00000"}, inputs=inputs,
        metrics={"n": 1}, producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip


def test_objects_do_what_their_names_say(store: Store, tmp_path: Path) -> None:
    objects = store.objects
    objects.probe()
    objects.write("a/b", b"1")
    objects.write("a/b", b"2")
    assert objects.read("a/b") == b"2"
    assert objects.create("a/c", b"3")
    assert not objects.create("a/c", b"4")
    assert not objects.swap("a/c", b"5", b"4")
    assert objects.swap("a/c", b"5", b"3")
    assert not objects.swap("a/missing", b"5", b"3")
    assert objects.swap("a/new", b"5", None)
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    objects.upload(tmp_path / "big", "a/big")
    objects.download("a/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"x" * 100_000
    assert [(e.path, e.size) for e in objects.list("a")] == [("a/b", 1), ("a/big", 100_000), ("a/c", 1), ("a/new", 1)]
    objects.delete(["a/b", "a/never"])
    assert len(objects.list("a")) == 3
    with pytest.raises(FileNotFoundError):
        objects.read("a/b")
    assert objects.list("nothing") == []


def test_of_many_creators_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda i: store.objects.create("v1/race", str(i).encode()), range(16)))
    assert sum(won) == 1


def test_of_many_publishers_one_wins_and_its_bytes_stay(store: Store, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(lambda i: publish(store, tmp_path, f"text {i}"), range(8)))
    assert len({manifest.payload for manifest in manifests}) == 1
    assert store.verify(manifests[0]) == []
    found = store.find("download", KEY)
    assert found is not None
    artifact = store.artifact(found, reused=True)
    assert (artifact.path / "train.parquet").read_text().startswith("text ")
    assert len(store.objects.list("v1/artifacts")) == 3  # nothing of the others is left


def test_a_key_names_one_artifact_and_its_beginning_finds_it(store: Store, tmp_path: Path) -> None:
    one = publish(store, tmp_path, "one", key="aaaa1" + "0" * 59)
    publish(store, tmp_path, "two", key="aaaa2" + "0" * 59)
    assert store.resolve("aaaa1") == one
    assert store.resolve("download/aaaa1") == one
    with pytest.raises(NotFound, match="could be"):
        store.resolve("aaaa")
    with pytest.raises(NotFound, match="no artifact `bbbb`"):
        store.resolve("bbbb")


def test_a_lost_payload_is_a_miss(store: Store, tmp_path: Path) -> None:
    manifest = publish(store, tmp_path, "one")
    store.objects.delete([f"{manifest.folder}/{manifest.payload}/train.parquet"])
    assert store.find("download", KEY) is None
    assert store.objects.list("v1/artifacts") == []
    assert store.find("download", KEY) != publish(store, tmp_path, "again")


def test_a_flipped_byte_is_found(store: Store, tmp_path: Path) -> None:
    manifest = publish(store, tmp_path, "one")
    store.objects.write(f"{manifest.folder}/{manifest.payload}/train.parquet", b"onf")
    assert store.verify(manifest) == ["the bytes of `train.parquet` have changed"]
    with pytest.raises(DamagedArtifact, match="verify --repair"):
        _ = store.artifact(manifest, reused=True).path


def test_aliases_move_and_races_lose_nothing(store: Store, tmp_path: Path) -> None:
    manifests = [publish(store, tmp_path, str(i), key=f"{i}" * 64) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda manifest: store.set_alias("chat/latest", manifest), manifests))
    assert store.resolve("chat/latest") in manifests
    store.set_alias("chat/latest", manifests[2])
    assert store.resolve("chat/latest") == manifests[2]
    assert list(store.aliases()) == ["chat/latest"]


def test_lineage_goes_down_to_the_hashes_of_the_sources(store: Store, tmp_path: Path) -> None:
    raw = store.artifact(publish(store, tmp_path, "one"), reused=False)
    top = publish(store, tmp_path, "model", key="m" * 64, stage="pretrain", raw=raw)
    assert [manifest.stage for manifest in ancestors(store, top)] == ["download"]
    lines = "\n".join(tree(store, top))
    assert raw.manifest.files[0].sha256 in lines


def test_a_manifest_carries_no_credential(store: Store, tmp_path: Path) -> None:
    assert "test-secret" not in publish(store, tmp_path, "one").model_dump_json()


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(BadConfig, match="ftp"):
        Objects("ftp://somewhere/x")


@pytest.mark.s3
def test_a_wrong_secret_is_one_sentence(
    s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**s3_server, "AWS_SECRET_ACCESS_KEY": "wrong-secret"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError) as caught:
        Store("s3://bucket/x", tmp_path / "cache")
    assert "wrong-secret" not in str(caught.value)
    assert not isinstance(caught.value, StoreUnreachable)


def test_an_endpoint_that_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(StoreUnreachable, match=r"did not answer at http://127\.0\.0\.1:9"):
        Store("s3://bucket/x", tmp_path / "cache")


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(str(tmp_path / "file" / "store"), tmp_path / "cache").objects.create("v1/x", b"")

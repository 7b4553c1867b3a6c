"""What the store promises, on a folder and on a real S3 server."""

from __future__ import annotations

import errno
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import BadConfig, DamagedArtifact, NoSpace, NotFound, StoreError, StoreUnreachable
from nanochat.store.manifest import Manifest
from nanochat.store.objects import Objects
from nanochat.store.producer import describe_producer
from nanochat.store.s3_errors import _without_login
from nanochat.store.store import Store
from nanochat.store.verification import discard

KEY = "k" * 64


@pytest.fixture
def store(root: str, tmp_path: Path) -> Store:
    return Store(root, tmp_path / "cache")


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
    with ThreadPoolExecutor(16) as pool:
        manifests = list(pool.map(lambda i: publish(store, tmp_path, f"text {i}"), range(16)))
    assert len({manifest.payload for manifest in manifests}) == 1
    assert store.payloads.verify(manifests[0]) == []
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


def test_a_lost_payload_is_a_miss_and_is_replaced_when_it_is_made_again(store: Store, tmp_path: Path) -> None:
    lost = publish(store, tmp_path, "one")
    store.objects.delete([f"{lost.folder}/{lost.payload}/train.parquet"])
    before = store.objects.list("v1")
    assert store.find("download", KEY) is None
    assert store.objects.list("v1") == before, "looking changes nothing"
    again = publish(store, tmp_path, "two")
    assert again != lost
    assert store.find("download", KEY) == again
    assert store.payloads.verify(again) == []


def test_a_payload_of_another_size_is_a_miss(store: Store, tmp_path: Path) -> None:
    manifest = publish(store, tmp_path, "one")
    store.objects.write(f"{manifest.folder}/{manifest.payload}/train.parquet", b"cut")
    assert store.payloads.missing(manifest) == []
    store.objects.write(f"{manifest.folder}/{manifest.payload}/train.parquet", b"cu")
    assert store.payloads.missing(manifest) == ["train.parquet"]
    assert store.find("download", KEY) is None


def test_of_many_who_replace_a_lost_payload_one_wins(store: Store, tmp_path: Path) -> None:
    lost = publish(store, tmp_path, "one")
    store.objects.delete([f"{lost.folder}/{lost.payload}/train.parquet"])
    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(lambda i: publish(store, tmp_path, f"text {i}"), range(8)))
    assert len({manifest.payload for manifest in manifests}) == 1
    assert store.find("download", KEY) == manifests[0]
    assert store.payloads.verify(manifests[0]) == []


def test_an_answer_that_got_lost_does_not_cost_the_payload(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.objects.create
    monkeypatch.setattr(store.objects, "create", lambda path, data: create(path, data) and False)
    manifest = publish(store, tmp_path, "one")
    assert store.find("download", KEY) == manifest


def test_an_upload_that_fails_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = store.objects.upload

    def fail(local: Path, path: str, **options: bool) -> None:
        if path.endswith("train.parquet"):
            raise StoreUnreachable("gone")
        upload(local, path, **options)

    monkeypatch.setattr(store.objects, "upload", fail)
    with pytest.raises(StoreUnreachable):
        publish(store, tmp_path, "one")
    assert store.objects.list("v1/artifacts") == []


def test_hidden_files_belong_to_the_payload(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hidden").write_text("h")
    manifest = store.publish(
        out, stage="download", stage_version=1, kind="RawShard", key=KEY, config={}, inputs={}, metrics={},
        producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip
    assert [file.path for file in manifest.files] == [".hidden"]
    assert store.find("download", KEY) == manifest


def test_a_flipped_byte_is_found(store: Store, tmp_path: Path) -> None:
    manifest = publish(store, tmp_path, "one")
    store.objects.write(f"{manifest.folder}/{manifest.payload}/train.parquet", b"onf")
    assert store.payloads.verify(manifest) == ["the bytes of `train.parquet` have changed"]
    with pytest.raises(DamagedArtifact, match="verify --repair"):
        _ = store.artifact(manifest, reused=True).path
    discard(store, [manifest], "a test")
    assert store.find("download", KEY) is None


def test_a_payload_that_vanished_is_damaged(store: Store, tmp_path: Path) -> None:
    manifest = publish(store, tmp_path, "one")
    store.objects.delete([f"{manifest.folder}/{manifest.payload}/train.parquet"])
    assert store.payloads.verify(manifest) == ["`train.parquet` is missing"]
    with pytest.raises(DamagedArtifact, match="is missing"):
        _ = store.artifact(manifest, reused=True).path


def test_aliases_move_and_races_lose_nothing(store: Store, tmp_path: Path) -> None:
    manifests = [publish(store, tmp_path, str(i), key=f"{i:x}" * 64) for i in range(8)]
    assert store.alias("chat/latest") is None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda manifest: store.set_alias("chat/latest", manifest), manifests))
    assert store.resolve("chat/latest") in manifests
    store.set_alias("chat/latest", manifests[2])
    assert store.resolve("chat/latest") == manifests[2]
    assert list(store.aliases()) == ["chat/latest"]
    assert store.alias("chat/latest") == f"download/{manifests[2].key}"
    discard(store, [manifests[2]], "a test")
    with pytest.raises(NotFound, match="which is gone"):
        store.resolve("chat/latest")


@pytest.mark.parametrize("name", ["", "../x", "/x", "a//b", "a b", "chat/"])
def test_a_name_that_leaves_the_folder_is_no_alias(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    with pytest.raises(BadConfig, match="cannot be the name of an alias"):
        store.set_alias(name, publish(store, tmp_path, "one"))


def test_a_manifest_carries_no_credential(store: Store, tmp_path: Path) -> None:
    assert "test-secret" not in publish(store, tmp_path, "one").model_dump_json()


def test_an_unknown_scheme_is_refused() -> None:
    for root in ("ftp://somewhere/x", "s3://", "file://relative/x"):
        with pytest.raises(BadConfig, match=root):
            Objects(root)


def test_an_address_with_a_secret_is_refused_without_telling_it() -> None:
    with pytest.raises(BadConfig) as caught:
        Objects("s3://key:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


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


@pytest.mark.parametrize("url", ["http://me:hunter2@host:9/x", "http://host:9/x"])
def test_an_endpoint_is_named_without_its_login(url: str) -> None:
    assert _without_login(url) == "http://host:9/x"


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    objects = Objects(str(tmp_path / "file" / "store"))
    with pytest.raises(StoreError, match="cannot be written"):
        objects.create("v1/x", b"")
    with pytest.raises(StoreError, match="cannot be read"):
        objects.read("v1/x")


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace, match="No space left for the store"):
        Objects(str(tmp_path)).write("v1/x", b"")
    assert Objects(str(tmp_path)).list("v1") == []


def test_a_folder_emptied_by_one_writer_does_not_vanish_under_another(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))

    def work(number: int) -> None:
        for i in range(500):
            assert objects.create(f"v1/leases/{number}-{i}", b"")
            objects.delete([f"v1/leases/{number}-{i}"])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


def test_a_folder_takes_the_files_without_copying(tmp_path: Path) -> None:
    (tmp_path / "big").write_text("x")
    objects = Objects(str(tmp_path / "store"))
    objects.upload(tmp_path / "big", "a/big", share=True)
    objects.upload(tmp_path / "big", "a/copy")
    assert (tmp_path / "store/a/big").samefile(tmp_path / "big")
    assert not (tmp_path / "store/a/copy").samefile(tmp_path / "big")


@pytest.mark.s3
def test_a_missing_bucket_is_made(root_s3: str, tmp_path: Path) -> None:
    bucket = f"new-{uuid.uuid4().hex[:8]}"
    store = Store(f"s3://{bucket}", tmp_path / "cache")
    assert store.find("download", KEY) is None
    assert publish(store, tmp_path, "one") == store.find("download", KEY)


@pytest.mark.s3
def test_a_bucket_that_cannot_be_made_is_one_sentence(root_s3: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be created: The specified bucket is not valid") as caught:
        Store("s3://b/x", tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.s3
def test_a_file_of_many_parts_comes_back_whole(root_s3: str, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 110  # s3fs sends more than 100 MiB in parts
    (tmp_path / "big").write_bytes(data)
    objects = Objects(root_s3)
    objects.upload(tmp_path / "big", "a/big")
    objects.download("a/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


@pytest.mark.s3
def test_a_server_that_ignores_create_only_is_found(root_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(root_s3)
    monkeypatch.setattr(objects.backend, "create", lambda path, data: objects.write(path, data) is None)
    with pytest.raises(StoreError, match="ignores create-only writes"):
        objects.probe()

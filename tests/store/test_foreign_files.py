"""Files that others leave in a store's folders are neither listed, nor read, nor deleted, and break nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.errors import DamagedArtifact
from nanochat.store import runs
from nanochat.store.garbage import find_garbage
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store
from nanochat.store.trash import restore_deletion
from tests.recorded_runs import newest
from tests.store.test_garbage import collect, key, publish

FOREIGN = [
    ".DS_Store", "._chat.json", "Thumbs.db", "desktop.ini", "chat.json~", ".chat.json.swp", "chat.json.bak", "chat.tmp",
    "#chat.json#", "~$chat.json", ".nfs000000000001", "lost+found/x.json", ".snapshot/hourly/x.json", "@eaDir/x.json",
    ".Trash-1000/x.json", "$RECYCLE.BIN/x.json",
]  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_they_are_left_alone_everywhere(name: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    kept, gone = publish(store, "kept"), publish(store, "gone")
    store.set_alias("chat/kept", kept)
    with record_run(store, "demo", {}) as record:
        pass
    runs.pin(store, record.record.id)
    folders = [
        "v1", "v1/aliases", "v1/aliases/chat", "v1/runs", "v1/pins", "v1/leases", "v1/probe", "v1/sources", "v1/trash",
        "v1/checkpoints", f"v1/checkpoints/{key('kept')}", f"v1/checkpoints/{key('kept')}/step-00000001-x",
        "v1/artifacts", "v1/artifacts/download", kept.folder, f"{kept.folder}/{kept.payload}",
        gone.folder, f"{gone.folder}/{gone.payload}", f"{gone.folder}/{gone.payload}/deep",
    ]  # fmt: skip
    root = tmp_path / "store"
    for folder in folders:
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(b"not ours")
    assert list(store.aliases()) == ["chat/kept"]
    assert {manifest.config["name"] for manifest in store.manifests()} == {"kept", "gone"}
    assert store.resolve("chat/kept") == store.find("download", key("kept")) == kept
    assert store.payloads.verify(gone) == []
    assert [run.record.id for run in newest(store)] == [record.record.id]
    assert runs.pins(store) == {record.record.id}
    assert [item.name for item in find_garbage(store, keep_runs=0, min_age_hours=0).items] == [f"download/{gone.key}"]
    collect(store)
    restore_deletion(store)
    collect(store)
    assert store.find("download", key("gone")) is None
    assert store.find("download", key("kept")) == kept
    for folder in folders:
        assert (root / folder / name).read_bytes() == b"not ours"


@pytest.mark.s3
def test_in_a_bucket_too(root_s3: str, tmp_path: Path) -> None:
    store = Store(root_s3, tmp_path / "cache")
    kept = publish(store, "kept")
    store.set_alias("kept", kept)
    for name in (".DS_Store", "Thumbs.db", "kept.json~"):
        store.objects.write(f"v1/aliases/{name}", b"not ours")
        store.objects.write(f"v1/runs/{name}", b"not ours")
    assert list(store.aliases()) == ["kept"]
    assert newest(store) == []
    assert collect(store).items == ()
    assert store.objects.read("v1/aliases/.DS_Store") == b"not ours"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"stage": "download"}'])
def test_an_alias_that_cannot_be_understood_is_no_foreign_file(data: bytes, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    publish(store, "a")
    store.objects.write("v1/aliases/chat/production.json", data)
    for look in (store.aliases, lambda: store.resolve("chat/production"), lambda: collect(store)):
        with pytest.raises(DamagedArtifact, match=r"v1/aliases/chat/production\.json.*alias --remove chat/production"):
            look()
    assert store.resolve(key("a")[:8]).key == key("a"), "others can be named"
    store.remove_alias("chat/production")
    assert store.aliases() == {}

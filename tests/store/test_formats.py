"""A record that a newer version wrote is refused by name; what older ones wrote is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.config.data import DataConfig
from nanochat.errors import DamagedArtifact, NewerFormat
from nanochat.sources import snapshots
from nanochat.store import runs, trash
from nanochat.store.store import Store
from tests.store.test_garbage import collect, key, publish, used

DATA = DataConfig(source="https://host/x.txt")


def rewrite(store: Store, path: str, changes: dict[str, Any]) -> None:
    store.objects.write(path, json.dumps({**json.loads(store.objects.read(path)), **changes}).encode())


def filled(folder: Path) -> Store:
    store = Store(str(folder / "store"), folder / "cache")
    publish(store, "gone")
    collect(store)
    kept = publish(store, "kept")
    store.set_alias("kept", kept)
    used(store, kept)
    snapshots.update_snapshot(store, DATA, lambda pin: pin.model_copy(update={"carrier": "x"}))
    return store


READERS: dict[str, tuple[str, Callable[[Store], Any]]] = {
    "manifest": ("v1/artifacts", lambda store: store.find("download", key("kept"))),
    "alias": ("v1/aliases", lambda store: store.aliases()),
    "run": ("v1/runs", runs.everything),
    "source": ("v1/sources", lambda store: snapshots.read_snapshot(store, DATA)),
    "trash": ("v1/trash", trash.deletions),
}


@pytest.mark.parametrize("what", READERS)
def test_a_newer_one_is_refused_by_name(what: str, tmp_path: Path) -> None:
    store = filled(tmp_path)
    folder, read = READERS[what]
    read(store)
    (path,) = (e.path for e in store.objects.list(folder) if e.path.endswith(".json") and "objects" not in e.path)
    rewrite(store, path, {"format": 2})
    with pytest.raises(NewerFormat, match="was written by a newer version") as caught:
        read(store)
    assert f"`{path}`" in str(caught.value)
    if what != "source":  # gc does not need to know what is pinned of a source
        with pytest.raises(NewerFormat):
            collect(store)
    assert store.objects.size(path) is not None


def test_one_without_a_number_is_of_the_first_format(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for folder, read in READERS.values():
        for entry in store.objects.list(folder):
            if entry.path.endswith(".json") and "objects" not in entry.path:
                record = json.loads(store.objects.read(entry.path))
                record.pop("format", None)
                store.objects.write(entry.path, json.dumps(record).encode())
        assert read(store)


@pytest.mark.parametrize("data", [b"", b"[", b"[" * 100_000, b"1" * 5000, b"\xff", b"null"])
def test_what_is_no_record_is_named(data: bytes, tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = f"v1/artifacts/download/{key('kept')}/manifest.json"
    store.objects.write(path, data)
    with pytest.raises(DamagedArtifact, match=path):
        store.find("download", key("kept"))


def test_a_manifest_in_the_wrong_place_is_named(tmp_path: Path) -> None:
    """An alias to that place would protect nothing."""
    store = filled(tmp_path)
    data = store.objects.read(f"v1/artifacts/download/{key('kept')}/manifest.json")
    store.objects.write(f"v1/artifacts/download/{key('other')}/manifest.json", data)
    store.objects.write("v1/aliases/other.json", json.dumps({"stage": "download", "key": key("other")}).encode())
    for look in (lambda: store.resolve("other"), lambda: collect(store)):
        with pytest.raises(DamagedArtifact, match=f"{key('other')}/manifest.json` is the manifest of download/"):
            look()

"""What was deleted can be taken back, wherever the deletion or the taking back is stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import DamagedArtifact, NewerFormat, NotFound, StoreError
from nanochat.store import retention, trash
from nanochat.store.artifacts import Store
from tests.store.test_retention import collect, key, later, publish, there

CHANGES = ("write", "create", "swap", "upload", "move", "delete", "abandon")


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_after(store: Store, changes: int) -> Iterator[list[int]]:
    """The store refuses all changes of the main thread after so many; the lease of who was killed is gone then."""
    left, backend = [changes], store.objects.backend

    def limited(change: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                if not left[0]:
                    raise Killed
                left[0] -= 1
            return change(*given, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(backend, name, limited(getattr(backend, name)))
        yield left
    store.objects.delete(["v1/leases/trash.json"])


def shelf(folder: Path, url: str = "") -> Store:
    """A store with five artifacts of which an alias needs three."""
    store = Store(url or str(folder / "store"), folder / "cache")
    a, b, c = (publish(store, name) for name in "abc")
    store.set_alias("kept", publish(store, "ab", a, b))
    publish(store, "bc", b, c)
    store.objects.write(f"v1/checkpoints/{key('a')}/step-00000001-x/manifest.json", b"{}")
    store.objects.write(f"v1/checkpoints/{key('a')}/step-00000001-x/shard", b"1")
    return store


ALL, NEEDED = {"a", "b", "c", "ab", "bc"}, {"a", "b", "ab"}


def contents(store: Store) -> dict[str, bytes]:
    return {entry.path: store.objects.read(entry.path) for entry in store.objects.list("v1", everything=True)}


def test_a_deletion_can_be_taken_back(root: str, tmp_path: Path) -> None:
    store = shelf(tmp_path, root)
    before = contents(store)
    done = collect(store)
    assert there(store) == NEEDED
    assert store.objects.list("v1/checkpoints") == []
    restored = trash.restore(store, done.trash_id)
    assert (restored.problems, len(restored.parts)) == ((), 3)
    assert there(store) == ALL
    assert contents(store) == before, "the trash is empty, and everything is as it was"
    planned = retention.plan(store, keep_runs=0, min_age_hours=24)
    assert [item.what for item in planned.items] == [], "what was taken back is spared for a day"


def test_what_is_in_the_trash_is_seen_by_nobody(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    collect(store)
    assert store.find("download", key("c")) is None
    with pytest.raises(NotFound):
        store.resolve(key("c"))
    assert {manifest.config["name"] for manifest in store.manifests()} == NEEDED
    assert collect(store).items == ()


def test_nothing_that_was_made_again_is_replaced(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    deleted = store.read("download", key("c"))
    done = collect(store)
    again = publish(store, "c")
    assert deleted
    assert again.payload != deleted.payload
    restored = trash.restore(store)
    assert [part.name for part in restored.parts if part.what == "artifact"] == [f"download/{key('bc')}"]
    assert len(restored.problems) == 1
    assert "made again" in restored.problems[0]
    assert there(store) == ALL
    assert store.read("download", key("c")) == again
    assert [each.record.id for each in trash.deletions(store)] == [done.trash_id], "the old one stays in the trash"


def test_after_its_time_the_trash_is_emptied_by_the_next_deletion(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shelf(tmp_path, root)
    done = collect(store, trash_hours=24)
    assert retention.plan(store).items == ()
    later(monkeypatch, 25 * 3600)
    planned = retention.plan(store)
    assert [(item.what, item.name) for item in planned.items] == [("trash", done.trash_id)], "it is said first"
    assert trash.deletions(store), "and not done by saying it"
    retention.delete(store, planned)
    assert trash.deletions(store) == []
    assert store.objects.list("v1/trash", everything=True) == []
    with pytest.raises(NotFound, match="trash of .* is empty"):
        trash.restore(store)


def test_without_hours_nothing_is_kept(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    assert collect(store, trash_hours=0).trash_id == ""
    assert there(store) == NEEDED
    assert store.objects.list("v1/trash", everything=True) == []


def test_a_name_that_is_not_in_the_trash_is_refused(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    collect(store)
    with pytest.raises(NotFound, match="no deletion `nothing`"):
        trash.restore(store, "nothing")


def test_hidden_files_of_a_payload_go_and_come_back(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    manifest = store.read("download", key("c"))
    assert manifest
    place = f"{manifest.folder}/{manifest.payload}"
    hidden = manifest.files[0].model_copy(update={"path": ".hidden~"})
    store.objects.write(f"{place}/.hidden~", store.objects.read(f"{place}/{manifest.files[0].path}"))
    record = manifest.model_copy(update={"files": [*manifest.files, hidden]})
    store.objects.write(f"{manifest.folder}/manifest.json", record.model_dump_json().encode())
    collect(store)
    assert store.objects.size(f"{place}/.hidden~") is None
    trash.restore(store)
    assert store.missing(record) == []


@pytest.mark.parametrize("way", ["completed", "taken back"])
def test_killed_anywhere_a_deletion_is_completed_or_taken_back(way: str, tmp_path: Path) -> None:
    for changes in range(100):
        store = shelf(tmp_path / str(changes))
        planned = retention.plan(store, keep_runs=0, min_age_hours=0)
        finished = True
        with killed_after(store, changes):
            try:
                retention.delete(store, planned)
            except Killed:
                finished = False
        for manifest in store.manifests():
            assert store.verify(manifest) == [], f"killed after {changes} changes"
        if way == "completed":
            collect(store)
            assert there(store) == NEEDED, f"killed after {changes} changes"
        while trash.deletions(store):
            assert trash.restore(store).problems == (), f"killed after {changes} changes"
        assert there(store) == ALL, f"killed after {changes} changes"
        assert store.verify(store.resolve("kept")) == []
        if finished:
            assert changes > 10
            return
    raise AssertionError("it never came to an end")


def test_killed_anywhere_taking_back_is_completed_or_undone(tmp_path: Path) -> None:
    for changes in range(100):
        store = shelf(tmp_path / str(changes))
        collect(store)
        finished = True
        with killed_after(store, changes):
            try:
                trash.restore(store)
            except Killed:
                finished = False
        for manifest in store.manifests():
            assert store.verify(manifest) == [], f"killed after {changes} changes"
        if changes % 2:  # the next deletion comes first
            collect(store)
            assert there(store) == NEEDED, f"killed after {changes} changes"
        while trash.deletions(store):
            assert trash.restore(store).problems == (), f"killed after {changes} changes"
        assert there(store) == ALL, f"killed after {changes} changes"
        if finished:
            assert changes > 8
            return
    raise AssertionError("it never came to an end")


@pytest.mark.s3
def test_a_move_in_a_bucket_that_was_stopped_is_repeated(root_s3: str, tmp_path: Path) -> None:
    """There a move is a copy and a deletion: stopped in between, the object is in both places."""
    store = shelf(tmp_path, root_s3)
    delete, left = store.objects.backend.delete, [3]

    def stop(path: str) -> None:
        if "/artifacts/" in path and not path.endswith("manifest.json"):
            left[0] -= 1
            if not left[0]:
                raise Killed
        delete(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.objects.backend, "delete", stop)
        with pytest.raises(Killed):
            collect(store)
    collect(store)
    assert there(store) == NEEDED
    while trash.deletions(store):
        assert trash.restore(store).problems == ()
    assert there(store) == ALL


def test_a_repair_can_be_taken_back(root: str, tmp_path: Path) -> None:
    store = shelf(tmp_path, root)
    manifest = store.read("download", key("c"))
    assert manifest
    store.objects.write(f"{manifest.folder}/{manifest.payload}/data", b"data of d")
    assert store.verify(manifest) == ["the bytes of `data` have changed"]
    record = trash.take_out(store, [manifest], "it was damaged")
    assert record
    assert store.read("download", key("c")) is None
    assert trash.restore(store).problems == ()
    assert store.read("download", key("c")) == manifest


def test_what_was_made_again_before_the_repair_is_left_alone(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    damaged = store.read("download", key("c"))
    assert damaged
    trash.take_out(store, [damaged], "it was damaged")
    again = publish(store, "c")
    assert trash.take_out(store, [damaged], "it was damaged") is None
    assert store.find("download", key("c")) == again


@pytest.mark.parametrize(("data", "kind"), [(b"{", DamagedArtifact), (b'{"format": 2}', NewerFormat)])
def test_a_record_that_cannot_be_read_stops_the_deletion(data: bytes, kind: type[Exception], tmp_path: Path) -> None:
    store = shelf(tmp_path)
    collect(store)
    store.objects.write("v1/trash/x/record.json", data)
    with pytest.raises(kind, match=r"v1/trash/x/record\.json"):
        collect(store)
    assert there(store) == NEEDED


def test_a_clock_that_is_wrong_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelf(tmp_path)
    later(monkeypatch, 400 * 24 * 3600)
    monkeypatch.setattr(retention, "CLOCKS_DIFFER_S", 3600.0)
    planned = retention.plan(store, keep_runs=0)
    assert planned.items
    with pytest.raises(StoreError, match="9600.0 hours ahead"):
        retention.delete(store, planned)
    assert there(store) == ALL

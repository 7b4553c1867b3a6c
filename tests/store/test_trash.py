"""What was deleted can be taken back, wherever the deletion or the taking back is stopped."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanochat.cli.maintenance import gc
from nanochat.errors import BadConfig, DamagedArtifact, NewerFormat, NoSpace, NotFound, StoreError
from nanochat.store import deletion, s3, trash
from nanochat.store.deletion import delete_garbage
from nanochat.store.garbage import find_garbage
from nanochat.store.store import Store
from nanochat.store.trash import restore_deletion
from nanochat.store.verification import discard
from tests.store.test_garbage import collect, key, later, publish, there

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
    restored = restore_deletion(store, done.trash_id)
    assert (restored.problems, len(restored.parts)) == ((), 3)
    assert there(store) == ALL
    assert contents(store) == before, "the trash is empty, and everything is as it was"
    planned = find_garbage(store, keep_runs=0, min_age_hours=24)
    assert [item.what for item in planned.items] == [], "what was taken back is spared for a day"


def test_trash_is_invisible(tmp_path: Path) -> None:
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
    restored = restore_deletion(store)
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
    assert find_garbage(store).items == ()
    later(monkeypatch, 25 * 3600)
    planned = find_garbage(store)
    assert [(item.what, item.name) for item in planned.items] == [("trash", done.trash_id)], "it is listed first"
    assert trash.deletions(store), "and listing it does not do it"
    delete_garbage(store, planned)
    assert trash.deletions(store) == []
    assert store.objects.list("v1/trash", everything=True) == []
    with pytest.raises(NotFound, match=r"trash of .* is empty"):
        restore_deletion(store)


def test_without_hours_nothing_is_kept(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    assert collect(store, trash_hours=0).trash_id == ""
    assert there(store) == NEEDED
    assert store.objects.list("v1/trash", everything=True) == []


def test_a_name_that_is_not_in_the_trash_is_refused(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    collect(store)
    with pytest.raises(NotFound, match="no deletion `nothing`"):
        restore_deletion(store, "nothing")


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
    restore_deletion(store)
    assert store.payloads.missing(record) == []


@pytest.mark.parametrize("way", ["completed", "taken back"])
def test_killed_anywhere_a_deletion_is_completed_or_taken_back(way: str, tmp_path: Path) -> None:
    for changes in range(100):
        store = shelf(tmp_path / str(changes))
        planned = find_garbage(store, keep_runs=0, min_age_hours=0)
        finished = True
        with killed_after(store, changes):
            try:
                delete_garbage(store, planned)
            except Killed:
                finished = False
        for manifest in store.manifests():
            assert store.payloads.verify(manifest) == [], f"killed after {changes} changes"
        if way == "completed":
            collect(store)
            assert there(store) == NEEDED, f"killed after {changes} changes"
        while trash.deletions(store):
            assert restore_deletion(store).problems == (), f"killed after {changes} changes"
        assert there(store) == ALL, f"killed after {changes} changes"
        assert store.payloads.verify(store.resolve("kept")) == []
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
                restore_deletion(store)
            except Killed:
                finished = False
        for manifest in store.manifests():
            assert store.payloads.verify(manifest) == [], f"killed after {changes} changes"
        if changes % 2:  # the next deletion comes first
            collect(store)
            assert there(store) == NEEDED, f"killed after {changes} changes"
        while trash.deletions(store):
            assert restore_deletion(store).problems == (), f"killed after {changes} changes"
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
        assert restore_deletion(store).problems == ()
    assert there(store) == ALL


@pytest.mark.parametrize("data", [b"data of d", b"short", None])
def test_a_repair_can_be_taken_back(data: bytes | None, root: str, tmp_path: Path) -> None:
    """As it was: a damaged model may be better than none."""
    store = shelf(tmp_path, root)
    manifest = store.read("download", key("c"))
    assert manifest
    damaged = f"{manifest.folder}/{manifest.payload}/data"
    store.objects.delete([damaged])
    if data is not None:
        store.objects.write(damaged, data)
    assert store.payloads.verify(manifest)
    record = discard(store, [manifest], "it was damaged")
    assert record
    assert store.read("download", key("c")) is None
    assert restore_deletion(store).problems == ()
    assert store.read("download", key("c")) == manifest
    assert (store.objects.read(damaged) if data is not None else store.objects.size(damaged)) == data


def test_what_was_made_again_before_the_repair_is_left_alone(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    damaged = store.read("download", key("c"))
    assert damaged
    discard(store, [damaged], "it was damaged")
    again = publish(store, "c")
    assert discard(store, [damaged], "it was damaged") is None
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
    monkeypatch.setattr(deletion, "CLOCKS_DIFFER_S", 3600.0)
    planned = find_garbage(store, keep_runs=0)
    assert planned.items
    with pytest.raises(StoreError, match=r"9600\.0 hours ahead"):
        delete_garbage(store, planned)
    assert there(store) == ALL


def test_a_full_disk_can_be_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelf(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    with pytest.raises(NoSpace, match="--trash-hours 0"):
        collect(store)
    assert there(store) == ALL
    collect(store, trash_hours=0)
    assert there(store) == NEEDED


def test_the_commands_say_what_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    store, url = shelf(tmp_path), str(tmp_path / "store")
    gc(keep_runs=0, min_age_hours=0, delete=True, store=url)
    (record,) = [each.record for each in trash.deletions(store)]
    assert f"`nanochat gc --restore {record.id}` restores this" in capsys.readouterr().out
    gc(store=url)
    assert f"In the trash: {record.id}" in capsys.readouterr().out
    gc(record.id, restore=True, store=url)
    assert f"restored artifact download/{key('c')}" in capsys.readouterr().out
    assert there(store) == ALL
    wrong: dict[str, Any]
    for wrong in ({"trash_id": "x"}, {"restore": True, "delete": True}, {"trash_hours": -1.0}, {"keep_runs": -1},
                  {"min_age_hours": float("nan")}, {"trash_hours": float("inf")}):  # fmt: skip
        with pytest.raises(BadConfig):
            gc(**wrong, store=url)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_hours_that_are_none_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_TRASH_HOURS", text)
    with pytest.raises(BadConfig, match=f"NANOCHAT_TRASH_HOURS` is `{text}`"):
        find_garbage(shelf(tmp_path))


def test_a_stopped_deletion_whose_time_is_over_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelf(tmp_path)
    planned = find_garbage(store, keep_runs=0, min_age_hours=0)
    with killed_after(store, 9), pytest.raises(Killed):
        delete_garbage(store, planned)
    assert [each.record.state for each in trash.deletions(store)] == ["deleting"]
    later(monkeypatch, 25 * 3600)
    collect(store)
    assert there(store) == NEEDED
    later(monkeypatch, 50 * 3600)
    collect(store)
    assert store.objects.list("v1/trash", everything=True) == []


@pytest.mark.s3
def test_a_large_object_is_moved_in_parts(root_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, data = Store(root_s3, tmp_path / "cache"), os.urandom(11 << 20)
    store.objects.write("v1/large object", data)
    monkeypatch.setattr(s3, "COPY_BYTES", 5 << 20)
    assert store.objects.move("v1/large object", "v1/trash/x/large object")
    assert store.objects.read("v1/trash/x/large object") == data
    assert store.objects.size("v1/large object") is None
    assert not store.objects.move("v1/large object", "v1/trash/x/large object")


def test_what_is_whole_again_is_not_taken_out(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    manifest = store.resolve("kept")
    assert discard(store, [manifest], "it was damaged", store.payloads.verify) is None
    assert there(store) == ALL

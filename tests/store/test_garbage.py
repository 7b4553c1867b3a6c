"""What a root reaches stays whole, all else goes; beside runs, and however often the deletion is killed."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.errors import DamagedArtifact, NotFound
from nanochat.events import Event
from nanochat.store import deletion, reachability, run_recording, runs, trash
from nanochat.store.deletion import Deleted, delete_garbage
from nanochat.store.garbage import GarbageItem, find_garbage
from nanochat.store.lease import lease
from nanochat.store.manifest import Manifest
from nanochat.store.producer import describe_producer
from nanochat.store.run_recording import RunRecorder, record_run
from nanochat.store.s3 import Bucket
from nanochat.store.store import Store

DAY_S = 24 * 3600


@pytest.fixture
def store(root: str, tmp_path: Path) -> Store:
    return Store(root, tmp_path / "cache")


def key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def publish(store: Store, name: str, *inputs: Manifest) -> Manifest:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "deep").mkdir()
        (Path(folder) / "data").write_text("data of " + name)
        (Path(folder) / "deep/notes").write_text("notes of " + name)
        given = {f"input {i}": store.artifact(manifest, reused=True) for i, manifest in enumerate(inputs)}
        return store.publish(
            Path(folder), stage="download", stage_version=1, kind="RawShard", key=key(name), config={"name": name},
            inputs=given, metrics={}, producer=describe_producer(datetime.now(UTC)),
        )  # fmt: skip


def finished(manifest: Manifest) -> Event:
    """The last event of a node that reused an artifact."""
    return Event(label=manifest.key, stage=manifest.stage, kind="finished", key=manifest.key, cached=True)


def used(store: Store, *manifests: Manifest) -> str:
    """Id of a run that ended and used them."""
    with record_run(store, "demo", {}) as record:
        for manifest in manifests:
            record(finished(manifest))
    return record.record.id


def collect(store: Store, keep_runs: int = 0, trash_hours: float = 24) -> Deleted:
    planned = find_garbage(store, keep_runs=keep_runs, min_age_hours=0, trash_hours=trash_hours)
    return delete_garbage(store, planned)


def names(items: Sequence[GarbageItem]) -> set[tuple[str, str]]:
    return {(item.what, item.name) for item in items}


def there(store: Store) -> set[str]:
    """Configured names of what is there; each opens and verifies, and no file of another is left."""
    manifests = list(store.manifests())
    files = {f"{m.folder}/{m.payload}/{file.path}" for m in manifests for file in m.files}
    listed = {entry.path for entry in store.objects.list("v1/artifacts")}
    assert listed == files | {f"{m.folder}/manifest.json" for m in manifests}
    for manifest in manifests:
        assert store.payloads.verify(manifest) == []
        found = store.find(manifest.stage, manifest.key)
        assert found is not None
        assert (store.artifact(found, reused=True).path / "data").read_text() == "data of " + found.config["name"]
    return {manifest.config["name"] for manifest in manifests}


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """What is there now is so much older."""
    monkeypatch.setattr(reachability, "now_s", lambda: time.time() + seconds)
    monkeypatch.setattr(deletion, "CLOCKS_DIFFER_S", float("inf"))


def test_roots_and_what_they_were_made_from_stay(store: Store) -> None:
    a, b, c, d = (publish(store, name) for name in "abcd")
    ab, abc = publish(store, "ab", a, b), None
    abc = publish(store, "abc", ab, c)
    publish(store, "cd", c, d)
    store.set_alias("chat/latest", abc)
    planned = find_garbage(store, keep_runs=0, min_age_hours=0)
    assert names(planned.items) == {("artifact", f"download/{key(name)}") for name in ("d", "cd")}
    assert (planned.kept, planned.bytes) == (5, sum(file.size for n in ("d", "cd") for file in _files(store, n)))
    assert len(there(store)) == 7, "a plan deletes nothing"
    done = delete_garbage(store, planned)
    assert (names(done.items), done.spared, done.bytes) == (names(planned.items), (), planned.bytes)
    assert there(store) == {"a", "b", "c", "ab", "abc"}
    store.remove_alias("chat/latest")
    with pytest.raises(NotFound, match="chat/latest"):
        store.remove_alias("chat/latest")
    collect(store)
    assert there(store) == set()
    if path := store.objects.local_path("v1/artifacts"):
        assert not path.exists(), "empty folders stayed"


def _files(store: Store, name: str) -> Any:
    manifest = store.read("download", key(name))
    assert manifest is not None
    return manifest.files


def test_what_the_newest_and_the_pinned_runs_used_stays(store: Store) -> None:
    old, middle, new, _ = (publish(store, name) for name in ("old", "middle", "new", "unused"))
    assert there(store) == {"old", "middle", "new", "unused"}
    pinned = used(store, old)
    for manifest in (middle, new):
        time.sleep(1.1)  # ids are in order of their seconds
        used(store, manifest)
    runs.pin(store, pinned)
    collect(store, keep_runs=2)
    assert there(store) == {"old", "middle", "new"}
    runs.unpin(store, pinned)
    collect(store, keep_runs=1)
    assert there(store) == {"new"}


def test_what_is_young_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, "a")
    assert find_garbage(store).items == ()
    later(monkeypatch, 25 * 3600)
    assert len(find_garbage(store).items) == 1
    assert find_garbage(store, min_age_hours=26).items == ()


def test_a_live_lease_protects_its_key_and_a_dead_one_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, "a")
    store.objects.write(f"v1/artifacts/download/{key('b')}/attempt/data", b"half")
    store.objects.write(f"v1/checkpoints/{key('a')}/step-1/manifest.json", b"{}")
    with lease(store.objects, key("a")), lease(store.objects, key("b")):
        assert find_garbage(store, keep_runs=0, min_age_hours=0).items == ()
    store.objects.write("v1/leases/dead.json", b"{}")
    later(monkeypatch, 3 * 3600)
    assert names(collect(store, trash_hours=0).items) == {
        ("artifact", f"download/{key('a')}"), ("payload", f"v1/artifacts/download/{key('b')}/attempt"),
        ("checkpoints", f"v1/checkpoints/{key('a')}"), ("lease", "v1/leases/dead.json"),
    }  # fmt: skip
    assert store.objects.list("v1") == []


def test_leftovers_go_when_they_are_old(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = publish(store, "kept")
    store.set_alias("kept", kept)
    loser = f"{kept.folder}/loser"
    store.objects.write(f"{loser}/data", b"12345")
    for each in ("kept", "never published"):
        store.objects.write(f"v1/checkpoints/{key(each)}/step-1/model", b"123")
    store.objects.write("v1/probe/x", b"1")
    if path := store.objects.local_path("v1/leases"):
        path.mkdir()
        (path / ".x.json.1234.part").write_bytes(b"12")
    else:
        assert isinstance(store.objects.backend, Bucket)
        store.objects.backend._call("create_multipart_upload", "v1/artifacts/big")
        assert [each.path for each in store.objects.unfinished("v1")] == ["v1/artifacts/big"]
    assert find_garbage(store).items == ()
    later(monkeypatch, 25 * 3600)
    planned = find_garbage(store)
    assert [(item.what, item.name) for item in planned.items][:3] == [
        ("payload", loser), ("checkpoints", f"v1/checkpoints/{key('kept')}"), ("unfinished", "v1/probe/x"),
    ]  # fmt: skip
    assert len(planned.items) == 4
    delete_garbage(store, planned)
    assert {item.what for item in find_garbage(store).items} == {"trash"}, "by this clock, it is a day old"
    assert store.objects.unfinished("v1") == []
    assert there(store) == {"kept"}
    assert [e.path for e in store.objects.list("v1/checkpoints")] == [
        f"v1/checkpoints/{key('never published')}/step-1/model"
    ]


def test_what_came_into_use_after_the_plan_stays(store: Store) -> None:
    a, b, c = (publish(store, name) for name in "abc")
    ab = publish(store, "ab", a, b)
    planned = find_garbage(store, keep_runs=0, min_age_hours=0)
    store.set_alias("late", ab)
    publish(store, "unplanned")
    done = delete_garbage(store, planned)
    assert names(done.items) == {("artifact", f"download/{c.key}")}
    assert len(done.spared) == 3
    assert there(store) == {"a", "b", "ab", "unplanned"}


def test_what_a_run_finds_while_it_is_deleted_is_put_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run finds it just before the manifest is deleted, and records that with its heartbeat."""
    monkeypatch.setattr(run_recording, "HEARTBEAT_S", 0.2)
    a = publish(store, "a")
    publish(store, "ab", a)
    publish(store, "c")
    mine = Store(store.objects.root, Path(tempfile.mkdtemp()) / "cache")
    delete, found = store.objects.delete, []

    def find_first(paths: Any) -> None:
        paths = list(paths)
        if key("ab") in paths[0] and not found:
            found.append(mine.find("download", key("ab")))
        delete(paths)

    monkeypatch.setattr(store.objects, "delete", find_first)
    waited: list[str] = []
    with record_run(mine, "demo", {}) as record:
        planned = find_garbage(store, keep_runs=0, min_age_hours=0)
        done = delete_garbage(store, planned, on_wait=waited.append)
        assert found[0] is not None
        assert (mine.payloads.fetch(found[0]) / "data").read_text() == "data of ab"
    assert waited == [record.record.id]
    assert names(done.items) == {("artifact", f"download/{key('c')}")}
    assert there(store) == {"a", "ab"}


def test_what_is_made_again_while_it_is_deleted_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its payload was lost; a stage replaces the manifest after the deletion has read it."""
    lost = publish(store, "a")
    store.objects.delete([f"{lost.folder}/{lost.payload}/data"])
    keep, again = trash.keep_manifest, []

    def replace_first(*given: Any) -> None:
        again.append(publish(store, "a"))
        keep(*given)

    monkeypatch.setattr(trash, "keep_manifest", replace_first)
    assert [item.what for item in collect(store).spared] == ["artifact"]
    assert store.find("download", key("a")) == again[0]
    assert store.payloads.verify(again[0]) == []


def test_the_probe_of_a_store_that_is_being_opened_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    check = store.objects.backend.check_swap

    def meanwhile(path: str) -> bool:
        collect(Store(str(tmp_path / "store"), tmp_path / "cache"))
        return check(path)

    monkeypatch.setattr(store.objects.backend, "check_swap", meanwhile)
    store.objects.probe()


def test_a_payload_whose_manifest_no_listing_shows_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, "a")
    listing = store.objects.backend.list

    def short(*given: Any, **more: Any) -> list[Any]:
        return [entry for entry in listing(*given, **more) if not entry.path.endswith("/manifest.json")]

    with monkeypatch.context() as patch:
        patch.setattr(store.objects.backend, "list", short)
        assert collect(store).items == ()
    assert there(store) == {"a"}


def test_a_run_that_is_silent_is_not_awaited_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "NO_HEARTBEAT_S", 0.5)
    a, _ = publish(store, "a"), publish(store, "b")
    dead = RunRecorder(Store(store.objects.root, Path(tempfile.mkdtemp())), "demo", {}, "")
    dead(finished(a))
    dead.write()
    collect(store)
    assert there(store) == {"a"}, "what it wrote last counts for an hour"
    later(monkeypatch, 3 * 3600)
    collect(store)
    assert there(store) == set()


def test_runs_go_on_while_others_delete(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that find or make, use, and let go, beside a deletion without an end: no run reads half an artifact."""
    monkeypatch.setattr(run_recording, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(deletion, "POLL_S", 0.02)
    made, reused, problems = [], [], []
    stop = threading.Event()

    def work(number: int) -> None:
        try:
            for turn in range(6):
                store = Store(root, tmp_path / f"cache {number} {turn}")
                with record_run(store, "demo", {}):
                    below: list[Manifest] = []
                    for name in ("x", "xy", "xyz"):
                        found = store.find("download", key(name))
                        (reused if found else made).append(name)
                        if found is None:  # as a stage does it
                            with lease(store.objects, key(name)):
                                found = store.find("download", key(name)) or publish(store, name, *below)
                        below = [found]
                        time.sleep(0.02)
                        assert (store.payloads.fetch(below[0]) / "data").read_text() == "data of " + name
                    for manifest in store.manifests():
                        assert manifest.key in {key(name) for name in ("x", "xy", "xyz")}
                    assert store.payloads.verify(below[0]) == []
        except BaseException as error:  # reported in the main thread
            problems.append(error)

    def sweep() -> None:
        try:
            while not stop.is_set():
                collect(Store(root, tmp_path / "cache of the sweeper"))
        except BaseException as error:
            problems.append(error)

    sweeper = threading.Thread(target=sweep)
    workers = [threading.Thread(target=work, args=[i]) for i in range(2)]
    for thread in (sweeper, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    sweeper.join()
    assert problems == []
    assert made
    collect(Store(root, tmp_path / "cache"))
    assert there(Store(root, tmp_path / "cache")) == set()


def test_stopped_before_payloads_go_it_puts_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    publish(store, "ab", publish(store, "a"))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deletion, "_wait_for_runs", stop)
    with pytest.raises(KeyboardInterrupt):
        collect(store)
    assert there(store) == {"a", "ab"}


def test_what_cannot_be_read_is_not_guessed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    kept = publish(store, "a")
    store.set_alias("kept", kept)
    record = json.loads(store.objects.read(f"{kept.folder}/manifest.json"))
    store.objects.write(f"{kept.folder}/manifest.json", json.dumps({**record, "inputs": 1}).encode())
    with pytest.raises(DamagedArtifact):
        find_garbage(store, keep_runs=0, min_age_hours=0)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_after_it_all_that_roots_reach_is_whole_and_nothing_else_is_left(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"{folder}/store", Path(folder) / "cache")
        _check_random(store, data)


@pytest.mark.s3
def test_the_same_on_s3(root_s3: str, tmp_path: Path) -> None:
    @settings(max_examples=5, deadline=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        _check_random(Store(f"{root_s3}/{uuid.uuid4().hex}", tmp_path / "cache"), data)

    check()


def _check_random(store: Store, data: st.DataObject) -> None:
    made: list[Manifest] = []
    parents: dict[str, set[str]] = {}
    for position in range(data.draw(st.integers(1, 8), "artifacts")):
        inputs = data.draw(st.lists(st.sampled_from(made), max_size=3, unique_by=id) if made else st.just([]), "inputs")
        made.append(publish(store, str(position), *inputs))
        parents[str(position)] = {manifest.config["name"] for manifest in inputs}
    some = st.lists(st.sampled_from(made), max_size=2, unique_by=id)
    aliased, pinned, unpinned = data.draw(some, "aliased"), data.draw(some, "pinned"), data.draw(some, "of a run")
    for manifest in aliased:
        store.set_alias(f"alias/{manifest.config['name']}", manifest)
    runs.pin(store, used(store, *pinned))
    used(store, *unpinned)
    for manifest in data.draw(some, "other attempts"):
        store.objects.write(f"{manifest.folder}/other/data", b"x")
    reached = {manifest.config["name"] for manifest in (*aliased, *pinned)}
    while above := {parent for name in reached for parent in parents[name]} - reached:
        reached |= above
    collect(store)
    assert there(store) == reached
    assert collect(store).items == ()

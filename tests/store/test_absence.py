"""A listing or read that fails is an error, never "nothing there"; nothing is deleted or made anew because of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import DamagedArtifact, NanochatError, StoreError, StoreUnreachable, SystemFailed, SystemRefused
from nanochat.store import runs, trash
from nanochat.store.deletion import delete_garbage
from nanochat.store.garbage import find_garbage
from nanochat.store.lease import lease
from nanochat.store.objects import Objects
from nanochat.store.store import Store
from tests.faults import Fault, faulty
from tests.store.test_garbage import collect, key, publish, there, used
from tests.store.test_trash import ALL, NEEDED, shelf

FOLDERS = ["v1", "aliases", "chat", "runs", "pins", "trash", "artifacts", "download", "leases"]
RECORDS = ["v1/aliases/kept.json", "v1/runs/{run}.json", "v1/artifacts/download/{ab}/manifest.json"]
SECRETS = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"]
NUMBERS = [errno.EACCES, errno.ESTALE, errno.EMFILE, errno.EIO, errno.ENOTDIR, errno.ELOOP]


@contextmanager
def scandir_fails(below: str, number: int) -> Iterator[list[str]]:
    """Folders with this name cannot be listed."""
    scandir, refused = os.scandir, []

    def refuse(path: Any = ".") -> Any:
        if Path(path).name == below:
            refused.append(str(path))
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        yield refused


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "folder", ["v1", "aliases", "chat", "runs", "pins", "trash", "artifacts", "download", "leases"]
)
def test_gc_refuses_when_a_folder_cannot_be_listed(folder: str, number: int, tmp_path: Path) -> None:
    store = shelf(tmp_path)
    store.set_alias("chat/latest", store.resolve("kept"))
    runs.pin(store, used(store, store.resolve(key("bc")[:8])))
    (tmp_path / "store/v1/trash").mkdir()
    (tmp_path / "store/v1/leases").mkdir()
    planned = find_garbage(store, keep_runs=0, min_age_hours=0)
    with scandir_fails(folder, number) as refused:
        for work in (lambda: find_garbage(store), lambda: delete_garbage(store, planned)):
            with pytest.raises(StoreError) as caught:
                work()
            assert "cannot be read" in str(caught.value)
    assert refused
    assert there(store) == ALL
    assert list(store.aliases()) == ["chat/latest", "kept"]


@pytest.mark.parametrize("what", RECORDS)
def test_gc_refuses_when_one_record_cannot_be_read(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelf(tmp_path)
    run_id = used(store, store.resolve("kept"))
    path, read = what.format(run=run_id, ab=key("ab")), store.objects.backend.read

    def refuse(wanted: str) -> bytes:
        if wanted == path:
            raise StoreError("Permission denied.")
        return read(wanted)

    planned = find_garbage(store, keep_runs=0, min_age_hours=0)
    with monkeypatch.context() as patch:
        patch.setattr(store.objects.backend, "read", refuse)
        with pytest.raises(StoreError, match="Permission denied"):
            find_garbage(store, keep_runs=0, min_age_hours=0)
        with pytest.raises(StoreError, match="Permission denied"):
            delete_garbage(store, planned)
    assert there(store) == ALL


@pytest.mark.parametrize("what", ["manifest.json", "kept.json", ".json"])
def test_gc_deletes_nothing_needed_when_one_listing_leaves_something_out(what: str, tmp_path: Path) -> None:
    """Whichever of its listings it is."""
    turn = 0
    while True:
        store = shelf(tmp_path / str(turn))
        used(store, store.resolve("kept"))
        calls, listing = [0], store.objects.backend.list

        def short(*given: Any, calls: list[int] = calls, listing: Any = listing, turn: int = turn, **more: Any) -> Any:
            calls[0] += 1
            found = list(listing(*given, **more))
            return [each for each in found if not each.path.endswith(what)] if calls[0] == turn + 1 else found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store.objects.backend, "list", short)
            try:
                collect(store)
            except NanochatError:
                store.objects.delete(["v1/leases/trash.json"])
        assert {manifest.config["name"] for manifest in store.manifests()} >= NEEDED
        for manifest in store.manifests():
            assert store.payloads.verify(manifest) == []
        turn += 1
        if turn > calls[0]:
            assert turn > 8
            return


def test_a_payload_that_one_listing_leaves_out_is_no_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    manifest = publish(store, "a")
    with monkeypatch.context() as patch:
        patch.setattr(store.objects.backend, "list", lambda *_, **__: [])
        with pytest.raises(StoreUnreachable, match="omits"):
            store.find("download", key("a"))
        with pytest.raises(StoreUnreachable, match="omits"):
            publish(store, "a")
    assert store.find("download", key("a")) == manifest


def test_a_link_to_nothing_is_not_nothing(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    root = tmp_path / "store/v1"
    shutil.move(root / "aliases", tmp_path / "other disk")
    (root / "aliases").symlink_to(tmp_path / "other disk")
    assert list(store.aliases()) == ["kept"], "a link to a folder is followed"
    (tmp_path / "other disk").rename(tmp_path / "not mounted")
    for look in (store.aliases, lambda: store.alias("kept"), lambda: collect(store)):
        with pytest.raises(StoreError, match="a dangling link"):
            look()
    (tmp_path / "not mounted").rename(tmp_path / "other disk")
    assert there(store) == ALL


def test_a_dead_link_among_records_is_named(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    (tmp_path / "store/v1/aliases/production.json").symlink_to(tmp_path / "gone")
    for look in (store.aliases, lambda: store.alias("production"), lambda: collect(store)):
        with pytest.raises(StoreError, match=r"a dangling link .*production\.json"):
            look()


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    (tmp_path / "store/v1/aliases/loop").symlink_to(tmp_path / "store/v1/aliases")
    with pytest.raises(StoreError, match="cannot be read"):
        store.aliases()


def test_a_linked_folder_of_a_stage_is_seen(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    shutil.move(tmp_path / "store/v1/artifacts/download", tmp_path / "large disk")
    (tmp_path / "store/v1/artifacts/download").symlink_to(tmp_path / "large disk")
    assert there(store) == ALL
    assert collect(store).items
    assert there(store) == NEEDED


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    (tmp_path / "v1").write_text("")
    for look in (lambda: objects.list("v1"), lambda: objects.list("v1/aliases"), lambda: objects.size("v1/a/b")):
        with pytest.raises(StoreError, match="Not a directory"):
            look()


def test_what_goes_away_while_we_look_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(str(tmp_path))
    for name in ("a/1", "a/2", "b/1"):
        objects.write(f"v1/{name}", b"")
    scandir = os.scandir

    def late(path: Any) -> Any:
        found = scandir(path)
        if str(path) == str(tmp_path / "v1"):
            shutil.rmtree(tmp_path / "v1/a")
        return found

    monkeypatch.setattr(os, "scandir", late)
    assert [entry.path for entry in objects.list("v1")] == ["v1/b/1"]


def test_a_pin_without_a_record_stops_gc_and_can_be_given_up(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    run_id = used(store, store.resolve(key("bc")[:8]))
    runs.pin(store, run_id)
    store.objects.delete([f"v1/runs/{run_id}.json"])
    with pytest.raises(DamagedArtifact, match=f"runs --unpin {run_id}"):
        collect(store)
    runs.unpin(store, run_id)
    assert collect(store).items


def test_a_copy_that_cannot_be_written_is_not_taken_for_absence(tmp_path: Path) -> None:
    store = shelf(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemRefused, match="where another file or folder is needed"):
        store.objects.download("v1/aliases/kept.json", tmp_path / "file/copy")


def test_a_payload_is_published_in_full_or_not_at_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    out = tmp_path / "out"
    out.mkdir()
    (out / "data").write_text("1")
    (out / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SystemRefused, match=r"lost` is a dangling link"):
        store.publish(
            out, stage="download", stage_version=1, kind="RawShard", key=key("x"), config={}, inputs={}, metrics={},
            producer=publish(store, "a").producer,
        )  # fmt: skip
    assert store.find("download", key("x")) is None


def test_a_file_that_cannot_be_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelf(tmp_path)
    manifest = store.resolve("kept")
    opened = Path.open

    def bad_sector(self: Path, *given: Any, **more: Any) -> Any:
        if self.name == "data" and manifest.payload in self.parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return opened(self, *given, **more)

    monkeypatch.setattr(Path, "open", bad_sector)
    with pytest.raises(SystemFailed, match="the disk failed at"):
        store.payloads.verify(manifest)


# --- S3 ---------------------------------------------------------------------------------------------------------------


def look_at(store: Store) -> list[Callable[[], Any]]:
    """Calls in which absence would be believed."""
    return [
        store.aliases,
        lambda: store.alias("kept"),
        lambda: store.find("download", key("a")),
        lambda: list(store.manifests()),
        lambda: runs.survey(store),
        lambda: runs.pins(store),
        lambda: trash.deletions(store),
        lambda: find_garbage(store, keep_runs=0, min_age_hours=0),
        lambda: store.objects.unfinished("v1"),
        lambda: store.objects.size("v1/aliases/kept.json"),
        lambda: store.objects.download("v1/aliases/kept.json", store.payloads.cache_root / "copy"),
    ]


@pytest.mark.s3
@pytest.mark.parametrize("fault", ["page", "bare", "welcome", "forbidden", "unknown"])
def test_what_a_server_or_a_proxy_answers_instead_is_an_error(
    fault: Fault, root_s3: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(tmp_path, root_s3)
    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: fault, lambda method, _: method in ("GET", "HEAD")) as (
        url,
        done,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = Store(root_s3, tmp_path / "cache", read_only=True)
        for number, look in enumerate(look_at(store)):
            try:
                found = look()
            except NanochatError as error:
                assert "\n" not in str(error)
            else:  # a welcome page instead of bytes is no absence; what it is, others find
                assert fault == "welcome", number
                assert found not in ({}, [], set()), number
    assert done
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server["AWS_ENDPOINT_URL"])
    assert there(Store(root_s3, tmp_path / "cache")) == ALL


@pytest.mark.s3
def test_a_listing_that_is_cut_short_is_an_error(root_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelf(tmp_path, root_s3)
    backend: Any = store.objects.backend
    call = backend._s3.call_s3

    def cut(method: str, **given: Any) -> Any:
        answer = dict(call(method, **given))
        answer |= (
            {"IsTruncated": True, "Contents": answer.get("Contents", [])[:1]} if method == "list_objects_v2" else {}
        )
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(backend._s3, "call_s3", cut)
        for look in (store.aliases, lambda: store.find("download", key("a")), lambda: collect(store)):
            with pytest.raises(StoreUnreachable, match="truncated"):
                look()
    with monkeypatch.context() as patch:
        patch.setattr(backend._s3, "call_s3", lambda method, **given: {"ResponseMetadata": {}})
        with pytest.raises(StoreUnreachable, match="the response is not a listing"):
            store.aliases()
    assert there(store) == ALL


@pytest.mark.s3
def test_a_listing_of_many_pages_is_read_to_its_end(
    root_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shelf(tmp_path, root_s3)
    backend: Any = store.objects.backend
    call, whole, calls = backend._s3.call_s3, store.objects.list("v1"), []

    def by_two(method: str, **given: Any) -> Any:
        calls.append(method)
        return call(method, **{**given, "MaxKeys": 2})

    monkeypatch.setattr(backend._s3, "call_s3", by_two)
    assert store.objects.list("v1") == whole
    assert len(calls) > len(whole) // 2


@pytest.mark.s3
def test_a_missing_bucket_is_not_an_empty_store(
    s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    store = Store("s3://never-made/x", tmp_path / "cache", read_only=True)
    for look in look_at(store):
        with pytest.raises(StoreError, match=r"no bucket `never-made`|answered 404"):
            look()


@pytest.mark.s3
def test_damage_that_the_way_did_is_no_damage(
    root_s3: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shelf(tmp_path, root_s3)
    manifest = store.resolve("kept")

    def payload(method: str, path: str) -> bool:
        return method == "GET" and manifest.payload in path

    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: "torn", payload) as (url, done):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StoreUnreachable, match=r"does not send all|sent damaged bytes"):
            Store(root_s3, tmp_path / "cache", read_only=True).payloads.verify(manifest)
    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda n: "" if n else "torn", payload) as (url, done):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StoreUnreachable, match=r"does not send all|sent damaged bytes"):
            Store(root_s3, tmp_path / "cache", read_only=True).payloads.verify(manifest)
    assert done
    assert store.payloads.verify(manifest) == []


@pytest.mark.s3
@pytest.mark.parametrize("conditions", ["none-match", "match"])
def test_a_server_that_does_not_know_conditional_writes_is_refused_at_once(
    conditions: str, root_s3: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = [0]

    def of(method: str, path: str) -> bool:
        if method == "PUT" and "/probe/" in path:
            puts[0] += 1
            return puts[0] == {"none-match": 1, "match": 4}[conditions]  # 2: refused; 3: unconditional
        return False

    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: "unknown", of) as (url, done):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StoreError, match="conditional writes") as caught:
            Store(root_s3, tmp_path / "cache")
    assert not isinstance(caught.value, StoreUnreachable), "it would be tried again, in vain"
    assert done == ["unknown"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", ["hunter2\n", " hunter2", "hun\rter2"])
def test_a_key_with_a_line_break_is_named_and_not_shown(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(NanochatError, match=f"`{name}`") as caught:
        Store("s3://bucket/x", tmp_path / "cache", read_only=True)
    assert "hunter2" not in str(caught.value)


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_that_cannot_be_read_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(str(tmp_path))
    with lease(objects, "key") as held:
        before = objects.read("v1/leases/key.json")

        def refuse(path: str) -> bytes:
            raise StoreUnreachable("Stale file handle.")

        other = Objects(str(tmp_path))
        monkeypatch.setattr(other.backend, "read", refuse)
        with pytest.raises(StoreUnreachable), lease(other, "key", ttl_s=0.1):
            raise AssertionError("it was taken over")
        assert held.holds()
        assert objects.read("v1/leases/key.json") != before, "its holder goes on"


@pytest.mark.s3
def test_a_404_that_does_not_name_what_is_missing_is_confirmed_by_a_listing(
    root_s3: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(tmp_path, root_s3)

    def of(method: str, path: str) -> bool:
        return method in ("GET", "HEAD") and "list-type" not in path

    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: "bare", of) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        objects = Objects(root_s3, read_only=True)
        for look in (objects.read, objects.size, lambda path: objects.download(path, tmp_path / "copy")):
            with pytest.raises(StoreUnreachable, match="reports it as missing"):
                look("v1/aliases/kept.json")
        assert objects.size("v1/aliases/kept") is None
        with pytest.raises(FileNotFoundError):
            objects.read("v1/aliases/kept")


@pytest.mark.s3
def test_a_server_that_lists_no_uploads_is_reported_and_one_that_is_away_is_an_error(
    root_s3: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(tmp_path, root_s3)
    faults: dict[Fault, bool] = {"forbidden": True, "unknown": True, "broken": False, "page": False, "welcome": False}
    for fault, passes in faults.items():
        of = lambda method, path: "?uploads" in path  # noqa: E731
        with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _, fault=fault: fault, of) as (url, done):
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            store = Store(root_s3, tmp_path / "cache", read_only=True)
            if passes:
                (note,) = find_garbage(store, keep_runs=0, min_age_hours=0).notes
                assert "Uploads that were never finished are left alone" in note
            else:
                with pytest.raises(StoreUnreachable):
                    find_garbage(store, keep_runs=0, min_age_hours=0)
        assert done

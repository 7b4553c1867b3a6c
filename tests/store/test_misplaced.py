"""Records that people copied, renamed or damaged: nothing whole is lost, the rest is seen, and the hint works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.cli.main import command
from nanochat.errors import DamagedArtifact, NanochatError, NotFound
from nanochat.store import runs, trash
from nanochat.store.garbage import find_garbage
from nanochat.store.store import Store
from nanochat.store.trash import restore_deletion
from nanochat.store.verification import check_artifacts, repair_store
from tests.store.test_garbage import collect, key, publish, there, used


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """`kept` has an alias and was made from `old`; nothing needs `gone`."""
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    store.set_alias("kept", publish(store, "kept", publish(store, "old")))
    publish(store, "gone")
    return store


def folder(store: Store, name: str = "kept") -> Path:
    path = store.objects.local_path(f"v1/artifacts/download/{key(name)}")
    assert path
    return path


def contents(store: Store) -> dict[str, bytes]:
    return {entry.path: store.objects.read(entry.path) for entry in store.objects.list("v1", everything=True)}


def run(store: Store, *arguments: str) -> None:
    command([*arguments, "--store", store.objects.root])


@pytest.mark.parametrize("copy", ["-backup", " copy", ".old", " (1)"])
def test_a_copied_artifact_takes_nothing_of_the_first_along(copy: str, store: Store) -> None:
    """The manifest in the copy names the files of the artifact that it was copied from."""
    shutil.copytree(folder(store), folder(store).with_name(folder(store).name + copy))
    before = contents(store)
    with pytest.raises(DamagedArtifact, match="is the manifest of download/"):
        collect(store)
    assert {path: data for path, data in contents(store).items() if "/trash/" not in path} == before
    run(store, "verify", "--repair")
    collect(store)
    assert there(store) == {"kept", "old"}


def test_a_copied_stage_takes_nothing_of_the_first_along(store: Store) -> None:
    shutil.copytree(folder(store).parent, folder(store).parent.with_name("download-backup"))
    with pytest.raises(DamagedArtifact):
        collect(store)
    assert len(check_artifacts(store).broken) == 3
    repair_store(store, check_artifacts(store))
    collect(store)
    assert there(store) == {"kept", "old"}


def test_all_errors_are_reported_at_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (folder(store, "old") / "manifest.json").write_bytes(b"")
    next(folder(store).rglob("data")).write_bytes(b"x")
    lost = used(store, publish(store, "other"))
    store.objects.write(f"v1/runs/{lost}.json", b"")
    found = check_artifacts(store)
    assert [manifest.key for manifest, _ in found.damaged] == [key("kept")]
    assert set(found.broken) == {f"v1/artifacts/download/{key('old')}/manifest.json", f"v1/runs/{lost}.json"}
    assert (found.artifacts, found.whole) == (4, 2)
    with pytest.raises(SystemExit) as ended:
        run(store, "verify")
    output = capsys.readouterr()
    assert ended.value.code == 1
    assert "2 of 4 artifacts are whole" in output.out
    assert "3 damaged" in output.err


@pytest.mark.parametrize("look", ["ls", "runs"])
def test_one_broken_record_hides_no_other(look: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    whole, lost = used(store), used(store)
    store.objects.write(f"v1/runs/{lost}.json", b"{")
    (folder(store, "old") / "manifest.json").write_bytes(b"{")
    with pytest.raises(SystemExit) as ended:
        run(store, look)
    output = capsys.readouterr()
    assert ended.value.code == 1
    assert (key("kept")[:8] if look == "ls" else whole[-6:]) in output.out
    assert "`nanochat verify --repair`" in output.err


def test_what_a_repair_took_out_comes_back(root: str, tmp_path: Path) -> None:
    store = Store(root, tmp_path / "cache")
    lost = used(store, publish(store, "a"))
    store.objects.write(f"v1/runs/{lost}.json", b"")
    store.objects.write(f"v1/artifacts/download/{key('a')}/manifest.json", b"{")
    before = contents(store)
    record = repair_store(store, check_artifacts(store))
    assert record
    assert check_artifacts(store).broken == {}
    assert runs.everything(store) == []
    assert restore_deletion(store, record.id).problems == ()
    assert contents(store) == before


def test_a_broken_manifest_that_was_made_again_stays_in_the_trash(store: Store) -> None:
    (folder(store, "gone") / "manifest.json").write_bytes(b"{")
    record = repair_store(store, check_artifacts(store))
    assert record
    publish(store, "gone")
    before = check_artifacts(store).whole
    assert "made again" in restore_deletion(store, record.id).problems[0]
    assert [each.record.id for each in trash.deletions(store)] == [record.id]
    assert check_artifacts(store).whole == before


def test_a_record_that_was_mended_meanwhile_is_left_alone(store: Store) -> None:
    path = f"v1/artifacts/download/{key('gone')}/manifest.json"
    data = store.objects.read(path)
    store.objects.write(path, b"")
    found = check_artifacts(store)
    store.objects.write(path, data)
    assert repair_store(store, found) is None
    assert store.objects.read(path) == data


def copied_run(store: Store) -> None:
    run_id = used(store)
    store.objects.write(f"v1/runs/{run_id}-backup.json", store.objects.read(f"v1/runs/{run_id}.json"))


def copied_deletion(store: Store) -> None:
    collect(store)
    publish(store, "gone")
    (record,) = trash.deletions(store)
    place = f"v1/trash/{record.record.id}"
    store.objects.write(f"{place} copy/record.json", store.objects.read(f"{place}/record.json"))


@pytest.mark.parametrize("copy", [copied_run, copied_deletion])
def test_a_copied_record_is_named_and_deletes_nothing(copy: Callable[[Store], None], store: Store) -> None:
    copy(store)
    before = contents(store)
    with pytest.raises(DamagedArtifact, match="is the record of the"):
        collect(store)
    assert contents(store) == before


@pytest.mark.parametrize("name", ["latest (1)", "latest copy", "kept (conflicted copy)"])
@pytest.mark.parametrize("data", [b"", b'{"stage": "download", "key": "x"}'])
def test_an_alias_with_a_name_that_none_can_have_can_be_removed(name: str, data: bytes, store: Store) -> None:
    store.objects.write(f"v1/aliases/{name}.json", data)
    run(store, "alias", "--remove", name)
    assert set(store.aliases()) == {"kept"}
    with pytest.raises(NanochatError):
        run(store, "alias", "--remove", name)


ODD = ["", ".", "..", "../../x", "a/b", "a\0b", "x" * 300]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", ["stage", "key"])
def test_an_alias_that_leads_elsewhere_is_named(field: str, odd: str, store: Store) -> None:
    store.objects.write(
        "v1/aliases/odd.json", json.dumps({"stage": "download", "key": key("old"), field: odd}).encode()
    )
    for look in (lambda: store.resolve("odd"), lambda: collect(store)):
        with pytest.raises(DamagedArtifact, match=r"v1/aliases/odd.json"):
            look()


@pytest.mark.parametrize("odd", ["", "..", "../../../../outside", "/etc/passwd", "a//b", "a\0b"])
@pytest.mark.parametrize("change", ["payload", "file", "input"])
def test_a_manifest_leads_nowhere_else(change: str, odd: str, store: Store) -> None:
    """`export` and the cache write files under the names that a manifest gives."""
    path = f"v1/artifacts/download/{key('kept')}/manifest.json"
    content: dict[str, Any] = json.loads(store.objects.read(path))
    match change:
        case "payload":
            content["payload"] = odd
        case "file":
            content["files"][0]["path"] = odd
        case _:
            next(iter(content["inputs"].values()))[0]["key"] = odd
    store.objects.write(path, json.dumps(content).encode())
    for look in (lambda: store.resolve("kept"), lambda: collect(store)):
        with pytest.raises(DamagedArtifact, match=path):
            look()


@pytest.mark.parametrize("name", ["../x/abcd", "a//b", "./kept", "x" * 300 + "/abcd", "/", "..", "kept/"])
def test_a_reference_that_nothing_can_have_is_not_found(name: str, store: Store) -> None:
    with pytest.raises(NotFound, match="no artifact"):
        store.resolve(name)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("field", ["keep_runs", "min_age_hours", "trash_hours"])
def test_a_deletion_by_no_number_is_refused(field: str, odd: float, store: Store) -> None:
    with pytest.raises(NanochatError):
        find_garbage(store, **{field: odd})  # type: ignore[arg-type]


def test_a_time_without_a_zone_is_named(store: Store) -> None:
    """Sorted among others, it would be an error without a sentence."""
    path = f"v1/artifacts/download/{key('old')}/manifest.json"
    content: dict[str, Any] = json.loads(store.objects.read(path))
    content["producer"]["ended"] = "2026-01-01T00:00:00"
    store.objects.write(path, json.dumps(content).encode())
    assert set(check_artifacts(store).broken) == {path}


def test_gc_reports_an_alias_that_protects_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run(store, "gc")
    assert "protects nothing" not in capsys.readouterr().out
    shutil.rmtree(folder(store))
    run(store, "gc")
    assert f"The alias kept points to download/{key('kept')}, which is gone" in capsys.readouterr().out

"""`nanochat export` copies an artifact into a new folder, or reports in one sentence why it cannot."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.cli.export import export
from nanochat.errors import BadConfig, NanochatError
from nanochat.export.staging import STAGED
from nanochat.store.store import Store
from tests.store.test_garbage import publish


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    store.set_alias("kept", publish(store, "a"))
    return str(tmp_path / "store")


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_copies_can_be_changed_and_the_store_stays_as_it_is(url: str, tmp_path: Path) -> None:
    for path in Path(url).rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)  # as in a store that is kept read-only
    out = tmp_path / "deep/new"
    export("kept", out, store=url)
    assert files(out) == {"data": "data of a", "deep/notes": "notes of a"}
    for path in out.rglob("*"):
        assert path.is_dir() or (path.stat().st_nlink, path.stat().st_mode & 0o200) == (1, 0o200)
        assert not path.is_dir() or path.stat().st_mode & 0o200
    (out / "data").write_text("mine")
    store = Store(url, tmp_path / "cache", read_only=True)
    assert store.payloads.verify(store.resolve("kept")) == []


def test_an_empty_folder_is_filled(url: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export("kept", tmp_path / "out", store=url)
    assert len(files(tmp_path / "out")) == 2


def _file(folder: Path) -> Path:
    (folder / "out").write_text("mine")
    return folder / "out"


def _below_a_file(folder: Path) -> Path:
    return _file(folder) / "deeper"


def _full(folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "out/data").write_text("mine")
    return folder / "out"


def _dead_link(folder: Path) -> Path:
    (folder / "out").symlink_to(folder / "nowhere")
    return folder / "out"


def _in_the_store(folder: Path) -> Path:
    return folder / "store/v1/out"


def _linked_into_the_store(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "store")
    return folder / "link/out"


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (_file, "is not a folder"), (_below_a_file, "cannot be used"), (_full, "is not empty"),
        (_dead_link, "is not a folder"),
        (_in_the_store, "inside the store"), (_linked_into_the_store, "inside the store"),
    ],
)  # fmt: skip
def test_where_something_else_is_nothing_is_written(
    place: Callable[[Path], Path], why: str, url: str, tmp_path: Path
) -> None:
    out = place(tmp_path)
    before = files(tmp_path)
    with pytest.raises(BadConfig, match=why):
        export("kept", out, store=url)
    assert files(tmp_path) == before
    assert place is not _dead_link or out.is_symlink()


@pytest.mark.parametrize("existing", [True, False])
def test_half_an_export_is_taken_away(
    existing: bool, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def full(source: Path, target: Path, **more: Any) -> Any:
        if Path(target).name == "notes":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return copy(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", full)
    out = tmp_path / "out"
    if existing:
        out.mkdir()
    with pytest.raises(BadConfig, match="No space left on device"):
        export("kept", out, store=url)
    assert out.exists() == existing
    assert files(out) == {}


def test_a_newer_export_replaces_files_of_the_same_names_and_leaves_others(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export("kept", out, store=url)
    (out / "README.md").write_text("mine")
    store = Store(url, tmp_path / "cache")
    store.set_alias("kept", publish(store, "b"))
    with pytest.raises(BadConfig, match="is not empty") as refused:
        export("kept", out, store=url)
    assert "`--overwrite`" in refused.value.hint
    with (out / "data").open() as being_read:
        export("kept", out, overwrite=True, store=url)
        assert being_read.read() == "data of a"
    assert files(out) == {"data": "data of b", "deep/notes": "notes of b", "README.md": "mine"}


def test_an_export_that_fails_leaves_what_was_there(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(_full(tmp_path))

    def full(source: Path, target: Path, **more: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(BadConfig):
        export("kept", tmp_path / "out", overwrite=True, store=url)
    assert files(tmp_path / "out") == before


def test_what_a_killed_export_left_is_in_nobodys_way(url: str, tmp_path: Path) -> None:
    (tmp_path / f"out/{STAGED}0a1b2c3d").mkdir(parents=True)
    (tmp_path / f"out/{STAGED}0a1b2c3d/data").write_text("half")
    export("kept", tmp_path / "out", store=url)
    assert set(files(tmp_path / "out")) == {"data", "deep/notes"}


def test_a_file_that_leaves_the_store_meanwhile_is_not_the_folders_fault(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def late(source: Path, target: Path, **more: Any) -> Any:
        Path(source).unlink()
        return copy(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", late)
    with pytest.raises(NanochatError, match="The store: ") as failed:
        export("kept", tmp_path / "out", store=url)
    assert "another folder" not in failed.value.hint
    assert not (tmp_path / "out").exists()

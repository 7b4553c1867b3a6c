"""The disk cache: bounded, shared by processes, never deletes what a live process uses; damaged copies are replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import NanochatError, SystemRefused
from nanochat.store import cache as cache_module
from nanochat.store.cache import DiskCache
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store

USER = """
import sys, time
from pathlib import Path
from nanochat.store.cache import DiskCache
cache = DiskCache(Path(sys.argv[1]), lambda: 250, entries="payloads")
cache.use(["used"])
cache.get("used", 100, lambda path: path.exists(), lambda path: path.write_text("x" * 100))
print("used", flush=True)
time.sleep(60)
"""


def open_cache(folder: Path, limit_bytes: int = 250) -> DiskCache:
    return DiskCache(folder / "cache", lambda: limit_bytes, entries="payloads")


def filled(text: str) -> Callable[[Path], None]:
    """Makes a folder with one file."""

    def fill(path: Path) -> None:
        path.mkdir()
        (path / "data").write_text(text)

    return fill


def get(cache: DiskCache, name: str, fill: Callable[[Path], Any] | None = None) -> Path:
    """Uses and gets a folder with 100 bytes."""
    cache.use([name])
    return cache.get(name, 100, lambda path: (path / "data").stat().st_size == 100, fill or filled(name[0] * 100))


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cache/payloads").iterdir()}


def test_the_least_recently_used_entry_is_deleted(tmp_path: Path) -> None:
    for name in ("a", "b", "a", "c"):
        get(open_cache(tmp_path), name)  # the entries of the one before are unused now
        time.sleep(0.01)
    assert names(tmp_path) == {"a", "c"}


def test_entries_in_use_stay_until_they_are_released(tmp_path: Path) -> None:
    mine, other = open_cache(tmp_path), open_cache(tmp_path)
    get(mine, "a")
    for name in ("b", "c", "d"):
        get(other, name)
    assert names(tmp_path) == set("abcd")
    mine.release(["a"])
    get(other, "e")
    assert names(tmp_path) == set("bcde")
    other.close()
    get(mine, "f")
    assert len(names(tmp_path)) == 2


def test_entries_of_a_live_process_stay_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", USER, str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "used\n"
        try:
            for name in "abc":
                get(open_cache(tmp_path), name)
            assert "used" in names(tmp_path)
        finally:
            user.kill()
    get(open_cache(tmp_path), "last")
    assert "used" not in names(tmp_path)


@pytest.mark.parametrize("folder", ["users", "payloads", "incoming"])
def test_nothing_is_deleted_while_its_users_are_unknown(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = open_cache(tmp_path)
    get(kept, "kept")
    listing = os.listdir

    def refuse(path: Any) -> Any:
        if Path(path).name == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "listdir", refuse)
    refused = 0
    for name in "abc":
        try:
            get(open_cache(tmp_path), name)
        except NanochatError as error:
            assert "cannot be used: Permission denied" in str(error)
            refused += 1
    assert refused
    assert (tmp_path / "cache/payloads/kept/data").exists()


def test_foreign_files_stay_in_the_cache(tmp_path: Path) -> None:
    get(open_cache(tmp_path), "a")
    foreign = [tmp_path / "cache" / folder / ".DS_Store" for folder in ("users", "payloads", "incoming")]
    for path in foreign:
        path.write_bytes(b"\0" * 1000)
        os.utime(path, (0, 0))
    for name in "bcd":
        get(open_cache(tmp_path), name)
    assert all(path.exists() for path in foreign)


def test_a_cache_that_cannot_be_locked_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(NanochatError, match="No locks available"):
        get(open_cache(tmp_path), "a")


def test_an_entry_that_many_need_is_filled_once(tmp_path: Path) -> None:
    fills: list[Path] = []

    def fill(path: Path) -> None:
        fills.append(path)
        time.sleep(0.05)
        filled("x" * 100)(path)

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: get(open_cache(tmp_path), "x", fill), range(16)))
    assert {(path / "data").read_text() for path in paths} == {"x" * 100}
    assert len(fills) == 1
    assert list((tmp_path / "cache/incoming").iterdir()) == []


def test_an_incomplete_entry_is_replaced(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    path = get(cache, "a")
    (path / "data").write_text("short")
    assert get(cache, "a") == path
    assert (path / "data").read_text() == "a" * 100


def test_a_failed_fill_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        raise OSError("gone")

    with pytest.raises(SystemRefused, match="gone"):
        get(open_cache(tmp_path), "a", fail)
    assert list((tmp_path / "cache/incoming").iterdir()) == []
    assert not (tmp_path / "cache/payloads/a").exists()
    get(open_cache(tmp_path), "a")


def test_what_a_killed_process_left_is_deleted_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get(open_cache(tmp_path), "a")
    left = tmp_path / "cache/incoming/left"
    filled("x")(left)
    get(open_cache(tmp_path), "b")
    assert left.exists()
    monkeypatch.setattr(cache_module, "ABANDONED_S", -1)
    get(open_cache(tmp_path), "c")
    assert not left.exists()


@pytest.mark.s3
def test_a_damaged_copy_is_fetched_again(root_s3: str, tmp_path: Path) -> None:
    out = tmp_path / uuid.uuid4().hex
    out.mkdir()
    (out / "data").write_text("good")
    manifest = Store(root_s3, tmp_path / "cache").publish(
        out, stage="download", stage_version=1, kind="RawShard", key="k" * 64, config={}, inputs={}, metrics={},
        producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip
    path = Store(root_s3, tmp_path / "cache").payloads.fetch(manifest)
    (path / "data").write_text("baad")
    assert (Store(root_s3, tmp_path / "cache").payloads.fetch(manifest) / "data").read_text() == "good"

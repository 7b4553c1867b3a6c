"""Local copies of a remote store: verified, healed, within a limit, never taken from who uses them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import NanochatError
from nanochat.store.cache import Cache
from nanochat.store.manifest import Manifest, describe_file, payload_digest
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store

USER = """
import sys, time
from pathlib import Path
from nanochat.store.cache import Cache
from nanochat.store.manifest import Manifest
manifest = Manifest.model_validate_json(sys.argv[2])
cache = Cache(Path(sys.argv[1]))
cache.folder(manifest, lambda name, local: local.write_text("x" * 100))
print("used", flush=True)
time.sleep(60)
"""


def describe(folder: Path, text: str, key: str = "k") -> Manifest:
    folder.mkdir(parents=True)
    (folder / "data").write_text(text)
    files = [describe_file(folder / "data", "data")]
    return Manifest(
        stage="download", stage_version=1, kind="RawShard", key=key, digest=payload_digest(files), config={}, inputs={},
        files=files, metrics={}, payload="p", producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip


def copy_from(folder: Path) -> Callable[[str, Path], None]:
    return lambda name, local: shutil.copyfile(folder / name, local) and None


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_CACHE_GB", "250e-9")


def test_the_least_recently_used_goes(tmp_path: Path, small: None) -> None:
    manifests = [describe(tmp_path / str(i), f"{i}" * 100) for i in range(3)]
    for i, manifest in enumerate(manifests):
        # a new one each time: what a living one handed out would stay
        Cache(tmp_path / "cache").folder(manifest, copy_from(tmp_path / str(i)))
    assert {path.name for path in (tmp_path / "cache/payloads").iterdir()} == {m.digest for m in manifests[1:]}


def test_what_a_living_process_uses_stays_until_it_is_killed(tmp_path: Path, small: None) -> None:
    used = describe(tmp_path / "used", "x" * 100)
    command = [sys.executable, "-c", USER, str(tmp_path / "cache"), used.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "used\n"
        try:
            for i in range(3):
                folder = tmp_path / str(i)
                Cache(tmp_path / "cache").folder(describe(folder, f"{i}" * 100), copy_from(folder))
            assert (tmp_path / "cache/payloads" / used.digest / "data").exists()
        finally:
            user.kill()
    Cache(tmp_path / "cache").folder(describe(tmp_path / "last", "l" * 100), copy_from(tmp_path / "last"))
    assert not (tmp_path / "cache/payloads" / used.digest).exists()


@pytest.mark.parametrize("folder", ["users", "payloads", "incoming"])
def test_copies_are_not_deleted_while_it_cannot_be_seen_who_uses_them(
    folder: str, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Cache(tmp_path / "cache")
    kept = describe(tmp_path / "kept", "k" * 100)
    first.folder(kept, copy_from(tmp_path / "kept"))
    for i in range(2):
        describe(tmp_path / str(i), f"{i}" * 100)
    listing = os.listdir

    def refuse(path: Any) -> Any:
        if Path(path).name == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "listdir", refuse)
    for i in range(2):
        with contextlib.suppress(NanochatError):
            manifest = Manifest.model_validate_json(kept.model_dump_json()).model_copy(update={"digest": f"{i}" * 64})
            Cache(tmp_path / "cache").folder(manifest, copy_from(tmp_path / "kept"))
    with pytest.raises(NanochatError, match="cannot be used: Permission denied"):
        Cache(tmp_path / "cache").folder(kept.model_copy(update={"digest": "f" * 64}), copy_from(tmp_path / "kept"))
    assert (tmp_path / "cache/payloads" / kept.digest / "data").exists()


def test_files_of_others_stay_in_the_cache(tmp_path: Path, small: None) -> None:
    manifests = [describe(tmp_path / str(i), f"{i}" * 100) for i in range(4)]
    Cache(tmp_path / "cache").folder(manifests[0], copy_from(tmp_path / "0"))
    strangers = [tmp_path / "cache" / folder / ".DS_Store" for folder in ("users", "payloads", "incoming")]
    for path in strangers:
        path.write_bytes(b"\0" * 1000)
        os.utime(path, (0, 0))
    for i, manifest in enumerate(manifests):
        Cache(tmp_path / "cache").folder(manifest, copy_from(tmp_path / str(i)))
    assert all(path.exists() for path in strangers)


def test_a_cache_that_cannot_be_locked_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(NanochatError, match="No locks available"):
        Cache(tmp_path / "cache").folder(describe(tmp_path / "one", "x"), copy_from(tmp_path / "one"))


def test_many_who_want_one_payload_get_it_whole(tmp_path: Path) -> None:
    manifest = describe(tmp_path / "one", "x" * 100_000)

    def want(_: int) -> str:
        return (Cache(tmp_path / "cache").folder(manifest, copy_from(tmp_path / "one")) / "data").read_text()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(want, range(16))) == {"x" * 100_000}
    assert list((tmp_path / "cache/incoming").iterdir()) == []


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    manifest = describe(tmp_path / "one", "x")

    def fail(name: str, local: Path) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        Cache(tmp_path / "cache").folder(manifest, fail)
    assert list((tmp_path / "cache/incoming").iterdir()) == []
    assert not (tmp_path / "cache/payloads" / manifest.digest).exists()


@pytest.mark.s3
def test_a_copy_that_went_bad_is_fetched_again(root_s3: str, tmp_path: Path) -> None:
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

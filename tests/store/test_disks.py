"""A folder on a disk that has no hard links, no locks, or takes upper for lower case keeps the same promises."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import BadConfig, NoSpace, StoreError, StoreUnreachable
from nanochat.store import local_files
from nanochat.store.objects import Objects
from nanochat.store.store import Store
from tests.store.test_garbage import publish

NO_LINK = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EACCES]


def refusing(number: int) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=["links", "renames", "locks", "claims"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A disk that has this, and nothing better."""
    ways = ["links", "renames", "locks", "claims"]
    best = ways.index(request.param)
    if best > 0:
        monkeypatch.setattr(os, "link", refusing(NO_LINK[best]))
    if best > 1:
        monkeypatch.setattr(local_files, "_rename_without_replacing", refusing(errno.EINVAL))
    if best > 2:
        monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    return request.param


@pytest.mark.usefixtures("disk")
def test_of_many_creators_one_wins_and_no_reader_gets_half(tmp_path: Path) -> None:
    data = [bytes([i]) * 200_000 for i in range(8)]
    for turn in range(5):
        path, seen = f"v1/race-{turn}", []

        def create(number: int, path: str = path, seen: list[bytes] = seen) -> bool:
            objects = Objects(str(tmp_path))
            made = objects.create(path, data[number])
            seen.append(objects.read(path))
            return made

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(create, range(8)))
        assert sum(made) == 1
        assert set(seen) == {data[made.index(True)]}
    assert [entry.path for entry in Objects(str(tmp_path)).list("v1")] == [f"v1/race-{turn}" for turn in range(5)]
    assert Objects(str(tmp_path)).unfinished("v1") == []


@pytest.mark.usefixtures("disk")
def test_no_swap_is_lost(tmp_path: Path) -> None:
    Objects(str(tmp_path)).create("v1/count", b"0")

    def add(_: int) -> None:
        objects = Objects(str(tmp_path))
        for _ in range(10):
            while not objects.swap("v1/count", b"%d" % (int(before := objects.read("v1/count")) + 1), before):
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert Objects(str(tmp_path)).read("v1/count") == b"40"


@pytest.mark.usefixtures("disk")
def test_a_store_is_opened_and_filled(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    manifest = publish(store, "a")
    store.set_alias("kept", manifest)
    assert store.resolve("kept") == store.find("download", manifest.key) == manifest
    assert publish(store, "a") == manifest, "another attempt does not replace it"


@pytest.mark.parametrize("number", NO_LINK)
def test_each_way_to_say_that_there_are_no_links(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(number))
    objects = Objects(str(tmp_path))
    objects.probe()
    assert objects.create("v1/x", b"1")
    assert not objects.create("v1/x", b"2")


def test_a_claim_of_a_process_that_died_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    monkeypatch.setattr(local_files, "CLAIM_S", 0.2)
    objects = Objects(str(tmp_path))
    objects.create("v1/x", b"1")
    (tmp_path / "v1" / local_files.CLAIM).write_text("dead")
    assert objects.swap("v1/x", b"2", b"1")
    assert not (tmp_path / "v1" / local_files.CLAIM).exists()


def test_an_answer_that_a_network_lost_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link is made, and the second try of the client of the file system is refused."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert Objects(str(tmp_path)).create("v1/x", b"1")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EROFS, StoreError), (errno.EACCES, StoreError), (errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace),
        (errno.EIO, StoreUnreachable), (errno.ESTALE, StoreUnreachable), (errno.ENAMETOOLONG, StoreError),
        (errno.ENOTCONN, StoreUnreachable), (errno.EMFILE, StoreUnreachable),
    ],
)  # fmt: skip
def test_what_a_disk_refuses_is_one_sentence(
    number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(str(tmp_path))
    objects.write("v1/x", b"1")
    monkeypatch.setattr(os, "fsync", refusing(number))
    for change in (
        lambda: objects.write("v1/x", b"2"),
        lambda: objects.create("v1/y", b"2"),
        lambda: objects.swap("v1/x", b"2", b"1"),
    ):
        with pytest.raises(kind) as caught:
            change()
        assert "\n" not in str(caught.value)
    assert objects.read("v1/x") == b"1"
    assert objects.unfinished("v1") == []


def test_a_store_in_parts_on_two_disks_can_move_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(str(tmp_path))
    objects.write("v1/a", b"1")
    replace = Path.replace

    def other_disk(self: Path, target: Path) -> Path:
        if self.name == "a":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", other_disk)
    assert objects.move("v1/a", "v1/trash/b")
    assert (objects.size("v1/a"), objects.read("v1/trash/b")) == (None, b"1")
    assert not objects.move("v1/a", "v1/trash/c")


def test_names_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    manifest = publish(store, "a")
    store.set_alias("chat/latest", manifest)
    with pytest.raises(BadConfig, match="only in upper and lower case"):
        store.set_alias("Chat/Latest", manifest)
    store.set_alias("chat/latest", manifest)


@pytest.mark.parametrize("name", ["x.json", "x.json/y", "x" * 201, "ä" * 101])
def test_names_that_a_disk_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    with pytest.raises(BadConfig, match="cannot be the name of an alias"):
        store.set_alias(name, publish(store, "a"))


def test_the_lock_of_another_user_can_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that both may write to, a lock that the other made with the umask 022 can only be read."""
    objects = Objects(str(tmp_path))
    assert objects.create("v1/a", b"1")
    assert objects.swap("v1/a", b"2", b"1")
    open_file = Path.open

    def refused(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if path.name == local_files.LOCK and mode != "r":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", refused)
    assert objects.swap("v1/a", b"3", b"2")
    assert not objects.swap("v1/a", b"4", b"2")
    assert objects.read("v1/a") == b"3"

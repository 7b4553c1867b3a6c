"""What fails while something is released, recorded or removed fails nothing that is done, and is reported."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.errors import NanochatError, StageFailed, StoreError, StoreUnreachable
from nanochat.store import lease as lease_module
from nanochat.store import run_recording
from nanochat.store.lease import lease
from nanochat.store.manifest import describe_file
from nanochat.store.objects import Objects
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store
from nanochat.training.checkpoint import Checkpoints
from tests.faults import faulty
from tests.recorded_runs import newest


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path / "store"))


def failing(real: Callable[..., Any], times: int, error: type[NanochatError] = StoreUnreachable) -> Callable[..., Any]:
    """The call, which fails so many times first."""
    left = [times]

    def call(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise error("The store is away.")
        return real(*given, **named)

    return call


def test_a_lease_is_given_back_although_the_first_try_fails(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RELEASE_PAUSES_S", (0.0, 0.0, 0.0))
    with lease(objects, "key"):
        monkeypatch.setattr(objects, "delete", failing(objects.delete, 2))
    assert objects.list("v1/leases") == []


def test_a_store_that_neither_creates_nor_shows_a_lease_is_given_up(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "POLL_S", 0.001)
    monkeypatch.setattr(objects, "create", lambda *_: False)
    with pytest.raises(StoreError, match=r"refuses to write `v1/leases/key\.json`"), lease(objects, "key"):
        pass


@pytest.mark.parametrize("record", ['{"ttl_s": "long", "fence": "x", "holder": 3, "process": []}', "[]", '"', "null"])
def test_a_lease_that_makes_no_sense_is_taken_over(record: str, objects: Objects) -> None:
    objects.write("v1/leases/key.json", record.encode())
    with lease(objects, "key", ttl_s=0.1) as held:
        assert held.fence == 1


@pytest.mark.parametrize("times", [1, 100])
def test_a_run_that_was_fine_is_fine_although_its_end_cannot_be_recorded(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_recording, "END_PAUSES_S", (0.001, 0.001, 0.0))
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    with caplog.at_level(logging.WARNING), record_run(store, "demo", {}) as kept:
        monkeypatch.setattr(store.objects, "write", failing(store.objects.write, times))
    (run,) = newest(store)
    assert run.record.state == ("completed" if times == 1 else "running")
    assert (f"The run {kept.record.id} is completed, but that could not be recorded" in caplog.text) == (times == 100)


def test_a_run_whose_beginning_was_recorded_and_not_confirmed_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    real, calls = store.objects.write, [0]

    def unconfirmed(*given: Any) -> None:
        real(*given)
        calls[0] += 1
        if calls[0] == 1:
            raise StoreUnreachable("The store is away.")

    monkeypatch.setattr(store.objects, "write", unconfirmed)
    with pytest.raises(StoreUnreachable), record_run(store, "demo", {}):
        pass
    (run,) = newest(store)
    assert run.record.state == "failed"


def test_a_save_that_breaks_in_an_unknown_way_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Checkpoints((tmp_path / "checkpoints" / "key").as_uri(), tmp_path / "spool", keep=2)

    def broken(*_: Any) -> None:
        raise RuntimeError("an unforeseen error\nand more")

    monkeypatch.setattr(made, "_put", broken)
    made.save(1, 1, {"weight": torch.zeros(2)}, {}, [])
    with pytest.raises(StageFailed, match="RuntimeError: an unforeseen error"):
        made.wait(must=True)


def test_a_read_that_ends_early_describes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 1000)
    entry = describe_file(path, "data")
    assert (entry.size, entry.sha256) == (1000, hashlib.sha256(b"x" * 1000).hexdigest())
    real = Path.stat

    def longer(self: Path, **given: Any) -> Any:
        there = real(self, **given)
        return type("Stat", (), {"st_size": there.st_size * 2})

    monkeypatch.setattr(Path, "stat", longer)
    with pytest.raises(OSError, match="ended early"):
        describe_file(path, "data")


@pytest.mark.s3
def test_bodies_that_break_off_use_up_no_connections(
    root_s3: str, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client has ten; the eleventh read waited for ever."""
    Objects(root_s3).write("v1/data", json.dumps(list(range(100))).encode())
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    whole = [False]
    with faulty(
        s3_server["AWS_ENDPOINT_URL"], lambda _: "" if whole[0] else "short", lambda method, _: method == "GET"
    ) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        objects = Objects(root_s3)
        for _ in range(12):
            with pytest.raises(StoreUnreachable):
                objects.read("v1/data")
        whole[0] = True
        assert json.loads(objects.read("v1/data"))[-1] == 99


@pytest.mark.s3
@pytest.mark.parametrize("answer", ["welcome", "nothing"])
def test_a_write_that_only_a_proxy_confirmed_is_an_error(
    answer: Any, root_s3: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: answer, lambda method, _: method == "PUT") as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        objects = Objects(root_s3)
        for write in (
            lambda: objects.write("v1/a", b"1"),
            lambda: objects.create("v1/b", b"1"),
            lambda: objects.upload(tmp_path / "file", "v1/c"),
        ):
            with pytest.raises(StoreUnreachable):
                write()

"""Checkpoints in a real S3 server that misbehaves: training goes on, and what is taken up is whole and the newest."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanochat.errors import StoreUnreachable
from nanochat.sources.retry import with_retries
from nanochat.store import s3 as s3_module
from nanochat.store.manifest import describe_file
from nanochat.store.objects import Objects
from nanochat.training import checkpoint, loop
from nanochat.training.pretrain import pretrain
from nanochat.workers.ranks import Preempted, World
from tests.faults import Fault, faulty
from tests.training.saver import checkpoints, equal, state
from tests.training.test_checkpoint import under_torchrun
from tests.training.tiny import config, job, make_data

ALONE = World(0, 1, torch.device("cpu"))
pytestmark = pytest.mark.s3


@pytest.fixture
def root(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix in a bucket that is there; the environment leads to it, and waits are short."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(checkpoint, "with_retries", functools.partial(with_retries, wait_s=0.03))
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    root = f"s3://bucket/{uuid.uuid4().hex}"
    Objects(root).make_bucket()
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def writes(method: str, path: str) -> bool:
    return method in ("PUT", "POST") and "step-" in path


def reads(method: str, path: str) -> bool:
    return method == "GET" and "step-" in path


def whole(objects: Objects, folder: Path) -> list[int]:
    """Steps of the checkpoints that are there, oldest first; each file of a manifest must exist as recorded."""
    steps = []
    for entry in objects.list("key"):
        place, _, name = entry.path.rpartition("/")
        if name == "manifest.json":
            record = json.loads(objects.read(entry.path))
            for file in record["files"]:
                objects.download(f"{place}/{file['path']}", folder / file["path"])
                assert describe_file(folder / file["path"], file["path"]).model_dump() == file
            steps.append(record["step"])
    return sorted(steps)


class Outage:
    """Faults that begin with the third upload, in the middle of it, and last until training is so many steps on."""

    def __init__(self, folder: Path, steps: int, kinds: tuple[Fault, ...]) -> None:
        self._metrics, self._lasts_steps, self._kinds = folder / "metrics.jsonl", steps, kinds
        self.began_at = self.over_at = 0

    def steps(self) -> int:
        return self._metrics.read_text().count('"tokens_per_s"')

    def __call__(self, number: int) -> Fault:
        if number < 2 or self.over_at:
            return ""
        now = self.steps()
        self.began_at = self.began_at or now
        if number > 2 + len(self._kinds) and now > self.began_at + self._lasts_steps:
            self.over_at = now
            return ""
        return "short" if number == 2 else self._kinds[number % len(self._kinds)]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kinds", [("drop",), ("busy", "broken", "")], ids=["gone", "refusing"])
def test_training_goes_on_while_a_checkpoint_waits_for_the_store(
    kinds: tuple[Fault, ...], root: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, here, objects = make_data(tmp_path / "data"), tmp_path / "run", Objects(root)
    outage = Outage(here, 30, kinds)

    def enough() -> bool:
        return bool(outage.over_at) and outage.steps() > outage.over_at + 50

    with monkeypatch.context() as patch, faulty(s3_server["AWS_ENDPOINT_URL"], outage, writes) as (address, done):
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setattr(loop, "stop_requested", enough)
        with pytest.raises(Preempted):
            pretrain(job(data, here, f"{root}/key", config(100_000), every_s=0.05), ALONE)
    assert set(kinds) <= set(done)
    output = [json.loads(line)["message"] for line in (here / "metrics.jsonl").read_text().splitlines()]
    assert not [line for line in output if "could not be saved" in line], "it was waited for"
    steps = whole(objects, tmp_path / "whole")
    assert len(steps) == 2
    assert not [entry for entry in objects.list("key") if not any(f"{step:08d}" in entry.path for step in steps)]
    again = pretrain(job(data, tmp_path / "again", f"{root}/key", config(steps[-1] + 2)), ALONE)
    assert again["resumed_from_step"] == steps[-1] > outage.over_at


@pytest.mark.usefixtures("one_thread")
def test_a_slow_store_has_fewer_checkpoints_and_not_slower_steps(
    root: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, here = make_data(tmp_path / "data"), tmp_path / "run"
    outage = Outage(here, 0, ())
    with (
        monkeypatch.context() as patch,
        faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: "", writes, bytes_per_s=5e5) as (address, done),
    ):
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setattr(loop, "stop_requested", lambda: len(done) > 3)
        with pytest.raises(Preempted):
            pretrain(job(data, here, f"{root}/key", config(100_000), every_s=0.01), ALONE)
    steps = whole(Objects(root), tmp_path / "whole")
    assert steps[-1] == outage.steps()
    assert steps[-1] > 5 * len(done)


def test_ranks_that_meet_faults_save_whole_or_not_at_all(
    root: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[Fault] = ["short", "busy", "", "drop", "", "broken"]
    with (
        monkeypatch.context() as patch,
        faulty(s3_server["AWS_ENDPOINT_URL"], lambda n: faults[n] if n < len(faults) else "", writes) as (
            address,
            done,
        ),
    ):
        patch.setenv("AWS_ENDPOINT_URL", address)
        under_torchrun(2, tmp_path, "save", f"{root}/key")
    assert len(done) > len(faults)
    assert whole(Objects(root), tmp_path / "whole") == [1, 2]
    filled = state(0, 1, empty=True)
    resumed = checkpoints(tmp_path, url=f"{root}/key").resume(filled)
    assert resumed is not None
    assert resumed.step == 2
    assert equal(filled, state(0, 1))


def saved(folder: Path, url: str, *steps: int) -> None:
    made = checkpoints(folder, url=url)
    for step in steps:
        made.save(step, 8 * step, {"weight": torch.full((300,), float(step))}, {}, [])
    made.wait(must=True)


def test_what_is_torn_on_its_way_is_read_again(
    root: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, f"{root}/key", 1, 2)
    faults: list[Fault] = ["broken", "", "torn", "short", "drop", "busy"]
    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda n: faults[n] if n < len(faults) else "", reads) as (
        address,
        done,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        weight, made = torch.zeros(300), checkpoints(tmp_path, url=f"{root}/key")
        resumed = made.resume({"weight": weight})
    assert resumed is not None
    assert (resumed.step, set(weight.tolist()), made.warnings) == (2, {2.0}, [])
    assert len(done) > len(faults)


def test_a_store_that_is_away_is_no_reason_to_begin_anew(
    root: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, f"{root}/key", 1)
    monkeypatch.setattr(checkpoint, "TRIES", 2)
    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda _: "drop", reads) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(StoreUnreachable, match="did not answer"):
            checkpoints(tmp_path, url=f"{root}/key").resume({"weight": torch.zeros(300)})


def test_a_server_that_takes_the_bytes_and_never_answers_is_not_waited_for_without_end(
    root: str, s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "UPLOAD_S", 0.3)
    with faulty(s3_server["AWS_ENDPOINT_URL"], lambda n: 3.0 if n < 2 else "", writes) as (address, done):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        saved(tmp_path, f"{root}/key", 1)
        assert whole(Objects(root), tmp_path / "whole") == [1]
    assert done[:3] == [3.0, 3.0, ""]

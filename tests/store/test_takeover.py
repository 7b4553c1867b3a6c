"""Real processes that want one artifact: killed or stopped in the middle, nothing is harmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanochat.store import lease as leases
from nanochat.store.lease import lease
from nanochat.store.objects import Objects

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the place of a process is read from /proc")

WORKER = """
import functools, os, sys, time
from pathlib import Path

import nanochat.execution.attempt as attempts
from nanochat.execution.stage import Context, stage
from nanochat.config.compute import Compute
from nanochat.config.pipeline import ReportConfig
from nanochat.events import Reporter
from nanochat.store.artifacts import Report
from nanochat.store.store import Store

root, home, name, ttl_s = sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
attempts.lease = functools.partial(attempts.lease, ttl_s=ttl_s)
store = Store(root, home / "cache")

@stage(version=1, produces=Report, resource="gpu")
def work(config: ReportConfig, *, out: Path, context: Context):
    store.objects.write(f"v1/checkpoints/{context.checkpoints.rpartition('/')[2]}/{name}", b"state")
    print(f"{name} works", flush=True)
    until = home / f"end-{name}"
    while not until.exists():
        if name != "blind":
            context.progress.log("")
        time.sleep(0.05)
    (out / "who").write_text(name)
    return {}

def waiting(event):
    if event.message:
        print(f"{name} waits", flush=True)

progress = Reporter(sinks=(waiting,))
artifact = attempts.Attempt(work, ReportConfig(), {}, store, Compute(), home / name, progress).produce()
print(f"{name} has {(artifact.path / 'who').read_text()} reused={artifact.reused}", flush=True)
"""


class Workers:
    """Processes that run the same stage on the same store."""

    def __init__(self, root: str, home: Path, stack: ExitStack) -> None:
        self.root, self.home, self._stack = root, home, stack

    def start(self, name: str, ttl_s: float = 3600) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, self.root, str(self.home), name, str(ttl_s)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.enter_context(worker)
        self._stack.callback(worker.kill)
        return worker

    def finish(self, name: str) -> None:
        (self.home / f"end-{name}").touch()

    def checkpoints(self) -> set[str]:
        return {entry.path.rpartition("/")[2] for entry in Objects(self.root).list("v1/checkpoints")}


def line_of(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout
    return worker.stdout.readline().strip()


@pytest.fixture
def workers(root: str, tmp_path: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(root, tmp_path, stack)


def test_two_at_once_do_the_work_once(workers: Workers) -> None:
    first = workers.start("first")
    assert line_of(first) == "first works"
    second = workers.start("second")
    assert line_of(second) == "second waits"
    workers.finish("first")
    assert line_of(first) == "first has first reused=False"
    assert line_of(second) == "second has first reused=True"
    assert workers.checkpoints() == set()


def test_a_killed_one_is_taken_over_at_once(workers: Workers) -> None:
    first = workers.start("first")
    assert line_of(first) == "first works"
    second = workers.start("second")
    assert line_of(second) == "second waits"
    first.kill()  # it is a zombie
    assert line_of(second) == "second works", "the lease runs out in an hour"
    workers.finish("second")
    assert line_of(second) == "second has second reused=False"


@pytest.mark.parametrize("name", ["first", "blind"])
def test_a_stopped_one_that_goes_on_harms_nothing(workers: Workers, name: str) -> None:
    """`blind` never looks whether it still holds the lease while it works."""
    first = workers.start(name, ttl_s=1)
    assert line_of(first) == f"{name} works"
    second = workers.start("second")
    assert line_of(second) == "second waits"
    first.send_signal(signal.SIGSTOP)
    assert line_of(second) == "second works"
    first.send_signal(signal.SIGCONT)
    if name == "blind":
        workers.finish(name)
    assert line_of(first) == f"{name} waits", "it published"
    assert workers.checkpoints() == {name, "second"}
    workers.finish("second")
    assert line_of(second) == "second has second reused=False"
    assert line_of(first) == f"{name} has second reused=True"
    assert workers.checkpoints() == set()


@contextmanager
def held_by(
    objects: Objects, change: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A lease whose holder is another process than this."""
    process = leases._this_process()
    change(process)
    with monkeypatch.context() as patch:
        patch.setattr(leases, "_this_process", lambda: process)
        objects.create("v1/leases/key.json", leases._record("other", 1, 60))
    yield


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (lambda process: None, False),
        (lambda process: process.update(born=process["born"] - 1), True),  # the id was given away again
        (lambda process: process.update(pid=2**22 + 1), True),
        (lambda process: process.update(place="another container of this name", pid=2**22 + 1), False),
        (lambda process: process.clear(), False),
        (lambda process: process.update(pid="nonsense"), False),
    ],
)
def test_only_one_that_is_surely_gone_is_taken_over(
    root: str, change: Callable[[dict[str, Any]], None], gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waits(Exception):
        pass

    def waits(_: str) -> None:
        raise Waits

    objects = Objects(root)
    with held_by(objects, change, monkeypatch):
        if gone:
            with lease(objects, "key", on_wait=waits) as held:
                assert held.fence == 2
        else:
            with pytest.raises(Waits), lease(objects, "key", on_wait=waits):
                pass


def test_the_process_is_known_by_its_start() -> None:
    process = leases._this_process()
    assert process["pid"] == os.getpid()
    assert process["born"] > 0
    assert not leases._has_ended(process)

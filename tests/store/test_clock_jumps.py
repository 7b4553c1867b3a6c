"""The wall clock of whole processes jumps by an hour, and back: no process loses or keeps a lease by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.clock import JumpingClock
from tests.store.test_lease import HOLDER

HOUR_S = 3600
ELSEWHERE = "import nanochat.store.lease as leases; leases._this_process = dict" + HOLDER
"""One of which it cannot be known that it is gone."""
WRITER = """
import sys
from nanochat.errors import NanochatError
from nanochat.store.objects import Objects
try:
    print(Objects(sys.argv[1]).create("a", b"1"))
except NanochatError as error:
    print(error.transient, error)
"""


def test_a_lease_is_kept_and_lost_by_its_holder_alone(tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True,
            env={**os.environ, **clock.environment},
        )  # fmt: skip

    taken = threading.Event()
    with start() as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with start() as waiter:

            def wait() -> None:
                assert waiter.stdout is not None
                if waiter.stdout.readline() == "held\n":
                    taken.set()

            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(1)
            for shift_s in (HOUR_S, -HOUR_S, HOUR_S, 0):
                clock.jump_to(shift_s)
                assert not taken.wait(0.6), "it was taken from one that lives"
            record = json.loads((tmp_path / "store" / "v1" / "leases" / "key.json").read_text())
            assert record["beat"] > 5
            clock.jump_to(-HOUR_S)
            holder.kill()
            assert taken.wait(120), "it was kept for one that is dead"
            waiter.kill()
            thread.join()


@pytest.mark.s3
def test_a_store_that_refuses_our_clock_works_when_it_is_right(root_s3: str, tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path)

    def written() -> str:
        done = subprocess.run(
            [sys.executable, "-c", WRITER, root_s3], capture_output=True, text=True,
            env={**os.environ, **clock.environment},
        )  # fmt: skip
        return done.stdout

    for shift_s in (HOUR_S, -HOUR_S):
        clock.jump_to(shift_s)
        assert written().startswith("True The clocks of the store s3://"), "an error that may pass"
    clock.jump_to(0)
    assert written() == "True\n"

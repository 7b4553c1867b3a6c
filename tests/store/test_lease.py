"""Of those that want one key at once, one works; a killed holder is taken over."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from nanochat.store.lease import lease
from nanochat.store.objects import Objects

HOLDER = """
import sys, time
from nanochat.store.lease import lease
from nanochat.store.objects import Objects
with lease(Objects(sys.argv[1]), "key", ttl_s=1):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    objects, inside, most = Objects(str(tmp_path)), [], []

    def work(number: int) -> None:
        with lease(objects, "key", ttl_s=4):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
    assert objects.list("v1/leases") == []


def test_a_killed_holder_is_taken_over(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    waited: list[str] = []
    with lease(Objects(str(tmp_path)), "key", ttl_s=1, on_wait=waited.append) as held:
        assert not held.lost
    assert len(waited) == 1


def test_a_living_holder_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        taken = threading.Event()

        def want() -> None:
            with lease(Objects(str(tmp_path)), "key", ttl_s=1):
                taken.set()

        thread = threading.Thread(target=want, daemon=True)
        thread.start()
        assert not taken.wait(2.5)
        holder.kill()
        assert taken.wait(5)
        thread.join()

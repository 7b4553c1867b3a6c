"""Of those that want one key at once, one works; a killed holder is taken over."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from nanochat.errors import NoSpace
from nanochat.store.lease import lease
from nanochat.store.objects import Objects
from tests.waiting import until

HOLDER = """
import sys, time
from nanochat.store.lease import lease
from nanochat.store.objects import Objects
with lease(Objects(sys.argv[1]), "key", ttl_s=1):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time(root: str) -> None:
    objects, inside, most = Objects(root), [], []

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


def test_a_killed_holder_of_another_machine_is_taken_over(root: str) -> None:
    elsewhere = "import nanochat.store.lease as leases; leases._this_process = dict" + HOLDER
    with subprocess.Popen([sys.executable, "-c", elsewhere, root], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    waited: list[str] = []
    with lease(Objects(root), "key", ttl_s=1, on_wait=waited.append) as held:
        assert not held.lost
        assert held.fence == 2
    assert len(waited) == 1


def test_a_living_holder_is_not(root: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, root], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        taken = threading.Event()

        def want() -> None:
            with lease(Objects(root), "key", ttl_s=1):
                taken.set()

        thread = threading.Thread(target=want, daemon=True)
        thread.start()
        assert not taken.wait(2.5)
        holder.kill()
        assert taken.wait(120)
        thread.join()


def test_the_holder_sets_the_expiry_time(root: str) -> None:
    objects = Objects(root)
    with lease(objects, "key", ttl_s=60):
        taken = threading.Event()

        def want() -> None:
            with lease(objects, "key", ttl_s=0.2):
                taken.set()

        thread = threading.Thread(target=want, daemon=True)
        thread.start()
        assert not taken.wait(1)
    assert taken.wait(120)
    thread.join()


def test_one_that_was_taken_over_learns_it_and_leaves_it_alone(root: str) -> None:
    objects = Objects(root)
    with lease(objects, "key", ttl_s=0.4) as held:
        objects.write("v1/leases/key.json", b"another's")
        until(lambda: held.lost, "the loss of the lease")
    assert objects.read("v1/leases/key.json") == b"another's"


def test_answers_that_got_lost_lose_no_lease(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(root)
    create, swap = objects.create, objects.swap
    monkeypatch.setattr(objects, "create", lambda *arguments: create(*arguments) and False)
    monkeypatch.setattr(objects, "swap", lambda *arguments: swap(*arguments) and False)
    with lease(objects, "key", ttl_s=60) as held:
        held.renew()
        assert not held.lost
    assert objects.list("v1/leases") == []


def test_a_store_that_is_away_stops_no_heartbeat_and_no_work(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(root)

    def away(*_: object) -> bool:
        raise NoSpace("full")

    with lease(objects, "key", ttl_s=0.4) as held:
        with monkeypatch.context() as patch:
            patch.setattr(objects, "swap", away)
            time.sleep(0.3)
        until(lambda: json.loads(objects.read("v1/leases/key.json"))["beat"] > 0, "a heartbeat")
        assert not held.lost
        monkeypatch.setattr(objects, "read", away)

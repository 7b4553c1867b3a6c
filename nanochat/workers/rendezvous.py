"""Where the nodes of one training meet: where `Compute` says, or where the first node says in the store that it is."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress

from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.errors import StageFailed
from nanochat.events import Reporter
from nanochat.store.objects import Objects

MEET_S = 600.0
"""Nodes wait so long for each other: one may still be fetching what the other has."""
POLL_S = 1.0
NOWHERE = ("192.0.2.1", 9)
"""An address that nobody has (RFC 5737): asked for the way to it, the system names our own; nothing is sent."""


def meet(folder: str, compute: Compute, progress: Reporter) -> Compute:
    """`compute` with `rendezvous` filled in; the first node writes it below `folder`, a URL.

    Raises `StageFailed` when nothing answers where it says it is.
    """
    if compute.parallelism.nodes == 1 or compute.parallelism.rendezvous:
        return compute
    objects, path = Objects(folder), "rendezvous.json"
    if compute.parallelism.node == 0:
        place = f"{own_address()}:{_free_port()}"
        objects.write(path, json.dumps({"rendezvous": place}).encode())
    else:
        place = _heard(objects, path, progress)
    return compute.on_node(compute.parallelism.node, place)


def _heard(objects: Objects, path: str, progress: Reporter) -> str:
    deadline = time.monotonic() + MEET_S
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError, OSError):  # not said yet, or by an attempt that has died
            place = json.loads(objects.read(path))["rendezvous"]
            host, _, port = place.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
            return place
        progress.log("waiting for the first node")
        time.sleep(POLL_S)
    raise StageFailed(
        "The first node has not said where it is.", hint="Does it run, with the same store, settings and code?"
    )


def own_address() -> str:
    """The address by which others reach this node; loopback when it has no network."""
    if named := settings.node_address():
        return named
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(NOWHERE)
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]

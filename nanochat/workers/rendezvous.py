"""Rendezvous of several nodes: the address in `Compute`, or one that the first node publishes in the store."""

import json
import socket
import time
from contextlib import suppress

from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.errors import StageFailed
from nanochat.events import Reporter
from nanochat.store.objects import Objects

RENDEZVOUS_TIMEOUT_S = 600.0
"""How long nodes wait for each other: one may still download inputs that another one has."""
POLL_S = 1.0
UNUSED_ADDRESS = ("192.0.2.1", 9)
"""An address reserved for documentation (RFC 5737). The route to it determines our own address; nothing is sent."""


def resolve_rendezvous(folder: str, compute: Compute, progress: Reporter) -> Compute:
    """Fills in `compute.parallelism.rendezvous`. Without one, the first node writes its address below the URL `folder`.

    Raises `StageFailed` when no process answers at that address.
    """
    if compute.parallelism.nodes == 1 or compute.parallelism.rendezvous:
        return compute
    objects, path = Objects(folder), "rendezvous.json"
    if compute.parallelism.node == 0:
        address = f"{own_address()}:{_free_port()}"
        objects.write(path, json.dumps({"rendezvous": address}).encode())
    else:
        address = _published(objects, path, progress)
    return compute.on_node(compute.parallelism.node, address)


def _published(objects: Objects, path: str, progress: Reporter) -> str:
    """The address that the first node published, once a process listens there."""
    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError, OSError):  # not published yet, or published by an attempt that has ended
            address = json.loads(objects.read(path))["rendezvous"]
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
            return address
        progress.log("waiting for the first node")
        time.sleep(POLL_S)
    raise StageFailed(
        "The first node did not publish its address.", hint="Check that it runs with the same store, settings and code."
    )


def own_address() -> str:
    """The address under which other nodes reach this one; loopback when it has no network."""
    if named := settings.node_address():
        return named
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(UNUSED_ADDRESS)
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]

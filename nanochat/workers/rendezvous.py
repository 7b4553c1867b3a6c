"""Rendezvous of several nodes: the address in `Compute`, or one that the first node publishes in the store.

A node that fails publishes that too: the others would wait for it until a timeout.
"""

import json
import socket
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress

import psutil

from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.errors import BadConfig, NanochatError, Preempted, StageFailed, Unexpected
from nanochat.events import Reporter
from nanochat.execution.stage import NotFirstNode
from nanochat.store.objects import Objects

RENDEZVOUS_TIMEOUT_S = 600.0
"""How long nodes wait for each other: one may still download inputs that another one has."""
POLL_S = 1.0
UNUSED_ADDRESS = ("192.0.2.1", 9)
"""An address reserved for documentation (RFC 5737). The route to it determines our own address; nothing is sent."""
FAILURES_EVERY_S = 5.0


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
            socket.create_connection(split_address(address), timeout=5).close()
            return address
        progress.log("waiting for the first node")
        time.sleep(POLL_S)
    raise StageFailed(
        "The first node did not publish its address.", hint="Check that it runs with the same store, settings and code."
    )


def split_address(rendezvous: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 address may be in brackets. Raises `ValueError`."""
    host, _, port = rendezvous.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def own_address() -> str:
    """The address under which other nodes reach this one: `NANOCHAT_ADDRESS`, or the one with the default route.

    Without a default route, the only address that is not loopback. Raises `BadConfig` when there is none, or several.
    """
    if named := settings.node_address():
        return named
    with suppress(OSError):
        return _local_address(*UNUSED_ADDRESS)
    found = [address for _, address in _addresses() if not _is_loopback(address)]
    if len(found) == 1:
        return found[0]
    there = f"has several addresses ({', '.join(found)})" if found else "has no address except loopback"
    raise BadConfig(
        f"This node has no default route and {there}: where can the other nodes reach it?",
        hint="Set `NANOCHAT_ADDRESS` on each node to its own address.",
    )


def interface_variables(compute: Compute) -> dict[str, str]:
    """Environment variables that make Gloo and NCCL use the network interface of this node's address.

    Gloo takes the interface of the host's name, which Debian resolves to loopback; NCCL takes the first interface.
    Empty for one node, and where the host's name has an address of its own and `NANOCHAT_ADDRESS` has none of this node
    (a service in front of it).
    """
    if compute.parallelism.nodes == 1:
        return {}
    interfaces = {address: name for name, address in _addresses()}
    named = settings.node_address()
    interface = interfaces.get(_resolved(named)) if named else None
    if interface is None and _is_loopback(_resolved(socket.gethostname())):
        interface = interfaces.get(_address_towards(compute.parallelism.rendezvous))
    if interface is None:
        return {}
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}  # `=`: not a prefix


def _address_towards(rendezvous: str) -> str:
    """The address from which this node reaches the first one; on the first node, its own."""
    host, port = split_address(rendezvous)
    with suppress(OSError):
        address = _local_address(_resolved(host), port)
        if not _is_loopback(address):
            return address
    return own_address()


def _local_address(host: str, port: int) -> str:
    """The address from which this machine would send to another. Raises `OSError` without a route."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return probe.getsockname()[0]


def _resolved(host: str) -> str:
    """The first address of a host; loopback for an unknown name, which Gloo replaces by that too."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        return "127.0.0.1"


def _addresses() -> list[tuple[str, str]]:
    """Interface and address, of all that are up, without IPv6 addresses that are valid on one link only."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family in (socket.AF_INET, socket.AF_INET6) and not entry.address.startswith("fe80:")
    ]


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class PeerFailures:
    """Failures of the nodes of one training, below the URL `folder`. Failures of an earlier attempt do not count."""

    def __init__(self, folder: str, compute: Compute) -> None:
        self._node, self._several = compute.parallelism.node, compute.parallelism.nodes > 1
        self._looked = time.monotonic()
        if self._several:
            self._objects = Objects(folder)
            self._objects.delete([_failure_path(self._node)])
            others = (node for node in range(compute.parallelism.nodes) if node != self._node)
            self._earlier = {node: self._read(node) for node in others}

    def report(self, error: Exception) -> None:
        """Publishes that this node failed. A store that is away does not hide the error."""
        if self._several:
            message = error.message if isinstance(error, NanochatError) else type(error).__name__
            record = json.dumps({"attempt": uuid.uuid4().hex, "message": message})
            with suppress(NanochatError, OSError):
                self._objects.write(_failure_path(self._node), record.encode())

    def check(self, *, now: bool = False) -> None:
        """Raises `StageFailed` if another node failed; reads the store every `FAILURES_EVERY_S`, or now."""
        if not self._several or (not now and time.monotonic() - self._looked < FAILURES_EVERY_S):
            return
        self._looked = time.monotonic()
        failed: dict[int, str] = {}
        for node, earlier in self._earlier.items():
            with suppress(NanochatError, OSError, ValueError):  # the store is away, or the record is cut
                if (record := self._read(node)) not in (b"", earlier):
                    failed[node] = json.loads(record)["message"]
        for node, message in failed.items():
            raise StageFailed(f"Node {node} failed: {message}", hint="The log of that node has more.")

    def _read(self, node: int) -> bytes:
        try:
            return self._objects.read(_failure_path(node))
        except FileNotFoundError:
            return b""


@contextmanager
def peer_failures(folder: str, compute: Compute) -> Generator[PeerFailures]:
    """Publishes a failure of the block to the other nodes, and raises theirs in place of one that it may have caused.

    A node that ends in order (another one has the result, or it was preempted) has not failed.
    """
    peers = PeerFailures(folder, compute)
    try:
        yield peers
    except (NotFirstNode, Preempted):
        raise
    except Exception as error:
        peers.report(error)
        if type(error) in (StageFailed, Unexpected):
            peers.check(now=True)
        raise


def _failure_path(node: int) -> str:
    return f"failure-of-node-{node}.json"

"""The addresses and interfaces of nodes, and how one learns that another failed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from nanochat.errors import BadConfig, BadSource, Preempted, StageFailed
from nanochat.execution.stage import NotFirstNode
from nanochat.workers import rendezvous
from nanochat.workers.rendezvous import interface_variables, own_address, peer_failures, resolve_rendezvous
from tests.compute import compute

LOOPBACK = {"lo": ["127.0.0.1", "::1"]}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the interfaces of this machine, what its name resolves to, and its own address on the default route."""
    monkeypatch.delenv("NANOCHAT_ADDRESS", raising=False)

    def describe(interfaces: dict[str, list[str]], *, name: str = "127.0.1.1", route: str = "") -> None:
        def connect(host: str, port: int) -> str:
            if not route:
                raise OSError(101, "Network is unreachable")
            return route

        def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
            address = name if host == socket.gethostname() else host
            if not address.replace(".", "").replace(":", "").isalnum() or address == "unknown":
                raise socket.gaierror(-2, "Name or service not known")
            return [(0, 0, 0, "", (address, 0))]

        family = {True: socket.AF_INET6, False: socket.AF_INET}
        entries = {
            each: [SimpleNamespace(family=family[":" in address], address=address) for address in addresses]
            for each, addresses in interfaces.items()
        }
        monkeypatch.setattr(rendezvous, "_local_address", connect)
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)
        monkeypatch.setattr(
            psutil, "net_if_stats", lambda: {each: SimpleNamespace(isup=each != "down0") for each in interfaces}
        )

    return describe


def test_the_address_on_the_default_route_is_published(machine: Callable[..., None]) -> None:
    machine({**LOOPBACK, "eth0": ["10.0.0.5"], "eth1": ["10.1.0.5"]}, route="10.0.0.5")
    assert own_address() == "10.0.0.5"


@pytest.mark.parametrize("address", ["10.91.0.1", "fd00::1"])
def test_without_a_default_route_the_only_address_is_published(machine: Callable[..., None], address: str) -> None:
    machine({**LOOPBACK, "veth": [address, "fe80::1%veth"], "down0": ["10.9.9.9"]})
    assert own_address() == address


@pytest.mark.parametrize(
    ("interfaces", "expected"),
    [
        (LOOPBACK, "no default route and has no address except loopback"),
        ({**LOOPBACK, "eth0": ["10.0.0.5"], "docker0": ["172.17.0.1"]}, r"several addresses \(10.0.0.5, 172.17.0.1\)"),
    ],
)
def test_loopback_is_never_published_where_other_nodes_join(
    machine: Callable[..., None], interfaces: dict[str, list[str]], expected: str, tmp_path: Path
) -> None:
    machine(interfaces)
    with pytest.raises(BadConfig, match=expected) as caught:
        resolve_rendezvous(tmp_path.as_uri(), compute(nodes=2), lambda *_: None)  # type: ignore[arg-type]
    assert "NANOCHAT_ADDRESS" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_interface_of_a_named_address_is_used(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine({**LOOPBACK, "eth0": ["10.0.0.5"], "h1e": ["10.91.0.1"]}, name="10.0.0.5", route="10.0.0.5")
    monkeypatch.setenv("NANOCHAT_ADDRESS", "10.91.0.1")
    expected = {"GLOO_SOCKET_IFNAME": "h1e", "NCCL_SOCKET_IFNAME": "=h1e"}
    assert interface_variables(compute(nodes=2, rendezvous="10.91.0.1:4000")) == expected
    assert interface_variables(compute(nodes=1)) == {}
    monkeypatch.setenv("NANOCHAT_ADDRESS", "10.99.0.1")
    assert interface_variables(compute(nodes=2, rendezvous="10.99.0.1:4000")) == {}, "a service in front of this node"


@pytest.mark.parametrize("name", ["127.0.1.1", "unknown"])
def test_the_interface_towards_the_first_node_is_used_where_the_name_of_the_host_is_loopback(
    machine: Callable[..., None], name: str
) -> None:
    machine({**LOOPBACK, "eth0": ["10.0.0.5"], "eth1": ["10.1.0.5"]}, name=name, route="10.1.0.5")
    assert interface_variables(compute(nodes=2, rendezvous="10.1.0.1:4000"))["GLOO_SOCKET_IFNAME"] == "eth1"


def test_the_interface_is_left_to_the_system_where_the_name_of_the_host_is_an_address(
    machine: Callable[..., None],
) -> None:
    machine({**LOOPBACK, "eth0": ["10.0.0.5"]}, name="10.0.0.5", route="10.0.0.5")
    assert interface_variables(compute(nodes=2, rendezvous="10.0.0.1:4000")) == {}


# --- failures of other nodes ------------------------------------------------------------------------------------------


def fail(folder: str, node: int, error: Exception) -> None:
    with pytest.raises(type(error)), peer_failures(folder, compute(nodes=2, node=node)):
        raise error


def test_a_node_that_waits_ends_with_the_failure_of_another(tmp_path: Path) -> None:
    folder = tmp_path.as_uri()
    with peer_failures(folder, compute(nodes=2, node=0)) as peers:
        peers.check(now=True)
        fail(folder, 1, BadSource("`rows` is empty."))
        with pytest.raises(StageFailed, match="Node 1 failed: `rows` is empty"):
            peers.check(now=True)


def test_a_failure_of_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path.as_uri()
    fail(folder, 1, BadSource("`rows` is empty."))
    with peer_failures(folder, compute(nodes=2, node=0)) as peers:
        peers.check(now=True)
        with peer_failures(folder, compute(nodes=2, node=1)):
            peers.check(now=True)
        fail(folder, 1, BadSource("`rows` is empty."))
        with pytest.raises(StageFailed, match="Node 1"):
            peers.check(now=True)


def test_a_node_whose_connection_broke_names_the_node_that_failed_first(tmp_path: Path) -> None:
    folder = tmp_path.as_uri()
    expected = pytest.raises(StageFailed, match="Node 1 failed: Permission denied")
    with expected, peer_failures(folder, compute(nodes=2, node=0)):
        fail(folder, 1, BadSource("Permission denied."))
        raise StageFailed("Connection closed by peer.")


@pytest.mark.parametrize("ended", [NotFirstNode(), Preempted("TERM")])
def test_a_node_that_ends_in_order_has_not_failed(ended: Exception, tmp_path: Path) -> None:
    folder = tmp_path.as_uri()
    with peer_failures(folder, compute(nodes=2, node=0)) as peers:
        fail(folder, 1, ended)
        peers.check(now=True)


def test_one_node_alone_reads_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadSource), peer_failures("s3://no-such-bucket/x", compute(nodes=1)) as peers:
        peers.check(now=True)
        raise BadSource("`rows` is empty.")
    assert list(tmp_path.iterdir()) == []

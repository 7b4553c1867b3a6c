"""A server that cannot do what the store relies on is refused when it is opened, by the name of what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nanochat.cli.main import command
from nanochat.errors import StoreError, StoreUnreachable
from nanochat.store import conformance, lease
from nanochat.store.objects import Objects
from nanochat.store.store import Store
from tests.scripted_s3 import Flaw, scripted

LACKS: dict[Flaw, str] = {
    "no create-only": "ignores create-only writes (`If-None-Match: *`)",
    "no swap": "ignores conditional writes (`If-Match`)",
    "refuses swaps": "refuses conditional writes of an object that has not changed (`If-Match`)",
    "loses races": "lets 2 of 2 simultaneous create-only writes of one object succeed",
    "lists nothing": "does not list an object that was just written",
    "no ranges": "ignores ranges of bytes (`Range`)",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Flaw], str]]:
    """Starts a server with a flaw; returns the root of a store there."""
    with ExitStack() as stack:

        def start(flaw: Flaw) -> str:
            for name, value in stack.enter_context(scripted(flaw)).items():
                monkeypatch.setenv(name, value)
            return "s3://bucket/store"

        yield start


@pytest.mark.parametrize("flaw", LACKS)
def test_a_server_is_refused_by_the_name_of_what_it_lacks(
    flaw: Flaw, server: Callable[[Flaw], str], tmp_path: Path
) -> None:
    root = server(flaw)
    with pytest.raises(StoreError) as caught:
        Store(root, tmp_path)
    assert caught.value.message == f"The store {root} {LACKS[flaw]}."
    assert "use another server" in caught.value.hint
    assert not isinstance(caught.value, StoreUnreachable), "it would be tried again, in vain"


@pytest.mark.parametrize("flaw", ["", "bare tags"])
def test_both_spellings_of_a_tag_are_understood(flaw: Flaw, server: Callable[[Flaw], str], tmp_path: Path) -> None:
    objects = Store(server(flaw), tmp_path).objects
    objects.write("v1/x", b"1")
    assert objects.swap("v1/x", b"2", b"1")
    assert not objects.swap("v1/x", b"3", b"1")
    assert objects.read("v1/x") == b"2"
    with lease.lease(objects, "key") as held:
        assert held.holds()


def test_nothing_of_the_checks_stays(server: Callable[[Flaw], str], tmp_path: Path) -> None:
    objects = Store(server(""), tmp_path).objects
    assert objects.list("v1") == []
    Store(str(tmp_path / "store"), tmp_path)
    assert [path.name for path in (tmp_path / "store/v1").rglob("*") if path.is_file()] == [".swap.lock"]


def test_an_opening_needs_few_requests(server: Callable[[Flaw], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """At 50 ms each it takes less than a second: those of a race and those that delete are made together."""
    backend = Objects(server("")).backend
    call, calls = backend._s3.call_s3, list[str]()

    def counted(method: str, **given: Any) -> Any:
        calls.append(method)
        return call(method, **given)

    monkeypatch.setattr(backend._s3, "call_s3", counted)
    conformance.require(backend)
    assert len(calls) - (conformance.CREATORS_AT_OPENING - 1) - (calls.count("delete_object") - 1) <= 15


def test_a_wait_for_a_lease_that_cannot_be_taken_over_ends(
    server: Callable[[Flaw], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder ended, and the server fails every swap; the store was opened without checks."""
    monkeypatch.setattr(lease, "POLL_S", 0.0)
    objects, waited = Objects(server("refuses swaps")), []
    record = b'{"holder": "node7:42", "fence": 1, "beat": 3, "ttl_s": 0.1}'
    objects.write("v1/leases/key.json", record)
    with (
        pytest.raises(StoreError, match=r"`node7:42`.*has not renewed"),
        lease.lease(objects, "key", on_wait=waited.append),
    ):
        raise AssertionError("it was taken over")
    assert waited == ["node7:42"]
    assert objects.read("v1/leases/key.json") == record


@pytest.mark.parametrize("kind", ["file", pytest.param("s3", marks=pytest.mark.s3)])
def test_what_the_tests_use_meets_every_requirement(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("root_s3") if kind == "s3" else str(tmp_path / "store")
    objects = Objects(root)
    results = list(conformance.check(objects.backend, conformance.EVERYTHING, errors_are_problems=True))
    assert [f"{each.requirement.name}: {each.problem}" for each in results if each.problem] == []
    assert len(results) == len(conformance.EVERYTHING)
    assert objects.list("v1", everything=True) == []


def test_a_listing_that_ends_after_a_page_is_found(server: Callable[[Flaw], str]) -> None:
    backend = Objects(server("one page")).backend
    results = conformance.check(backend, conformance.EVERYTHING, errors_are_problems=True)
    problems = {each.requirement.name: each.problem for each in results if each.problem}
    assert problems["listings in pages"] == "omits 3 of 3 objects from a listing in pages"


def test_a_store_that_is_away_is_one_error_and_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Objects(str(tmp_path / "store")).backend

    def away(*_: Any) -> bool:
        raise StoreUnreachable("The store did not answer.")

    monkeypatch.setattr(backend, "create", away)
    with pytest.raises(StoreUnreachable):
        list(conformance.check(backend, conformance.EVERYTHING, errors_are_problems=True))
    results = conformance.check(backend, [conformance.LISTING, conformance.CREATE_ONLY], errors_are_problems=True)
    assert [each.problem for each in results] == ["", "fails: The store did not answer"]


def test_the_command_prints_a_table_and_fails_by_the_name_of_what_is_lacking(
    server: Callable[[Flaw], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(["store", "check", str(tmp_path / "store")])
    output = capsys.readouterr().out
    assert "meets all 14 requirements" in output
    assert output.count(" yes ") == 14
    root = server("lists nothing")
    with pytest.raises(SystemExit) as ended:
        command(["store", "check", root])
    assert ended.value.code == 1
    shown = capsys.readouterr()
    (row,) = [line for line in shown.out.splitlines() if line.startswith("listing after writing")]
    assert "does not list an object that was just written" in row
    assert "lacks: listing after writing" in shown.err

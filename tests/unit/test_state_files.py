"""`server.json` and `site.json`, as killed processes, other programs and other users leave them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.site import state_files
from nanochat.errors import NanochatError

FIELDS = {"pid": int, "port": int, "services": bool}
WHOLE = '{"pid": 5, "port": 4200, "services": true}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"pid": 5, "po',
        "[1, 2]",
        "null",
        "12",
        "\x00" * 40,
        "\ud800".encode("utf-8", "surrogatepass"),
        "<html>",
        '{"pid": 5}',
        '{"pid": "5", "port": 4200, "services": true}',
        '{"pid": -1, "port": 4200, "services": true}',
        '{"pid": true, "port": 4200, "services": true}',
        f"{WHOLE} {WHOLE}",
        "[" * 100_000,
    ],
)
def test_an_incomplete_record_counts_as_absent(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "server.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with state_files.open_state(path) as file:
        assert state_files.read(file, FIELDS) == {}
        state_files.write(file, {"pid": 7, "port": 4200, "services": False})
        assert state_files.read(file, FIELDS) == {"pid": 7, "port": 4200, "services": False}


def test_a_shorter_record_replaces_a_longer_one(tmp_path: Path) -> None:
    with state_files.open_state(tmp_path / "x.json") as file:
        for record in ({"pid": 123_456, "port": 4200, "services": False}, {"pid": 1, "port": 1, "services": True}):
            state_files.write(file, record)
            assert state_files.read(file, FIELDS) == record


def test_a_record_belongs_to_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    assert not state_files.is_locked(path)
    path.write_text(WHOLE)
    assert not state_files.is_locked(path), "the pid may belong to another process now"
    code = "import sys; from pathlib import Path; from flows.site import state_files;"
    code += "f = state_files.open_state(Path(sys.argv[1]));"
    code += "assert state_files.try_lock(f); print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(state_files.__file__).parents[1])},
    ) as holder:  # fmt: skip
        assert holder.stdout
        assert holder.stdout.readline() == "locked\n"
        assert state_files.is_locked(path)
        holder.kill()
    assert not state_files.is_locked(path)


def test_checking_a_lock_does_not_prevent_locking(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    with state_files.open_state(path) as checks, state_files.open_state(path) as takes:
        assert state_files.try_lock(checks, shared=True)
        assert not state_files.try_lock(takes)
        checks.close()
        assert state_files.try_lock(takes)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    path.mkdir()
    with pytest.raises(NanochatError, match=r"server\.json` cannot be used"):
        state_files.open_state(path)
    with pytest.raises(NanochatError, match=r"server\.json` cannot be used"):
        state_files.is_locked(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NanochatError, match="cannot be used"):
        state_files.open_state(tmp_path / "file" / "server.json")

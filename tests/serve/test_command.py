"""`nanochat serve` as a process: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from nanochat.store.store import Store
from tests.serve.models import chain_model, ids, publish

pytestmark = pytest.mark.slow
SLOW_CHAIN = (ids("<|assistant_start|>", "Yes", "<|assistant_end|>"), ids("a", "b", "c", "d", "a"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of a long context: an answer takes seconds."""
    made = tmp_path_factory.mktemp("command")
    store = Store(str(made / "store"), made / "cache")
    publish(store, made / "model", chain_model(SLOW_CHAIN, context_tokens=2048, width=128), key="4" * 64,
            alias="chat/latest")  # fmt: skip
    return made


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nanochat.cli", "serve", *arguments]


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process and the lines that it printed until it was ready."""
    process = subprocess.Popen(
        command("--store", str(folder / "store"), "--port", "0", *arguments), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NANOCHAT_HOME": str(folder / "home"), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
             **environment},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        yield process, lines
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def address_of(lines: list[str]) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
    assert found, lines
    return found.group()


def long_stream(address: str, **fields: Any) -> Any:
    body = {"prompt": "a", "max_tokens": 2000, "temperature": 0, "stream": True, **fields}
    return httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=300)


def test_the_line_that_it_prints_works_in_a_shell(folder: Path) -> None:
    with started(folder) as (_, lines):
        arguments = shlex.split(lines[2].partition(":")[2])
        assert arguments[0] == "curl"
        done = subprocess.run([*arguments, "--silent", "--max-time", "300"], capture_output=True, text=True)
        assert '"chat.completion"' in done.stdout, done


def test_after_sigterm_running_answers_finish_and_the_exit_code_is_0(folder: Path) -> None:
    with started(folder) as (process, lines):
        with long_stream(address_of(lines), max_tokens=300) as stream:
            chunks = stream.iter_text()
            next(chunks)
            process.send_signal(signal.SIGTERM)
            assert "".join(chunks).endswith("data: [DONE]\n\n")
        assert process.wait(60) == 0


def test_a_second_signal_ends_it_at_once(folder: Path) -> None:
    with started(folder) as (process, lines), long_stream(address_of(lines), n=16) as stream:
        next(stream.iter_text())
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert any("finishing 16 answers" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM


def test_answers_that_take_too_long_after_sigterm_end_with_an_error(folder: Path) -> None:
    with started(folder, "--drain-s", "0.2") as (process, lines):
        with long_stream(address_of(lines), n=16) as stream:
            chunks = stream.iter_text()
            next(chunks)
            process.send_signal(signal.SIGTERM)
            assert "The server is stopping" in "".join(chunks)
        assert process.wait(60) == 0


def test_the_token_is_of_the_environment_and_is_never_printed(folder: Path) -> None:
    with started(folder, NANOCHAT_SERVE_TOKEN="s3cret-token") as (process, lines):
        address = address_of(lines)
        assert httpx.get(f"{address}/v1/models").status_code == 401
        allowed = httpx.get(f"{address}/v1/models", headers={"authorization": "Bearer s3cret-token"})
        assert allowed.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "s3cret" not in "".join(lines) + process.stderr.read()


def test_a_port_that_is_taken_and_a_missing_model_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            command(*arguments), capture_output=True, text=True, timeout=300,
            env={**os.environ, "NANOCHAT_HOME": str(tmp_path / "home")},
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        printed = run("--store", str(folder / "store"), "--port", str(port))
        assert f"The port {port} is used by another program." in printed
    assert "There is no artifact `chat/latest`" in run("--store", str(tmp_path / "none"))
    assert "There is no artifact `chat/none`" in run("chat/none", "--store", str(folder / "store"))
    for host in ("no.such.host.invalid", "\x80"):
        assert "There is no address `" in run("--store", str(folder / "store"), "--host", host)

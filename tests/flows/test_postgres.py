"""A site whose Prefect server keeps its books in a real Postgres; and what a Postgres that goes away breaks: no run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.site import Site, ended, tiny, until, up

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.site,
    pytest.mark.postgres,
    pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="workers are supervised on Linux only"),
]
UNPRIVILEGED = 65_534
PROGRAMS = os.pathsep.join([os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
"""Debian keeps the programs of a Postgres server off the PATH."""
PASSWORD = "pa55word-for-tests"


@dataclass
class Postgres:
    """A throw-away server on loopback, in a folder of its own."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:  # Postgres refuses to run as root
            for path in (self.folder, secret):
                os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
        self._run("initdb", "-U", "prefect", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        unprivileged = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
        path = shutil.which(program, path=PROGRAMS) or program
        command = [*(unprivileged if os.geteuid() == 0 else []), path, "-D", str(self.folder / "data"), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    missing = [name for name in ("initdb", "pg_ctl", "postgres") if shutil.which(name, path=PROGRAMS) is None]
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        missing.append("setpriv")
    if missing:
        pytest.skip(f"no {', '.join(missing)} here")
    with tempfile.TemporaryDirectory(prefix="nanochat-postgres-") as folder, socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        server = Postgres(Path(folder), port)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def site(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with up(tmp_path_factory.mktemp("home"), PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres.url) as site:
        yield site
    site.must_not_hold(PASSWORD)


def test_a_run_outlives_a_restart_of_postgres_and_is_kept_there_and_nowhere_else(
    site: Site, postgres: Postgres
) -> None:
    config = tiny("pretrain.horizon.amount=100")
    first = site.start(profile="demo", config=config)
    until(lambda: site.processes("nanochat.training"), "training")
    for word in ("prefect worker", "nanochat.workers.supervisor"):
        assert site.processes(word)
        assert all(PASSWORD not in str(process.environ()) for process in site.processes(word))
    postgres.stop()
    postgres.start()
    run = site.wait(first, ended)
    assert (run["state_name"], run["state"]["message"]) == ("Completed", "14 computed, 0 cached")
    assert site.done("demo", profile="demo", config=config) == ("Cached", "0 computed, 14 cached")
    assert not list(site.home.rglob("*.db")), "there is a SQLite database"

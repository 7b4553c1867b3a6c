"""A real S3 server, for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PORTS = ("master.port", "volume.port", "filer.port", "s3.port", "webdav.port", "admin.port", "s3.port.iceberg")


def free_ports(count: int) -> list[int]:
    """Ports that are free, and free 10,000 above too: SeaweedFS's gRPC listens there."""
    found: list[int] = []
    port = 21_000 + os.getpid() % 5_000
    while len(found) < count:
        port += 1
        with socket.socket() as low, socket.socket() as high:
            try:
                low.bind(("127.0.0.1", port))
                high.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        found.append(port)
    return found


def weed() -> str | None:
    """The server's program, if there is one here."""
    return shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))


@contextmanager
def serve(folder: Path) -> Iterator[dict[str, str]]:
    """A SeaweedFS server on loopback, with its data in a folder; yields the environment that reaches it."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    environment = {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    options = [f"-{name}={port}" for name, port in ports.items()]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [str(weed()), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *options],
            stdout=log, stderr=log, env={**os.environ, **environment},
        )  # fmt: skip
    try:
        _wait(environment["AWS_ENDPOINT_URL"], process, folder / "log.txt")
        yield environment
    finally:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(url, timeout=1)
        except urllib.error.HTTPError:
            return  # it answers, and refuses the unknown
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text()[-2000:])

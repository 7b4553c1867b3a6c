"""The Hub out of reach: the real client libraries, in a process of their own, end in one sentence.

For text and for conversations alike; what may pass is tried five times, what cannot pass is not.
"""

from __future__ import annotations

import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

PROGRAM = """
import json, logging, sys, types
import huggingface_hub.utils._http as client
from nanochat.config.data import DataConfig
from nanochat.sources.shard_list import list_shards
from nanochat.sources.download import write_shard
from nanochat.errors import NanochatError
from nanochat.sources import retry
from nanochat.tasks.hub_rows import hub_rows

waits, logged = [], []
retry.time = types.SimpleNamespace(sleep=waits.append)
client.time = types.SimpleNamespace(sleep=lambda seconds: None, time=client.time.time)
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
logging.getLogger("nanochat.sources").addHandler(handler)
for what in sys.argv[1:]:
    waits.clear(), logged.clear()
    kind, _, name = what.partition(" ")
    try:
        if kind == "text":
            list_shards(DataConfig(source=f"hf://{name}"))
        else:
            next(hub_rows("", name, None, "train"))
    except NanochatError as error:
        print(json.dumps([type(error).__name__, str(error), waits, logged]))
"""


class Site(http.server.BaseHTTPRequestHandler):
    """Answers every request with the status in the name of the dataset, or a page."""

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        status = next((int(part[6:]) for part in self.path.split("/") if part.startswith("status")), 200)
        body = b"<html>Please log in to the network</html>" if status == 200 else b'{"error": "no"}'
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Type", "text/html" if status == 200 else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_GET  # noqa: N815


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def query(folder: Path, endpoint: str, *what: str, **environment: str) -> list[tuple[str, str, list[float], list[str]]]:
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "NANOCHAT_HOME": str(folder / "home")}
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *what], capture_output=True, text=True, timeout=240,
        env={**kept, **ours, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(answers) == len(what), done.stdout + done.stderr
    return answers


def is_transient(answer: tuple[str, str, list[float], list[str]], *words: str) -> None:
    kind, message, waits, logged = answer
    assert kind == "SourceUnreachable", answer
    assert len(waits) == len(logged) == 4, answer
    assert "Trying again in" in logged[0] and "(2 of 5)" in logged[0]
    assert all(word in message for word in words), answer
    assert "Traceback" not in message and "\n" not in message


def is_final(answer: tuple[str, str, list[float], list[str]], *words: str) -> None:
    kind, message, waits, _ = answer
    assert kind == "BadSource" and not waits, answer
    assert all(word in message for word in words), answer


BOTH = ("text org/name", "rows org/name")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_no_network(tmp_path: Path, endpoint: str) -> None:
    for answer in query(tmp_path, endpoint, *BOTH):
        is_transient(answer, "The Hub does not answer", "ConnectError")


def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    for answer in query(tmp_path, "http://no-such-host.invalid", *BOTH, HTTP_PROXY="http://127.0.0.1:9"):
        is_transient(answer, "The Hub does not answer", "Connection refused")


def test_a_proxy_that_cannot_be_used(tmp_path: Path) -> None:
    for answer in query(tmp_path, "http://no-such-host.invalid", *BOTH, HTTP_PROXY="nonsense://127.0.0.1:9"):
        is_final(answer, "the proxy settings cannot be used", "HTTP_PROXY")


def test_statuses(tmp_path: Path) -> None:
    with serving() as port:
        statuses = (401, 403, 404, 429, 503)
        what = [f"{kind} org/status{status}" for status in statuses for kind in ("text", "rows")]
        answers = query(tmp_path, f"http://127.0.0.1:{port}", *what)
    for status, *pair in zip(statuses, answers[::2], answers[1::2], strict=True):
        for answer in pair:
            if status < 429:
                is_final(answer, f"org/status{status}")
            else:
                is_transient(answer, f"org/status{status}", f"status {status}")
    assert all(wait >= 7 for wait in answers[6][2]), "as long as `Retry-After` requests"


def test_a_page_of_the_network_in_place_of_the_hub(tmp_path: Path) -> None:
    with serving() as port:
        for answer in query(tmp_path, f"http://127.0.0.1:{port}", *BOTH):
            is_transient(answer, "something that is not JSON")


def test_a_certificate_that_cannot_be_verified(tmp_path: Path) -> None:
    certificate(tmp_path / "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with serving(context) as port:
        for answer in query(tmp_path, f"https://127.0.0.1:{port}", *BOTH):
            is_final(answer, "certificate", "SSL_CERT_FILE")


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://127.0.0.1:9", "http://"])
def test_an_endpoint_that_is_no_address(tmp_path: Path, endpoint: str) -> None:
    for answer in query(tmp_path, endpoint, *BOTH):
        is_final(answer, "HF_ENDPOINT")


def test_offline_by_a_setting(tmp_path: Path) -> None:
    for answer in query(tmp_path, "http://127.0.0.1:9", *BOTH, HF_HUB_OFFLINE="1"):
        is_final(answer, "HF_HUB_OFFLINE")


def certificate(path: Path) -> None:
    """One without a signature of an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))

"""Stores whose calls can be made to fail: a folder, a prefix of a real S3 server, and the home beside them."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

import botocore.session
import fsspec
from botocore.retries.quota import RetryQuota

from tests import disk_faults, faults

HOME_FAULTS = tuple(each for each in disk_faults.FAULTS if "listing" not in each.name)
"""Only the stage has the list of files that it has written: a local folder that shows fewer of them cannot be
found out."""


@dataclass
class Disk:
    """A store in a folder, whose file system fails; or only that of the home."""

    folder: Path
    of_home: bool = False

    @property
    def faults(self) -> tuple[Any, ...]:
        return HOME_FAULTS if self.of_home else disk_faults.FAULTS

    @property
    def url(self) -> str:
        return (self.folder / "store").as_uri()

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def watched(self, choose: Callable[[Any], Any]) -> Any:
        return disk_faults.watched(self.home if self.of_home else self.folder / "store", choose=choose)

    def objects(self) -> dict[str, bytes]:
        root = self.folder / "store"
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def reset(self, to: Any) -> None:
        there = self.objects()
        for path in there.keys() - to.keys():
            (self.folder / "store" / path).unlink()
        for path, data in to.items():
            if there.get(path) != data:
                (self.folder / "store" / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / "store" / path).write_bytes(data)


@dataclass(frozen=True)
class S3Fault:
    """What the proxy does to a request."""

    name: str
    does: faults.Fault
    calls: frozenset[str]
    transient: bool | None = None
    honest: bool = True


GETS, PUTS, LISTS = frozenset({"GET"}), frozenset({"PUT", "POST"}), frozenset({"LIST"})
EVERY = GETS | PUTS | LISTS | {"HEAD", "DELETE"}
S3_FAULTS = (
    S3Fault("403", "forbidden", EVERY, transient=False),
    S3Fault("404", "missing", EVERY - PUTS, honest=False),
    S3Fault("412", "precondition", PUTS, honest=False),
    S3Fault("500", "broken", EVERY, transient=True),
    S3Fault("501", "unknown", EVERY, transient=False),
    S3Fault("503", "busy", EVERY, transient=True),
    S3Fault("connection closed", "drop", EVERY, transient=True),
    S3Fault("answer lost", "lost", EVERY, transient=True),
    S3Fault("half of the body", "short", GETS | LISTS | PUTS, transient=True),
    S3Fault("half of a listing's XML", "torn", LISTS),
    S3Fault("torn body", "torn", GETS, honest=False),
    S3Fault("half of a listing", "half", LISTS, honest=False),
    S3Fault("empty listing", "empty", LISTS, honest=False),
    S3Fault("an HTML page with 200", "welcome", GETS | LISTS | PUTS),
    S3Fault("an HTML page with 404", "page", EVERY - {"HEAD"}, transient=True),
    S3Fault("404 without a body", "bare", EVERY - {"HEAD"}, honest=False),
    S3Fault("200 without a body", "nothing", GETS | LISTS | PUTS),
    S3Fault("clock is wrong", "skewed", EVERY, transient=None),
    S3Fault("time-out", 1.0, EVERY, transient=True),
)
SLOW = ("time-out",)


@dataclass(frozen=True)
class Request:
    """A request to S3."""

    number: int
    kind: str
    path: str

    def __str__(self) -> str:
        return f"call {self.number} ({self.kind} {self.path})"


class Line:
    """What the proxy calls for each request."""

    def __init__(self) -> None:
        self.calls: list[Request] = []
        self.choose: Callable[[Any], Any] | None = None
        self._lock = threading.Lock()
        self._current = threading.local()

    def of(self, method: str, path: str) -> bool:
        if self.choose is None:
            return False
        target = urlsplit(path)
        lists = method == "GET" and ("list-type" in parse_qs(target.query) or "uploads" in target.query)
        kind = "LIST" if lists else method
        with self._lock:
            request = Request(len(self.calls), kind, unquote(target.path))
            self.calls.append(request)
        self._current.request = request
        return True

    def fault(self, number: int) -> faults.Fault:
        choose, request = self.choose, self._current.request
        try:
            fault = choose(request) if choose else None
        except BaseException:  # it repeats requests without end: let it fail
            return "forbidden"
        return fault.does if fault and request.kind in fault.calls else ""


@dataclass
class S3:
    """A prefix of a real server, behind a proxy."""

    folder: Path
    server: dict[str, str]
    line: Line
    url: str = field(default_factory=lambda: f"s3://faults/{uuid.uuid4().hex[:8]}")
    of_home: bool = False
    slow: bool = False
    """Time-outs too."""

    @property
    def faults(self) -> tuple[Any, ...]:
        chosen = tuple(each for each in S3_FAULTS if self.slow or each.name not in SLOW)
        return HOME_FAULTS if self.of_home else chosen

    def __post_init__(self) -> None:
        self._client: Any = botocore.session.get_session().create_client(
            "s3", endpoint_url=self.server["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id=self.server["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.server["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        with contextlib.suppress(self._client.exceptions.ClientError):
            self._client.create_bucket(Bucket="faults")
        self._prefix = self.url.removeprefix("s3://faults/") + "/"
        self._known: dict[str, tuple[str, bytes]] = {}

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @contextlib.contextmanager
    def watched(self, choose: Callable[[Any], Any]) -> Iterator[list[Any]]:
        if self.of_home:
            with disk_faults.watched(self.home, choose=choose) as calls:
                yield calls
            return
        self.line.calls, self.line.choose = [], choose
        try:
            yield self.line.calls
        finally:
            self.line.choose = None

    def objects(self) -> dict[str, bytes]:
        found: dict[str, tuple[str, bytes]] = {}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="faults", Prefix=self._prefix)
        for entry in (each for page in pages for each in page.get("Contents", [])):
            path = entry["Key"].removeprefix(self._prefix)
            if path.endswith("/"):
                continue
            tag, data = self._known.get(path, ("", b""))
            if tag != entry["ETag"]:
                data = self._client.get_object(Bucket="faults", Key=entry["Key"])["Body"].read()
            found[path] = (entry["ETag"], data)
        self._known = found
        return {path: data for path, (_, data) in found.items()}

    def reset(self, to: Any) -> None:
        there = self.objects()
        for path in there.keys() - to.keys():
            self._client.delete_object(Bucket="faults", Key=self._prefix + path)
        for path, data in to.items():
            if there.get(path) != data:
                self._client.put_object(Bucket="faults", Key=self._prefix + path, Body=data)


@contextlib.contextmanager
def behind_a_proxy(server: dict[str, str]) -> Iterator[tuple[str, Line]]:
    """The address of a proxy before an S3 server, and what it calls; all stores share one quick client."""
    line, clients, real = Line(), dict[str, Any](), fsspec.filesystem
    with faults.faulty(server["AWS_ENDPOINT_URL"], line.fault, line.of) as (address, _):

        def one_client(protocol: str, **given: Any) -> Any:
            """A client takes a quarter of a second to make."""
            if protocol != "s3":
                return real(protocol, **given)
            given["config_kwargs"] = {**given.get("config_kwargs", {}), "read_timeout": 0.5, "connect_timeout": 0.5}
            target = given["endpoint_url"]
            if target not in clients:
                clients[target] = real(protocol, **given)
            return clients[target]

        tries_on = patch.object(RetryQuota, "acquire", lambda self, amount: True)  # a client tries less after failures
        with patch.object(fsspec, "filesystem", one_client), tries_on:
            yield address, line

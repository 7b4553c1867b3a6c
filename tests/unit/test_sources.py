"""Shards over the network: a real server that misbehaves in every way that servers do."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.server
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from s3fs import S3FileSystem

from nanochat.config.data import DataConfig, ShardConfig
from nanochat.errors import BadSource, DamagedTransfer, SourceUnreachable
from nanochat.sources import retry
from nanochat.sources.download import write_shard
from nanochat.sources.shard_list import list_shards


def texts(count: int, prefix: str = "document") -> list[str]:
    return [f"{prefix} {number}: {hashlib.sha256(str(number).encode()).hexdigest()}" for number in range(count)]


def parquet(path: Path, documents: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": documents}), path)
    return path


class Site(http.server.ThreadingHTTPServer):
    """Serves a folder, with tags and ranges, and answers the next GETs according to `sulks`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.sulks: list[str] = []
        """Each is a status, `short` (half of what is requested), `silent` or `flip` (a byte is another one)."""
        self.headers: dict[str, str] = {}
        """Given with every answer, also 429."""
        self.knows_head = self.knows_ranges = self.tags = True
        self.ranges: list[str] = []
        """Range of each GET."""
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        if not self.server.knows_head:
            self.send_error(405)
            return
        self.answer(body=False)

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range", ""))
        sulk = self.server.sulks.pop(0) if self.server.sulks else ""
        if sulk.isdigit():
            self.send_response(int(sulk))
            self.described(0)
        elif sulk == "silent":
            threading.Event().wait(1.5)
            self.close_connection = True
        else:
            self.answer(body=True, sulk=sulk)

    def answer(self, *, body: bool, sulk: str = "") -> None:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.described(0)
            return
        data = path.read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        begin = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.server.knows_ranges:
            begin = int(wanted[1])
            if begin >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.described(0)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if self.server.tags:
            self.send_header("ETag", tag)
        part = bytearray(data[begin:])
        if sulk == "flip":
            part[len(part) // 2] ^= 1
        self.described(len(part))
        if body:
            self.wfile.write(part[: len(part) // 2] if sulk == "short" else part)
            self.close_connection = self.close_connection or sulk == "short"

    def described(self, length: int) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """Pauses between tries; tests do not wait."""
    slept: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", slept.append)
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: low)
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    return slept


@pytest.fixture
def site(tmp_path: Path, waits: list[float]) -> Iterator[Site]:
    server = Site(tmp_path / "served")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def only(address: str) -> ShardConfig:
    (shard,) = list_shards(DataConfig(source=address))
    return shard


def fetched(shard: ShardConfig, folder: Path) -> int:
    """Documents of a shard; nothing of what was fetched on the way may be left."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    metrics = write_shard(shard, out)
    assert list((folder / "home/fetching").iterdir()) == []
    return metrics["train_documents"] + metrics["validation_documents"]


def test_a_list_of_addresses(tmp_path: Path, site: Site) -> None:
    for number in range(3):
        parquet(tmp_path / f"served/deep/shard_{number}.parquet", texts(200, f"shard {number}"))
    lines = ["# shards", "deep/shard_0.parquet", "", f"{site.address}/deep/shard_2.parquet"]
    (tmp_path / "served/list.txt").write_text("\n".join(lines))
    shards = list_shards(DataConfig(source=f"{site.address}/list.txt", validation_documents=5))
    assert [shard.name for shard in shards] == ["shard_0", "shard_2"]
    assert all(shard.identity for shard in shards)
    assert [fetched(shard, tmp_path) for shard in shards] == [200, 200]


def test_a_list_with_hashes_is_held_to_them(tmp_path: Path, site: Site) -> None:
    """As `sha256sum` prints them."""
    data = parquet(tmp_path / "served/a.parquet", texts(200)).read_bytes()
    (tmp_path / "served/list.txt").write_text(f"{hashlib.sha256(data).hexdigest()}  a.parquet\n")
    shard = only(f"{site.address}/list.txt")
    assert shard.identity.startswith("sha256:")
    site.sulks = ["flip"]
    assert fetched(shard, tmp_path) == 200, "a byte flipped on the way: fetched again"
    (tmp_path / "served/a.parquet").write_bytes(data[:-1] + b"!")
    with pytest.raises(DamagedTransfer, match=r"a\.parquet is damaged: its SHA256 is"):
        fetched(shard, tmp_path)


@pytest.mark.parametrize("header", ["Content-MD5", "Repr-Digest", "x-goog-hash"])
def test_a_hash_that_the_server_gives_is_checked(tmp_path: Path, site: Site, header: str) -> None:
    data = parquet(tmp_path / "served/a.parquet", texts(200)).read_bytes()
    md5, sha256 = (base64.b64encode(hashlib.new(name, data).digest()).decode() for name in ("md5", "sha256"))
    forms = {"Content-MD5": md5, "Repr-Digest": f"sha-256=:{sha256}:", "x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}
    site.headers = {header: forms[header]}
    shard = only(f"{site.address}/a.parquet")
    site.sulks = ["flip"]
    assert fetched(shard, tmp_path) == 200
    assert len(site.ranges) == 2


@pytest.mark.parametrize("status", ["429", "500", "502", "503", "408"])
def test_requests_to_a_failing_server_are_repeated_with_growing_pauses(
    tmp_path: Path, site: Site, waits: list[float], status: str
) -> None:
    parquet(tmp_path / "served/a.parquet", texts(100))
    shard = only(f"{site.address}/a.parquet")
    site.sulks = [status] * 3
    assert fetched(shard, tmp_path) == 100
    assert waits == [1, 2, 4]
    site.sulks = [status] * 100
    with pytest.raises(SourceUnreachable, match=rf"a\.parquet answered {status}"):
        fetched(shard, tmp_path)
    assert len(site.ranges) == 4 + retry.TRIES


def test_a_requested_pause_is_honoured(tmp_path: Path, site: Site, waits: list[float]) -> None:
    parquet(tmp_path / "served/a.parquet", texts(100))
    shard = only(f"{site.address}/a.parquet")
    site.sulks, site.headers = ["429"], {"Retry-After": "7"}
    assert fetched(shard, tmp_path) == 100
    assert waits == [7]


def test_a_silent_server_is_not_waited_for(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "served/a.parquet", texts(100))
    shard = only(f"{site.address}/a.parquet")
    monkeypatch.setattr("nanochat.sources.http_files.READ_TIMEOUT_S", 0.2)
    site.sulks = ["silent"]
    assert fetched(shard, tmp_path) == 100
    site.sulks = ["silent"] * 10
    with pytest.raises(SourceUnreachable, match=r"a\.parquet timed out"):
        fetched(shard, tmp_path)


def test_a_short_read_goes_on_where_it_was_cut_off(tmp_path: Path, site: Site) -> None:
    size = parquet(tmp_path / "served/a.parquet", texts(2000)).stat().st_size
    shard = only(f"{site.address}/a.parquet")
    site.sulks = ["short"] * 9  # more than the tries without progress
    assert fetched(shard, tmp_path) == 2000
    begins = [int(ranges.removeprefix("bytes=").rstrip("-") or 0) for ranges in site.ranges]
    assert begins == sorted(set(begins)) and begins[1] == size // 2
    site.ranges, site.sulks, site.knows_ranges = [], ["short", "short"], False
    assert fetched(shard, tmp_path) == 2000, "without ranges from the beginning"


def test_a_killed_fetch_goes_on_in_the_next_run(tmp_path: Path, site: Site) -> None:
    size = parquet(tmp_path / "served/a.parquet", texts(2000)).stat().st_size
    shard = only(f"{site.address}/a.parquet")
    site.sulks = ["short", *["500"] * 10]
    with pytest.raises(SourceUnreachable):
        fetched(shard, tmp_path)
    site.ranges, site.sulks = [], []
    assert fetched(shard, tmp_path) == 2000
    assert site.ranges == [f"bytes={size // 2}-"]


def test_what_was_fetched_whole_is_not_fetched_again(tmp_path: Path, site: Site) -> None:
    """Killed while it was split."""
    parquet(tmp_path / "served/a.parquet", texts(500))
    shard = only(f"{site.address}/a.parquet")

    def kill(done: float, total: float, unit: str, *_: object) -> None:
        if unit == "documents":
            raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_shard(shard, tmp_path / "out", kill)
    sent = len(site.ranges)
    assert fetched(shard, tmp_path) == 500
    assert len(site.ranges) == sent


@pytest.mark.parametrize("tags", [True, False])
def test_a_changed_file_behind_the_same_address_is_noticed(tmp_path: Path, site: Site, tags: bool) -> None:
    site.tags = tags
    parquet(tmp_path / "served/a.parquet", texts(100))
    shard = only(f"{site.address}/a.parquet")
    parquet(tmp_path / "served/a.parquet", texts(101))
    with pytest.raises(BadSource, match=r"a\.parquet changed since the run began"):
        fetched(shard, tmp_path)
    assert only(f"{site.address}/a.parquet") != shard, "the next run requests something else"
    assert fetched(only(f"{site.address}/a.parquet"), tmp_path) == 101


def test_a_file_that_changes_while_it_is_fetched_is_not_patched_together(tmp_path: Path, site: Site) -> None:
    parquet(tmp_path / "served/a.parquet", texts(1000))
    shard = only(f"{site.address}/a.parquet")
    site.sulks = ["short", *["500"] * 10]
    with pytest.raises(SourceUnreachable):
        fetched(shard, tmp_path)
    parquet(tmp_path / "served/a.parquet", texts(1000, "other"))
    site.sulks = []
    with pytest.raises(BadSource, match="changed since the run began"):
        fetched(shard, tmp_path)


def test_what_a_server_does_not_have(tmp_path: Path, site: Site) -> None:
    with pytest.raises(BadSource, match="There is nothing at"):
        list_shards(DataConfig(source=f"{site.address}/a.parquet"))
    parquet(tmp_path / "served/a.parquet", texts(100))
    shard = only(f"{site.address}/a.parquet")
    site.sulks = ["403"]
    with pytest.raises(BadSource, match=r"Access to .* is denied: 403"):
        fetched(shard, tmp_path)
    (tmp_path / "served/a.parquet").unlink()
    with pytest.raises(BadSource, match="There is nothing at"):
        fetched(shard, tmp_path)
    with pytest.raises(BadSource, match="not the address of a text file"):
        list_shards(DataConfig(source=f"{site.address}/page.html"))
    (tmp_path / "served/prose.txt").write_text("It was a bright cold day in April.")
    with pytest.raises(BadSource, match="not a list of addresses"):
        list_shards(DataConfig(source=f"{site.address}/prose.txt"))


def test_a_truncated_shard_is_named_and_not_kept(tmp_path: Path, site: Site) -> None:
    whole = parquet(tmp_path / "served/a.parquet", texts(100)).read_bytes()
    (tmp_path / "served/a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadSource, match=r"a\.parquet` is damaged or truncated"):
        fetched(only(f"{site.address}/a.parquet"), tmp_path)
    assert list((tmp_path / "home/fetching").iterdir()) == []


def test_a_server_without_head(tmp_path: Path, site: Site) -> None:
    parquet(tmp_path / "served/a.parquet", texts(100))
    site.knows_head = False
    assert fetched(only(f"{site.address}/a.parquet"), tmp_path) == 100


def test_no_server(tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(SourceUnreachable, match=r"did not answer \(ConnectError\)"):
        list_shards(DataConfig(source="http://127.0.0.1:9/a.parquet"))
    assert len(waits) == retry.TRIES - 1


def test_an_s3_server_that_is_not_there(waits: list[float], monkeypatch) -> None:
    away = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    monkeypatch.setattr("nanochat.sources.remote_files.open_s3", lambda: S3FileSystem(key="a", secret="b", **away))
    with pytest.raises(SourceUnreachable, match=r"did not answer \(EndpointConnectionError\)"):
        list_shards(DataConfig(source="s3://bucket/prefix"))
    assert len(waits) == retry.TRIES - 1


@pytest.mark.parametrize("source", ["s3://", "s3:///x", "s3://bucket//x", "gs://bucket//"])
def test_an_address_with_an_empty_part_is_refused(source: str) -> None:
    """As a script with an empty variable makes it."""
    with pytest.raises(BadSource, match="has an empty part"):
        list_shards(DataConfig(source=source))


def test_a_full_disk_is_not_taken_for_the_network(tmp_path: Path, waits: list[float]) -> None:
    """The stage reports it in its own words."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/full/a.jsonl", LINE * 20)
    shard = only("memory://full/a.jsonl")

    def fail(done: float, total: float, unit: str, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="No space left"):
        write_shard(shard, tmp_path / "out", fail)
    assert not waits


def test_any_file_system_that_fsspec_knows(tmp_path: Path, waits: list[float]) -> None:
    memory = fsspec.filesystem("memory")
    for number in range(2):
        path = parquet(tmp_path / f"shard_{number}.parquet", texts(100, f"shard {number}"))
        memory.pipe_file(f"/corpus/shard_{number}.parquet", path.read_bytes())
    shards = list_shards(DataConfig(source="memory://corpus"))
    assert [shard.name for shard in shards] == ["shard_0", "shard_1"]
    assert [fetched(shard, tmp_path) for shard in shards] == [100, 100]
    time.sleep(0.01)
    memory.pipe_file("/corpus/shard_1.parquet", (tmp_path / "shard_0.parquet").read_bytes())
    with pytest.raises(BadSource, match=r"shard_1\.parquet changed since the run began"):
        fetched(shards[1], tmp_path)
    with pytest.raises(BadSource, match="There is nothing at memory://nowhere"):
        list_shards(DataConfig(source="memory://nowhere"))


NAMES = ("a b.jsonl", "a#b.jsonl", "a?b.jsonl", "100%.jsonl", "a%20b.jsonl", "ü🙂.jsonl", "line\nbreak.jsonl")
LINE = b'{"text": "a text of a person"}\n'


def test_what_is_data_below_a_remote_prefix(tmp_path: Path, waits: list[float], caplog) -> None:
    """By the same rules as in a folder."""
    memory = fsspec.filesystem("memory")
    for name in ("_temporary/0/part.jsonl", "_SUCCESS", "part-0.jsonl", "test/part-1.jsonl", "eval-0.jsonl", "x.csv"):
        memory.pipe_file(f"/rules/{name}", LINE)
    with caplog.at_level("WARNING", "nanochat.sources"):
        assert [shard.name for shard in list_shards(DataConfig(source="memory://rules"))] == ["part-0"]
    assert "2 hidden" in caplog.text and "2 of a test split" in caplog.text and "1 of another format" in caplog.text
    assert only("memory://rules/test/part-1.jsonl").name == "part-1", "named itself, it is read"
    memory.rm("/rules/part-0.jsonl")
    with pytest.raises(BadSource, match="has no text file: it has"):
        list_shards(DataConfig(source="memory://rules"))


def test_remote_names_may_have_any_characters(tmp_path: Path, waits: list[float]) -> None:
    memory = fsspec.filesystem("memory")
    for name in NAMES:
        memory.pipe_file(f"/odd/{name}", LINE * 20)
    shards = list_shards(DataConfig(source="memory://odd"))
    assert sorted(shard.name for shard in shards) == sorted(name.removesuffix(".jsonl") for name in NAMES)
    held = {"validation": "none"}
    assert [fetched(shard.model_copy(update=held), tmp_path) for shard in shards] == [20] * len(NAMES)


class Faulty(LocalFileSystem):
    """A file system that cannot list one of its folders."""

    protocol = "faulty"

    def ls(self, path, detail=False, **options):
        if str(path).endswith("sub"):
            raise OSError("connection lost")
        return super().ls(path, detail=detail, **options)


def test_a_remote_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, waits: list[float]) -> None:
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    (tmp_path / "a.jsonl").write_bytes(LINE)
    assert len(list_shards(DataConfig(source=f"faulty://{tmp_path}"))) == 1
    (tmp_path / "sub").mkdir()
    with pytest.raises(SourceUnreachable, match="connection lost"):
        list_shards(DataConfig(source=f"faulty://{tmp_path}"))


@pytest.mark.s3
def test_a_prefix_of_s3(tmp_path: Path, waits: list[float], s3_server: dict[str, str], monkeypatch) -> None:
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    from nanochat.store.objects import Objects

    objects = Objects("s3://sources/prose")
    objects.make_bucket()
    for key in ("a/shard_0.parquet", "a/shard_1.parquet", "b/validation.parquet", "_SUCCESS"):
        objects.upload(parquet(tmp_path / "local.parquet", texts(50, key)), key)
    shards = list_shards(DataConfig(source="s3://sources/prose"))
    assert [(shard.name, shard.validation) for shard in shards] == [
        ("a/shard_0", "none"), ("a/shard_1", "none"), ("b/validation", "all"),
    ]  # fmt: skip
    assert shards[1].url == "s3://sources/prose/a/shard_1.parquet"
    assert [fetched(shard, tmp_path) for shard in shards] == [50, 50, 50]
    (tmp_path / "lines").write_bytes(LINE * 20)
    for name in NAMES[:-1]:
        objects.upload(tmp_path / "lines", f"odd/{name}")
    odd = list_shards(DataConfig(source="s3://sources/prose/odd"))
    assert len(odd) == len(NAMES) - 1
    assert [fetched(shard.model_copy(update={"validation": "none"}), tmp_path) for shard in odd] == [20] * len(odd)
    objects.upload(parquet(tmp_path / "local.parquet", texts(51)), "a/shard_1.parquet")
    with pytest.raises(BadSource, match="changed since the run began"):
        fetched(shards[1], tmp_path)
    with pytest.raises(BadSource, match="There is nothing at"):
        list_shards(DataConfig(source="s3://sources/nowhere"))

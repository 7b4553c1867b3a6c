"""Files of sums: the usual forms are understood, everything else is refused with file and line."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import pytest

from nanochat.config.data import DataConfig
from nanochat.errors import BadSource
from nanochat.sources.checksums import read_checksum_file
from nanochat.sources.download import write_shard
from nanochat.sources.shard_list import list_shards

SHA256, MD5 = "a1" * 32, "b2" * 16


def read(folder: Path, data: str | bytes, name: str = "SHA256SUMS") -> dict[str, str]:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return {each.name: each.identity for each in read_checksum_file(folder / name, name)}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"{SHA256}  a.jsonl", "a.jsonl"), (f"{SHA256} *a.jsonl", "a.jsonl"), (f"{SHA256}\ta.jsonl", "a.jsonl"),
        (f"{SHA256} a.jsonl", "a.jsonl"), (f"{SHA256.upper()}  ./a.jsonl", "a.jsonl"),
        (f"SHA256 (a (1).jsonl) = {SHA256}", "a (1).jsonl"), (f"SHA2-256(a.jsonl)= {SHA256}", "a.jsonl"),
        (f"{SHA256}  deep/a b.jsonl", "deep/a b.jsonl"), (f"\\{SHA256}  a\\\\b\\nc.jsonl", "a\\b\nc.jsonl"),
        (f"{SHA256} Ua.jsonl", "a.jsonl"),
    ],
)  # fmt: skip
def test_the_usual_forms_are_understood(tmp_path: Path, line: str, name: str) -> None:
    for text in (line, f"\ufeff# made today\r\n\r\n{line}\r\n"):
        assert read(tmp_path, text) == {name: f"sha256:{SHA256}"}


@pytest.mark.parametrize(
    ("name", "line", "identity"),
    [
        ("md5sum.txt", f"{MD5}  a.jsonl", f"md5:{MD5}"), ("checksums.txt", f"{MD5}  a.jsonl", f"md5:{MD5}"),
        ("a.jsonl.sha256", SHA256, f"sha256:{SHA256}"), ("a.jsonl.md5", f"{MD5}\n", f"md5:{MD5}"),
        ("SHA512SUMS", f"{'c3' * 64}  a.jsonl", f"sha512:{'c3' * 64}"),
        ("B2SUMS", f"{'c3' * 64}  a.jsonl", f"blake2b:{'c3' * 64}"),
        ("sha1sums", f"{'d4' * 20}  a.jsonl", f"sha1:{'d4' * 20}"),
        ("CHECKSUM", f"SHA512 (a.jsonl) = {'c3' * 64}", f"sha512:{'c3' * 64}"),
    ],
)  # fmt: skip
def test_other_algorithms_are_known(tmp_path: Path, name: str, line: str, identity: str) -> None:
    assert read(tmp_path, line, name) == {"a.jsonl": identity}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jsonl", "line 2, is not a checksum: `a.jsonl`"), (SHA256, "line 2, is not a checksum"),
        (f"{SHA256[:-2]}  a.jsonl", "line 2, has a hash of 62 digits, which is not one of SHA256"),
        (f"{MD5}  a.jsonl", "has a hash of 32 digits, which is not one of SHA256"),
        (f"TIGER (a.jsonl) = {MD5}", "unknown algorithm `TIGER`"), ("<html>", "is not a checksum"),
        (f"{SHA256}  a.jsonl\0{SHA256}  c.jsonl\0", "is not a checksum"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_understood_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(BadSource, match=re.escape(message)) as caught:
        read(tmp_path, f"{SHA256}  b.jsonl\n{line}\n")
    assert "`SHA256SUMS`" in caught.value.message and caught.value.hint


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="`SHA256SUMS` is not a list of checksums"):
        read(tmp_path, b"\xff\xfe\x00")


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(f'{{"text": "{name} {i}"}}\n' for i in range(100)))
    return root


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def written(source: Path, out: Path) -> int:
    out.mkdir()
    metrics = [write_shard(shard, out) for shard in list_shards(DataConfig(source=str(source)))]
    return sum(each["train_documents"] + each["validation_documents"] for each in metrics)


def test_sums_beside_the_files_and_above_them_are_checked(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", "a.jsonl", "deep/b.jsonl", "deep/c.jsonl")
    (data / "MD5SUMS").write_text(f"{hashlib.md5((data / 'a.jsonl').read_bytes()).hexdigest()}  a.jsonl\n")
    (data / "deep/SHA256SUMS").write_text(f"{sha256(data / 'deep/b.jsonl')}  b.jsonl\n")
    (data / "deep/c.jsonl.sha256").write_text(sha256(data / "deep/c.jsonl"))
    kinds = {shard.name: shard.identity.partition(":")[0] for shard in list_shards(DataConfig(source=str(data)))}
    assert kinds == {"a": "md5", "deep/b": "sha256", "deep/c": "sha256"}
    assert written(data, tmp_path / "out") == 300
    (data / "deep/c.jsonl").write_text('{"text": "changed"}\n')
    with pytest.raises(BadSource, match=r"c\.jsonl` is damaged: its SHA256"):
        written(data, tmp_path / "again")


def test_a_sum_of_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    data = folder(tmp_path, "a.jsonl")
    line = f"{sha256(data / 'a.jsonl')}  a.jsonl\n"
    (data / "SHA256SUMS").write_text(f"{line}{SHA256}  README.md\n")
    assert len(list_shards(DataConfig(source=str(data)))) == 1, "of what is no data, it may be absent"
    (data / "SHA256SUMS").write_text(f"{line}{SHA256}  b.jsonl\n")
    with pytest.raises(BadSource, match=r"`SHA256SUMS`, line 2, names `b\.jsonl`, which does not exist"):
        list_shards(DataConfig(source=str(data)))


def test_a_sum_is_found_wherever_the_command_was_run(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", "a.jsonl", "deep/b.jsonl", "deep/c.jsonl")
    full = (data / "deep/c.jsonl").as_posix()
    (data / "deep/SHA256SUMS").write_text(f"{sha256(data / 'deep/b.jsonl')}  data/deep/b.jsonl\n{SHA256}  {full}\n")
    (data / "a.jsonl.sha256").write_text(f"{sha256(data / 'a.jsonl')}  -\n")
    hashes = {shard.name: shard.identity for shard in list_shards(DataConfig(source=str(data)))}
    assert {name: identity.partition(":")[0] for name, identity in hashes.items()} == dict.fromkeys(hashes, "sha256")
    assert hashes["deep/c"] == f"sha256:{SHA256}"
    (data / "a.jsonl.sha256").write_text(f"{SHA256}  C:\\build\\a.jsonl\n")
    assert next(iter(list_shards(DataConfig(source=str(data))))).identity == f"sha256:{SHA256}"


@pytest.mark.parametrize(
    "name", ["CHECKSUMS", "checksums_sha256.txt", "sha256_checksums.txt", "md5.txt", "SHA256", "data.md5sums.txt"]
)
def test_the_usual_names_are_known_beside_text_too(tmp_path: Path, name: str) -> None:
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(f"{number} {i} {'word ' * 500}" for i in range(20)))
    digest = {"sha256": sha256(tmp_path / "0.txt"), "md5": hashlib.md5((tmp_path / "0.txt").read_bytes()).hexdigest()}
    (tmp_path / name).write_text(f"{digest['md5' if 'md5' in name else 'sha256']}  0.txt\n")
    shards = list_shards(DataConfig(source=str(tmp_path)))
    assert [(shard.name, ":" in shard.identity) for shard in shards] == [("0", True), ("1", False)]


def test_sums_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    data = folder(tmp_path, "a.jsonl")
    (data / "SHA256SUMS").write_text(f"{SHA256}  a.jsonl\n{SHA256}  ./a.jsonl\n")
    assert len(list_shards(DataConfig(source=str(data)))) == 1
    (data / "a.jsonl.sha256").write_text("0" * 64)
    with pytest.raises(BadSource, match=r"line 1, contradicts `.*`, line 1: both have a hash of `a\.jsonl`"):
        list_shards(DataConfig(source=str(data)))


def test_a_file_without_a_checksum_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = folder(tmp_path, "a.jsonl", "b.jsonl")
    (data / "SHA256SUMS").write_text(f"{sha256(data / 'a.jsonl')}  a.jsonl\n")
    with caplog.at_level(logging.WARNING, "nanochat.sources"):
        list_shards(DataConfig(source=str(data)))
    assert "lists `b.jsonl`: not checked" in caplog.text

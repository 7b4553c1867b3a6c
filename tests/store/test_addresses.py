"""An address of a store means one thing, or is refused; nothing in it is dropped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanochat.errors import BadConfig
from nanochat.store.address import parse
from nanochat.store.objects import Objects


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket//x", "s3://bucket/x"),
        ("s3://bucket/a//x///", "s3://bucket/a/x"),
        ("S3://bucket/x", "s3://bucket/x"),
        ("s3://bucket/My Project", "s3://bucket/My Project"),
        ("s3://bucket/a%20b", "s3://bucket/a%20b"),
        ("file:///a/b", "file:///a/b"),
        ("FILE:///a/b", "file:///a/b"),
        ("file://localhost/a", "file:///a"),
        ("file:///a//b/", "file:///a/b"),
        ("file:////a", "file:///a"),
        ("file:///a%20b", "file:///a%20b"),
        ("file:///a%2520b", "file:///a%2520b"),
        ("file:///a%3Fb%23c", "file:///a%3Fb%23c"),
        ("file:///%FF", "file:///%FF"),
        ("/a/b", "file:///a/b"),
        ("//a/b", "file:///a/b"),
        ("/a/b?c#d;e", "file:///a/b%3Fc%23d%3Be"),
        ("/a/me@host", "file:///a/me%40host"),
    ],
)
def test_what_is_certain_is_normalised(text: str, root: str) -> None:
    found = parse(text)
    assert found.root == root
    assert parse(found.root) == found, "what is written down is read as the same"


def test_a_path_is_taken_from_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert parse("store").folder == tmp_path / "store"
    assert parse("./s3:x").folder == tmp_path / "s3:x"
    assert parse("~/store").folder == tmp_path / "home" / "store"
    assert parse("file:///~/x").folder == Path("/~/x")


def test_a_url_is_decoded_once() -> None:
    assert parse("file:///a%2520b").folder == Path("/a%20b")
    assert os.fsencode(str(parse("file:///%FF").folder)) == b"/\xff"
    assert parse("s3://bucket/a%20b").prefix == "a%20b"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("   ", "has spaces around it"),
        ("s3://bucket/x\n", "line break"),
        (" s3://bucket/x", "has spaces around it"),
        ("s3://buc\tket/x", "control characters"),
        ("/a/b\n", "line break"),
        ("/a\0b", "control characters"),
        ("file:///a%00b", "control characters"),
        ("file:///a%0Ab", "control characters"),
        ("s3:/bucket/x", "begins with `s3:`"),
        ("s3:bucket", "begins with `s3:`"),
        ("file:/x", "begins with `file:`"),
        ("file:x", "begins with `file:`"),
        ("c:\\store", "begins with `c:`"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket:9000/x", "cannot be a bucket"),
        ("s3://buc ket/x", "cannot be a bucket"),
        ("s3://bucket/../x", "`..`"),
        ("s3://bucket/./x", "`.`"),
        ("s3://bucket/x?versionId=1", "which are not used"),
        ("s3://bucket/x#part", "which are not used"),
        ("s3://bucket/x;a=1", "which are not used"),
        ("file:///x?mode=ro", "which are not used"),
        ("file:///x#y", "which are not used"),
        ("file:///x;y", "which are not used"),
        ("file://host/x", "names the host `host`"),
        ("file://relative", "names the host `relative`"),
        ("file://~/x", "names the host `~`"),
        ("file:///a%zz", "hexadecimal"),
        ("file:///100%", "hexadecimal"),
        ("file://", "is the root of the file system"),
        ("file:///", "is the root of the file system"),
        ("/", "is the root of the file system"),
        ("gs://bucket/x", "has the unknown scheme `gs`"),
        ("http://host/x", "has the unknown scheme `http`"),
        ("ftp://host/x", "has the unknown scheme `ftp`"),
        ("~no-such-user/x", "home folder of an unknown user"),
        ("s3://user@bucket/x", "contains credentials"),
        ("file://user@/x", "contains credentials"),
    ],
)
def test_what_is_not_is_refused_in_one_sentence(text: str, why: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse(text)
    assert why in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("AWS_ENDPOINT_URL", "http://user:word@127.0.0.1:9000", "contains a login"),
        ("AWS_CA_BUNDLE", "/nowhere/ca.pem", "`/nowhere/ca.pem`, which does not exist"),
    ],
)
def test_what_the_s3_client_would_not_use_is_refused(
    name: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadConfig, match=f"`{name}`.*{why}") as refused:
        Objects("s3://bucket/prefix")
    assert "word@" not in str(refused.value)


def test_a_relative_folder_in_a_folder_that_is_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(BadConfig, match="working directory, which has been deleted"):
        parse("store")
    assert parse("/data/store").folder == Path("/data/store")

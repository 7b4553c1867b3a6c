"""Which files of a folder are data: hidden names, suffixes, splits, links, and what is no file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nanochat.errors import BadSource
from nanochat.sources.file_names import CHAT_FORMATS, TEXT_FORMATS, file_format, is_hidden, split_of, stem
from nanochat.sources.file_selection import select_files
from nanochat.sources.local_files import list_local


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def listed(root: Path, formats=TEXT_FORMATS) -> list[str]:
    return [each.path for each in list_local(root, formats).files]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        *((name, "train") for name in ("train.jsonl", "TRAINING/a.parquet", "data.train.txt", "train_test.jsonl")),
        *((name, "validation") for name in (
            "validation.parquet", "val-00000-of-00002.parquet", "x/valid/a.txt", "my_val.jsonl.gz", "dev.json",
            "heldout/1.txt", "held_out.txt", "holdout-3.jsonl", "VAL_3.parquet", "valset.txt",
        )),
        *((name, "test") for name in (
            "test.jsonl", "test-00000-of-00001.parquet", "testing/a.txt", "eval-0.jsonl", "evaluation/b.txt",
            "evaluations/b.txt",
            "mine.TEST.jsonl.zst", "test_set.json", "tests/x.txt", "train/test/a.jsonl", "wiki-test.txt",
        )),
        *((name, "") for name in (
            "contest.txt", "latest.jsonl", "value_stocks.parquet", "evaluate.jsonl", "devices.txt", "attest/a.txt",
            "greatest hits.txt", "interval.txt", "validate.jsonl", "trains.txt", "shard_0.parquet", "medieval.txt",
        )),
    ],
)  # fmt: skip
def test_the_split_is_a_word_of_the_name(path: str, split: str) -> None:
    assert split_of(path) == split


@pytest.mark.parametrize(
    ("name", "form", "shard"),
    [
        ("a.jsonl", ".jsonl", "a"), ("A.JSONL.GZ", ".jsonl", "A"), ("a.b.ndjson.xz", ".ndjson", "a.b"),
        ("a.json.bz2", ".json", "a"), ("a.txt.lz4", ".txt", "a"), ("a.Parquet", ".parquet", "a"),
        ("a.csv", "", "a.csv"),
        ("a.parquet.gz", ".parquet", "a"), ("a.gz", "", "a.gz"), ("a.jsonl.bak", "", "a.jsonl.bak"),
        ("jsonl", "", "jsonl"),
    ],
)  # fmt: skip
def test_formats_are_known_by_their_suffixes(name: str, form: str, shard: str) -> None:
    assert file_format(name) == form
    assert stem(name) == shard


@pytest.mark.parametrize(
    "path",
    [
        ".a.jsonl", "._a.jsonl", "_temporary/0/a.jsonl", "_SUCCESS", "__MACOSX/a.txt", "x/_delta_log/0.json",
        ".ipynb_checkpoints/a.txt", ".cache/a.parquet", ".git/a.txt", "Thumbs.db", "desktop.ini", "a.jsonl~",
        "lost+found/a.txt", "~$a.jsonl",
    ],
)  # fmt: skip
def test_files_of_tools_and_systems_are_hidden(tmp_path: Path, path: str) -> None:
    assert is_hidden(path)
    found = list_local(tree(tmp_path, path, "a/b.jsonl"), TEXT_FORMATS)
    assert [each.path for each in found.files] == ["a/b.jsonl"]
    assert "1 hidden" in str(found.skipped)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl", "test.jsonl", "eval/1.jsonl", "README.md", "LICENSE.txt", "state.json", "val.jsonl")
    found = list_local(tmp_path, TEXT_FORMATS)
    assert [(each.path, each.split) for each in found.files] == [("a.jsonl", ""), ("val.jsonl", "validation")]
    assert {reason: sorted(paths) for reason, paths in found.skipped.files.items()} == {
        "of a test split": ["eval/1.jsonl", "test.jsonl"],
        "of another format": ["README.md"],
        "of metadata": ["LICENSE.txt", "state.json"],
    }


def test_text_about_the_data_is_not_taken_for_the_data(tmp_path: Path) -> None:
    tree(tmp_path, "data.json", "LICENSE.txt", "README.TXT", "requirements.txt")
    assert listed(tmp_path) == ["data.json"]
    tree(tmp_path / "books", "readme_first.txt", "README.txt")
    assert listed(tmp_path / "books") == ["readme_first.txt"]


def test_a_folder_of_which_nothing_is_used_is_reported(tmp_path: Path) -> None:
    tree(tmp_path, "test.jsonl", "_x.jsonl")
    with pytest.raises(BadSource, match=r"no data file: it has 1 hidden \(`_x\.jsonl`\), 1 of a test split"):
        listed(tmp_path)
    assert listed(tmp_path / "test.jsonl") == ["test.jsonl"], "named itself, it is read"


def test_conversations_are_of_any_format_at_once(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl", "b.parquet", "c.json", "d.NDJSON.gz", "e.txt", "dataset_info.json")
    assert listed(tmp_path, CHAT_FORMATS) == ["a.jsonl", "b.parquet", "c.json", "d.NDJSON.gz"]


def test_the_same_rules_hold_for_names_of_any_place() -> None:
    paths = ["_temporary/0/part.jsonl", "b.jsonl", "a.jsonl", "test/c.jsonl", "x.txt"]
    assert select_files(paths, str, TEXT_FORMATS).files == ["a.jsonl", "b.jsonl"]


def test_linked_folders_and_files_are_read_once(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/x.jsonl", "elsewhere/deep/y.jsonl", "root/z/a.jsonl", "elsewhere/blob")
    root = tmp_path / "root"
    (root / "a_linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere/deep")
    (root / "also_z").symlink_to(root / "z")
    (root / "a_first.jsonl").symlink_to(root / "z/a.jsonl")
    (root / "blob.jsonl").symlink_to(tmp_path / "elsewhere/blob")
    found = list_local(root, TEXT_FORMATS)
    assert [each.path for each in found.files] == [
        "a_linked/deep/y.jsonl",
        "a_linked/x.jsonl",
        "blob.jsonl",
        "z/a.jsonl",
    ]
    assert sorted(found.skipped.files["linked twice"]) == ["a_first.jsonl", "again/", "also_z/"]


def test_a_file_with_two_names_is_read_once(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl", "c.jsonl")
    (tmp_path / "b.jsonl").hardlink_to(tmp_path / "a.jsonl")
    (tmp_path / "d.jsonl").symlink_to(tmp_path / "b.jsonl")
    found = list_local(tmp_path, TEXT_FORMATS)
    assert [each.path for each in found.files] == ["a.jsonl", "c.jsonl"]
    assert found.skipped.files == {"linked twice": ["b.jsonl", "d.jsonl"]}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    tree(tmp_path, "root/a.jsonl", "root/sub/b.jsonl", "other/c.jsonl", "above.jsonl")
    root = tmp_path / "root"
    (root / "sub/up").symlink_to(root)
    (root / "sub/here").symlink_to(".")
    (root / "outside").symlink_to(tmp_path)
    (root / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other/back").symlink_to(root)
    (root / "itself.jsonl").symlink_to("nothing")
    (root / "itself.jsonl").unlink()
    assert listed(root) == ["a.jsonl", "other/c.jsonl", "sub/b.jsonl"]


def test_a_dead_link_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl")
    (tmp_path / "notes").symlink_to("gone.md")
    assert listed(tmp_path) == ["a.jsonl"], "one that is not data is not"
    (tmp_path / "b.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(BadSource, match=r"b\.jsonl` is a link to `gone\.jsonl`, which cannot be read"):
        listed(tmp_path)
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "b.jsonl").symlink_to("b.jsonl")
    with pytest.raises(BadSource, match=r"b\.jsonl` is a link to `b\.jsonl`, which cannot be read"):
        listed(tmp_path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for place in (tmp_path, tmp_path / "pipe.jsonl"):
        with pytest.raises(BadSource, match=r"pipe\.jsonl` is not a regular file"):
            listed(place)
    (tmp_path / "pipe.jsonl").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket.txt"))
        with pytest.raises(BadSource, match=r"socket\.txt` is not a regular file"):
            listed(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl", "closed/b.jsonl")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(BadSource, match=r"closed` cannot be listed: Permission denied"):
            listed(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_listing_that_fails_is_an_error(tmp_path: Path, monkeypatch) -> None:
    tree(tmp_path, "a.jsonl", "sub/b.jsonl")
    real = os.scandir

    def fail(place):
        if Path(place).name == "sub":
            raise OSError(116, "Stale file handle", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(BadSource, match=r"sub` cannot be listed: Stale file handle"):
        listed(tmp_path)


def test_names_may_have_any_characters_but_broken_ones(tmp_path: Path) -> None:
    names = ["a b.jsonl", "a#b?c%20.jsonl", "ü 🙂.jsonl", "line\nbreak.jsonl", "A.jsonl", "a.jsonl"]
    assert listed(tree(tmp_path, *names)) == sorted(names)
    (tmp_path / os.fsdecode(b"\xff.jsonl")).write_text("x")
    with pytest.raises(BadSource, match=r"'\\udcff\.jsonl' .* is not UTF-8"):
        listed(tmp_path)

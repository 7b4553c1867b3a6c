"""Bundles of CORE: where they come from, and what is wrong with them is refused by name."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from nanochat.config.evaluation import CoreBundleConfig
from nanochat.errors import BadConfig, BadSource
from nanochat.evaluation.core.bundle import Row, Task, read_bundle
from nanochat.evaluation.core.definition import BASELINES_V1, BASELINES_V2, TASKS, version_of
from nanochat.evaluation.core.prompts import in_order, prompt_of, shots_of
from nanochat.evaluation.core.source import with_hashes, write_bundle
from tests.evaluation.core_bundles import choice_rows, write_rows
from tests.evaluation.core_bundles import write_bundle as make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", rows=6)


def replace(folder: Path, name: str, before: str, after: str) -> None:
    path = folder / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def change_row(folder: Path, task: str, **fields: Any) -> None:
    """Changes the second row of a task; None removes a field."""
    path = folder / f"eval_data/some/{task}.jsonl"
    lines = path.read_text().split("\n")
    row = {name: value for name, value in (json.loads(lines[1]) | fields).items() if value is not None}
    lines[1] = json.dumps(row)
    path.write_text("\n".join(lines))


def write_line(folder: Path, task: str, line: str) -> None:
    path = folder / f"eval_data/some/{task}.jsonl"
    path.write_text(path.read_text() + line + "\n")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (lambda f: write_line(f, "copa", '{"query": '), r"some/copa.jsonl`, line 7: not JSON"),
    "too deep": (lambda f: write_line(f, "copa", "[" * 100_000), r"copa.jsonl`, line 7: not JSON"),
    "no object": (lambda f: write_line(f, "copa", "[1]"), r"copa.jsonl`, line 7: not an object"),
    "no query": (lambda f: change_row(f, "copa", query=None), r"copa.jsonl`, line 2: there is no `query`"),
    "query a number": (lambda f: change_row(f, "copa", query=3), r"line 2: `query` is not text"),
    "half a letter": (lambda f: change_row(f, "copa", query="\ud800"), r"line 2: `query` is not valid Unicode"),
    "no choices": (lambda f: change_row(f, "copa", choices=None), r"line 2: `choices` is not a list of texts"),
    "one choice": (lambda f: change_row(f, "copa", choices=["a"]), r"line 2: `choices` has fewer than two texts"),
    "a choice is a number": (lambda f: change_row(f, "copa", choices=["a", 2]), r"`choices` is not a list of texts"),
    "gold too high": (lambda f: change_row(f, "copa", gold=4), r"line 2: `gold` is 4, but the choices are .* 3"),
    "gold negative": (lambda f: change_row(f, "copa", gold=-1), r"line 2: `gold` is -1"),
    "gold text": (lambda f: change_row(f, "copa", gold="1"), r"line 2: `gold` is not a number"),
    "gold true": (lambda f: change_row(f, "copa", gold=True), r"line 2: `gold` is not a number"),
    "schema without contexts": (
        lambda f: change_row(f, "winograd", context_options=None), r"line 2: `context_options` is not a list"),
    "empty ending": (lambda f: change_row(f, "winograd", continuation=" "), r"line 2: `continuation` is empty"),
    "empty continuation": (lambda f: change_row(f, "squad", continuation=""), r"squad.jsonl`, line 2: .* is empty"),
    "no context": (lambda f: change_row(f, "squad", context=None), r"line 2: there is no `context`"),
    "no rows": (lambda f: (f / "eval_data/some/squad.jsonl").write_text("\n"), r"squad.jsonl` has no rows"),
    "not UTF-8": (lambda f: (f / "eval_data/some/squad.jsonl").write_bytes(b"\xff{}"), r"squad.jsonl` is not UTF-8"),
    "no core.yaml": (lambda f: (f / "core.yaml").unlink(), r"no `core.yaml`"),
    "no baselines": (lambda f: (f / "eval_meta_data.csv").unlink(), r"no `eval_meta_data.csv`"),
    "other columns": (lambda f: replace(f, "eval_meta_data.csv", "Random baseline", "x"), r"no columns `Eval Task`"),
    "no baseline": (lambda f: replace(f, "eval_meta_data.csv", "copa,", "cop,"), r"no row for the task `copa`"),
    "baseline no number": (lambda f: replace(f, "eval_meta_data.csv", "copa,x,50.0", "copa,x,?"), r"no row for .*copa"),
    "baseline 100": (lambda f: replace(f, "eval_meta_data.csv", "copa,x,50.0", "copa,x,100"), r"no row for .*`copa`"),
    "not YAML": (lambda f: (f / "core.yaml").write_text("a: [b"), r"`core.yaml` is not YAML"),
    "no list": (lambda f: (f / "core.yaml").write_text("a: 1"), r"has no list `icl_tasks`"),
    "unknown type": (lambda f: replace(f, "core.yaml", "multiple_choice", "essay"), r"has the unknown type `essay`"),
    "shots": (lambda f: replace(f, "core.yaml", "num_fewshot:\n  - 3", "num_fewshot:\n  - x"), r"`num_fewshot` of"),
    "outside": (lambda f: replace(f, "core.yaml", "some/copa", "../copa"), r"`../copa.jsonl` is not a file below"),
    "absolute": (lambda f: replace(f, "core.yaml", "some/copa", "/etc/copa"), r"/etc/copa.jsonl` is not a file below"),
    "twice": (lambda f: replace(f, "core.yaml", "label: copa", "label: piqa"), r"the task `piqa` twice"),
    "code": (lambda f: (f / "core.yaml").write_text("!!python/object/apply:os.system ['true']"), r"is not YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_by_name(name: str, bundle: Path, tmp_path: Path) -> None:
    change, message = WRONG[name]
    change(bundle)
    with pytest.raises(BadSource, match=message):
        write_bundle(CoreBundleConfig(source=str(bundle)), tmp_path / "out", tmp_path)


def test_ten_shots_from_one_row_are_refused(bundle: Path) -> None:
    """Case 7 (NC#550). Also when a limit leaves too few."""
    write_rows(bundle, "arc_challenge", choice_rows(1))
    tasks = {task.name: task for task in read_bundle(bundle).tasks}
    with pytest.raises(BadSource, match=r"`arc_challenge` has prompts with 3 other questions .* there is one question"):
        in_order(tasks["arc_challenge"], 0)
    with pytest.raises(BadSource, match=r"Raise `core_evaluation.limit`"):
        in_order(tasks["jeopardy"], 3)
    assert len(in_order(tasks["jeopardy"], 4)) == 4


def test_a_bundle_that_lacks_tasks_names_them(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", rows=6, without=("squad", "copa"))
    assert read_bundle(folder).missing == ("copa", "squad")
    metrics = write_bundle(CoreBundleConfig(source=str(folder)), tmp_path / "out", tmp_path)
    assert metrics["missing_tasks"] == ["copa", "squad"]
    assert (metrics["tasks"], metrics["questions"]) == (20, 20 * 6)


def test_a_task_that_is_no_part_of_core_is_read(bundle: Path) -> None:
    replace(bundle, "core.yaml", "label: copa", "label: siqa")
    replace(bundle, "eval_meta_data.csv", "copa,", "siqa,")
    found = read_bundle(bundle)
    assert "siqa" in [task.name for task in found.tasks]
    assert found.missing == ("copa",)


def test_a_folder_and_a_zip_give_the_same_files(bundle: Path, tmp_path: Path) -> None:
    (bundle / "notes.txt").write_text("not a part of it")
    packed = zipped(bundle, tmp_path / "bundle.zip", top="eval_bundle/")
    for number, source in enumerate((bundle, packed, packed.as_uri())):
        write_bundle(CoreBundleConfig(source=str(source)), tmp_path / f"out{number}", tmp_path)
    files = [
        {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} for out in tmp_path.glob("out?")
    ]
    assert files[0] == files[1] == files[2]
    assert len(files[0]) == 24


def test_a_zip_behind_an_address(bundle: Path, tmp_path: Path) -> None:
    zipped(bundle, tmp_path / "served/bundle.zip")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        config = CoreBundleConfig(source=f"{address}/bundle.zip")
        assert with_hashes(config) == config, "the network is not used to build a graph"
        assert write_bundle(config, tmp_path / "out", tmp_path)["tasks"] == 22
        (tmp_path / "bundle.zip").unlink()
        with pytest.raises(BadSource, match="There is nothing at"):
            write_bundle(CoreBundleConfig(source=f"{address}/none.zip"), tmp_path / "none", tmp_path)
        wrong = CoreBundleConfig(source=f"{address}/bundle.zip", sha256="0" * 64)
        with pytest.raises(BadSource, match=r"does not match `core_bundle.sha256`"):
            write_bundle(wrong, tmp_path / "other", tmp_path)
        server.shutdown()


def test_a_changed_file_is_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    config = with_hashes(CoreBundleConfig(source=str(bundle)))
    assert len(config.files) == 24
    assert with_hashes(config) == config
    change_row(bundle, "copa", gold=2)
    with pytest.raises(BadSource, match=r"`eval_data/some/copa.jsonl` of the bundle of CORE has changed"):
        write_bundle(config, tmp_path / "out", tmp_path)
    with pytest.raises(BadSource, match=r"`eval_data/some/copa.jsonl` of the bundle of CORE has changed"):
        with_hashes(config)
    (bundle / "eval_data/some/copa.jsonl").unlink()
    with pytest.raises(BadSource, match=r"no longer has `eval_data/some/copa.jsonl`"):
        with_hashes(config)


def test_a_changed_zip_is_another_key_or_refused(bundle: Path, tmp_path: Path) -> None:
    packed = zipped(bundle, tmp_path / "bundle.zip")
    config = with_hashes(CoreBundleConfig(source=str(packed)))
    assert config.canonical() != with_hashes(CoreBundleConfig(source=str(zipped(bundle, packed, top="x/")))).canonical()
    with pytest.raises(BadSource, match=r"does not match `core_bundle.sha256`"):
        with_hashes(config)
    with pytest.raises(BadSource, match=r"does not match `core_bundle.sha256`"):
        write_bundle(config, tmp_path / "out", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a readable zip"), (b"PK\x03\x04 and nonsense", "not a readable zip"), (None, "There is no")],
)
def test_a_file_that_is_no_zip_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadSource, match=message):
        write_bundle(CoreBundleConfig(source=str(path)), tmp_path / "out", tmp_path)
    if content is None:
        with pytest.raises(BadSource, match=message):
            with_hashes(CoreBundleConfig(source=str(path)))


def test_a_damaged_zip_is_refused_and_nothing_is_written_outside(bundle: Path, tmp_path: Path) -> None:
    packed = zipped(bundle, tmp_path / "bundle.zip")
    content = bytearray(packed.read_bytes())
    content[content.index(b"Eval Task") + 3] ^= 1  # stored: its checksum no longer fits
    packed.write_bytes(content)
    with pytest.raises(BadSource, match="not a readable zip"):
        write_bundle(CoreBundleConfig(source=str(packed)), tmp_path / "out", tmp_path)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(bundle / "core.yaml", "core.yaml")
        archive.writestr("../escaped", "x")
    with pytest.raises(BadSource):
        write_bundle(CoreBundleConfig(source=str(packed)), tmp_path / "deep/out", tmp_path)
    assert not list(tmp_path.rglob("escaped"))
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x", "x")
    with pytest.raises(BadSource, match=r"has no `core.yaml`"):
        write_bundle(CoreBundleConfig(source=str(packed)), tmp_path / "empty", tmp_path)


def test_without_a_source_there_is_nothing_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"`core_bundle.source` is empty"):
        write_bundle(CoreBundleConfig(), tmp_path / "out", tmp_path)


def test_both_versions_of_the_baselines_have_names() -> None:
    assert version_of(BASELINES_V1) == "v1"
    assert version_of(BASELINES_V2) == "v2"
    assert version_of({**BASELINES_V1, "copa": 0.4}) == "bundle"
    assert len(TASKS) == 22
    assert {name for name in TASKS if BASELINES_V1[name] != BASELINES_V2[name]} == {
        "commonsense_qa", "agi_eval_lsat_ar", "bigbench_language_identification"
    }  # fmt: skip


def test_shots_are_others_and_depend_on_the_index_only(bundle: Path) -> None:
    """Case 5 (LM#1719)."""
    task = next(task for task in read_bundle(bundle).tasks if task.shots)
    rows = in_order(task, 0)
    for index, row in enumerate(rows):
        shots = shots_of(task, rows, index)
        assert row not in shots
        assert len(set(shots)) == task.shots
        assert shots == shots_of(task, rows, index)
    assert len({shots_of(task, rows, index)[0].number for index in range(len(rows))}) > 1


def test_the_text_of_a_prompt() -> None:
    """The exact characters: only the contexts of continuations are trimmed, and an empty line follows an example."""
    rows = (Row(1, " q\n", ("a ", "b"), "", 0), Row(2, "r", ("c", "d"), "", 1))
    choice = Task("c", "choice", 1, "\nAnswer: ", "", 0.0, rows)
    assert prompt_of(choice, rows, 0).whole == [f"r\nAnswer: d\n\n q\n\nAnswer: {answer}" for answer in ("a ", "b")]
    schema = Task("s", "schema", 1, " ", "", 0.0, (Row(1, "", ("It", "He "), "is.", 1), Row(2, "", ("A", "B"), "c", 0)))
    assert prompt_of(schema, schema.rows, 1).whole == ["He  is.\n\nA c", "He  is.\n\nB c"]
    ending = Task("e", "continuation", 1, " ", "", 0.0, (Row(1, " p \n", (), " x "), Row(2, "  q  ", (), "y")))
    assert prompt_of(ending, ending.rows, 1).whole == ["p  x \n\nq ", "p  x \n\nq y"]


def zipped(folder: Path, to: Path, top: str = "") -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(to, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{top}{path.relative_to(folder)}")
    return to

"""The report of a run that never was: every number in it, nothing from outside, nothing unescaped."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import pytest

from nanochat.report.inputs import ReportInputs
from nanochat.report.report import render
from nanochat.report.templates import code_spans
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import FileEntry, InputRef, Manifest
from nanochat.store.payloads import Payloads
from nanochat.store.producer import Producer
from nanochat.tokenizer.bpe import Tokenizer

GRAPH: dict[str, tuple[str, ...]] = {
    "download": (),
    "train_tokenizer": ("download",),
    "tokenize": ("download", "train_tokenizer"),
    "pack": ("tokenize",),
    "data_card": ("download", "tokenize", "pack"),
    "pretrain": ("train_tokenizer", "pack"),
    "evaluate_base": ("pretrain", "pack"),
    "converse": ("train_tokenizer",),
    "sft": ("pretrain", "converse"),
    "evaluate_chat": ("sft", "converse"),
}
SHARDS = 3
MAPPED = ("download", "tokenize", "pack")
NASTY = "<script>alert('x')</script> a|b `c` & d"
EVALUATIONS = {
    "evaluate_base": {
        "bits_per_byte": 0.87654,
        "samples": [{"prompt": "Once", "text": f" there was {NASTY}\nand a new line"}, {"prompt": "", "text": "Free."}],
    },
    "evaluate_chat": {
        "tasks": {
            "world_choice": {"kind": "choice", "accuracy": 0.734, "baseline": 0.25, "questions": 64},
            "gsm8k": {
                "kind": "generate", "form": "nanochat", "accuracy": 0.0, "interval": [0.0, 0.35425], "baseline": 0.0,
                "questions": 7, "flexible_accuracy": 0.142857, "no_answer": {"no answer": 5}, "truncated": 2,
                "pass_at": {"2": [0.25, [0.1, 0.4]]},
            },
        },
        "chatcore": 0.3227, "centered_accuracy": 0.4561,
        "examples": [
            {"task": "world_choice", "prompt": "Where?", "answer": "Here.", "expected": "Here.", "right": True},
            {"task": "gsm8k", "prompt": NASTY, "answer": "forty", "expected": "42", "right": False},
        ],
    },
}  # fmt: skip
CARD = {
    "shards": 3, "skipped_documents": 1, "train_documents": 8765, "validation_documents": 50, "train_tokens": 123_456,
    "validation_tokens": 789, "train_bytes": 500_000, "validation_bytes": 3000, "bytes_per_token": 4.0484,
    "cropped_share": 0.0123, "padded_share": 0.0, "duplicates": 17, "validation_in_training": 2, "median_tokens": 12,
    "longest_tokens": 4321, "lengths": [0, 0, 4000, 4700, 65], "languages": {"en": 0.875, "other": 0.125},
}  # fmt: skip
METRICS = {
    "pretrain": {"parameters": 1_310_720, "train_tokens": 2_000_000, "tokens_per_s": 14_998.2},
    "sft": {"validation_loss": 0.41},
    "converse": {
        "train_conversations": 5678, "train_tokens": 90_123, "train_skipped": 31, "train_skipped_empty_answer": 30,
        "train_skipped_weight_0": 1, "train_cut": 29, "train_ignored_fields": f"id 5,709, {NASTY} 3",
        "train_ignored_files": 4, "validation_conversations": 77, "validation_tokens": 999, "validation_skipped": 0,
        "validation_cut": 0, "validation_ignored_fields": "", "validation_ignored_files": 0, "questions_skipped": 6,
    },
}  # fmt: skip


class FakeArtifact(Artifact):
    """A manifest and a folder; no store."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(cast(Any, None), manifest, reused=False)
        self.folder = folder

    @property
    def path(self) -> Path:
        return self.folder


def producer(seconds: float) -> Producer:
    ended = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
    return Producer(
        code_version="0.1.0", code_sha256="c0de" * 16, git_commit="facade" * 6, git_dirty=True, host="box",
        hardware={"cpu": "Imagined CPU", "cores": 2, "memory_bytes": 24 * 2**30}, packages={"torch": "9.9.9"},
        run="", started=ended - timedelta(seconds=seconds), ended=ended, seconds=seconds,
    )  # fmt: skip


def key(stage: str, shard: int) -> str:
    return f"{stage[:4]}{shard}key" * 8


def made(folder: Path, *, evaluated: bool = True, title: str = "A small run") -> ReportInputs:
    """Every stage took 10 seconds a shard."""
    stages: dict[str, list[Artifact]] = {}
    for stage, parents in GRAPH.items():
        here = folder / stage
        here.mkdir(parents=True)
        if stage in EVALUATIONS:
            (here / "evaluation.json").write_text(json.dumps(EVALUATIONS[stage]))
        if stage == "train_tokenizer":
            Tokenizer.train_from_iterator(["the cat and the hat"], 270).save(here / "vocabulary.json")
        if stage == "data_card":
            (here / "card.json").write_text(json.dumps(CARD))
        if stage in ("pretrain", "sft"):
            events: list[dict[str, Any]] = [{"done": 0, "message": "starting"}]
            events += [{"done": step, "smoothed_loss": 5 / step} for step in range(1, 9)]
            if evaluated:
                events[-1] |= {"validation_bits_per_byte": 0.9, "validation_loss": 0.41}
            (here / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)))
        stages[stage] = [
            FakeArtifact(
                Manifest(
                    stage=stage, stage_version=1, kind="Any", key=key(stage, shard),
                    digest=f"{stage[-4:]}{shard}dig" * 8, config={"a_setting": stage},
                    inputs={p: [InputRef(stage=p, kind="Any", key=key(p, 0), digest="d")] for p in parents},
                    files=[FileEntry(path="x", size=1_000_000, sha256="0")], metrics=METRICS.get(stage, {}),
                    payload="x", producer=producer(10.0),
                ),
                here,
            )
            for shard in range(SHARDS if stage in MAPPED else 1)
        ]  # fmt: skip
    return ReportInputs(title, stages)


class Page(HTMLParser):
    """Collects tags, what they refer to, and the visible text."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return render(made(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("form", [0, 1], ids=["markdown", "html"])
@pytest.mark.parametrize(
    "reported",
    ["A small run", "2026-03-04 05:06 UTC", "0.8765", "73%", "73.4%", "25%", "0.323", "1.31 M", "2 M", "14,998",
     "2 min 40 s", "torch", "9.9.9", "Imagined CPU", "24 GiB", "facade" * 6 + " (with changes)", "download ×3",
     "forty", "42", "Free.", "0.0% (0.0–35.4)", "14.3% by the lenient rule, pass@2 25.0%, 5 no answer, 2 truncated",
     "ChatCORE", "mean centered accuracy", "generate", "form", "5.000 at step 1, 0.625 at step 8", "Chinese",
     "Exact copies of earlier documents: 17 (0.19%)", "gsm8k: 2 of 7 answers were cut off",
     "Some code was not committed"],
)  # fmt: skip
def test_the_numbers_are_there(form: int, reported: str, rendered: tuple[str, str]) -> None:
    text = rendered[0] if form == 0 else Page(rendered[1]).text
    assert reported in text


def test_every_stage_is_listed_with_its_key_and_digest(rendered: tuple[str, str]) -> None:
    for stage in GRAPH:
        for text in rendered:
            assert stage in text
            assert f"{stage[:4]}0key"[:8] in text
            assert f"{stage[-4:]}0dig"[:8] in text


def test_the_page_is_whole_and_refers_to_nothing_outside(rendered: tuple[str, str]) -> None:
    page = Page(rendered[1])
    assert page.open == []
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.findall(r"url\((?!#)|@import", rendered[1])
    assert not {"script", "link", "iframe", "img"} & set(page.tags)


def test_answers_of_a_model_are_shown_as_text_only(rendered: tuple[str, str]) -> None:
    page = Page(rendered[1])
    assert page.text.count(NASTY) == 3  # the sample, the question and the name of a field
    assert "<script" not in rendered[1]


@pytest.mark.parametrize("form", [0, 1], ids=["markdown", "html"])
def test_what_was_left_out_of_the_conversations_is_in_the_report(form: int, rendered: tuple[str, str]) -> None:
    text = rendered[0] if form == 0 else Page(rendered[1]).text
    for output in ("5,678, 90,123 tokens", "31 (empty answer 30, weight 0 1)", "id 5,709", "questions: skipped"):
        assert output in text
    assert "held-out conversations: skipped" not in text  # none was


def test_a_table_of_the_markdown_keeps_its_columns(rendered: tuple[str, str]) -> None:
    lines = rendered[0].splitlines()
    assert len([line for line in lines if re.fullmatch(r"[|-]+", line)]) > 3
    for first, line in enumerate(lines):
        if re.fullmatch(r"[|-]+", line):
            columns = line.count("|")
            rows = list(takewhile(lambda row: row.startswith("|"), lines[first + 1 :]))
            assert rows
            assert all(row.count("|") == columns for row in rows)


def test_the_lineage_folds_shards_and_draws_every_edge_but_shortcuts(rendered: tuple[str, str]) -> None:
    (picture,) = re.findall(r'<svg[^>]* aria-label="lineage".*?</svg>', rendered[1], re.DOTALL)
    assert picture.count('class="box"') == len(GRAPH)
    shortcuts = [
        "download → tokenize",
        "download → data_card",
        "tokenize → data_card",
        "train_tokenizer → pretrain",
        "pack → evaluate_base",
        "converse → evaluate_chat",
    ]
    assert picture.count('class="edge"') == sum(map(len, GRAPH.values())) - len(shortcuts)
    assert picture.count("×3") == len(MAPPED)


def test_a_run_that_was_never_evaluated_on_the_way_has_its_training_curves(tmp_path: Path) -> None:
    evaluated, plain = (render(made(tmp_path / str(each), evaluated=each))[1] for each in (True, False))
    assert figures(plain) == figures(evaluated)  # one evaluation is a sentence, not a curve
    assert "bits per byte of held-out text: 0.9000 at step 8" in evaluated.replace("Bits", "bits")


def test_core_while_training_has_a_curve(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    before = figures(render(inputs)[1])
    metrics = tmp_path / "pretrain" / "metrics.jsonl"
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    metrics.write_text("\n".join(json.dumps({**event, "core": 0.1}) for event in events))
    _, page = render(inputs)
    assert figures(page) == before + 1
    assert "CORE, of the first questions of each task: 0.1000 at step 8" in page


def figures(page: str) -> int:
    """Figures of a page; each but the lineage is drawn for wide and for narrow screens."""
    wide, narrow = (page.count(f'<svg class="{kind}"') for kind in ("wide", "narrow"))
    assert wide == narrow
    return wide


def test_code_in_a_sentence_is_code_and_the_rest_is_text() -> None:
    assert code_spans("Set `a` < `b`.") == "Set <code>a</code> &lt; <code>b</code>."


def test_a_title_is_escaped(tmp_path: Path) -> None:
    page = render(made(tmp_path, title="<b>bold</b>"))[1]
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold</b>" not in page


def test_no_payload_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Path:
        raise AssertionError

    monkeypatch.setattr(Payloads, "fetch", refuse)
    render(made(tmp_path))


def test_the_data_card_is_in_both_reports(tmp_path: Path) -> None:
    markdown, page = render(made(tmp_path))
    for output in ("4.048 bytes a token", "17 documents (0.19%)", "1.230%", "en 87.5%, other 12.5%", "longest 4,321"):
        assert output in markdown and output in page
    assert "| 4 – 7 | 4,000 | 45.6% |" in markdown
    assert "4,000 (45.6%)" in page


CORE = {
    "core": 0.12345, "core_interval": [0.1111, 0.1333], "baselines": "v1", "missing_tasks": [], "limit": 500,
    "core_by_version": {"v1": 0.12345, "v2": 0.09876}, "overlong": "run", "choices_by": "mean nats per token",
    "tasks": {
        "copa": {"kind": "choice", "shots": 0, "accuracy": 0.6, "interval": [0.501, 0.692], "baseline": 0.5,
                 "centered": 0.2, "gold_bits": 31.415, "questions": 100, "cropped": 0, "moved_spans": 1},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", [0, 1], ids=["markdown", "html"])
def test_core_has_a_chapter_with_both_versions_of_the_baselines(form: int, tmp_path: Path) -> None:
    inputs = with_core(tmp_path, CORE)
    shown = render(inputs)[form]
    if form:
        shown = Page(shown).text
    for part in ("0.1235 (0.1111–0.1333)", "0.1235 by DCLM's baselines v1 and 0.0988 by DCLM's baselines v2",
                 "the bundle has v1", "first 500 questions", "60.0% (50.1–69.2)", "0.200", "31.41",
                 "1 with a moved span"):  # fmt: skip
        assert part in shown, part


def test_without_all_tasks_the_chapter_names_those_that_are_missing(tmp_path: Path) -> None:
    nothing = {"core": None, "core_interval": None, "missing_tasks": ["squad", "coqa"]}
    markdown, _ = render(with_core(tmp_path, CORE | nothing))
    assert "No CORE, without squad, coqa." in markdown
    assert "| CORE |" not in markdown


def with_core(folder: Path, evaluation: dict[str, Any]) -> ReportInputs:
    inputs = made(folder)
    like = inputs.stages["evaluate_base"][0]
    here = folder / "evaluate_core"
    here.mkdir()
    (here / "evaluation.json").write_text(json.dumps(evaluation))
    manifest = like.manifest.model_copy(update={"stage": "evaluate_core"})
    made_of: list[Artifact] = [FakeArtifact(manifest, here)]
    return ReportInputs(inputs.title, {**inputs.stages, "evaluate_core": made_of})

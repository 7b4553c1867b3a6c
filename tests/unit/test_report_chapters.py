"""Chapters of a report: comparisons with other models, price and energy, incidents; the size of a report."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from nanochat.evaluation.examples import FILE_NAME, write_examples
from nanochat.evaluation.row_bits import FILE_NAME as ROWS
from nanochat.evaluation.row_bits import RowBits
from nanochat.report import vocabularies
from nanochat.report.cost import money
from nanochat.report.inputs import ComparedModel, Prices, ReportInputs
from nanochat.report.quality import bits_verdict, verdicts_against
from nanochat.report.report import render
from nanochat.report.vocabularies import OTHERS, compression, stored_encoding
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import FileEntry, InputRef
from tests.evaluation.answers import answers
from tests.unit.test_report import EVALUATIONS, FakeArtifact, made

MEGABYTE = 1 << 20


def changed(artifact: Artifact, folder: Path | None = None, **fields: Any) -> FakeArtifact:
    """A copy of an artifact, with other fields of its manifest."""
    return FakeArtifact(artifact.manifest.model_copy(update=fields), folder or artifact.path)


def answered(folder: Path, like: Artifact, share: float, **config: Any) -> FakeArtifact:
    """An evaluation of the same 300 questions, of which it answers this share right."""
    folder.mkdir()
    right = np.random.default_rng(1).random(300) < share
    write_examples(folder, answers("gsm8k", list(right), baseline=0.0))
    (folder / "evaluation.json").write_text(json.dumps(EVALUATIONS["evaluate_chat"]))
    files = [FileEntry(path=FILE_NAME, size=1, sha256="0")]
    return changed(like, folder, files=files, config=config, digest=f"{share}")


def test_a_better_model_is_better_and_other_rules_are_one_sentence(tmp_path: Path) -> None:
    inputs = made(tmp_path / "run")
    like = inputs.stages["evaluate_chat"][0]
    inputs.stages["evaluate_chat"] = [answered(tmp_path / "ours", like, 0.6)]
    worse = answered(tmp_path / "worse", like, 0.3)
    other_rules = answered(tmp_path / "rules", like, 0.3, max_tokens=7)
    (verdict,) = verdicts_against(inputs, ComparedModel("old", {"evaluate_chat": worse}))
    assert "this model is better than old" in verdict
    (refused,) = verdicts_against(inputs, ComparedModel("odd", {"evaluate_chat": other_rules}))
    assert "not compared with odd" in refused and "`max_tokens`" in refused
    compared = [ComparedModel("old", {"evaluate_chat": worse}), ComparedModel("gone", {}, "The store lost it.")]
    for shown in render(replace(inputs, compared=compared)):
        assert "this model is better than old" in shown
        assert "The store lost it." in shown


def test_bits_per_byte_are_compared_on_the_same_rows_only(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    ours = inputs.stages["evaluate_base"][0]
    rows = {"rows": [InputRef(stage="pack", kind="Rows", key="k", digest="same")]}
    inputs.stages["evaluate_base"] = [changed(ours, inputs=rows, metrics={"bits_per_byte": 0.9})]
    theirs = changed(ours, inputs=rows, metrics={"bits_per_byte": 0.95}, digest="other")
    (verdict,) = verdicts_against(inputs, ComparedModel("old", {"evaluate_base": theirs}))
    assert "this model 0.9000, old 0.9500: 0.0500 fewer, which is better" in verdict
    elsewhere = {"rows": [InputRef(stage="pack", kind="Rows", key="k", digest="different")]}
    (refused,) = verdicts_against(inputs, ComparedModel("old", {"evaluate_base": changed(theirs, inputs=elsewhere)}))
    assert "different rows of text" in refused and "0.95" not in refused


@pytest.mark.parametrize(
    ("more", "expected"),
    [(0.05, "0.0500 fewer, which is better (0.04"), (-0.05, "0.0500 more, which is worse (0.04"), (0.0, "cannot tell")],
)
def test_bits_of_rows_tell_whether_a_difference_is_one(tmp_path: Path, more: float, expected: str) -> None:
    inputs = made(tmp_path / "run")
    like, noise = inputs.stages["evaluate_base"][0], np.random.default_rng(1).standard_normal(50)
    noise -= noise.mean()

    def evaluated(name: str, bits: float, sign: float) -> FakeArtifact:
        (tmp_path / name).mkdir()
        RowBits(1000 * (bits + 0.01 * sign * noise), np.full(50, 1000)).write(tmp_path / name)
        files = [FileEntry(path=ROWS, size=1, sha256="0")]
        return changed(like, tmp_path / name, files=files, metrics={"bits_per_byte": bits}, digest=name)

    verdict = bits_verdict(evaluated("ours", 0.9, 1), evaluated("theirs", 0.9 + more, -1), "this model", "old")
    assert expected in verdict


def test_a_price_of_an_hour_makes_a_price(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    assert money(inputs) is None
    assert "No price of an hour is set" in render(inputs)[0]
    priced = replace(inputs, prices=Prices(gpu_stages=36.0, cpu_stages=3.6, currency="€"))
    # 10 s a stage: 4 stages train or evaluate; 3 x 3 shards, vocabulary, card and conversations do not
    assert money(priced) == pytest.approx(0.4 + 0.12)
    for shown in render(priced):
        assert "€0.52" in shown


def test_energy_is_added_up_where_it_is_known(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    assert "No driver counted the energy" in render(inputs)[0]
    for stage, joules in (("pretrain", 7.2e6), ("sft", 1.8e6)):
        (model,) = inputs.stages[stage]
        producer = model.manifest.producer.model_copy(update={"energy_j": joules})
        inputs.stages[stage] = [changed(model, producer=producer)]
    assert "used 2.5 kWh" in render(inputs)[0]


def test_interruptions_skipped_rows_and_warnings_are_incidents(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    (model,) = inputs.stages["pretrain"]
    producer = model.manifest.producer.model_copy(update={"warnings": ("The store was away.",)})
    numbers = {**model.metrics, "resumed_from_step": 3, "steps": 8, "batch_tokens": 64, "sequence_len": 32}
    inputs.stages["pretrain"] = [changed(model, metrics=numbers, producer=producer)]
    events = [
        {"done": step, "smoothed_loss": 1.0, "validation_bits_per_byte": 1.0 + step / 10, "rows_consumed": 2 * step + 6}
        for step in (1, 8)
    ]
    (tmp_path / "pretrain" / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)))
    for shown in render(inputs):
        assert "pretrain: interrupted, and continued from step 3 of 8" in shown
        assert "pretrain: 6 rows were skipped" in shown
        assert "lowest at step 1 (1.1000) and rose to 1.8000" in shown
        assert "pretrain: The store was away." in shown


def test_a_report_of_a_thousand_shards_is_small(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    for stage in ("download", "tokenize", "pack"):
        inputs.stages[stage] = [changed(inputs.stages[stage][0], key=f"{number:08}" * 8) for number in range(1000)]
    events = [{"done": step, "smoothed_loss": 5 / step} for step in range(1, 20_000)]
    (tmp_path / "pretrain" / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)))
    markdown, page = render(inputs)
    assert len(page.encode()) < MEGABYTE / 2 and len(markdown.encode()) < MEGABYTE / 2
    assert "download ×1,000" in page


@pytest.mark.parametrize("name", OTHERS)
def test_vocabularies_of_others_are_never_fetched(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert stored_encoding(name) is None


def test_vocabularies_that_tiktoken_has_kept_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, data = "https://example.org/letters", b"the file"
    kept = tmp_path / hashlib.sha1(address.encode()).hexdigest()
    kept.write_bytes(data)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(vocabularies, "OTHERS", {"letters": ("l", {address: hashlib.sha256(data).hexdigest()})})
    one_a_letter = SimpleNamespace(n_vocab=256, encode_ordinary=list)
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(get_encoding=lambda name: one_a_letter))
    inputs = made(tmp_path / "run")
    found = compression(inputs.one("train_tokenizer"), inputs.stages["download"])
    assert found.sizes["letters"] == 256 and not found.absent
    assert found.ratios["Python"]["letters"] == 1.0
    assert found.ratios["Chinese"]["letters"] == pytest.approx(3.0, abs=0.1)
    for shown in render(inputs):
        assert "letters of 256 tokens" in shown
    kept.write_bytes(b"damaged")
    assert compression(inputs.one("train_tokenizer"), inputs.stages["download"]).absent == ["letters"]


def test_the_report_is_pure(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    assert render(inputs) == render(cast(ReportInputs, replace(inputs)))

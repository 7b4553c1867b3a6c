"""`nanochat evaluate`: foreign models and ours, with a lineage in the store, and nothing computed twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("transformers")

from nanochat.cli.main import command
from nanochat.errors import BadConfig, BadSource, NotFound
from nanochat.lineage.tree import tree
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store
from tests.evaluation import tiny_models


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "home"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": f"{line} {number}. " * 9}) for number, line in enumerate(tiny_models.TEXT * 4)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def evaluate(*arguments: Any) -> None:
    command(["evaluate", *map(str, arguments), "--plain", "--compute", "parallelism.device=cpu"])


def manifests(home: Path, stage: str) -> list[Manifest]:
    return list(Store(f"file://{home}/store", home / "cache", read_only=True).manifests(stage))


@pytest.mark.slow
def test_a_foreign_model_is_evaluated_on_a_text_with_a_lineage(
    tmp_path: Path, home: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_models.write_model(tmp_path / "tiny", adds_bos=True)
    evaluate(folder, "--text", text)
    printed = capsys.readouterr().out
    (evaluation,) = manifests(home, "evaluate_text")
    (foreign,) = manifests(home, "foreign_model")
    assert f"evaluate_text/{evaluation.key[:12]}" in printed
    assert f"bits per byte {evaluation.metrics['bits_per_byte']:.4g} (" in printed
    assert foreign.metrics["bos"] == "<s>"
    assert foreign.metrics["architecture"] == "LlamaForCausalLM"
    assert foreign.kind == "ForeignModel"
    assert dict(foreign.config["files"]).keys() >= {"model.safetensors", "tokenizer.json"}
    assert not any(file.size > 100_000 for file in foreign.files), "the weights are not copied"
    store = Store(f"file://{home}/store", home / "cache", read_only=True)
    lineage = "\n".join(tree(store, evaluation))
    assert "foreign_model" in lineage
    assert "download" in lineage
    rows = pq.read_table(store.artifact(evaluation, reused=True).path / "documents.parquet").to_pylist()
    assert len(rows) == 12
    total = sum(row["bits"] for row in rows) / sum(row["bytes"] for row in rows)
    assert total == pytest.approx(evaluation.metrics["bits_per_byte"])
    evaluate(folder, "--text", text)
    assert "cached" in capsys.readouterr().out
    assert len(manifests(home, "evaluate_text")) == 1


def test_what_cannot_be_evaluated_is_one_sentence(tmp_path: Path, text: Path) -> None:
    folder = tiny_models.write_model(tmp_path / "tiny")
    with pytest.raises(BadConfig, match="CORE needs the files of its tasks"):
        evaluate(folder)
    with pytest.raises(BadConfig, match="no tasks `poetry`"):
        evaluate(folder, "--tasks", "poetry")
    with pytest.raises(BadConfig, match="Only a base model of the store has held-out rows"):
        evaluate(folder, "--tasks", "base")
    with pytest.raises(NotFound, match=r"no artifact `chat/latest`.*`hf://org/name`"):
        evaluate("--text", text)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(BadSource, match=r"empty.txt"):
        evaluate(folder, "--text", empty)
    with pytest.raises(BadSource, match="There is no file or folder"):
        evaluate(folder, "--text", tmp_path / "missing.txt")
    with pytest.raises(BadConfig, match="`--limit` is -1"):
        evaluate(folder, "--limit", "-1")

"""The page that compares models: settings, curves, texts, cost, and what is missing, beside the verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat.cli.main import command
from nanochat.errors import NotFound
from nanochat.report.comparison import won_and_lost
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import artifact_folder
from nanochat.store.store import Store
from tests.evaluation.answers import answers
from tests.evaluation.stored import evaluation, foreign, model, scored, trained


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "store"))
    return Store(str(tmp_path / "store"), tmp_path / "home" / "cache")


def base(store: Store, name: str, rate: float, bits: float, rows: str = "rows") -> Artifact:
    """A base model of eight steps, its evaluation and its samples."""
    events = [{"done": step, "smoothed_loss": 8 - rate * step, "tokens": 100 * step, "seconds": float(step),
               "validation_bits_per_byte": bits + 1 / step} for step in range(1, 9)]  # fmt: skip
    metrics = {"steps": 8, "train_tokens": 800, "flops": 8e9, "tokens_per_s": 100.0, "final_loss": 8 - 8 * rate}
    made = trained(store, "pretrain", name, {"optimizer": {"rate": rate}}, events, metrics)
    text = {"samples": [{"prompt": "Once", "text": f" {name} was here"}], "bits_per_byte": bits}
    inputs = {"rows": model(store, rows, "pack")}
    scored(store, made, {"bits_per_byte": bits}, text, stage="evaluate_base", version=1, inputs=inputs)
    return made


def compared(capsys: pytest.CaptureFixture[str], tmp_path: Path, *models: str) -> tuple[str, str]:
    """The terminal's text in one line, and the page."""
    command(["compare", *models, "--html", str(tmp_path / "page.html")])
    return " ".join(capsys.readouterr().out.split()), (tmp_path / "page.html").read_text()


def test_base_models_are_compared_in_settings_curves_texts_and_cost(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base(store, "slow", 0.25, 0.9)
    base(store, "fast", 0.5, 0.8)
    printed, page = compared(capsys, tmp_path, "chat/slow", "chat/fast")
    assert "chat/fast 0.8000, chat/slow 0.9000: 0.1000 fewer, which is better" in printed
    assert "optimizer.rate 0.25 → 0.5" in printed
    assert "chat/slow 1.0250 at 800, chat/fast 0.9250 at 800" in printed  # over tokens
    assert "over FLOPs: chat/slow 1.0250 at 8 G" in printed
    assert page.count('<svg class="wide"') == 4  # steps, tokens, FLOPs, seconds
    assert "slow was here" in printed and "fast was here" in printed
    assert "time of training stages" in printed


def test_bits_on_other_rows_are_refused_and_the_rest_is_shown(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base(store, "a", 0.25, 0.9)
    base(store, "b", 0.5, 0.8, rows="elsewhere")
    printed, _ = compared(capsys, tmp_path, "chat/a", "chat/b")
    assert "different rows of text, so they are not compared" in printed
    assert "optimizer.rate 0.25 → 0.5" in printed


def test_models_that_are_gone_foreign_or_not_evaluated_are_one_sentence_each(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, gone, other = model(store, "a"), model(store, "gone"), foreign(store, "hf://org/name", [("x", "0" * 64)])
    model(store, "lonely")
    evaluation(store, a, answers("arc_easy", [True, False] * 100))
    of_gone = evaluation(store, gone, answers("arc_easy", [True] * 200))
    evaluation(store, other, answers("arc_easy", [True] * 150 + [False] * 50))
    store.objects.delete([f"{artifact_folder(*gone.manifest.name)}/manifest.json"])
    printed, page = compared(
        capsys, tmp_path, "chat/a", of_gone.key[:12], "hf://org/name", "chat/lonely", "chat/nowhere"
    )
    for text in (printed, page):
        assert "is better than chat/a" in text
        assert f"The model of evaluate_chat {of_gone.key[:8]} is no longer in the store" in text
        assert "hf://org/name is a model of Hugging Face" in text
        assert "chat/lonely" in text and "has no evaluation in" in text
        assert "chat/a and chat/lonely have no evaluation of the same kind" in text
        assert "There is no artifact" in text and "chat/nowhere" in text
    with pytest.raises(NotFound, match="no artifact"):
        command(["compare", "chat/a", "chat/nowhere"])


def test_questions_won_and_lost_are_those_that_one_model_answers(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = answers("t", [True, True, False, False]), answers("t", [True, False, True, True])
    won, lost = won_and_lost(first, second)
    assert [pair[1].question for pair in won] == ["2", "3"]
    assert [pair[1].question for pair in lost] == ["1"]
    evaluation(store, model(store, "a"), first)
    evaluation(store, model(store, "b"), second)
    printed, page = compared(capsys, tmp_path, "chat/a", "chat/b")
    assert "chat/b answers 2 right that chat/a does not, and chat/a answers 1 right that chat/b does not" in printed
    assert "Won by chat/b: 2 of 2" in page and "t: 2" in page


def test_the_json_is_a_list_of_comparisons(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    base(store, "a", 0.25, 0.9)
    base(store, "b", 0.5, 0.8)
    command(["compare", "chat/a", "chat/b", "--json"])
    assert json.loads(capsys.readouterr().out) == []

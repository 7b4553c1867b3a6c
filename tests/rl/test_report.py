"""The chapter of the report: gains with intervals, curves, and answers that are shown as text only."""

from __future__ import annotations

import json
from pathlib import Path

from nanochat.report.report import render
from nanochat.report.rl import ends
from tests.rl.tiny import chat_model, problems, trained
from tests.unit.test_report import EVALUATIONS, NASTY, FakeArtifact, Page, figures, made


def test_the_report_has_a_chapter_with_curves_gains_and_answers(tmp_path: Path) -> None:
    problems(tmp_path / "problems")
    chat_model(tmp_path / "base")
    metrics = trained(tmp_path, tmp_path / "rl", steps=3)
    path = tmp_path / "rl" / "out" / "evaluations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["problems"][0]["question"] = NASTY
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = made(tmp_path / "run")
    sft, evaluation = inputs.stages["sft"][0], inputs.stages["evaluate_chat"][0]
    model = sft.manifest.model_copy(update={"stage": "rl", "metrics": metrics, "config": {"steps": 3}})
    after = json.loads(json.dumps(EVALUATIONS["evaluate_chat"]))
    after["tasks"]["gsm8k"]["accuracy"] = 0.5
    (tmp_path / "after").mkdir()
    (tmp_path / "after" / "evaluation.json").write_text(json.dumps(after))
    inputs.stages["rl"] = [FakeArtifact(model, tmp_path / "rl" / "out")]
    inputs.stages["evaluate_chat rl"] = [FakeArtifact(evaluation.manifest, tmp_path / "after")]
    markdown, page = render(inputs)
    read = Page(page)
    assert read.open == []
    assert "<script" not in page
    for text in (markdown, read.text):
        assert "Reinforcement learning" in text
        assert "held-out problems of task 1" in text
        assert "gsm8k" in text and "50.0%" in text and "+50.0" in text  # the evaluation after it is the one in front
        assert "points of pass@1 by reinforcement learning" in text
        for kind in ("Most improved", "Best", "Worst"):
            assert kind in text
    assert figures(page) == figures(render(made(tmp_path / "plain"))[1]) + 4


def test_a_caption_has_means_over_tenths_of_the_steps_not_single_ones() -> None:
    assert ends([0.5]) == (0.5, 0.5)
    assert ends([0.0, 1.0, *[0.5] * 16, 1.0, 0.5]) == (0.5, 0.75)


def test_the_report_has_a_part_on_preferences(tmp_path: Path) -> None:
    inputs = made(tmp_path / "run")
    sft, evaluation = inputs.stages["sft"][0], inputs.stages["evaluate_chat"][0]
    metrics = {
        "steps": 9, "pairs": 1234, "held_out_pairs": 57, "validation_accuracy": 0.754, "validation_chosen_gain": 1.5,
        "validation_rejected_gain": -2.25,
    }  # fmt: skip
    model = sft.manifest.model_copy(update={"stage": "dpo", "metrics": metrics, "config": {"beta": 0.1}})
    (tmp_path / "dpo").mkdir()
    lines = [{"done": step, "smoothed_loss": 0.7, "loss": 0.7, "validation_loss": 0.6} for step in range(3)]
    (tmp_path / "dpo" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    after = json.loads(json.dumps(EVALUATIONS["evaluate_chat"]))
    after["tasks"]["gsm8k"]["accuracy"] = 0.5
    (tmp_path / "after").mkdir()
    (tmp_path / "after" / "evaluation.json").write_text(json.dumps(after))
    inputs.stages["dpo"] = [FakeArtifact(model, tmp_path / "dpo")]
    inputs.stages["evaluate_chat dpo"] = [FakeArtifact(evaluation.manifest, tmp_path / "after")]
    markdown, page = render(inputs)
    read = Page(page)
    assert read.open == []
    for text in (markdown, read.text):
        assert "9 steps on 1,234 pairs. Of 57 held-out pairs, 75.4%" in text
        assert "+1.50, of rejected ones -2.25 nats" in text
        assert "fine-tuning on conversations, then preference optimization" in text
        assert "50.0%" in text and "+50.0" in text  # the evaluation after it is the one in front
    assert figures(page) == figures(render(made(tmp_path / "plain"))[1]) + 2

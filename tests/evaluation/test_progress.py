"""Progress of an evaluation: shown from the first question on, with rate and time left, and while a model loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config.evaluation import CoreConfig
from nanochat.evaluation import progress
from nanochat.evaluation.core.evaluate import evaluate
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.own_model import OwnModel
from nanochat.evaluation.progress import EvaluationProgress
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.job import Job
from nanochat.workers.ranks import World
from tests.evaluation.core_bundles import texts, write_bundle
from tests.evaluation.core_models import small_model

ALONE = World(0, 1, torch.device("cpu"))


def job(folder: Path) -> Job:
    return Job(module="", config={}, inputs={}, out="", folder=str(folder))


def lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_it_is_written_once_a_second_and_at_each_task_with_the_rate_of_this_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((10.0, 10.4, 12.0, 12.1, 12.2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    report = EvaluationProgress(job(tmp_path), ALONE)
    report.say("loading the model")
    for done, task in ((40, "a"), (41, "a"), (44, "a"), (45, "b"), (100, "b")):
        report(done, 100, task)
    assert [(line["done"], line["message"]) for line in lines(tmp_path)] == [
        (0, "loading the model"),
        (40, "a"),
        (44, "a · 2.0 questions/s · 28 s left"),
        (45, "b · 2.4 questions/s · 23 s left"),
        (100, "b · 27.3 questions/s · 0.0 s left"),
    ]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    report = EvaluationProgress(job(tmp_path), World(1, 2, torch.device("cpu")))
    report.say("loading the model")
    report(1, 2, "a")
    assert lines(tmp_path) == []


def test_each_question_of_core_is_reported_when_it_is_answered(tmp_path: Path) -> None:
    """Before the first one too: 64 questions are computed together, which can take minutes."""
    (tmp_path / "bundle").mkdir()
    bundle = write_bundle(tmp_path / "bundle", rows=7)
    tokenizer = Tokenizer.train_from_iterator(iter(texts(bundle)), vocab_size=300)
    model = OwnModel(small_model(tokenizer, 64), tokenizer, threads=1)
    seen: list[tuple[int, int, str]] = []
    config = CoreConfig(tasks=("copa", "squad"))
    evaluate(
        model, bundle, config, tmp_path, ALONE, finished=FinishedTasks(""), progress=lambda *each: seen.append(each)
    )
    assert seen[0] == (0, 14, "copa, task 1 of 2")
    assert seen[-1] == (14, 14, "squad, task 2 of 2")
    assert [done for done, _, task in seen if task.startswith("copa")] == [*range(8), 7]


def test_what_is_loaded_of_a_foreign_model_is_logged(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from nanochat.config.foreign import ForeignOptions
    from nanochat.evaluation.any_model import load_any
    from nanochat.evaluation.foreign_model import describe
    from nanochat.sources.model_files import find_model
    from tests.evaluation import tiny_models

    found = find_model(str(tiny_models.write_model(tmp_path / "tiny")), ForeignOptions())
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    describes = Job(module="", config=found.model_dump(), inputs={}, out=str(recorded), folder=str(tmp_path))
    describe(describes, ALONE)
    assert [line["message"] for line in lines(tmp_path)] == ["reading tiny"]
    messages: list[str] = []
    load_any(recorded, say=messages.append)
    assert messages == ["checking the files of tiny", "loading the weights of tiny", "loading the tokenizer of tiny"]

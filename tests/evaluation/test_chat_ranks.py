"""Chat evaluation is the same on any number of ranks, and after it was stopped: finished tasks are not done again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.errors import BadConfig, Stopped
from nanochat.evaluation.chat import Progress, evaluate, read_questions
from nanochat.evaluation.examples import FILE_NAME, read_examples
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.language_model import Generated, Report
from nanochat.evaluation.own_model import OwnModel
from nanochat.inference.request import SamplingParameters
from nanochat.model.files import save_model
from nanochat.tasks.conversation import Question, open_question
from nanochat.tasks.lettered import lettered_question
from nanochat.workers.launch import launch
from nanochat.workers.ranks import World
from tests.inference.models import TOKENIZER, built
from tests.training.tiny import context

CONFIG = ChatEvaluationConfig(max_tokens=8, samples=2, temperature=1.0)
ALONE = World(0, 1, torch.device("cpu"))
FILES = (FILE_NAME, "evaluation.json")


def questions() -> list[Question]:
    choices = [lettered_question("arc_easy", f"{n}?" * (n + 1), "wxyz", "ABCD", "ABCD"[n % 4]) for n in range(11)]
    sums = [open_question("gsm8k", f"{n} + 1?", str(n + 1)) for n in range(7)]
    return [*choices, *sums, *(open_question("spelling_bee", f"{n} e?", "2") for n in range(2))]


def made(folder: Path) -> Path:
    """A model and conversations in a folder."""
    save_model(folder / "model", built())
    TOKENIZER.save(folder / "model" / "vocabulary.json")
    (folder / "conversations").mkdir()
    lines = [json.dumps(question) + "\n" for question in questions()]
    (folder / "conversations" / "questions.jsonl").write_text("".join(lines))
    return folder


def run(
    model: OwnModel, given: Path, out: Path, kept: str = "", progress: Progress = lambda *_: None
) -> dict[str, Any]:
    out.mkdir()
    tasks = read_questions(given / "conversations" / "questions.jsonl")
    return evaluate(model, tasks, CONFIG, out, ALONE, finished=FinishedTasks(kept), progress=progress)


def files(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


class Failing(OwnModel):
    """Does no more than the first `tasks` tasks, and counts them."""

    tasks = 99
    done = 0

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParameters, answers: int = 1,
        report: Report | None = None,
    ) -> Iterator[list[Generated]]:  # fmt: skip
        self._count()
        return super().generate(prompts, sampling, answers, report)

    def score(self, contexts: Any, report: Report | None = None) -> Any:
        self._count()
        return super().score(contexts, report)

    def _count(self) -> None:
        if self.done == self.tasks:
            raise BadConfig("It stops here.")
        self.done += 1


@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_finished_tasks_are_not_done_again(tmp_path: Path, tasks: int) -> None:
    given = made(tmp_path)
    metrics = run(OwnModel(built(), TOKENIZER), given, tmp_path / "whole")
    kept = (tmp_path / "kept").as_uri() + "/key"
    model = Failing(built(), TOKENIZER)
    model.tasks = tasks
    with pytest.raises(BadConfig, match="It stops here"):
        run(model, given, tmp_path / "stopped", kept)
    again = Failing(built(), TOKENIZER)
    assert run(again, given, tmp_path / "again", kept) == metrics
    assert again.done == 3 - tasks
    assert files(tmp_path / "again") == files(tmp_path / "whole")


def test_progress_counts_every_question_of_every_task(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    run(OwnModel(built(), TOKENIZER), made(tmp_path), tmp_path / "out", progress=lambda *each: seen.append(each))
    assert seen[-1] == (20, 20, "spelling_bee, task 3 of 3")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert len(read_examples(tmp_path / "out")) == 11 + 2 * 7 + 2 * 2


def launched(given: Path, folder: Path, checkpoints: str, progress: Any, **how: Any) -> dict[str, Any]:
    around = context(folder, progress, checkpoints, **how)
    inputs: dict[str, Path | list[Path]] = {"model": given / "model", "conversations": given / "conversations"}
    return launch("nanochat.evaluation.chat_model", CONFIG, inputs, folder / "out", around)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_files_are_the_same_on_any_number_of_ranks(tmp_path: Path, ranks: int) -> None:
    given = made(tmp_path)
    metrics = run(OwnModel(built(), TOKENIZER), given, tmp_path / "alone")
    assert launched(given, tmp_path / "ranks", "", lambda *_: None, ranks=ranks) == metrics
    assert files(tmp_path / "ranks" / "out") == files(tmp_path / "alone")


@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_with_the_next_task(tmp_path: Path) -> None:
    given = made(tmp_path)
    metrics = run(OwnModel(built(), TOKENIZER), given, tmp_path / "alone")
    checkpoints = (tmp_path / "checkpoints").as_uri() + "/key"

    def stop(done: float, *_: object) -> None:
        if done >= 11:
            raise Stopped("Stopped.")

    with pytest.raises(Stopped):
        launched(given, tmp_path / "first", checkpoints, stop, ranks=2)
    kept = FinishedTasks(checkpoints).load()
    assert "arc_easy" in kept
    assert launched(given, tmp_path / "second", checkpoints, lambda *_: None, ranks=3) == metrics
    assert files(tmp_path / "second" / "out") == files(tmp_path / "alone")

"""The worker that evaluates a chat model: `python -m nanochat.evaluation.chat_model job.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.errors import BadSource
from nanochat.evaluation.chat_scores import forms_of, scores
from nanochat.evaluation.chat_tasks import Answered, answer_task
from nanochat.evaluation.engine_model import EngineModel
from nanochat.evaluation.examples import Example, by_task, write_examples
from nanochat.evaluation.language_model import LanguageModel
from nanochat.model.files import load_model
from nanochat.tasks.conversation import Question
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main

SHOWN_PER_TASK = 8


def evaluate_chat(job: Job, world: World) -> dict[str, Any]:
    """Answers the held-out questions of every task, on the first rank; returns the stage's metrics."""
    if not world.is_first:
        return {}
    config = ChatEvaluationConfig.model_validate(job.config)
    questions = read_questions(job.input("conversations") / "questions.jsonl", config.limit)
    folder = job.input("model")
    tokenizer = Tokenizer.load(folder / "vocabulary.json")
    model = EngineModel(load_model(folder, world.device), tokenizer)
    answered = answer_all(model, questions, config, job)
    return write_evaluation(Path(job.out), answered, forms_of(questions), config)


def answer_all(
    model: LanguageModel, questions: Mapping[str, Sequence[Question]], config: ChatEvaluationConfig, job: Job
) -> Answered:
    """The answers to all questions of all tasks."""
    total, done = sum(map(len, questions.values())), 0
    every = Answered()
    for name, some in questions.items():

        def report(number: int, before: int = done, name: str = name) -> None:
            job.event(before + number, total, "questions", name)

        answered = answer_task(model, list(enumerate(some)), config, report)
        every.examples += answered.examples
        every.times += answered.times
        done += len(some)
    return every


def write_evaluation(
    out: Path, answered: Answered, forms: Mapping[str, str], config: ChatEvaluationConfig
) -> dict[str, Any]:
    """Writes the examples, their times and `evaluation.json`, which has their scores; returns the metrics."""
    write_examples(out, answered.examples, answered.times)
    found = scores(answered.examples, forms, config)
    shown = [_shown(example) for some in by_task(answered.examples).values() for example in some[:SHOWN_PER_TASK]]
    text = json.dumps(found | {"examples": shown}, indent=1, ensure_ascii=False)
    (out / "evaluation.json").write_text(text, encoding="utf-8")
    totals = {name: found[name] for name in ("chatcore", "centered_accuracy") if name in found}
    return totals | {f"{name}_accuracy": task["accuracy"] for name, task in found["tasks"].items()}


def read_questions(path: Path, limit: int) -> dict[str, list[Question]]:
    """The questions of each task, at most `limit` (0: all). Raises `BadSource` if there is none."""
    tasks: dict[str, list[Question]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            question: Question = json.loads(line)
            tasks.setdefault(question["task"], []).append(question)
    if not tasks:
        raise BadSource("There are no questions.", hint="Add a task with questions to `conversations.questions`.")
    return {name: questions[: limit or None] for name, questions in tasks.items()}


def _shown(example: Example) -> dict[str, Any]:
    return {
        "task": example.task,
        "prompt": example.prompt,
        "answer": example.answer,
        "expected": example.gold,
        "right": example.right,
    }


if __name__ == "__main__":
    main(evaluate_chat)

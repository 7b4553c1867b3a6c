"""The worker that evaluates a chat model: `python -m nanochat.evaluation.chat_model job.json`."""

import json
from pathlib import Path
from typing import Any

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.errors import BadSource
from nanochat.evaluation.chat_tasks import Answered, answer_choices, answer_open, chatcore, summary
from nanochat.model.files import load_model
from nanochat.tasks.conversation import Question
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main

EXAMPLES_PER_TASK = 8


def evaluate_chat(job: Job, world: World) -> dict[str, Any]:
    """Answers the held-out questions of every task, on the first rank; returns the stage's metrics."""
    if not world.is_first:
        return {}
    config = ChatEvaluationConfig.model_validate(job.config)
    model = load_model(job.input("model"), world.device)
    tokenizer = Tokenizer.load(job.input("model") / "vocabulary.json")
    by_task = _questions(job.input("conversations") / "questions.jsonl", config.limit)
    total, done = sum(map(len, by_task.values())), 0
    tasks: dict[str, dict[str, Any]] = {}
    examples: list[dict[str, Any]] = []
    for name, questions in by_task.items():

        def report(number: int, before: int = done, name: str = name) -> None:
            job.event(before + number, total, "questions", name)

        if questions[0]["kind"] == "choice":
            answered = answer_choices(model, tokenizer, questions, report)
        else:
            answered = answer_open(model, tokenizer, questions, config.max_tokens, report)
        done += len(questions)
        tasks[name] = summary(answered)
        examples += [_example(name, answer) for answer in answered[:EXAMPLES_PER_TASK]]
    score = chatcore(tasks)
    evaluation = {"tasks": tasks, "chatcore": score, "examples": examples}
    (Path(job.out) / "evaluation.json").write_text(
        json.dumps(evaluation, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    return {"chatcore": score, **{f"{name}_accuracy": task["accuracy"] for name, task in tasks.items()}}


def _questions(path: Path, limit: int) -> dict[str, list[Question]]:
    by_task: dict[str, list[Question]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            question: Question = json.loads(line)
            by_task.setdefault(question["task"], []).append(question)
    if not by_task:
        raise BadSource("There are no questions.", hint="Add a task with questions to `conversations.questions`.")
    return {name: questions[: limit or None] for name, questions in by_task.items()}


def _example(task: str, answer: Answered) -> dict[str, Any]:
    return {
        "task": task,
        "prompt": answer.question["messages"][-1]["content"],
        "answer": answer.given,
        "expected": answer.question["answer"],
        "right": answer.right,
    }


if __name__ == "__main__":
    main(evaluate_chat)

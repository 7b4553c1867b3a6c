"""Evaluates a chat model on questions: choices by likelihood, open questions by a generated answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nanochat.data.loader import IGNORED
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model.gpt import GPT
from nanochat.tasks.conversation import Question
from nanochat.tasks.registry import judge
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render_prompt

QUESTIONS_PER_PASS = 16


@dataclass(frozen=True)
class Answered:
    """A question, what the model answered, and whether that is right."""

    question: Question
    given: str
    right: bool


def answer_choices(
    model: GPT, tokenizer: Tokenizer, questions: Sequence[Question], report: Callable[[int], None]
) -> list[Answered]:
    """Answers each question with the choice of the highest mean log-likelihood per token, as the assistant's answer.

    `report` receives the number of answered questions.
    """
    answered: list[Answered] = []
    for begin in range(0, len(questions), QUESTIONS_PER_PASS):
        some = questions[begin : begin + QUESTIONS_PER_PASS]
        prompts = [render_prompt(tokenizer, question["messages"]) for question in some]
        continuations = [
            (prompt, tokenizer.encode(choice))
            for prompt, question in zip(prompts, some, strict=True)
            for choice in question["letters"]
        ]
        losses = iter(_mean_losses(model, continuations, tokenizer.bos))
        for question in some:
            scores = [next(losses) for _ in question["letters"]]
            given = question["letters"][scores.index(min(scores))]
            answered.append(Answered(question, given, given == question["answer"]))
        report(len(answered))
    return answered


@torch.inference_mode()
def _mean_losses(model: GPT, continuations: Sequence[tuple[list[int], list[int]]], padding: int) -> list[float]:
    """Mean loss, in nats per token, of each continuation after its prompt."""
    device = model.embedding.weight.device
    longest = max(len(prompt) + len(after) for prompt, after in continuations) - 1
    ids_BT = torch.full((len(continuations), longest), padding, dtype=torch.int64)
    targets_BT = torch.full((len(continuations), longest), IGNORED, dtype=torch.int64)
    for row, (prompt, after) in enumerate(continuations):
        whole = torch.tensor(prompt + after)
        ids_BT[row, : len(whole) - 1] = whole[:-1]
        targets_BT[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    nats_BT = model(ids_BT.to(device), targets_BT.to(device), reduction="none")
    counted_B = (targets_BT != IGNORED).sum(1).to(device)
    return (nats_BT.sum(1) / counted_B).tolist()


def answer_open(
    model: GPT, tokenizer: Tokenizer, questions: Sequence[Question], max_tokens: int, report: Callable[[int], None]
) -> list[Answered]:
    """Answers by greedy generation, judged by the tasks; `report` receives the number of answered questions."""
    sampling = SamplingParameters(max_tokens=max_tokens)
    prompts = [render_prompt(tokenizer, question["messages"]) for question in questions]
    requests = [Request(prompt=prompt, sampling=sampling) for prompt in prompts]
    engine = Engine(model, tokenizer, EngineSettings(context_tokens=max(map(len, prompts)) + max_tokens))
    answered: list[Answered] = []
    for question, (answer,) in zip(questions, engine.complete(requests, report), strict=True):
        given = tokenizer.decode(answer.ids)
        answered.append(Answered(question, given, judge(question["task"], question, given)))
    return answered


def summary(answered: Sequence[Answered]) -> dict[str, Any]:
    """Kind, accuracy, chance accuracy, and number of questions of one task."""
    question = answered[0].question
    return {
        "kind": question["kind"],
        "accuracy": sum(a.right for a in answered) / len(answered),
        "baseline": question["baseline"],
        "questions": len(answered),
    }


def chatcore(tasks: dict[str, dict[str, Any]]) -> float:
    """Mean over tasks of (accuracy - chance) / (1 - chance), as in CORE (DCLM, arXiv:2406.11794)."""
    return sum((t["accuracy"] - t["baseline"]) / (1 - t["baseline"]) for t in tasks.values()) / len(tasks)

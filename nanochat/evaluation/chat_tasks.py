"""Evaluates a chat model on the questions of a task: choices by likelihood, open questions by a generated answer.

Any `LanguageModel` will do. Each answer is an `Example`; all scores are computed from these (`chat_scores`).
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.errors import BadConfig, Diverged
from nanochat.evaluation.examples import Example, prompt_hash
from nanochat.evaluation.language_model import Context, Generated, LanguageModel, Report, Score
from nanochat.inference.request import SamplingParameters
from nanochat.tasks.conversation import Question
from nanochat.tasks.registry import judge_all
from nanochat.tasks.verdict import Verdict

Numbered = tuple[int, Question]
"""A question, and its number in the task."""


@dataclass(frozen=True)
class Answered:
    """The answers to one question."""

    number: int
    examples: list[Example]
    seconds: float


def answer_task(
    model: LanguageModel, questions: Sequence[Numbered], config: ChatEvaluationConfig, report: Report | None = None
) -> list[Answered]:
    """Answers questions of one task, in order. `report` receives the number of answered questions.

    Raises `BadConfig` if `max_tokens` is more than the model can read, `Diverged` if its output is not a number.
    """
    if not questions:
        return []
    began_s = time.monotonic()
    if questions[0][1]["kind"] == "choice":
        examples = _choices(model, questions, report)
    else:
        examples = _generated(model, questions, config, report)
    each_s = (time.monotonic() - began_s) / len(questions)
    return [Answered(number, some, each_s) for (number, _), some in zip(questions, examples, strict=True)]


def question_id(number: int, question: Question) -> str:
    """Its id in its dataset, else its number."""
    return str(question.get("id", number))


def _choices(model: LanguageModel, questions: Sequence[Numbered], report: Report | None) -> list[list[Example]]:
    """The choice of the highest mean log-likelihood per token, as the assistant's answer.

    Of letters, which are one token each, this is the one with the highest logit after the prompt.
    """
    prompts = [model.chat_prompt(question["messages"]) for _, question in questions]
    continuations = [tuple(tuple(model.encode(each)) for each in question["letters"]) for _, question in questions]
    lengths = [
        len(prompt) + max(map(len, each)) - 1 for prompt, each in zip(prompts, continuations, strict=True)
    ]  # the last token of a choice is not read
    fits = [model.context_tokens is None or length <= model.context_tokens for length in lengths]
    contexts = [
        Context(tuple(prompt), each) for prompt, each, fit in zip(prompts, continuations, fits, strict=True) if fit
    ]
    scored = iter(model.score(contexts, report))
    return [
        [_choice(*numbered, len(prompt), each, next(scored)) if fit else _too_long(*numbered)]
        for numbered, prompt, each, fit in zip(questions, prompts, continuations, fits, strict=True)
    ]


def _choice(
    number: int, question: Question, prompt_tokens: int, continuations: Sequence[Sequence[int]], scores: list[Score]
) -> Example:
    letters: list[str] = question["letters"]
    nats = [sum(score.nats) for score in scores]
    means = [total / len(score.nats) for total, score in zip(nats, scores, strict=True)]
    if not all(map(math.isfinite, means)):
        raise Diverged(
            f"For question {number} of `{question['task']}`, the output of the model is not a number.",
            hint="Its weights are damaged, or training diverged.",
        )
    answer = letters[means.index(min(means))]
    right = answer == question["answer"]
    return Example(
        **_common(number, question),
        kind="choice",
        span_tokens=tuple((prompt_tokens, prompt_tokens + len(each)) for each in continuations),
        choices=tuple(letters),
        choice_nats=tuple(nats),
        choice_tokens=tuple(map(len, continuations)),
        choice_bytes=tuple(len(letter.encode()) for letter in letters),
        gold_bits=nats[letters.index(question["answer"])] / math.log(2),
        answer=answer,
        right=right,
        verdict="right" if right else "wrong",
    )


def _generated(
    model: LanguageModel, questions: Sequence[Numbered], config: ChatEvaluationConfig, report: Report | None
) -> list[list[Example]]:
    prompts = [model.chat_prompt(question["messages"]) for _, question in questions]
    most = model.context_tokens
    if most is not None and config.max_tokens >= most:
        raise BadConfig(
            f"`max_tokens` is {config.max_tokens:,}, but `{model.name}` reads at most {most:,} tokens with the prompt.",
            hint="Lower `chat_evaluation.max_tokens`.",
        )
    fits = [most is None or len(prompt) < most for prompt in prompts]
    sampling = SamplingParameters(
        max_tokens=config.max_tokens, temperature=config.temperature, top_k=config.top_k, seed=config.seed,
        stop=config.stop,
    )  # fmt: skip
    answers = iter(
        model.generate([p for p, fit in zip(prompts, fits, strict=True) if fit], sampling, config.samples, report)
    )
    given = [next(answers) if fit else [] for fit in fits]
    answered = [(question, each.text) for (_, question), some in zip(questions, given, strict=True) for each in some]
    judged = (lambda _: report(len(questions))) if report else None  # it shows that this process makes progress
    verdicts = iter(judge_all(answered, judged))
    examples: list[list[Example]] = []
    for numbered, some in zip(questions, given, strict=True):
        if not some:
            examples.append([_too_long(*numbered, sample) for sample in range(config.samples)])
        else:
            examples.append([_answer(*numbered, n, each, next(verdicts)) for n, each in enumerate(some)])
    return examples


def _answer(number: int, question: Question, sample: int, generated: Generated, verdict: Verdict) -> Example:
    return Example(
        **_common(number, question),
        kind="generate",
        sample=sample,
        answer=generated.text,
        right=verdict.right,
        right_flexible=verdict.flexible,
        verdict=verdict.name,
        truncated=not generated.complete,
    )


def _too_long(number: int, question: Question, sample: int = 0) -> Example:
    kind = "choice" if question["kind"] == "choice" else "generate"
    return Example(
        **_common(number, question), kind=kind, sample=sample, answer="", right=False, verdict="prompt too long"
    )


def _common(number: int, question: Question) -> Mapping[str, Any]:
    """The fields that do not depend on the answer. The prompt is the text of the messages, before any template."""
    prompt = "\n\n".join(message["content"] for message in question["messages"])
    subject = question.get("subject", "")
    return {
        "task": question["task"], "question": question_id(number, question), "group": subject, "subject": subject,
        "baseline": question["baseline"], "prompt": prompt, "prompt_sha256": prompt_hash(prompt),
        "gold": question["answer"],
    }  # fmt: skip

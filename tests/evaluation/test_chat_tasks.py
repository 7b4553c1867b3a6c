"""Answers of a chat model: choices by likelihood, generated answers, what is counted, and the files of the stage."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.config.overrides import parse
from nanochat.errors import BadConfig, BadSource, Diverged
from nanochat.evaluation.chat import read_questions
from nanochat.evaluation.chat_model import evaluate_chat
from nanochat.evaluation.chat_scores import CHATCORE, is_chatcore
from nanochat.evaluation.chat_tasks import answer_task
from nanochat.evaluation.examples import Example, read_examples
from nanochat.evaluation.language_model import Context, Generated, LanguageModel, Report, Score
from nanochat.evaluation.own_model import OwnModel
from nanochat.inference.request import SamplingParameters
from nanochat.model.files import save_model
from nanochat.profiles import profile
from nanochat.tasks.conversation import Question, choice_question, open_question
from nanochat.tasks.lettered import lettered_question
from nanochat.tokenizer.chat import render_prompt
from nanochat.workers.job import Job
from nanochat.workers.ranks import World
from tests.inference.models import TOKENIZER, built

CONFIG = ChatEvaluationConfig(max_tokens=24)


def numbered(*questions: Question) -> list[tuple[int, Question]]:
    return list(enumerate(questions))


def choices(count: int, labels: str = "ABCD") -> list[Question]:
    return [
        lettered_question(
            "arc_easy", f"Which? {'x' * (n % 7)}", [f"it {n + c}" for c in range(4)], labels, labels[n % 4]
        )
        for n in range(count)
    ]


def open_questions(count: int) -> list[Question]:
    return [open_question("gsm8k", f"What is {n} + {n}?" + " Think." * (n % 5), str(2 * n)) for n in range(count)]


def examples_of(
    model: LanguageModel, questions: Sequence[tuple[int, Question]], config: ChatEvaluationConfig = CONFIG
) -> list[Example]:
    return [example for each in answer_task(model, questions, config) for example in each.examples]


class Fixed:
    """A model that answers with given texts; `context_tokens` characters long."""

    name = "fixed"
    bos: int | None = None
    vocabulary_size = 256

    def __init__(self, *texts: str, context_tokens: int | None = None, complete: bool = True) -> None:
        self.texts, self.context_tokens, self.complete = texts, context_tokens, complete
        self.prompts: list[Sequence[int]] = []
        self.sampling: SamplingParameters | None = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode("".join(message["content"] for message in messages))

    def score(self, contexts: Sequence[Context], report: Report | None = None) -> Iterator[list[Score]]:
        """Prefers the choice with the lowest bytes, per byte."""
        for context in contexts:
            yield [Score(tuple(map(float, each)), each, greedy=False) for each in context.continuations]

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParameters, answers: int = 1,
        report: Report | None = None,
    ) -> Iterator[list[Generated]]:  # fmt: skip
        self.prompts, self.sampling = list(prompts), sampling
        for number in range(len(prompts)):
            yield [Generated((), self.texts[(number + a) % len(self.texts)], self.complete) for a in range(answers)]


def test_the_letter_with_the_highest_logit_after_the_prompt_is_the_answer() -> None:
    """As nanochat does it: the logits of the row's own labels at the last token of the prompt."""
    network = built()
    questions = [*choices(9), *choices(4, labels="1234"), lettered_question("arc_easy", "?", "abcde", "ABCDE", "E")]
    answered = examples_of(OwnModel(network, TOKENIZER), numbered(*questions))
    for question, example in zip(questions, answered, strict=True):
        prompt = render_prompt(TOKENIZER, question["messages"])
        with torch.no_grad():
            logits = network(torch.tensor([prompt]))[0, -1]
        ids = [TOKENIZER.encode(letter)[0] for letter in question["letters"]]
        assert example.answer == question["letters"][int(logits[ids].argmax())]
        assert example.choices == tuple(question["letters"])
        assert example.span_tokens == tuple((len(prompt), len(prompt) + 1) for _ in ids)
        nats = -torch.log_softmax(logits.double(), -1)[ids]
        assert example.choice_nats == pytest.approx(nats.tolist(), abs=1e-5)
        gold = float(nats[question["letters"].index(question["answer"])])
        assert example.gold_bits == pytest.approx(gold / math.log(2), abs=1e-5)
    assert len({example.answer for example in answered}) > 1


@pytest.mark.parametrize("size", [1, 7, 64])
def test_answers_do_not_depend_on_what_is_answered_together(size: int) -> None:
    """Cases 3 (LM#2498) and 4 (LM#3055): equal texts and equal choices at batch 1, 7 and 64 in fp32."""
    model = OwnModel(built(), TOKENIZER)
    for questions in (choices(64), open_questions(64)):
        every = numbered(*questions)
        whole = examples_of(model, every)
        parts = [
            example for begin in range(0, 64, size)
            for example in examples_of(model, every[begin : begin + size])
        ]  # fmt: skip
        assert [(e.question, e.answer, e.truncated) for e in parts] == [
            (e.question, e.answer, e.truncated) for e in whole
        ]


def test_a_mean_over_tokens_decides_between_whole_sentences() -> None:
    """Case 13 (LM#3278): the denominator is tokens, and bytes are in the examples beside it."""
    question = choice_question("world_choice", "?", ["ba", "aaaa", "naïve"], "aaaa")
    [example] = examples_of(Fixed(), numbered(question))
    assert example.answer == "aaaa"  # of 97 a byte; `ba` has the lower sum
    assert example.choice_bytes == (2, 4, 6)
    assert example.choice_nats[0] < example.choice_nats[1]


def test_a_prompt_that_does_not_fit_is_counted_and_the_others_are_answered() -> None:
    """Case 11 (LM#4001): the prompt is not shortened."""
    questions = [open_question("gsm8k", "x" * n, "4") for n in (10, 50, 49)]
    model = Fixed("#### 4", context_tokens=50)
    answered = examples_of(model, numbered(*questions))
    assert [example.verdict for example in answered] == ["right", "prompt too long", "right"]
    assert list(map(len, model.prompts)) == [10, 49]
    lettered = [choice_question("arc_easy", "x" * n, ["A", "B"], "A") for n in (50, 51)]
    answered = examples_of(model, numbered(*lettered))
    assert [example.verdict for example in answered] == ["right", "prompt too long"]


def test_more_new_tokens_than_the_context_are_refused() -> None:
    """Case 11 (LM#4001)."""
    model = Fixed("#### 4", context_tokens=24)
    with pytest.raises(BadConfig, match="`fixed` reads at most 24 tokens"):
        answer_task(model, numbered(*open_questions(1)), CONFIG)


def test_truncated_answers_are_counted_whether_right_or_not() -> None:
    answered = examples_of(Fixed("#### 0", complete=False), numbered(*open_questions(2)))
    assert [(e.right, e.truncated) for e in answered] == [(True, True), (False, True)]


def test_sampling_parameters_come_from_the_config() -> None:
    config = ChatEvaluationConfig(max_tokens=9, samples=4, temperature=0.8, top_k=7, seed=3, stop=("\n\n",))
    model = Fixed("#### 0", "so 0", "#### 1")
    answered = examples_of(model, numbered(*open_questions(1)), config)
    assert model.sampling == SamplingParameters(max_tokens=9, temperature=0.8, top_k=7, seed=3, stop=("\n\n",))
    assert [(e.sample, e.right, e.right_flexible, e.verdict) for e in answered] == [
        (0, True, True, "right"), (1, False, True, "no answer"), (2, False, False, "wrong"), (3, True, True, "right"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 2}, "several samples are equal without a temperature"),
        ({"stop": "Question:"}, "tuple"),
        ({"stop": [""]}, "a stop string should not be empty"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    """Case 17 (LM#700): a stop that is one string is not the list of its letters."""
    with pytest.raises(BadConfig, match=message):
        parse(ChatEvaluationConfig, values)


def test_every_setting_that_changes_answers_is_in_the_key() -> None:
    """Case 8 (LM#4063) and 27 (LM#475): temperature, stop strings and lengths are; at their defaults, keys stay."""
    assert ChatEvaluationConfig().canonical() == {"limit": 0, "max_tokens": 256}
    changed = ChatEvaluationConfig(samples=2, temperature=0.7, top_k=5, seed=1, stop=("x",)).canonical()
    assert changed.keys() == {"limit", "max_tokens", "samples", "temperature", "top_k", "seed", "stop"}


FIVE = dict.fromkeys(("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval"), "nanochat")


@pytest.mark.parametrize(
    ("forms", "values", "same"),
    [
        (FIVE, {}, True),
        (FIVE | {"world_choice": "plain"}, {"limit": 24}, True),
        ({name: form for name, form in FIVE.items() if name != "humaneval"}, {}, False),
        (FIVE | {"mmlu": "plain"}, {}, False),
        (FIVE, {"max_tokens": 256}, False),
        (FIVE, {"temperature": 0.1}, False),
        (FIVE, {"stop": ("\n",)}, False),
    ],
)
def test_only_the_same_thing_is_named_chatcore(forms: dict[str, str], values: dict[str, Any], same: bool) -> None:
    assert is_chatcore(forms, ChatEvaluationConfig.model_validate({"max_tokens": 512} | values)) is same


def job_of(folder: Path, questions: Sequence[Question], **values: Any) -> Job:
    save_model(folder / "model", built())
    TOKENIZER.save(folder / "model" / "vocabulary.json")
    (folder / "conversations").mkdir()
    lines = [json.dumps(question) + "\n" for question in questions]
    (folder / "conversations" / "questions.jsonl").write_text("".join(lines))
    (folder / "out").mkdir()
    return Job(
        module="nanochat.evaluation.chat_model",
        config=ChatEvaluationConfig.model_validate({"max_tokens": 8} | values).model_dump(mode="json"),
        inputs={"model": [str(folder / "model")], "conversations": [str(folder / "conversations")]},
        out=str(folder / "out"),
        folder=str(folder),
    )


def test_the_stage_writes_every_answer_and_scores_computed_from_them(tmp_path: Path) -> None:
    questions = [*choices(12), *open_questions(10), choice_question("world_letter", "?", "AB", "A")]
    job = job_of(tmp_path, questions, limit=9)
    metrics = evaluate_chat(job, World(0, 1, torch.device("cpu")))
    examples = read_examples(tmp_path / "out")
    assert [e.task for e in examples] == ["arc_easy"] * 9 + ["gsm8k"] * 9 + ["world_letter"]
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert found["tasks"].keys() == {"arc_easy", "gsm8k", "world_letter"}
    for name, row in found["tasks"].items():
        mine = [e for e in examples if e.task == name]
        assert row["accuracy"] == sum(e.right for e in mine) / len(mine) == metrics[f"{name}_accuracy"]
        assert row["truncated"] == sum(e.truncated for e in mine)
        assert row["form"] == ("plain" if name in ("world_letter", "gsm8k") else "nanochat")
    centered = [(row["accuracy"] - row["baseline"]) / (1 - row["baseline"]) for row in found["tasks"].values()]
    assert metrics["centered_accuracy"] == pytest.approx(sum(centered) / 3) == found["centered_accuracy"]
    assert "chatcore" not in metrics
    assert [each["task"] for each in found["examples"]].count("gsm8k") == 8


def test_no_question_is_an_error_and_not_a_score(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("")
    with pytest.raises(BadSource, match="no questions"):
        read_questions(tmp_path / "questions.jsonl", 0)


def test_an_answer_without_a_stop_string_is_kept_whole() -> None:
    """Case 18: nothing is cut off its end, and it is not counted as ended by itself."""
    model = OwnModel(built(), TOKENIZER)
    whole = examples_of(model, numbered(*open_questions(6)))
    texts = [example.answer for example in whole]
    absent = "".join(chr(c) for c in range(32, 127)) * 2
    kept = examples_of(model, numbered(*open_questions(6)), CONFIG.model_copy(update={"stop": (absent,)}))
    assert [(e.answer, e.truncated) for e in kept] == [(e.answer, e.truncated) for e in whole]
    assert any(example.truncated for example in whole)
    stop = max(texts, key=len)[1:3]
    cut = examples_of(model, numbered(*open_questions(6)), CONFIG.model_copy(update={"stop": (stop,)}))
    assert [example.answer for example in cut] == [text.split(stop)[0] for text in texts]


def test_samples_of_questions_differ_and_depend_on_prompt_and_seed_only() -> None:
    """In nanochat every question of pass@k has the same seed, so that all draw the same numbers."""
    config = ChatEvaluationConfig(max_tokens=8, samples=3, temperature=100.0)
    model = OwnModel(built(), TOKENIZER)
    questions = numbered(*open_questions(5))
    together = examples_of(model, questions, config)
    assert len({example.answer for example in together}) == 15
    alone = [example for each in reversed(questions) for example in examples_of(model, [each], config)]
    assert {(e.question, e.sample, e.answer) for e in alone} == {(e.question, e.sample, e.answer) for e in together}
    other = examples_of(model, questions, config.model_copy(update={"seed": 7}))
    assert not {example.answer for example in other} & {example.answer for example in together}


@pytest.mark.parametrize("name", ["d12", "speedrun"])
def test_the_profiles_for_gpus_are_scored_by_chatcore(name: str) -> None:
    config = profile(name).config
    tasks = [item.task for item in config.conversations.questions]
    assert set(CHATCORE) <= set(tasks)
    assert is_chatcore(dict.fromkeys(tasks, "nanochat"), config.chat_evaluation)
    assert not is_chatcore(dict.fromkeys(tasks, "nanochat"), profile("demo").config.chat_evaluation)


def test_a_model_whose_output_is_not_a_number_has_no_score(tmp_path: Path) -> None:
    broken = built()
    with torch.no_grad():
        broken.head.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="question 0 of `arc_easy`, the output of the model is not a number"):
        examples_of(OwnModel(broken, TOKENIZER), numbered(*choices(1)))
    job = job_of(tmp_path, open_questions(2))
    save_model(tmp_path / "model", broken)
    with pytest.raises(Diverged, match=r"`head\.weight` .* is not finite"):
        evaluate_chat(job, World(0, 1, torch.device("cpu")))


def test_a_question_that_is_there_twice_is_refused_before_any_is_answered(tmp_path: Path) -> None:
    job = job_of(tmp_path, [{**question, "id": "same"} for question in choices(2)])
    with pytest.raises(BadSource, match="Two questions of `arc_easy` have the id `same`"):
        evaluate_chat(job, World(0, 1, torch.device("cpu")))

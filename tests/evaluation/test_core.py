"""CORE equals a plain reference question by question: in any batch, on any number of ranks, whole and cropped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config.evaluation import CoreConfig
from nanochat.evaluation.core.bundle import Row, Task
from nanochat.evaluation.core.definition import TASKS
from nanochat.evaluation.core.evaluate import evaluate
from nanochat.evaluation.core.prompts import prompt_of, scored
from nanochat.evaluation.examples import Example, by_task, read_examples
from nanochat.evaluation.finished import FinishedTasks
from nanochat.evaluation.own_model import OwnModel
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.ranks import World
from tests.evaluation.core_bundles import texts, write_bundle
from tests.evaluation.core_models import small_model
from tests.evaluation.core_reference import Verdict, core

ROW_TOKENS = 64
"""Of training: many prompts are longer."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> Tokenizer:
    return Tokenizer.train_from_iterator(iter(texts(bundle)), vocab_size=420)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return small_model(tokenizer, ROW_TOKENS)


def evaluated(
    model: GPT, tokenizer: Tokenizer, bundle: Path, out: Path, *, at_once: int = 64, slots: int = 8, **config: Any
) -> tuple[dict[str, Any], dict[str, list[Example]]]:
    settings = CoreConfig(**config)
    limit = ROW_TOKENS if settings.overlong == "crop" else None
    own = OwnModel(model, tokenizer, context_tokens=limit, slots=slots)
    world = World(0, 1, torch.device("cpu"))
    out.mkdir(exist_ok=True)
    found = evaluate(
        own, bundle, settings, out, world, finished=FinishedTasks(""), progress=lambda *_: None, at_once=at_once
    )
    return found, by_task(read_examples(out))


def assert_equal(examples: dict[str, list[Example]], expected: dict[str, list[Verdict]]) -> None:
    assert list(examples) == list(expected)
    for task, verdicts in expected.items():
        for example, verdict in zip(examples[task], verdicts, strict=True):
            place = f"{task}, question {example.question}"
            means = [nats / tokens for nats, tokens in zip(example.choice_nats, example.choice_tokens, strict=True)]
            assert example.span_tokens == tuple(verdict.spans), place
            assert means == pytest.approx(verdict.means, rel=1e-4), place
            best = {option for option, mean in enumerate(verdict.means) if mean < min(verdict.means) * (1 + 1e-6)}
            if len(best) > 1:  # equal options: rounding decides there, and here the first
                assert example.answer == example.choices[min(best)], place
                continue
            assert example.right == verdict.right, place
            if example.kind != "continuation":
                assert example.answer == example.choices[verdict.chosen], place


@pytest.mark.parametrize("overlong", ["run", "crop"])
def test_equal_to_the_reference(model: GPT, tokenizer: Tokenizer, bundle: Path, tmp_path: Path, overlong: str) -> None:
    crop = ROW_TOKENS if overlong == "crop" else 0
    expected = core(model, tokenizer, bundle, 0, crop)
    found, examples = evaluated(model, tokenizer, bundle, tmp_path, overlong=overlong)
    assert_equal(examples, expected)
    assert any(line["cropped"] for line in found["tasks"].values()) == (overlong == "crop")
    assert any(line["longest_tokens"] > ROW_TOKENS for line in found["tasks"].values()) == (overlong == "run")


@pytest.mark.parametrize("overlong", ["run", "crop"])
def test_a_batch_of_1_7_and_64_gives_the_same_bytes(
    model: GPT, tokenizer: Tokenizer, bundle: Path, tmp_path: Path, overlong: str
) -> None:
    """Cases 3 and 4 (LM#2498, LM#3055)."""
    written: list[bytes] = []
    for at_once, slots in ((1, 1), (7, 3), (64, 8)):
        out = tmp_path / f"{at_once}"
        evaluated(model, tokenizer, bundle, out, at_once=at_once, slots=slots, overlong=overlong)
        written.append((out / "examples.parquet").read_bytes())
    assert written[0] == written[1] == written[2]


def test_shots_depend_on_the_index_only_and_the_limit_takes_the_first(
    model: GPT, tokenizer: Tokenizer, bundle: Path, tmp_path: Path
) -> None:
    """Case 5 (LM#1719): here in one process; `test_core_stage.py` has real ranks."""
    _, examples = evaluated(model, tokenizer, bundle, tmp_path / "capped", limit=5)
    assert_equal(examples, core(model, tokenizer, bundle, 5))


def test_core_is_the_mean_of_the_centered_accuracies(
    model: GPT, tokenizer: Tokenizer, bundle: Path, tmp_path: Path
) -> None:
    found, _ = evaluated(model, tokenizer, bundle, tmp_path)
    lines = found["tasks"]
    centered = [(line["accuracy"] - line["baseline"]) / (1 - line["baseline"]) for line in lines.values()]
    assert found["core"] == pytest.approx(sum(centered) / 22)
    assert found["baselines"] == "v1"
    assert found["core_by_version"]["v1"] == pytest.approx(found["core"])
    v2: dict[str, float] = {"commonsense_qa": 0.403, "agi_eval_lsat_ar": 0.25, "bigbench_language_identification": 0.25}
    guesses = {name: v2[name] if name in v2 else line["baseline"] for name, line in lines.items()}
    moved = [(line["accuracy"] - guesses[name]) / (1 - guesses[name]) for name, line in lines.items()]
    assert found["core_by_version"]["v2"] == pytest.approx(sum(moved) / 22)
    assert found["choices_by"] == "mean nats per token"  # case 13 (LM#3278): the denominator is named


def test_a_token_that_joins_question_and_answer_is_scored(tmp_path: Path) -> None:
    """Case 1 (LM#4055, #1053): `ab` + `c`, which are one token together."""
    tokenizer = Tokenizer.from_merges([(97, 98), (256, 99)])
    assert tokenizer.encode("abc") == [257]
    task = Task("t", "continuation", 0, "", "", 0.0, (Row(1, "x ab", (), "c"),))
    model = OwnModel(small_model(tokenizer, 32), tokenizer)
    question = scored(task, prompt_of(task, task.rows, 0), model, None)
    assert question.rows == ((tokenizer.bos, *tokenizer.encode("x "), 257),)
    assert question.starts == (3,), "the span is the joined token"
    choices = Task("t", "choice", 0, "", "", 0.5, (Row(1, "x ab", ("c", "d"), "", 0),))
    question = scored(choices, prompt_of(choices, choices.rows, 0), model, None)
    assert question.starts == (3, 3)
    assert question.rows[0][3:] == (257,)


def test_every_number_is_finite_and_can_be_computed_from_the_examples(
    model: GPT, tokenizer: Tokenizer, bundle: Path, tmp_path: Path
) -> None:
    found, examples = evaluated(model, tokenizer, bundle, tmp_path)
    assert set(examples) == set(TASKS)
    moved = 0
    for name, some in examples.items():
        line = found["tasks"][name]
        assert line["accuracy"] == sum(example.right for example in some) / len(some)
        assert line["gold_bits"] == pytest.approx(sum(example.gold_bits or 0 for example in some) / len(some))
        for example in some:
            assert all(map(math.isfinite, example.choice_nats))
            assert all(tokens > 0 for tokens in example.choice_tokens)
        moved += line["moved_spans"]
    assert moved, "no choice is the beginning of all others"
    json.dumps(found, allow_nan=False)

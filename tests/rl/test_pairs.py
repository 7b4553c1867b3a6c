"""Preference optimization: pairs from a file, the loss beside a plain reference, the stages, a run that is stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config.overrides import override
from nanochat.config.preferences import DPOConfig, PairsConfig
from nanochat.config.training import OptimizerConfig
from nanochat.errors import BadConfig, BadSource
from nanochat.execution.graph import nodes
from nanochat.execution.local import run_local
from nanochat.execution.stage import Node
from nanochat.graphs.pipeline import pretrain_to_chat
from nanochat.model.gpt import GPT
from nanochat.profiles import PROFILES
from nanochat.rl.pair_loss import PairStatistics, pair_loss
from nanochat.rl.pairs import TRAIN, RenderedPair, collect, read, rendered, with_hash
from nanochat.rl.problems import ProblemOrder
from nanochat.sources.shard_list import list_shards
from nanochat.stages.preferences import collect_pairs, dpo
from nanochat.store.artifacts import Model
from nanochat.store.artifacts import Pairs as StoredPairs
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store
from nanochat.tasks.preference_pairs import Pair
from nanochat.training import loop
from nanochat.training.dpo import Pairs, PairSource
from nanochat.training.dpo import dpo as trained_on_pairs
from nanochat.workers.job import Job
from nanochat.workers.ranks import Preempted
from tests.compute import compute
from tests.inference.models import TOKENIZER, built
from tests.promises.test_one_field_reruns_what_depends_on_it import keys_of
from tests.rl.tiny import ALONE, chat_model, equal_weights, largest_difference, rendered_pairs

SMALL = DPOConfig(
    pairs_per_step=4, epochs=2, precision="fp32", lr_fraction=1.0, optimizer=OptimizerConfig(), evaluate_every_steps=3
)


def pair_file(folder: Path, rows: int = 20) -> Path:
    """Small letters are preferred to capitals."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pairs.jsonl"
    lines = [{"prompt": f"Word {n}?", "chosen": "abcde"[n % 3 :], "rejected": "VWXYZ"[n % 4 :]} for n in range(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# --- the loss ---------------------------------------------------------------------------------------------------------


def plain_logprob(model: GPT, ids: Sequence[int], mask: Sequence[int]) -> torch.Tensor:
    """Of one conversation, without padding: the sum over the tokens of the answer."""
    logprobs = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    return torch.stack([logprobs[place - 1, ids[place]] for place in range(1, len(ids)) if mask[place]]).sum()


def plain_loss(model: GPT, start: GPT, pairs: Sequence[RenderedPair], beta: float) -> torch.Tensor:
    """Equation 7 of arXiv:2305.18290, pair by pair."""
    losses: list[torch.Tensor] = []
    for pair in pairs:
        gains: list[torch.Tensor] = []
        for side in (pair.chosen, pair.rejected):
            with torch.no_grad():
                before = plain_logprob(start, side.ids, side.mask)
            gains.append(plain_logprob(model, side.ids, side.mask) - before)
        losses.append(-torch.log(torch.sigmoid(beta * (gains[0] - gains[1]))))
    return torch.stack(losses).mean()


def of_step(
    model: GPT, start: GPT, pairs: Sequence[RenderedPair], micro: int, beta: float = 0.1
) -> tuple[float, dict[str, torch.Tensor], PairStatistics]:
    """Loss and gradients of a step of all pairs, and its statistics."""
    found = PairSource(
        Pairs(start, pairs, micro, TOKENIZER.bos, ALONE), ProblemOrder([0] * len(pairs), [1.0], 1), len(pairs), 0
    )
    batches = found.step()
    counted = sum(int((batch.targets_BT >= 0).sum()) for batch in batches)
    model.zero_grad()
    total, statistics = 0.0, PairStatistics()
    for batch in batches:
        loss = pair_loss(model, batch, beta, statistics) / counted
        loss.backward()
        total += loss.item()
    return total, gradients(model), statistics


def gradients(model: GPT) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_and_gradient_are_those_of_a_plain_reference_at_any_micro_batch(beta: float) -> None:
    model, start, pairs = built(sequence_len=64, seed=2), built(sequence_len=64), rendered_pairs(11)
    loss = plain_loss(model, start, pairs, beta)
    model.zero_grad()
    loss.backward()
    plain = gradients(model)
    for micro in (1, 4, 16):
        found, ours, _ = of_step(model, start, pairs, micro, beta)
        assert found == pytest.approx(loss.item(), rel=1e-5)
        assert largest_difference(plain, ours) < 2e-6


def test_at_the_start_no_pair_has_moved() -> None:
    model, pairs = built(sequence_len=64), rendered_pairs(6)
    loss, found, statistics = of_step(model, model, pairs, 2)
    sums = dict(zip(PairStatistics.NAMES, statistics.take(), strict=True))
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    assert (sums["pairs"], sums["accuracy"]) == (6, 3)  # as likely as before is half right
    assert sums["chosen_gain"] == pytest.approx(0, abs=1e-4)
    assert max(float(each.abs().max()) for each in found.values()) > 1e-4


def test_only_the_answer_and_its_end_are_in_the_loss() -> None:
    """As in fine-tuning; but an earlier answer in the prompt is not."""
    prompt = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "learn": False},
        {"role": "user", "content": "c"},
    ]  # fmt: skip
    parts = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}, {"type": "text", "text": "d"}]
    (pair,) = rendered(TOKENIZER, [Pair(prompt, parts, "ee")], 64)
    end = TOKENIZER.special("<|assistant_end|>")
    trained = [[i for i, m in zip(side.ids, side.mask, strict=True) if m] for side in (pair.chosen, pair.rejected)]
    python = [TOKENIZER.special("<|python_start|>"), *TOKENIZER.encode("1+1"), TOKENIZER.special("<|python_end|>")]
    assert trained == [[*python, *TOKENIZER.encode("d"), end], [*TOKENIZER.encode("ee"), end]]
    assert rendered(TOKENIZER, [Pair(prompt, "x" * 60, "y")], 64) == []  # too long


# --- the file ---------------------------------------------------------------------------------------------------------


def collected(tmp_path: Path, *rows: Any, name: str = "own.jsonl") -> list[Pair]:
    """What is trained on, after a first row that is held out."""
    first = {"prompt": "held out", "chosen": "a", "rejected": "b"}
    path, out = tmp_path / name, tmp_path / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in (first, *rows)))
    out.mkdir()
    collect(PairsConfig(source=str(path)), out)
    return read(out / TRAIN)


def test_forms_of_a_pair(tmp_path: Path) -> None:
    question, answer = [{"role": "user", "content": "Hi"}], {"role": "assistant", "content": "x"}
    found = collected(
        tmp_path,
        {"prompt": "Hi", "chosen": "x", "rejected": "y", "score": 3},
        {"messages": question, "chosen": answer, "rejected": "y"},
        {"prompt": question, "chosen": [answer], "rejected": [{"type": "text", "text": "y"}]},
        {"prompt": [*question, answer, *question], "chosen": "x", "rejected": "y"},
    )
    assert [pair.chosen for pair in found] == ["x"] * 4
    assert [pair.prompt for pair in found[:3]] == [question] * 3
    assert found[3].prompt[1] == {**answer, "learn": False}


PAIR = {"prompt": "Hi", "chosen": "x", "rejected": "y"}
ASSISTANT = {"role": "assistant", "content": "x"}
BAD: dict[str, tuple[Any, str]] = {
    "no object": ([1], "line 2, is not an object."),
    "no prompt": ({"chosen": "x", "rejected": "y"}, "line 2, has neither `prompt` nor `messages`."),
    "two prompts": ({**PAIR, "messages": [ASSISTANT]}, "line 2, has both `prompt` and `messages`."),
    "a number": ({**PAIR, "prompt": 5}, "line 2, has no text and no list of messages in `prompt`."),
    "no rejected": ({"prompt": "Hi", "chosen": "x"}, "line 2, field `rejected` has no answer."),
    "not a text": ({**PAIR, "chosen": 3}, "line 2, field `chosen` has no text in its content."),
    "empty": ({**PAIR, "chosen": " "}, "line 2, is no conversation with `chosen`: empty answer."),
    "equal": ({**PAIR, "rejected": "x"}, "line 2, has the same answer in `chosen` and `rejected`."),
    "of the user": (
        {**PAIR, "chosen": {"role": "user", "content": "x"}},
        "`chosen` is not a message of the assistant.",
    ),
    "whole conversations": ({**PAIR, "chosen": [ASSISTANT, ASSISTANT]}, "line 2, field `chosen` has several messages."),
    "an answer last": ({**PAIR, "prompt": [ASSISTANT]}, "with `chosen`: roles out of turn."),
    "a tool": ({**PAIR, "prompt": [{"role": "tool", "content": "x"}]}, "is from `tool`"),
}


@pytest.mark.parametrize(("row", "sentence"), BAD.values(), ids=BAD)
def test_a_row_that_is_not_a_pair_is_refused_in_one_sentence(tmp_path: Path, row: Any, sentence: str) -> None:
    with pytest.raises(BadSource) as caught:
        collected(tmp_path, row)
    assert sentence in str(caught.value)
    assert "\n" not in caught.value.message


def test_a_file_without_pairs_to_train_on_or_another_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"`.*` has no pairs to train on\."):
        collected(tmp_path, {"prompt": "held out", "chosen": "c", "rejected": "d"})
    with pytest.raises(BadConfig, match="needs a file of pairs, and `nowhere` is none"):
        collect(PairsConfig(source="nowhere"), tmp_path)
    config = with_hash(PairsConfig(source=str(pair_file(tmp_path))))
    pair_file(tmp_path, rows=30)
    with pytest.raises(BadSource, match="does not match the item's `sha256`"):
        collect(config, tmp_path / "out")


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "pairs").mkdir()
    collect(PairsConfig(source=str(pair_file(tmp_path))), tmp_path / "pairs")
    chat_model(tmp_path / "base")
    return tmp_path


def trained(data: Path, folder: Path, checkpoints: str = "", config: DPOConfig = SMALL) -> dict[str, Any]:
    """Trains in this process; the payload is in `folder/out`."""
    (folder / "out").mkdir(parents=True)
    return trained_on_pairs(
        Job(
            module="nanochat.training.dpo", config=config.model_dump(mode="json"),
            inputs={"base": [str(data / "base")], "pairs": [str(data / "pairs")]}, out=str(folder / "out"),
            folder=str(folder), checkpoints=checkpoints, compute=compute(device="cpu"),
        ),
        ALONE,
    )  # fmt: skip


def test_a_stopped_run_learns_as_one_that_was_not(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = trained(data, data / "whole")
    assert (found["steps"], found["pairs"], found["held_out_pairs"], found["too_long_pairs"]) == (9, 18, 2, 0)
    assert found["validation_accuracy"] == 1
    assert found["validation_loss"] < 0.5 < math.log(2)
    assert found["validation_chosen_gain"] > found["validation_rejected_gain"] + 1
    lines = [json.loads(line) for line in (data / "whole/out/metrics.jsonl").read_text().splitlines()]
    assert [line["done"] for line in lines if "validation_loss" in line] == [0, 3, 6, 9]
    assert lines[0]["validation_loss"] == pytest.approx(math.log(2), abs=1e-6)
    address = (data / "checkpoints" / "key").as_uri()
    with monkeypatch.context() as patch:
        queries = count(1)
        patch.setattr(loop, "stop_requested", lambda: next(queries) == 4)
        with pytest.raises(Preempted):
            trained(data, data / "stopped", address)
    again = trained(data, data / "again", address)
    assert again["resumed_from_step"] == 4
    assert equal_weights(data / "whole", data / "again")
    assert again["validation_loss"] == found["validation_loss"]


def test_pairs_that_are_all_too_long_are_refused(data: Path) -> None:
    row = {"prompt": "p" * 70, "chosen": "x", "rejected": "y"}
    (data / "pairs" / TRAIN).write_text(json.dumps({**row, "prompt": [{"role": "user", "content": "p" * 70}]}) + "\n")
    with pytest.raises(BadSource, match="All pairs to train on are longer than the 64 tokens of the model"):
        trained(data, data / "run")


@dataclass(frozen=True)
class Graph:
    pairs: Node[StoredPairs]
    model: Node[Model]


def test_the_stages_make_a_chat_model_in_the_store(tmp_path: Path) -> None:
    """Under torchrun, on two ranks; the same file is reused, and another one has another key."""
    store = Store((tmp_path / "store").as_uri(), tmp_path / "cache")
    manifest = store.publish(
        chat_model(tmp_path / "base"), stage="sft", stage_version=2, kind="Model", config={}, inputs={}, key="4" * 64,
        metrics={}, producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip
    base = store.artifact(manifest, reused=True)
    path = pair_file(tmp_path)

    def run() -> Model:
        pairs = collect_pairs(with_hash(PairsConfig(source=str(path))))
        graph = Graph(pairs, dpo(SMALL.model_copy(update={"epochs": 0.5}), base=base, pairs=pairs))
        return run_local(graph, store, compute(device="cpu", ranks=2), tmp_path / "runs")[graph.model]

    made = run()
    assert (made.metrics["world_size"], made.metrics["steps"], made.reused) == (2, 2, False)
    assert {name: refs[0].stage for name, refs in made.manifest.inputs.items()} == {
        "base": "sft", "pairs": "collect_pairs"
    }  # fmt: skip
    assert run().reused
    before = with_hash(PairsConfig(source=str(path)))
    pair_file(tmp_path, rows=30)
    assert collect_pairs.key(with_hash(PairsConfig(source=str(path))), {}) != collect_pairs.key(before, {})


# --- the graph --------------------------------------------------------------------------------------------------------


def keys(changes: Sequence[str], profile: str = "demo") -> dict[str, set[str]]:
    config = override(PROFILES[profile].config, list(changes))
    problems, pairs = (
        (config.problems if config.problems.tasks else None),
        config.pairs if config.pairs.source else None,
    )
    return keys_of(pretrain_to_chat(config, list_shards(config.data), config.conversations, None, problems, pairs))


def test_without_a_file_of_pairs_nothing_changes_and_with_one_no_earlier_stage() -> None:
    assert "pairs" not in PROFILES["demo"].config.canonical()
    without, found = keys([]), keys(["pairs.source=own.jsonl"])
    assert found.keys() - without.keys() == {"collect_pairs", "dpo"}
    assert {stage for stage in without if without[stage] != found[stage]} == {"evaluate_chat", "report"}
    assert without["evaluate_chat"] < found["evaluate_chat"]


def test_a_field_reruns_what_depends_on_it() -> None:
    before, after = (keys(["pairs.source=own.jsonl", change], "demo-rl") for change in ("dpo.beta=0.1", "dpo.beta=0.5"))
    assert {stage for stage in before if before[stage] != after[stage]} == {"dpo", "rl", "evaluate_chat", "report"}


def test_it_comes_between_fine_tuning_and_reinforcement_learning() -> None:
    config = PROFILES["demo-rl"].config
    graph = pretrain_to_chat(
        config, list_shards(config.data), config.conversations, None, config.problems, PairsConfig(source="own.jsonl")
    )
    by_stage = {node.stage.name: node for node in nodes(graph)}
    assert graph.chat.stage.name == "rl"
    assert by_stage["rl"].inputs["base"] is by_stage["dpo"]
    assert by_stage["dpo"].inputs["base"] is by_stage["sft"]
    assert {node.label for node in nodes(graph)} >= {"evaluate_chat", "evaluate_chat dpo", "evaluate_chat rl"}

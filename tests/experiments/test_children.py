"""The runs of an experiment: every combination once, each with its config; graphs that share what is equal."""

from __future__ import annotations

import json

import pytest

from nanochat.config.data import ShardConfig
from nanochat.config.experiment import ExperimentConfig
from nanochat.config.overrides import parse
from nanochat.errors import BadConfig
from nanochat.execution.graph import nodes
from nanochat.experiments.children import Child, children
from nanochat.graphs.experiment import ChildSources, experiment, records
from nanochat.profiles import PROFILES

DEMO = PROFILES["demo"].config
SHARDS = [
    ShardConfig(name=f"s{n}", url="world:0", identity="1", validation="sample" if n else "none") for n in range(2)
]


def given(**fields: object) -> list[Child]:
    return children(parse(ExperimentConfig, fields), DEMO)


def test_every_combination_runs_once_with_its_changes() -> None:
    runs = given(
        changes=["pretrain.horizon.amount=1e5"],
        recipes=[{"name": "plain"}, {"name": "fast", "changes": ["pretrain.optimizer.matrix_lr=0.3"]}],
        grid=["pretrain.optimizer.warmup_steps=[0, 5]"], depths=[2, 3], seeds=[1, 2],
    )  # fmt: skip
    assert len(runs) == 16 == len({run.name for run in runs})
    last = runs[-1]
    assert (last.name, last.recipe, last.rung, last.seed) == (
        "fast warmup_steps=5 d3 s2",
        "fast warmup_steps=5",
        "d3",
        2,
    )
    trained = last.config.pretrain
    assert (trained.optimizer.matrix_lr, trained.optimizer.warmup_steps, trained.model.depth) == (0.3, 5, 3)
    assert {run.config.pretrain.horizon.amount for run in runs} == {1e5}
    assert runs[0].config.pretrain.optimizer.matrix_lr == DEMO.pretrain.optimizer.matrix_lr


def test_an_experiment_without_changes_is_the_config_itself() -> None:
    (only,) = given()
    assert (only.name, only.config) == ("base", DEMO)


def test_budgets_become_horizons() -> None:
    first, second = given(flops=[1e12, 3e12])
    assert (first.name, first.config.pretrain.horizon.unit, first.config.pretrain.horizon.amount) == (
        "1e+12 FLOPs", "flops", 1e12,
    )  # fmt: skip
    assert second.rung == "3e+12 FLOPs"


def test_chat_metrics_vary_the_seed_of_fine_tuning_too() -> None:
    assert given(seeds=[5], metric="centered_accuracy")[0].config.sft.seed == 5
    assert given(seeds=[5])[0].config.sft.seed == DEMO.sft.seed


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"changes": ["pretrain.dept=3"]}, "The run `base`: `pretrain` has no field `dept`"),
        ({"grid": ["pretrain.seed=3"]}, "not a field with a list of values"),
        ({"grid": ["pretrain.seed=[]"]}, "not a field with a list of values"),
        ({"recipes": [{"name": "a"}, {"name": "a"}]}, "Two runs of the experiment have the name `a`"),
        ({"flops": [1.0]}, "The run `1 FLOPs`: `horizon.amount` is less than one step"),
        ({"seeds": list(range(501))}, "501 runs, and at most 500"),
        ({"recipes": [{"name": ""}]}, r"`recipes.0.name`"),
        ({"metric": "loss"}, "`metric`"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(fields: dict, problem: str) -> None:
    with pytest.raises(BadConfig, match=problem):
        given(**fields)


def graph(runs: list[Child]):
    return experiment(runs, [ChildSources(SHARDS, DEMO.conversations)] * len(runs), "bits_per_byte")


def test_what_runs_have_in_common_is_one_node() -> None:
    runs = given(recipes=[{"name": "plain"}, {"name": "small", "changes": ["tokenizer.vocab_size=512"]}], seeds=[1, 2])
    labels = [node.label for node in nodes(graph(runs))]
    assert labels == [
        "download s0", "download s1",
        "train_tokenizer plain s1", "train_tokenizer small s1",
        "tokenize s0 plain s1", "tokenize s1 plain s1", "tokenize s0 small s1", "tokenize s1 small s1",
        "pack s0 plain s1", "pack s1 plain s1", "pack s0 small s1", "pack s1 small s1",
        "pretrain plain s1", "pretrain plain s2", "pretrain small s1", "pretrain small s2",
        "evaluate_base plain s1", "evaluate_base plain s2", "evaluate_base small s1", "evaluate_base small s2",
    ]  # fmt: skip


def test_equal_runs_train_once() -> None:
    runs = given(recipes=[{"name": "plain"}, {"name": "same", "changes": ["pretrain.seed=42"]}])
    labels = [node.label for node in nodes(graph(runs))]
    assert labels.count("pretrain") == 1
    assert not [label for label in labels if label.endswith("same")]


def test_runs_on_other_held_out_text_can_be_recognized() -> None:
    runs = given(recipes=[{"name": "plain"}, {"name": "words", "changes": ["tokenizer.vocab_size=512"]}])
    other = [SHARDS[0], SHARDS[1].model_copy(update={"identity": "2"})]
    sources = [ChildSources(SHARDS, DEMO.conversations), ChildSources(other, DEMO.conversations)]
    plain, words = records(runs, sources, "bits_per_byte", experiment(runs, sources, "bits_per_byte"), {})
    assert plain.measured_on != words.measured_on
    sources[1] = sources[0]
    plain, words = records(runs, sources, "bits_per_byte", experiment(runs, sources, "bits_per_byte"), {})
    assert plain.measured_on == words.measured_on, "bits per byte do not depend on the vocabulary"
    assert plain.measured_until != words.measured_until


def test_a_chat_metric_trains_chat_models() -> None:
    runs = given(metric="centered_accuracy", seeds=[1, 2])
    made = experiment(runs, [ChildSources(SHARDS, DEMO.conversations)] * 2, "centered_accuracy")
    labels = [node.label for node in nodes(made)]
    assert {"converse", "sft s1", "sft s2", "evaluate_chat s1", "evaluate_chat s2"} <= set(labels)
    assert not [label for label in labels if label.startswith(("report", "evaluate_base", "data_card"))]


def test_core_needs_its_tasks() -> None:
    runs = given(metric="core")
    with pytest.raises(BadConfig, match="needs the tasks of CORE"):
        experiment(runs, [ChildSources(SHARDS, DEMO.conversations)], "core")


def test_the_form_accepts_what_a_file_does() -> None:
    fields = {"title": "t", "depths": [2], "seeds": [1], "grid": ["pretrain.seed=[1]"]}
    assert parse(ExperimentConfig, json.loads(json.dumps(fields))) == parse(ExperimentConfig, fields)

"""`nanochat experiment`: runs share their text, a failing one ends alone, and only what is missing runs again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest

from nanochat.cli.main import command
from nanochat.config.base import AbsentMeans
from nanochat.config.training import BaseEvaluationConfig, PretrainConfig
from nanochat.errors import BadConfig, Diverged, NotFound
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.graphs import pipeline
from nanochat.scaling import derive_hyperparameters
from nanochat.store.artifacts import CoreBundle, Evaluation, Model, Rows, Vocabulary
from nanochat.store.store import Store
from tests import tiny_pipeline

trained: list[tuple[int, int]] = []
"""Depth and seed of each training."""
broken: set[int] = set()
"""Seeds whose training diverges."""


@stage(version=1, produces=Model, resource="gpu")
def pretrain(
    config: PretrainConfig, vocabulary: Vocabulary, rows: list[Rows],
    bundle: Annotated[list[CoreBundle], AbsentMeans(())], *, out: Path, context: Context,
) -> Metrics:  # fmt: skip
    """Makes numbers as training does, whose loss follows a law."""
    if config.seed in broken:
        raise Diverged("The loss is not a finite number.", hint="Lower the learning rate.")
    trained.append((config.model.depth, config.seed))
    derived = derive_hyperparameters(config, vocabulary.metrics["vocab_size"], rows[0].metrics["sequence_len"])
    help_ = 0.9 if config.optimizer.matrix_lr == 0.5 else 1.0
    loss = help_ * (0.7 + (derived.flops / 1e9) ** -0.2) * (1 + 0.0001 * config.seed)
    (out / "loss").write_text(json.dumps(loss))
    return {
        "flops": derived.flops, "parameters": derived.parameters, "train_tokens": derived.tokens, "training_s": 2.0,
        "tokens_per_s": derived.tokens / 2, "sequence_len": tiny_pipeline.SEQUENCE_LEN,
    }  # fmt: skip


@stage(version=1, produces=Evaluation, resource="gpu")
def evaluate_base(
    config: BaseEvaluationConfig, model: Model, rows: list[Rows], *, out: Path, context: Context
) -> Metrics:
    """Reads the loss."""
    (out / "evaluation.json").write_text("{}")
    return {"bits_per_byte": json.loads((model.path / "loss").read_text()), "validation_tokens": 64}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `nanochat experiment` on an experiment; returns its output."""
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(pipeline, "pretrain", pretrain)
    monkeypatch.setattr(pipeline, "evaluate_base", evaluate_base)
    trained.clear()
    broken.clear()
    source = tiny_pipeline.write_text(tmp_path / "source")

    def run_experiment(*options: str, **fields: object) -> str:
        changes = [*tiny_pipeline.changes(source), *fields.pop("changes", [])]  # pyright: ignore[reportGeneralTypeIssues]
        file = tmp_path / "experiment.json"
        file.write_text(json.dumps({"base": "demo", "changes": changes, **fields}))
        capsys.readouterr()
        command(["experiment", str(file), *options])
        return capsys.readouterr().out

    return run_experiment


RECIPES = [{"name": "plain"}, {"name": "fast", "changes": ["pretrain.optimizer.matrix_lr=0.5"]}]


def opened(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), tmp_path / "home" / "cache")


def test_a_verdict_its_page_and_a_second_run_that_repeats_nothing(run, tmp_path: Path) -> None:
    printed = run("--plain", "--html", str(tmp_path / "page.html"), title="Rates", recipes=RECIPES, seeds=[1, 2, 3])
    assert "fast is better than plain by" in printed
    assert "20 computed, 0 cached" in printed
    store = opened(tmp_path)
    counts = {name: len(list(store.manifests(name))) for name in ("download", "train_tokenizer", "pack", "pretrain")}
    assert counts == {"download": 2, "train_tokenizer": 1, "pack": 2, "pretrain": 6}, "the text is made once"
    made = store.artifact(store.resolve("experiment/latest"), reused=True)
    assert made.metrics["verdict"].startswith("fast is better than plain by")
    found = json.loads((made.path / "experiment.json").read_text())
    assert found["comparisons"][0]["difference"]["verdict"] == "better"
    assert len(found["runs"]) == 6
    assert "fast is better than plain" in (tmp_path / "page.html").read_text()
    assert "0 computed, 20 cached" in run("--plain", title="Rates", recipes=RECIPES, seeds=[1, 2, 3])
    printed = run("--plain", title="Rates", recipes=RECIPES, seeds=[1, 2, 3, 4])
    assert "5 computed, 19 cached" in printed
    assert len(trained) == 8, "only the new seed is trained"


def test_a_run_that_fails_ends_alone_and_is_repeated(run, tmp_path: Path) -> None:
    broken.add(3)
    printed = run("--plain", recipes=RECIPES, seeds=[1, 2, 3])
    assert "fast is better than plain by" in printed
    assert "2 of 6 runs have no result." in printed
    assert "The loss is not a finite number." in printed
    assert len(trained) == 4
    broken.clear()
    printed = run("--plain", recipes=RECIPES, seeds=[1, 2, 3])
    assert "no result" not in printed
    assert len(trained) == 6
    broken.update((7, 8))
    with pytest.raises(Diverged, match="not a finite number"):
        run("--plain", recipes=RECIPES, seeds=[7, 8])


def test_a_run_whose_files_are_gone_is_made_again_and_the_others_are_not(run, tmp_path: Path) -> None:
    first = run("--plain", recipes=RECIPES, seeds=[1, 2])
    store = opened(tmp_path)
    for stage_name, files in (("pretrain", ["loss"]), ("evaluate_base", ["evaluation.json"])):
        made = next(store.manifests(stage_name))
        store.objects.delete([f"{made.payload_folder}/{name}" for name in files])
    again = run("--plain", recipes=RECIPES, seeds=[1, 2])
    assert "2 computed" in again
    assert len(trained) == 5
    verdict = next(line for line in first.splitlines() if "fast is better than plain by" in line)
    assert verdict in again


def test_a_plan_costs_nothing_and_has_the_measured_time(run, tmp_path: Path) -> None:
    depths = [1, 2, 3, 4, 5]
    printed = run("--dry-run", depths=depths)
    assert "5 runs: d1, d2, d3, d4, d5" in printed
    assert "not measured" in printed
    assert not (tmp_path / "store").exists()
    run("--plain", depths=depths[:2])
    printed = run("--dry-run", depths=depths)
    line = next(line.split() for line in printed.splitlines() if line.startswith("pretrain"))
    assert line[:3] == ["pretrain", "2", "3"]
    assert "from measured speed." in printed
    assert "from measured speed, about $" in run("--dry-run", depths=depths, changes=["report.price_per_hour=3600"])
    first, second = (
        made.metrics["flops"]
        for made in sorted(opened(tmp_path).manifests("pretrain"), key=lambda made: made.metrics["flops"])
    )
    assert _seconds(line[4:]) > 2 * 1.2, "deeper models take longer than those that were measured"
    assert first < second
    run("--plain", depths=depths)
    assert "Everything is in the store." in run("--dry-run", depths=depths)


def _seconds(words: list[str]) -> float:
    units = {"s": 1, "min": 60, "h": 3600}
    return sum(float(value) * units[unit] for value, unit in zip(words[::2], words[1::2], strict=True))


def test_a_ladder_has_a_law(run, tmp_path: Path) -> None:
    printed = run("--plain", title="Ladder", depths=[1, 2, 3, 4, 5, 6], seeds=[3])
    assert "The bits per byte fall with compute to the power 0.200" in printed
    assert "is inside the band" in printed
    found = json.loads(
        (
            opened(tmp_path).artifact(opened(tmp_path).resolve("experiment/latest"), reused=True).path
            / "experiment.json"
        ).read_text()
    )
    assert found["recipes"][0]["laws"]["flops"]["irreducible"]["value"] == pytest.approx(0.7, abs=0.001)


def test_what_is_wrong_in_the_file_is_named_before_anything_starts(run, tmp_path: Path) -> None:
    for fields, problem in (
        ({"recipe": []}, r"experiment\.json`: `recipe`: extra inputs"),
        ({"grid": ["pretrain.seed"]}, "not a field with a list of values"),
        ({"base": "nothing"}, "There is no profile `nothing`"),
    ):
        with pytest.raises((BadConfig, NotFound), match=problem):
            run("--plain", **fields)
    assert not (tmp_path / "store").exists()

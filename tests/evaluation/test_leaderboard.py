"""The leaderboard: ranks by intervals, terms that keep unlike evaluations apart, models of Hugging Face."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nanochat.cli.main import command
from nanochat.errors import NotFound
from nanochat.report.leaderboard import Leaderboard, Ranking, leaderboard_page
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import artifact_folder
from nanochat.store.store import Store
from tests.evaluation.stored import foreign, model, scored


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "store"))
    return Store(str(tmp_path / "store"), tmp_path / "home" / "cache")


def evaluate(
    store: Store, of: Artifact, score: float, half: float | None = 0.02, questions: int = 100, **config: Any
) -> Artifact:
    """An evaluation of one task, with an interval of this half width."""
    task: dict[str, Any] = {"kind": "generate", "form": config.pop("form", "plain"), "questions": questions}
    found: dict[str, Any] = {"tasks": {"gsm8k": task}}
    if half is not None:
        found["centered_accuracy_interval"] = task["interval"] = [score - half, score + half]
    metrics = {"centered_accuracy": score, "gsm8k_accuracy": score}
    return scored(store, of, metrics, found, config=config)


def ranks(ranking: Ranking) -> dict[str, int]:
    return {entry.name: entry.rank for entry in ranking.entries}


def test_models_whose_intervals_overlap_share_a_rank(store: Store) -> None:
    for name, score in (("best", 0.50), ("second", 0.48), ("third", 0.40), ("between", 0.45)):
        evaluate(store, model(store, name), score)
    (ranking,) = Leaderboard(store).rankings("centered_accuracy")
    # between (0.43 to 0.47) overlaps second (0.46 to 0.50), but not best (0.48 to 0.52)
    assert list(ranks(ranking).items()) == [
        ("chat/best", 1),
        ("chat/second", 1),
        ("chat/between", 2),
        ("chat/third", 4),
    ]


def test_fewer_bits_are_better(store: Store) -> None:
    for name, bits in (("a", 0.9), ("b", 0.8)):
        scored(store, model(store, name, "pretrain"), {"bits_per_byte": bits}, {}, stage="evaluate_base")
    (ranking,) = Leaderboard(store).rankings("bits_per_byte")
    assert ranks(ranking) == {"chat/b": 1, "chat/a": 2}
    assert ranking.entries[0].interval is None


@pytest.mark.parametrize("other", [{"max_tokens": 512}, {"form": "nanochat"}, {"questions": 50}])
def test_unlike_evaluations_are_ranked_apart_and_the_difference_is_named(store: Store, other: dict[str, Any]) -> None:
    evaluate(store, model(store, "a"), 0.5)
    evaluate(store, model(store, "b"), 0.4)
    evaluate(store, model(store, "c"), 0.9, **other)
    rankings = Leaderboard(store).rankings("gsm8k_accuracy")
    assert [set(ranks(each)) for each in rankings] == [{"chat/a", "chat/b"}, {"chat/c"}]
    ((value,),) = ([str(each) for each in other.values()],)
    assert value in rankings[1].terms and value not in rankings[0].terms


def test_another_version_or_bundle_is_ranked_apart(store: Store) -> None:
    for name, version, bundle in (("a", 1, "one"), ("b", 1, "one"), ("c", 2, "one"), ("d", 1, "two")):
        held = model(store, bundle, "core_bundle")
        inputs = {"bundle": held}
        scored(store, model(store, name), {"core": 0.1}, {}, stage="evaluate_core", version=version, inputs=inputs)
    rankings = Leaderboard(store).rankings("core")
    assert sorted(sorted(ranks(each)) for each in rankings) == [["chat/a", "chat/b"], ["chat/c"], ["chat/d"]]


def test_foreign_models_models_that_are_gone_and_models_without_evaluation_are_there(store: Store) -> None:
    other = foreign(store, "hf://org/name", [("config.json", "0" * 64)], "v1")
    gone = model(store, "gone")
    evaluate(store, model(store, "ours"), 0.4)
    evaluate(store, other, 0.6)
    evaluate(store, gone, 0.5)
    model(store, "lonely")
    store.remove_alias("chat/gone")
    store.objects.delete([f"{artifact_folder(*gone.manifest.name)}/manifest.json"])
    board = Leaderboard(store)
    (ranking,) = board.rankings("centered_accuracy")
    assert list(ranks(ranking).values()) == [1, 2, 3]
    assert list(ranks(ranking)) == ["org/name", f"sft {gone.key[:8]} (gone)", "chat/ours"]
    assert board.unevaluated() == ["chat/lonely"]
    for shown in leaderboard_page(board, ["centered_accuracy"]).render():
        assert "org/name" in shown and "(gone)" in shown and "Not evaluated: chat/lonely" in shown
        assert f"No longer in the store, but their evaluations are: sft {gone.key[:8]}." in shown


def test_a_board_of_the_newest_knows_their_models(store: Store) -> None:
    models = [model(store, name) for name in ("first", "second", "third")]
    for place, each in enumerate(reversed(models)):
        manifest = evaluate(store, each, 0.5).manifest
        path = Path(store.objects.root.removeprefix("file://")) / artifact_folder(*manifest.name) / "manifest.json"
        os.utime(path, (place, place))  # the model that was made first is evaluated last
    board = Leaderboard(store, 1)
    assert board.is_partial and not board.gone()
    assert [ranks(each) for each in board.rankings("gsm8k_accuracy")] == [{"chat/first": 1}]
    assert not Leaderboard(store, 3).is_partial


def test_the_newest_evaluation_of_a_model_counts(store: Store) -> None:
    used = model(store, "a")
    first = evaluate(store, used, 0.2)
    second = scored(store, used, {"centered_accuracy": 0.3}, {"tasks": {}}, seed="again")
    assert first.key != second.key
    found = Leaderboard(store).rankings("centered_accuracy")
    assert sum(len(each.entries) for each in found) == 2, "other questions: both are there"
    evaluate(store, used, 0.35, half=0.03)
    assert {each.entries[0].value for each in Leaderboard(store).rankings("centered_accuracy")} == {0.35, 0.3}


def test_the_command_prints_writes_and_refuses(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(["models"])
    assert "No evaluated model" in capsys.readouterr().out
    evaluate(store, model(store, "a"), 0.5)
    command(["models", "--html", str(tmp_path / "page.html")])
    printed = capsys.readouterr().out
    assert "chat/a" in printed and "0.4800 – 0.5200" in printed
    assert "chat/a" in (tmp_path / "page.html").read_text()
    command(["models", "--by", "gsm8k_accuracy", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["rank"], found["model"], found["score"]) == (1, "chat/a", 0.5)
    with pytest.raises(NotFound, match="metric `gsm8k_acuracy`") as raised:
        command(["models", "--by", "gsm8k_acuracy"])
    assert "gsm8k_accuracy" in raised.value.hint

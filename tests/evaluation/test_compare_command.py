"""`nanochat compare`: finds the evaluations of models, prints verdicts, keeps the page."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from nanochat.cli.main import command
from nanochat.errors import BadConfig, BadSource, NotFound
from nanochat.store.manifest import manifest_path
from nanochat.store.store import Store
from tests.evaluation.answers import answers
from tests.evaluation.stored import evaluation, foreign, model


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Models `a` and the better `b`, evaluated on chat tasks, `a` on CORE too; `c`, before answers were kept."""
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "store"))
    opened = Store(str(tmp_path / "store"), tmp_path / "home" / "cache")
    generator = np.random.default_rng(1)
    right = generator.random(300) < 0.4
    better = right | (generator.random(300) < 0.2)
    a, b, c = (model(opened, name) for name in "abc")
    evaluation(opened, a, answers("arc_easy", list(right)), max_tokens=64)
    evaluation(opened, b, answers("arc_easy", list(better)), max_tokens=64)
    evaluation(opened, a, answers("squad", list(right), baseline=0.0), stage="evaluate_core", version=1)
    evaluation(opened, b, [], stage="evaluate_base", version=1)
    evaluation(opened, c, [], version=1)
    return opened


def test_models_are_compared_by_their_newest_evaluations(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(["compare", "chat/a", "chat/b", "--html", str(tmp_path / "page.html")])
    printed = capsys.readouterr().out
    assert "chat/b is better than chat/a" in " ".join(printed.split())
    page = (tmp_path / "page.html").read_text()
    assert "chat/b is better than chat/a" in page
    assert "Evaluate core" in page, "what only one model has is shown too"
    assert '<td data-head="score" class="">bits per byte</td>' in page and ">0.9</td>" in page
    (kept,) = store.manifests("compare_evaluations")
    assert {ref.stage for ref in kept.inputs["evaluations"]} == {"evaluate_chat", "evaluate_core", "evaluate_base"}
    command(["compare", "chat/a", "chat/b", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["tasks"]["arc_easy"]["verdict"] == "better"
    assert len(list(store.manifests("compare_evaluations"))) == 1, "the same comparison is reused"


def test_an_evaluation_can_be_named_itself(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Two evaluations of one model, with other numbers of questions."""
    a = store.artifact(store.resolve("chat/a"), reused=True)
    other = evaluation(store, a, answers("arc_easy", [True] * 50), max_tokens=64, limit=50)
    (first,) = [
        each
        for each in store.manifests("evaluate_chat")
        if len(each.config) == 1 and each.inputs["model"][0].key == a.key
    ]
    command(["compare", first.key[:12], other.key[:12], "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["tasks"]["arc_easy"]["questions"] == 50
    assert found["left_out"] == {"arc_easy": 250}


def test_what_cannot_be_compared_is_named_and_the_rest_is_shown(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*models: str) -> str:
        command(["compare", *models])
        return " ".join(capsys.readouterr().out.split())

    assert "evaluate chat: chat/c kept no answers" in printed("chat/a", "chat/c")
    lonely = model(store, "lonely")
    assert "`chat/lonely` has no evaluation" in printed("chat/a", "chat/lonely")
    evaluation(store, lonely, answers("arc_easy", [True] * 300), max_tokens=512)
    shown = printed("chat/a", "chat/lonely", "chat/b")
    assert "`max_tokens` is `64` for chat/a and `512` for chat/lonely" in shown
    assert "chat/b is better than chat/a" in shown
    with pytest.raises(BadConfig, match="two or more different"):
        command(["compare", "chat/a", "chat/a"])


def test_of_a_model_that_is_gone_the_evaluation_is_compared_beside_a_sentence(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*models: str) -> str:
        command(["compare", *models])
        return " ".join(capsys.readouterr().out.split())

    b = store.resolve("chat/b")
    store.objects.delete([manifest_path(*b.name)])
    for named, sentence in (
        ("chat/b", f"The alias `chat/b` points to sft/{b.key[:12]}, which is gone."),
        (f"sft/{b.key[:10]}", f"The model sft {b.key[:8]} is no longer in the store."),
    ):
        shown = printed("chat/a", named)
        assert sentence in shown
        assert " is better than chat/a" in shown
        assert "so its settings are unknown" in shown
    for stage in ("evaluate_chat", "evaluate_base"):
        found = [each for each in store.manifests(stage) if each.inputs["model"][0].key == b.key]
        store.objects.delete([f"{each.payload_folder}/{file.path}" for each in found for file in each.files])
        lost = f"{found[0].stage} {found[0].key[:8]}"
        assert f"The files of {lost} are no longer in the store." in printed("chat/a", found[0].key)
    shown = printed("chat/a", "chat/b")
    assert "`chat/b` points to" in shown and "better" not in shown
    assert "centered accuracy" in shown, "the scores of the other model are shown"


COMMIT = "c0ffee" * 6 + "c0de"


@pytest.mark.parametrize("given", ["hf://org/name", "hf://org/name@v1", f"hf://org/name@{COMMIT}"])
def test_a_model_of_the_hub_is_compared_by_its_evaluation_without_the_network(
    store: Store, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    made = foreign(store, f"hf://org/name@{COMMIT}", [("config.json", "0" * 64)], "v1")
    evaluation(store, made, answers("arc_easy", [True] * 300), max_tokens=64)
    command(["compare", "chat/a", given, "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["tasks"]["arc_easy"]["verdict"] == "better"
    for other in ("hf://org/other", "hf://org/name@v2"):
        with pytest.raises(NotFound, match=f"`{other}` has no evaluation") as raised:
            command(["compare", "chat/a", other])
        assert f"`nanochat evaluate {other} --tasks chat`" in raised.value.hint


def test_a_folder_is_compared_by_the_hashes_of_its_files(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    files = [(name, hashlib.sha256(name.encode()).hexdigest()) for name in ("config.json", "model.safetensors")]
    evaluation(store, foreign(store, "/elsewhere", files), answers("arc_easy", [True] * 300), max_tokens=64)
    command(["compare", "chat/a", str(folder), "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["tasks"]["arc_easy"]["verdict"] == "better"
    (folder / "model.safetensors").write_text("trained further")
    with pytest.raises(NotFound, match="has no evaluation") as raised:
        command(["compare", "chat/a", str(folder)])
    assert "nanochat evaluate" in raised.value.hint
    with pytest.raises(BadSource, match="There is no file or folder"):
        command(["compare", "chat/a", "./nowhere"])

"""The workers themselves, in this process: what they learn, write, and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nanochat.config.chat import SFTConfig
from nanochat.errors import BadSource, Diverged, NotEnoughMemory
from nanochat.model.files import load_model
from nanochat.training import loop
from nanochat.training.pretrain import pretrain
from nanochat.training.sft import sft
from nanochat.workers.job import Job
from nanochat.workers.ranks import World
from tests.training.tiny import T, config, curve, job, launched, make_conversations

ALONE = World(0, 1, torch.device("cpu"))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("base")
    return folder, pretrain(job(data, folder, of=config(60)), ALONE)


def test_it_learns_and_leaves_a_whole_payload(trained: tuple[Path, dict[str, object]]) -> None:
    folder, metrics = trained
    points = curve(folder)
    assert [step for step, _, _ in points] == list(range(1, 61))
    assert points[-1][1] < points[0][1] - 0.5
    validations = [value for _, _, value in points if value is not None]
    assert len(validations) == 12
    assert validations[-1] < validations[0]
    assert metrics["steps"] == 60
    assert metrics["train_tokens"] == 60 * 8 * T
    assert metrics["validation_bits_per_byte"] == validations[-1]
    assert {path.name for path in (folder / "out").iterdir()} == {
        "model.safetensors", "model.json", "vocabulary.json", "metrics.jsonl", "pretrain.json",
    }  # fmt: skip
    assert load_model(folder / "out").architecture.parameters == metrics["parameters"]


def test_micro_batches_change_nothing_but_rounding(data: Path, tmp_path: Path) -> None:
    for rows in (0, 3):
        pretrain(job(data, tmp_path / str(rows), micro_batch_rows=rows), ALONE)
    whole, accumulated = (curve(tmp_path / str(rows)) for rows in (0, 3))
    assert [loss for _, loss, _ in accumulated] == pytest.approx([loss for _, loss, _ in whole], abs=2e-3)


def test_two_ranks_train_as_one(data: Path, tmp_path: Path) -> None:
    pretrain(job(data, tmp_path / "one"), ALONE)
    assert launched(data, tmp_path / "two", ranks=2)["world_size"] == 2
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [loss for _, loss, _ in two] == pytest.approx([loss for _, loss, _ in one], abs=2e-3)
    assert two[-1][2] == pytest.approx(one[-1][2], abs=2e-3)


def test_a_loss_that_is_no_number_stops_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="at step"):
        pretrain(job(data, tmp_path, of=config(12, embedding_lr=1e38, head_lr=1e38, matrix_lr=1e38)), ALONE)


def test_what_does_not_fit_the_memory_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "optimizer_step", full)
    with pytest.raises(NotEnoughMemory, match="Depth 2 with micro-batches of 6 rows") as raised:
        pretrain(job(data, tmp_path, micro_batch_rows=6), ALONE)
    assert "micro_batch_rows=3" in raised.value.hint


def sft_job(base: Path, conversations: Path, folder: Path, **options: object) -> Job:
    (folder / "out").mkdir(parents=True)
    return Job(
        module="nanochat.training.sft",
        config=SFTConfig.model_validate({"precision": "fp32", "batch_tokens": 4 * T, **options}).model_dump(
            mode="json"
        ),
        inputs={"base": [str(base)], "conversations": [str(conversations)]},
        out=str(folder / "out"),
        folder=str(folder),
    )


def test_sft_trains_on_masked_targets(trained: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    conversations = make_conversations(tmp_path / "conversations")
    folder = tmp_path / "sft"
    metrics = sft(sft_job(trained[0] / "out", conversations, folder, epochs=5, evaluate_every_steps=4), ALONE)
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    assert metrics["steps"] == len(lines) == 20
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert losses[-1] < losses[0]
    assert metrics["validation_loss"] == losses[-1]
    assert [lines[0]["lr_multiplier"], lines[10]["lr_multiplier"]] == pytest.approx([0.8, 0.8])
    assert lines[-1]["lr_multiplier"] == pytest.approx(0.08)
    assert (folder / "out" / "vocabulary.json").exists()


def test_sft_refuses_masks_without_a_target(trained: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    conversations = make_conversations(tmp_path / "conversations", trained=False)
    with pytest.raises(BadSource, match="loss mask is empty"):
        sft(sft_job(trained[0] / "out", conversations, tmp_path / "sft"), ALONE)

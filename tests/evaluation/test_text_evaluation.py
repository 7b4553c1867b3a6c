"""Bits per byte of a text as a worker: killed anywhere, it continues, and the files are equal to the byte."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanochat.config.text_evaluation import TextEvaluationConfig
from nanochat.evaluation import text_evaluation
from nanochat.model.files import save_model
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.job import Job
from nanochat.workers.launch import launch
from nanochat.workers.ranks import World
from tests.evaluation.core_models import small_model
from tests.training.tiny import context

ALONE = World(0, 1, torch.device("cpu"))
DOCUMENTS = 23
FILES = ("documents.parquet", "evaluation.json")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and two shards: some documents are longer than a window, one is empty."""
    folder = tmp_path_factory.mktemp("given")
    texts = [f"The {number}th bird sings. " * (number % 7) for number in range(DOCUMENTS)]
    tokenizer = Tokenizer.train_from_iterator(iter(texts), vocab_size=280)
    save_model(folder / "model", small_model(tokenizer, 64))
    tokenizer.save(folder / "model" / "vocabulary.json")
    for name, some in (("one", texts[:15]), ("two", texts[15:])):
        (folder / name).mkdir()
        pq.write_table(pa.table({"text": some}), folder / name / "train.parquet")
    return folder


def inputs(given: Path) -> dict[str, Path | list[Path]]:
    return {"model": given / "model", "shards": [given / "one", given / "two"]}


CONFIG = TextEvaluationConfig(window_tokens=32, context_tokens=8)


def job(given: Path, folder: Path, checkpoints: str = "") -> Job:
    (folder / "out").mkdir(parents=True)
    named = {
        name: [str(each) for each in (paths if isinstance(paths, list) else [paths])]
        for name, paths in inputs(given).items()
    }
    config = CONFIG.model_dump(mode="json")
    return Job(module="", config=config, inputs=named, out=str(folder / "out"), folder=str(folder),
               checkpoints=checkpoints)  # fmt: skip


def files(folder: Path) -> list[bytes]:
    return [(folder / "out" / name).read_bytes() for name in FILES]


class Killed(Exception):
    """Instead of a signal."""


@pytest.mark.parametrize("after", [0, 1, 4])
def test_killed_anywhere_it_continues_with_the_next_part(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(text_evaluation, "PART_DOCUMENTS", 5)
    monkeypatch.setattr(text_evaluation, "DOCUMENTS_AT_ONCE", 5)
    whole = text_evaluation.evaluate_text(job(given, tmp_path / "whole"), ALONE)
    assert whole["documents"] == DOCUMENTS
    checkpoints = (tmp_path / "store/v1/checkpoints/key").as_uri()
    (tmp_path / "store").mkdir()
    measure, parts = text_evaluation.document_bits, 0

    def counted(*arguments, most: int = 100):
        nonlocal parts
        if parts == most:
            raise Killed
        parts += 1
        return measure(*arguments)

    monkeypatch.setattr(text_evaluation, "document_bits", partial(counted, most=after))
    with pytest.raises(Killed):
        text_evaluation.evaluate_text(job(given, tmp_path / "killed", checkpoints), ALONE)
    parts = 0
    monkeypatch.setattr(text_evaluation, "document_bits", counted)
    assert text_evaluation.evaluate_text(job(given, tmp_path / "again", checkpoints), ALONE) == whole
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    assert parts == 5 - after, "finished parts are not done again"


@pytest.mark.slow
def test_ranks_share_the_documents_and_change_nothing(given: Path, tmp_path: Path) -> None:
    whole = text_evaluation.evaluate_text(job(given, tmp_path / "whole"), ALONE)
    around = context(tmp_path / "ranks", ranks=2)
    module = "nanochat.evaluation.text_evaluation"
    assert launch(module, CONFIG, inputs(given), tmp_path / "ranks/out", around) == whole
    assert files(tmp_path / "ranks") == files(tmp_path / "whole")

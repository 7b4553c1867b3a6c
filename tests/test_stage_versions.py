"""A stage whose source changed needs a decision: bump its version, or say that it means the same.

`make accept-stages` records the sources as they are (do it after deciding).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "stage_versions.json"

TRAINING = [
    "training/loop",
    "training/guard",
    "training/loss_scale",
    "training/machine",
    "data/loader",
    "data/order",
    "model",
    "optim",
]
MEANING = {
    "download": [
        "stages/download",
        "data/corpus",
        "data/documents",
        "data/hub",
        "data/listing",
        "data/raw",
        "store/sources",
        "store/web",
        "world",
    ],
    "train_tokenizer": [
        "stages/tokenizer",
        "tokenizer/bpe",
        "tokenizer/special",
        "tokenizer/stored",
        "tokenizer/texts",
        "../rustbpe/src/split",
        "../rustbpe/src/train",
    ],
    "tokenize": [
        "stages/tokens",
        "data/shards",
        "data/ledger",
        "tokenizer/bpe",
        "tokenizer/special",
        "tokenizer/stored",
        "tokenizer/texts",
        "../rustbpe/src/column",
        "../rustbpe/src/encode",
        "../rustbpe/src/parts",
        "../rustbpe/src/split",
        "../rustbpe/src/vocab",
    ],
    "pack": ["stages/rows", "data/rows", "data/packing", "../rustbpe/src/pack"],
    "data_card": ["stages/card", "data/card", "report/card", "report/plots"],
    "pretrain": ["stages/pretrain", "training/pretrain", "scaling", *TRAINING],
    "continue_pretrain": ["stages/pretrain", "training/pretrain", "scaling", *TRAINING],
    "evaluate_base": ["stages/evaluate", "evaluation/base_model", "evaluation/bits_per_byte", "inference", "model"],
    "converse": [
        "stages/conversations",
        "data/conversations",
        "data/rows",
        "../rustbpe/src/pack",
        "tokenizer/chat",
        "sources",
        "tasks",
        "world",
    ],
    "sft": ["stages/sft", "training/sft", *TRAINING],
    "evaluate_chat": [
        "stages/evaluate",
        "evaluation/chat_model",
        "evaluation/chat_tasks",
        "inference",
        "model",
        "tasks",
    ],
    "report": [
        "stages/report",
        "report/report",
        "report/card",
        "report/plots",
        "report/template",
        "report/page.html",
        "store/picture",
    ],
    "compare": ["stages/compare", "report/ladder", "report/plots", "report/template", "report/page.html"],
}
"""The files and rooms whose text says what a stage computes."""


def source_digest(places: list[str]) -> str:
    digest = hashlib.sha256()
    for place in places:
        found = ROOT / "nanochat" / place
        files = sorted(found.rglob("*")) if found.is_dir() else [*found.parent.glob(f"{found.name}.*")]
        for path in files:
            if path.suffix in (".py", ".rs", ".jinja"):
                digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def recorded() -> dict[str, dict[str, object]]:
    from nanochat.pipeline import STAGES

    return {stage.name: {"version": stage.version, "source": source_digest(MEANING[stage.name])} for stage in STAGES}


@pytest.mark.parametrize("name", MEANING)
def test_a_changed_stage_was_decided_on(name: str) -> None:
    before, now = json.loads(RECORD.read_text())[name], recorded()[name]
    assert before == now, (
        f"The source of `{name}` changed. If it now computes something else, bump its version; "
        "then, or if it means the same, run `make accept-stages`."
    )


if __name__ == "__main__":
    RECORD.write_text(json.dumps(recorded(), indent=2) + "\n")

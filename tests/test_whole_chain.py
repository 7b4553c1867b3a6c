"""The whole chain, very small, from the command line: raw text to a chat model that can be talked to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TINY = (
    "data.world.shards=2", "data.world.documents_per_shard=150", "data.validation_documents=10",
    "tokenizer.vocab_size=512", "rows.sequence_len=64",
    "pretrain.model.depth=2", "pretrain.batch_tokens=512", "pretrain.horizon.unit=steps", "pretrain.horizon.amount=12",
    "pretrain.evaluate_every_steps=6", "pretrain.evaluation_tokens=1024",
    "base_evaluation.evaluation_tokens=1024", "base_evaluation.sample_tokens=8", "base_evaluation.free_samples=1",
    'conversations.train=[{"task":"world","limit":60}]', 'conversations.validation=[{"task":"world","limit":10}]',
    'conversations.questions=[{"task":"world","limit":20}]', "conversations.sequence_len=128",
    "sft.batch_tokens=512", "sft.evaluate_every_steps=0", "chat_evaluation.limit=10", "chat_evaluation.max_tokens=8",
)  # fmt: skip


def nanochat(*arguments: str, home: Path, code: int = 0) -> str:
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "nanochat.cli", *arguments], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def run(home: Path, *changes: str) -> str:
    sets = [word for change in (*TINY, *changes) for word in ("--set", change)]
    return nanochat("run", "--plain", *sets, home=home)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    output = run(folder)
    assert re.search(r"14 computed, 0 cached", output), output
    return folder


def test_the_same_again_is_all_cached(home: Path) -> None:
    assert "0 computed, 14 cached" in run(home)


def test_a_changed_sft_keeps_the_base_model(home: Path) -> None:
    output = run(home, "sft.lr_fraction=0.5")
    assert "3 computed, 11 cached" in output, output
    assert re.search(r"cached\s+pretrain", output)


def test_how_to_run_changes_nothing(home: Path) -> None:
    sets = [word for change in TINY for word in ("--set", change)]
    how = ("--compute", "parallelism.ranks=2", "data_workers.count=1")
    assert "0 computed" in nanochat("run", "--plain", *sets, *how, home=home)


def test_the_plan_lists_what_would_run_and_why(home: Path) -> None:
    sets = [word for change in (*TINY, "tokenizer.vocab_size=600") for word in ("--set", change)]
    output = nanochat("plan", *sets, home=home)
    assert re.search(r"download world_00000\s+cached", output), output
    assert re.search(r"train_tokenizer\s+would run\s+vocab_size 512 → 600", output), output
    assert re.search(r"pretrain\s+would run\s+its input comes from", output), output


def test_why_and_diff_explain_an_artifact(home: Path) -> None:
    assert "because the store had no artifact of its stage" in nanochat("why", "base/latest", home=home)
    chats = [line.split()[3] for line in nanochat("ls", "--stage", "sft", home=home).splitlines()[1:]]
    assert len(chats) == 2
    assert re.search(r"because, unlike \w{8} of .*:\n  sft: ", nanochat("why", f"sft/{chats[0]}", home=home))
    assert "final_loss" in nanochat("diff", f"sft/{chats[1]}", f"sft/{chats[0]}", home=home)
    assert "only artifacts of one stage compare" in nanochat("diff", "base/latest", "chat/latest", home=home, code=1)
    assert "─ sft" in nanochat("lineage", "base/latest", "--down", home=home)


def test_the_model_talks_and_knows_where_it_comes_from(home: Path) -> None:
    answers = [nanochat("chat", "-p", "Hello!", "--max-tokens", "8", "--temperature", "0", home=home) for _ in range(2)]
    assert answers[0].strip()
    assert answers[0] == answers[1]
    lineage = nanochat("lineage", "chat/latest", home=home)
    for stage in ("sft", "converse", "pretrain", "pack", "tokenize", "train_tokenizer", "download"):
        assert re.search(rf"(?:^|─ (?:\w+: )?){stage} ", lineage, re.MULTILINE), lineage
    events = [json.loads(line) for line in nanochat("lineage", "chat/latest", "--openlineage", home=home).splitlines()]
    assert [event["job"]["name"] for event in events][:2] == ["download"] * 2
    nanochat("lineage", "base/latest", "--down", "--html", str(home / "lineage.html"), home=home)
    assert "evaluate_chat" in (home / "lineage.html").read_text()
    shown = json.loads(nanochat("show", "base/latest", home=home))
    assert shown["metrics"]["steps"] == 12
    assert len(shown["inputs"]["rows"]) == 2
    assert "sft" in nanochat("ls", home=home)


def test_the_report_is_one_file_without_outside_references(home: Path) -> None:
    (key,) = {json.loads(nanochat("show", "report/latest", home=home))["key"]}
    (page,) = (home / "store/v1/artifacts/report" / key).rglob("report.html")
    text = page.read_text()
    assert "bits per byte" in text
    assert not re.findall(r"""(?:src|href)=["']https?://""", text)


def test_verify_finds_a_flipped_byte_and_repair_heals(home: Path) -> None:
    assert "artifacts are whole" in nanochat("verify", home=home)
    key = json.loads(nanochat("show", "base/latest", home=home))["key"]
    (weights,) = (home / "store/v1/artifacts/pretrain" / key).rglob("model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    assert "model.safetensors" in nanochat("verify", "chat/latest", home=home, code=1)
    nanochat("verify", "--repair", home=home)
    output = run(home)
    assert re.search(r"done\s+pretrain", output), output
    assert "artifacts are whole" in nanochat("verify", home=home)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--plain", "--profile", "demoo"], "Did you mean `demo`?"),
        (["run", "--plain", "--set", "pretrain.dept=6"], "Did you mean `pretrain.model.depth`?"),
        (["run", "--plain", "--set", "data.source=no/such/folder"], "no/such/folder"),
        (["run", "--plain", "--set", "tokenizer.vocab_size=12"], "`tokenizer.vocab_size`"),
        (["run", "--plain", "--store", "ftp://x/y"], "ftp"),
        (["run", "--plain", "--store", "s3://bucket/x"], "127.0.0.1"),
        (["chat", "missing/latest"], "missing/latest"),
        (["show", "ffffffff"], "ffffffff"),
    ],
)
def test_errors_are_one_sentence(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-for-tests")
    output = nanochat(*arguments, home=tmp_path, code=1)
    assert expected in output
    assert "a-secret-for-tests" not in output
    assert len(output.strip().splitlines()) <= 4, output

"""An export by the command, by the stage, to a folder or bucket, and to a Hub on this machine."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nanochat.cli.export import export
from nanochat.config.compute import Compute
from nanochat.config.export import ExportConfig
from nanochat.errors import BadConfig, NanochatError, StoreError, WrongKind
from nanochat.execution.local import run_local
from nanochat.export.destination import copy_to
from nanochat.export.weights import as_bf16
from nanochat.graphs import resolve
from nanochat.graphs.export import export_model
from nanochat.store.artifacts import HuggingFaceModel, Model
from nanochat.store.objects import Objects
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store
from tests.export.hub import ModelHub
from tests.export.models import Exported, export_random, tokenizer

FILES = {
    "README.md", "chat_template.jinja", "config.json", "configuration_nanochat_pipeline.py", "generation_config.json",
    "model.safetensors", "modeling_nanochat_pipeline.py", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
TEXT = "hf://org/text@c0ffee/train.parquet"


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_random(tmp_path_factory.mktemp("random"))


class Made:
    """A store with a chat model, all that it was made from, and an evaluation."""

    def __init__(self, place: Path, random: Exported) -> None:
        self.place = place
        self.url = str(place / "store")
        self.store = Store(self.url, place / "cache")
        raw = self.publish("download", "RawShard", {}, {"url": TEXT}, {"train_documents": 12}, {"train.txt": "a"})
        self.vocabulary = self.publish("train_tokenizer", "Vocabulary", {"raw": [raw]}, {}, {}, {
            "vocabulary.json": (random.stored / "vocabulary.json").read_bytes(),
        })  # fmt: skip
        files = {path.name: path.read_bytes() for path in random.stored.iterdir()}
        base = self.publish(
            "pretrain", "Model", {"vocabulary": self.vocabulary}, {"seed": 3}, {"train_tokens": 9}, files
        )
        items = {"train": [{"task": "conversations", "source": "/home/someone/secret.jsonl"}, {"task": "gsm8k"}]}
        talks = self.publish("converse", "Conversations", {"vocabulary": self.vocabulary}, items, {}, {"x": "1"})
        self.chat = self.publish("sft", "Model", {"base": base, "conversations": talks}, {"epochs": 1}, {}, files)
        tasks = {"gsm8k": {"kind": "generate", "accuracy": 0.25, "baseline": 0.0, "questions": 8}}
        scores = json.dumps({"tasks": tasks, "chatcore": 0.125})
        for accuracy in ("0.5", "0.125"):  # the last one counts
            given = {"model": self.chat, "conversations": talks}
            content = {"evaluation.json": scores.replace("0.125", accuracy)}
            self.publish("evaluate_chat", "Evaluation", given, {"limit": accuracy}, {}, content)
        self.store.set_alias("chat/latest", self.chat.manifest)
        self.store.set_alias("vocabulary", self.vocabulary.manifest)
        self.store.set_alias("talks", talks.manifest)

    def publish(self, stage: str, kind: str, inputs: Any, config: Any, metrics: Any, files: dict[str, Any]) -> Any:
        folder = self.place / "made" / f"{stage}-{len(list(self.place.glob('made/*')))}"
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        key = f"{abs(hash((stage, str(config)))):016x}" * 4
        manifest = self.store.publish(
            folder, stage=stage, stage_version=1, kind=kind, key=key, config=config, inputs=inputs, metrics=metrics,
            producer=describe_producer(datetime.now(UTC)),
        )  # fmt: skip
        return self.store.artifact(manifest, reused=True)

    def export(self, dtype: Any = "fp32") -> HuggingFaceModel:
        model = resolve.model(self.store, "chat/latest")
        graph = export_model(ExportConfig(dtype=dtype), model, resolve.evaluations_of(self.store, model))
        return run_local(graph, self.store, Compute(), self.place / "work")[graph.export]


@pytest.fixture
def made(tmp_path: Path, random: Exported, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    return Made(tmp_path, random)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_what_transformers_loads(made: Made, random: Exported, tmp_path: Path) -> None:
    export("chat/latest", tmp_path / "out", format="hf", store=made.url)
    assert names(tmp_path / "out") == FILES
    loaded = Exported(random.ours, random.stored, tmp_path / "out")
    ids = torch.arange(50)[None]
    with torch.no_grad():
        assert (loaded.load()(ids).logits - random.ours(ids)).abs().max() <= 1e-5
    assert loaded.load_tokenizer()("fox").input_ids[1:] == tokenizer().encode("fox")


def test_the_card_has_data_scores_settings_and_lineage(made: Made, tmp_path: Path) -> None:
    export("chat/latest", tmp_path / "out", format="hf", store=made.url)
    card = (tmp_path / "out/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["datasets"] == ["org/text"]
    assert (front["license"], front["library_name"]) == ("unknown", "transformers")
    for expected in (
        "| gsm8k | 25.0% | chance 0%, 8 questions |", "| ChatCORE | 0.125 |", f"`sft/{made.chat.key}`", '"epochs": 1',
        "the dataset `org/text` of the Hugging Face Hub | 12 documents in 1 shards", "sanitize_control_tokens=True",
        "| conversations: conversations, local files |", "| base model | `pretrain/",
    ):  # fmt: skip
        assert expected in card, expected
    assert "/home/someone" not in card


def test_the_lines_of_the_card_run(made: Made, tmp_path: Path) -> None:
    export("chat/latest", tmp_path / "out", format="hf", store=made.url)
    program = (tmp_path / "out/README.md").read_text().split("```python\n")[1].split("```")[0]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path / "out", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_vocabulary_is_exported_alone(made: Made, tmp_path: Path) -> None:
    export("vocabulary", tmp_path / "out", format="hf", store=made.url)
    assert names(tmp_path / "out") == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    export("vocabulary", tmp_path / "ours", store=made.url)
    assert names(tmp_path / "ours") == {"vocabulary.json", "tokenizer.json", "tokenizer.tiktoken"}


def test_other_artifacts_have_no_such_format(made: Made, tmp_path: Path) -> None:
    with pytest.raises(WrongKind, match="takes a model or a vocabulary"):
        export("talks", tmp_path / "out", format="hf", store=made.url)
    with pytest.raises(BadConfig, match="Add `--format hf`"):
        export("chat/latest", tmp_path / "out", push="org/name", store=made.url)
    assert not (tmp_path / "out").exists()


def test_a_new_version_has_no_config_until_all_else_is_there(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between two renames leaves a folder that cannot be loaded, instead of weights with another config."""
    out = tmp_path / "out"
    export("chat/latest", out, format="hf", store=made.url)
    rename = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == "tokenizer.json":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        export("chat/latest", out, format="hf", dtype="bf16", overwrite=True, store=made.url)
    assert names(out) == FILES - {"config.json"}


def test_the_stage_is_cached(made: Made) -> None:
    first = made.export()
    assert {file.path for file in first.manifest.files} == FILES
    assert (first.kind, first.reused) == ("HuggingFaceModel", False)
    assert made.export().reused
    half = made.export("bf16")
    assert half.metrics["parameters"] == first.metrics["parameters"]
    assert half.metrics["bytes"] < 0.8 * first.metrics["bytes"]


def test_the_newest_evaluation_is_found(made: Made) -> None:
    model = made.store.artifact(made.chat.manifest, reused=True)
    assert isinstance(model, Model)
    assert [each.manifest.config["limit"] for each in resolve.evaluations_of(made.store, model)] == ["0.125"]


def test_an_artifact_is_copied_with_its_config_last(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, target = made.export(), tmp_path / "published"
    copy_to(exported, target.as_uri())
    assert names(target) == FILES
    upload = Objects.upload

    def full(self: Objects, local: Path, path: str, **arguments: Any) -> None:
        if path == "tokenizer.json":
            raise StoreError("No space left.")
        upload(self, local, path, **arguments)

    monkeypatch.setattr(Objects, "upload", full)
    with pytest.raises(StoreError):
        copy_to(exported, target.as_uri())
    assert "config.json" not in names(target)
    with pytest.raises(BadConfig, match="inside the store"):
        copy_to(exported, f"{made.store.objects.root}/published")


@pytest.mark.s3
def test_an_artifact_is_copied_to_a_bucket_of_its_own(made: Made, root_s3: str) -> None:
    exported, bucket = made.export(), Objects(f"s3://published-{root_s3.rpartition('/')[2]}/models")
    copy_to(exported, f"{bucket.root}/small")
    copied = {entry.path: bucket.read(entry.path) for entry in bucket.list("small")}
    assert copied == {f"small/{name}": (exported.path / name).read_bytes() for name in FILES}


def test_a_damaged_model_is_named(made: Made, random: Exported, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in random.stored.iterdir()}
    files["model.json"] = files["model.json"].replace(b'"smear": true', b'"smear": false')
    given = {"base": made.chat, "conversations": made.store.artifact(made.store.resolve("talks"), reused=True)}
    broken = made.publish("sft", "Model", given, {"epochs": 2}, {}, files)
    with pytest.raises(NanochatError, match=r"`smear.*` in .* does not fit `model.json`"):
        export(f"sft/{broken.key}", tmp_path / "out", format="hf", store=made.url)
    assert not (tmp_path / "out").exists()


def test_fp32_is_rounded_to_bf16_as_torch_does() -> None:
    values = (
        torch.randn(10_000, generator=torch.Generator().manual_seed(0))
        * 10.0 ** torch.arange(-30, 30).repeat(167)[:10_000]
    )
    ties = (torch.arange(4000, dtype=torch.int32) * 0x8000 + 0x3F800000).view(torch.float32)
    for tensor in (values, ties):
        expected = tensor.bfloat16().view(torch.int16).numpy().astype("uint16")
        assert (as_bf16(tensor.numpy()) == expected).all()


@pytest.fixture
def hub() -> Iterator[str]:
    for kept in (ModelHub.repositories, ModelHub.files, ModelHub.large, ModelHub.tokens):
        kept.clear()
    ModelHub.refusal = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ModelHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def push(made: Made, hub: str, out: Path) -> subprocess.CompletedProcess[str]:
    """In another process: the library reads `HF_ENDPOINT` when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_TOKEN": "hf_secret", "HF_HOME": str(out) + "-home"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = ["export", "chat/latest", str(out), "--format", "hf", "--push", "org/name", "--store", made.url]
    return subprocess.run(
        [sys.executable, "-m", "nanochat.cli", *command], env=environment, capture_output=True, text=True
    )


def test_a_model_is_pushed_to_the_hub(made: Made, hub: str, tmp_path: Path) -> None:
    done = push(made, hub, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub}/org/name/commit/c0ffee"
    assert ModelHub.files.keys() == FILES
    assert ModelHub.repositories["org/name"]["visibility"] == "private"
    for name in FILES:
        assert ModelHub.files[name] == (tmp_path / "out" / name).read_bytes()
    assert ModelHub.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(("status", "message"), [(403, "does not accept `org/name` (status 403)"), (503, "status 503")])
def test_a_hub_that_refuses_is_one_sentence(status: int, message: str, made: Made, hub: str, tmp_path: Path) -> None:
    ModelHub.refusal = status
    done = push(made, hub, tmp_path / "out")
    printed = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode, message in printed) == (1, True), printed
    assert "Traceback" not in printed
    assert "hf_secret" not in printed

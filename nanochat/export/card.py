"""The model card, `README.md`: what a model was made from, its scores, how to use it, and its limits.

All of it comes from the lineage. A local path of the machine that made the model is not named.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nanochat.console import number
from nanochat.export.config_files import TRANSFORMERS
from nanochat.export.weights import Dtype
from nanochat.lineage.ancestry import ancestors
from nanochat.model.architecture import Architecture
from nanochat.store.artifacts import Evaluation, Model
from nanochat.store.manifest import Manifest

HUB = "hf://"
SETTINGS = ("pretrain", "continue_pretrain", "sft", "dpo", "rl")
"""Stages whose whole config is in the card; others may have local paths."""


def model_card(
    model: Model, evaluations: Sequence[Evaluation], architecture: Architecture, dtype: Dtype, parameters: int
) -> str:
    """The text of `README.md`."""
    made_from = ancestors(model.store, model.manifest)
    every = [model.manifest, *made_from]
    is_chat = model.stage in ("sft", "dpo", "rl")
    producer = model.manifest.producer
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - the result is Markdown
    )
    return environment.get_template("card.md.jinja").render(
        title=f"nanochat d{architecture.depth}, {'chat' if is_chat else 'base'} model",
        is_chat=is_chat,
        datasets=sorted({_repository(source) for source in _sources(every) if source.startswith(HUB)}),
        facts=list(_facts(model.manifest, made_from, architecture, dtype, parameters)),
        data=list(_data(every)),
        scores=[score for evaluation in evaluations for score in _scores(evaluation)],
        switched_off=_switched_off(architecture),
        context_tokens=architecture.sequence_len,
        settings={
            each.stage: json.dumps(each.config, indent=1, ensure_ascii=False)
            for each in every
            if each.stage in SETTINGS
        },
        lineage=_lineage(every),
        commit=(producer.git_commit or "unknown") + (" (with changes)" if producer.git_dirty else ""),
        code=producer.code_sha256,
        packages=producer.packages,
        transformers=TRANSFORMERS,
    )


def _facts(
    manifest: Manifest, made_from: Sequence[Manifest], architecture: Architecture, dtype: Dtype, parameters: int
) -> Iterator[tuple[str, str]]:
    yield "parameters", f"{parameters:,}"
    yield "weights", dtype
    yield "layers, width", f"{architecture.depth}, {architecture.width}"
    yield "context", f"{architecture.sequence_len:,} tokens"
    yield "vocabulary", f"{architecture.vocab_size:,} tokens"
    yield "artifact", f"`{manifest.stage}/{manifest.key}`, digest `{manifest.digest[:16]}`"
    for each in made_from:
        if each.kind == "Model":
            yield "base model", f"`{each.stage}/{each.key}`, digest `{each.digest[:16]}`"
    for each in (manifest, *made_from):
        if each.stage in SETTINGS and "train_tokens" in each.metrics:
            yield f"tokens read by `{each.stage}`", number(each.metrics["train_tokens"])
    yield "made", f"{manifest.producer.ended:%Y-%m-%d}"


def _data(manifests: Iterable[Manifest]) -> Iterator[tuple[str, str]]:
    """What was read: sources of text with their documents, and sources of conversations."""
    documents: Counter[str] = Counter()
    shards: Counter[str] = Counter()
    for each in manifests:
        if each.stage == "download":
            documents[_named(str(each.config["url"]))] += each.metrics.get("train_documents", 0)
            shards[_named(str(each.config["url"]))] += 1
        if each.stage == "converse":
            for item in each.config["train"]:
                source = f", {_named(item['source'])}" if item.get("source") else ""
                yield f"conversations: {item['task']}{source}", ""
            yield "conversations in all", f"{each.metrics.get('train_conversations', 0):,}"
    for source, count in documents.items():
        yield f"text: {source}", f"{count:,} documents in {shards[source]:,} shards"


def _sources(manifests: Iterable[Manifest]) -> Iterator[str]:
    for each in manifests:
        if each.stage == "download":
            yield str(each.config["url"]).replace("hf-stream://", HUB)
        if each.stage == "converse":
            yield from (str(item["source"]) for item in each.config["train"] if item.get("source"))


def _named(source: str) -> str:
    """A source as a reader of the card may know it: a dataset of the Hub, a host, or no more than that it is local."""
    source = source.replace("hf-stream://", HUB)
    if source.startswith(HUB):
        return f"the dataset `{_repository(source)}` of the Hugging Face Hub"
    if source.startswith("world"):
        return "an invented world, which nanochat writes itself"
    if source.startswith(("http://", "https://")):
        return f"files of `{source.split('/')[2].rpartition('@')[2]}`"
    return "local files"


def _repository(source: str) -> str:
    """`org/name` of `hf://org/name@revision/path`."""
    organisation, _, rest = source.removeprefix(HUB).partition("/")
    return f"{organisation}/{rest.partition('/')[0].partition('@')[0]}"


def _scores(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    """Name, value, and chance or unit of each score."""
    found = json.loads((evaluation.path / "evaluation.json").read_text(encoding="utf-8"))
    for name, task in found.get("tasks", {}).items():
        chance = f"chance {task['baseline']:.0%}, {task['questions']:,} questions"
        chance += f", prompts as in {task['form']}" if task.get("form", "plain") != "plain" else ""
        yield name.replace("_", " "), f"{task['accuracy']:.1%}", chance
    if found.get("core") is not None:
        yield "CORE", f"{found['core']:.4f}", f"mean centered accuracy, DCLM's baselines {found['baselines']}"
    if "chatcore" in found:
        yield "ChatCORE", f"{found['chatcore']:.3f}", "mean centered accuracy"
    if "centered_accuracy" in found:
        yield "mean centered accuracy", f"{found['centered_accuracy']:.3f}", "0 is chance, 1 all right"
    if "bits_per_byte" in found:
        yield "bits per byte", f"{found['bits_per_byte']:.4f}", "held-out text, base model"


def _switched_off(architecture: Architecture) -> list[str]:
    names: Mapping[str, Any] = architecture.model.model_dump()
    return [name.replace("_", " ") for name, value in names.items() if value is False]


def _lineage(manifests: Sequence[Manifest]) -> list[tuple[str, int, str, str]]:
    """Stage, number of artifacts, and key and digest of the first."""
    counts = Counter(each.stage for each in manifests)
    first = {each.stage: each for each in reversed(manifests)}
    return [(stage, counts[stage], first[stage].key[:16], first[stage].digest[:16]) for stage in dict.fromkeys(counts)]

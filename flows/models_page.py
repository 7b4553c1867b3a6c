"""The page of all models in the store with their scores, best first."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flows.pages import link, put, table
from nanochat.console import duration, number
from nanochat.lineage.evaluations import score_of
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store

KINDS = {
    "pretrain": ("Base models", "evaluate_base", "bits_per_byte", 1),
    "continue_pretrain": ("Base models with continued pretraining", "evaluate_base", "bits_per_byte", 1),
    "sft": ("Chat models", "evaluate_chat", "centered_accuracy", -1),
    "dpo": ("Chat models after preference optimization", "evaluate_chat", "centered_accuracy", -1),
    "rl": ("Chat models after reinforcement learning", "evaluate_chat", "centered_accuracy", -1),
}
"""Stage → title, the stage that evaluates it, its score, and whether lower (1) or higher (-1) is better."""


def publish_models(store: Store) -> None:
    """Publishes the page; reads the manifests of models and their evaluations in parallel."""
    with ThreadPoolExecutor(4) as pool:
        stages = list(dict.fromkeys(name for stage, kind in KINDS.items() for name in (stage, kind[1])))
        found = dict(zip(stages, pool.map(lambda stage: list(store.manifests(stage)), stages), strict=True))
    aliases: dict[str, list[str]] = {}
    for alias, target in store.aliases().items():
        aliases.setdefault(target.key, []).append(alias)
    bases = [*found["pretrain"], *found["continue_pretrain"]]
    depths = {base.key: str(base.config.get("model", {}).get("depth", "")) for base in bases}
    for chat in (*found["sft"], *found["dpo"]):
        depths[chat.key] = next((depths.get(base.key, "") for base in chat.inputs.get("base", [])), "")
    parts, count = ["# Models"], 0
    for stage, (title, evaluate_stage, score, sign) in KINDS.items():
        if not found[stage] and stage in ("continue_pretrain", "dpo", "rl"):
            continue
        rows = list(_rows(found[stage], found[evaluate_stage], aliases, depths, score, sign))
        count += len(rows)
        heads = f"made key depth tokens {score} took aliases"
        parts.append(f"## {title}\n\n{table(heads, rows, len(rows), most=200)}")
    put("models", "\n\n".join(parts), f"{count} models, best first")


def _rows(
    models: Iterable[Manifest],
    evaluations: Iterable[Manifest],
    aliases: dict[str, list[str]],
    depths: dict[str, str],
    score: str,
    sign: int,
) -> Iterable[list[str]]:
    scores: dict[str, Any] = {}
    for evaluation in evaluations:
        for references in evaluation.inputs.values():
            for reference in references:
                scores.setdefault(reference.key, score_of(evaluation.metrics, score))
    unscored = float("inf")
    for model in sorted(models, key=lambda m: unscored if scores.get(m.key) is None else sign * scores[m.key]):
        made, found = model.producer, scores.get(model.key)
        yield [
            f"{made.ended:%Y-%m-%d %H:%M}",
            link(model.stage, model.key),
            depths.get(model.key) or next((depths.get(base.key, "") for base in model.inputs.get("base", [])), ""),
            number(model.metrics["train_tokens"]) if "train_tokens" in model.metrics else "",
            "" if found is None else f"{found:.4f}",
            duration(made.seconds),
            ", ".join(aliases.get(model.key, [])),
        ]

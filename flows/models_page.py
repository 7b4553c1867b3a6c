"""The page of all models in the store with their scores, best first."""

from collections.abc import Iterable
from typing import Any

from flows.pages import link, put, table
from nanochat.console import duration, number
from nanochat.lineage.evaluations import score_of
from nanochat.report.leaderboard import HEADS, USUAL, Leaderboard, Ranking, row, title_of
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


NEWEST = 200
"""Artifacts of each stage that are read: each run publishes the page at its end, and should not wait for it."""


def publish_models(store: Store) -> None:
    """Publishes the page of the newest models; unreadable manifests are left out."""
    board = Leaderboard(store, NEWEST)
    found: dict[str, list[Manifest]] = {name: [] for stage, kind in KINDS.items() for name in (stage, kind[1])}
    for manifest in (*board.models.values(), *board.evaluations):
        found.setdefault(manifest.stage, []).append(manifest)
    aliases = {key: names for (_, key), names in board.aliases.items()}
    bases = [*found["pretrain"], *found["continue_pretrain"]]
    depths = {base.key: str(base.config.get("model", {}).get("depth", "")) for base in bases}
    for chat in (*found["sft"], *found["dpo"]):
        depths[chat.key] = next((depths.get(base.key, "") for base in chat.inputs.get("base", [])), "")
    parts, count = ["# Models"], 0
    if board.is_partial:
        parts.append(f"Of each stage, only the newest {NEWEST:,} artifacts are here: `nanochat models` has all.")
    for stage, (title, evaluate_stage, score, sign) in KINDS.items():
        if not found[stage] and stage in ("continue_pretrain", "dpo", "rl"):
            continue
        rows = list(_rows(found[stage], found[evaluate_stage], aliases, depths, score, sign))
        count += len(rows)
        heads = f"made key depth tokens {score} took aliases"
        parts.append(f"## {title}\n\n{table(heads, rows, len(rows), most=200)}")
    parts += [_ranking(ranking) for metric in board.metrics if metric in USUAL for ranking in board.rankings(metric)]
    put("models", "\n\n".join(parts), f"{count} models, best first")


def _ranking(ranking: Ranking) -> str:
    """Ranks of the models that were evaluated under the same terms, with links."""
    rows: list[list[str]] = []
    for entry in ranking.entries:
        rank, _, *numbers = map(str, row(entry))
        model = link(*entry.model.name) if entry.model else ""
        rows.append([rank, entry.name, model, *numbers])
    heads = "rank name model " + " ".join(head.replace(" ", "_") for head in HEADS[2:])
    return f"## Ranked by {title_of(ranking)}\n\n{table(heads, rows, len(rows), most=200)}"


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

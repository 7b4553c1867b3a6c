"""CORE the slow and obvious way: one question a pass, its choices as a padded batch, the logits of every position."""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
import yaml

from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer


class Verdict(NamedTuple):
    """The answer to one question."""

    right: bool
    chosen: int
    means: list[float]
    """Mean nats per token of each option's span."""
    spans: list[tuple[int, int]]


def core(
    model: GPT, tokenizer: Tokenizer, folder: Path, limit: int, crop: int | None = None
) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for task in yaml.safe_load((folder / "core.yaml").read_text())["icl_tasks"]:
        lines = (folder / "eval_data" / task["dataset_uri"]).read_text().strip().split("\n")
        rows = [json.loads(line) for line in lines]
        random.Random(1337).shuffle(rows)
        rows = rows[: limit or None]
        found[task["label"]] = [one(model, tokenizer, task, rows, index, crop) for index in range(len(rows))]
    return found


def one(
    model: GPT, tokenizer: Tokenizer, task: dict[str, Any], rows: list[Any], index: int, crop: int | None
) -> Verdict:
    row, kind, delimiter = rows[index], task["icl_task_type"], task.get("continuation_delimiter", " ")
    others = [other for other in range(len(rows)) if other != index]
    shots = random.Random(1234 + index).sample(others, task["num_fewshot"][0]) if task["num_fewshot"][0] else []
    before = "".join(text(kind, rows[shot], rows[shot].get("gold"), delimiter) + "\n\n" for shot in shots)
    if kind == "language_modeling":
        without = (before + row["context"].strip() + delimiter).strip()
        ids = [encoded(tokenizer, without), encoded(tokenizer, before + text(kind, row, None, delimiter))]
        ids, starts = ids[1:], [shared(ids)]
    else:
        options = row["choices" if kind == "multiple_choice" else "context_options"]
        ids = [encoded(tokenizer, before + text(kind, row, option, delimiter)) for option in range(len(options))]
        if kind == "multiple_choice":
            starts = [shared(ids)] * len(ids)
        else:
            starts = [len(each) - shared([list(reversed(each)) for each in ids]) for each in ids]
    starts = unempty(ids, starts, from_end=kind == "schema")
    if crop:
        starts = [max(1, start - max(0, len(each) - crop)) for start, each in zip(starts, ids, strict=True)]
        ids = [each[-crop:] for each in ids]
    padded = torch.full((len(ids), max(map(len, ids))), tokenizer.bos)
    for place, each in enumerate(ids):
        padded[place, : len(each)] = torch.tensor(each)
    with torch.no_grad():
        logits = model(padded)
    nats = F.cross_entropy(logits[:, :-1].flatten(0, 1), padded[:, 1:].flatten(), reduction="none").view(len(ids), -1)
    spans = [(start, len(each)) for start, each in zip(starts, ids, strict=True)]
    means = [nats[place, start - 1 : stop - 1].mean().item() for place, (start, stop) in enumerate(spans)]
    if kind == "language_modeling":
        start, stop = spans[0]
        right = bool((logits[0, start - 1 : stop - 1].argmax(-1) == padded[0, start:stop]).all())
        return Verdict(right, 0, means, spans)
    chosen = means.index(min(means))
    return Verdict(chosen == row["gold"], chosen, means, spans)


def text(kind: str, row: Any, option: int | None, delimiter: str) -> str:
    match kind:
        case "multiple_choice":
            return row["query"] + delimiter + row["choices"][option]
        case "schema":
            return row["context_options"][option] + delimiter + row["continuation"]
    return row["context"].strip() + delimiter + row["continuation"]


def encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return [tokenizer.bos, *tokenizer.encode(text)]


def shared(rows: list[list[int]]) -> int:
    return next((i for i, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1), min(map(len, rows)))


def unempty(ids: list[list[int]], starts: list[int], *, from_end: bool) -> list[int]:
    """The rule that nanochat lacks: a span has one token at least, and does not begin with the first of a text."""
    if from_end:
        tokens = max(1, min(len(ids[0]) - starts[0], min(map(len, ids)) - 1))
        return [len(each) - tokens for each in ids]
    return [max(1, min(starts[0], min(map(len, ids)) - 1))] * len(ids)

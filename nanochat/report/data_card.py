"""The data card as facts, tables and Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

BAR = 20


def facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts of a data card, as (name, value)."""
    train, held_out = card["train_documents"], card["validation_documents"]
    return [
        ("shards", f"{card['shards']:,}"),
        ("documents", f"{train:,} to train on, {held_out:,} held out, {card['skipped_documents']:,} empty"),
        ("tokens", f"{card['train_tokens']:,} to train on, {card['validation_tokens']:,} held out"),
        ("text", f"{(card['train_bytes'] + card['validation_bytes']) / 1e6:,.1f} MB"),
        ("compression", f"{card['bytes_per_token']:.3f} bytes a token"),
        ("length of a document", f"median {card['median_tokens']:,}, longest {card['longest_tokens']:,} tokens"),
        ("exact duplicates", f"{card['duplicates']:,} documents ({card['duplicates'] / max(train, 1):.2%})"),
        ("held out, and trained on all the same", f"{card['validation_in_training']:,} documents"),
        ("languages, roughly", ", ".join(f"{name} {share:.1%}" for name, share in card["languages"].items())),
        ("tokens cropped by packing", f"{card['cropped_share']:.3%}"),
        ("tokens of padding", f"{card['padded_share']:.3%}"),
    ]


def conversation_facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts of conversations, used and left out, from the metrics of the stage `converse`."""
    found = []
    for split, name in (("train", "conversations"), ("validation", "held-out conversations")):
        if f"{split}_conversations" not in metrics:
            continue
        found.append((name, f"{metrics[f'{split}_conversations']:,}, {metrics[f'{split}_tokens']:,} tokens"))
        prefix = f"{split}_skipped_"
        reasons = [
            f"{key.removeprefix(prefix).replace('_', ' ')} {count:,}"
            for key, count in metrics.items()
            if key.startswith(prefix)
        ]
        left_out = {
            "skipped": f"{metrics[f'{split}_skipped']:,}" + (f" ({', '.join(reasons)})" if reasons else ""),
            "cut at the end of a row": f"{metrics.get(f'{split}_cut', 0):,}",
            "rows of the other split": f"{metrics.get(f'{split}_other_split_rows', 0):,}",
            "fields ignored": metrics.get(f"{split}_ignored_fields", ""),
            "files ignored": f"{metrics.get(f'{split}_ignored_files', 0):,}",
        }
        found += [(f"{name}: {what}", value) for what, value in left_out.items() if value not in ("", "0")]
    if metrics.get("questions_skipped"):
        found.append(("questions: skipped", f"{metrics['questions_skipped']:,}"))
    return found


def length_rows(card: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """(range of lengths in tokens, number of documents, share), from the shortest document on."""
    first = next((k for k, count in enumerate(card["lengths"]) if count), 0)
    total = max(sum(card["lengths"]), 1)
    return [
        (f"{1 << k:,} – {(2 << k) - 1:,}", count, count / total)
        for k, count in enumerate(card["lengths"])
        if k >= first
    ]


def table(found: Sequence[tuple[str, str]]) -> list[str]:
    """Facts as the lines of a Markdown table."""
    return ["| | |", "|---|---|", *(f"| {name} | {value.replace('|', '∣')} |" for name, value in found)]


def as_markdown(card: Mapping[str, Any], conversations: Sequence[tuple[str, str]] = ()) -> str:
    """Two Markdown tables: the facts, with those of the `conversations`, and the lengths."""
    lines = table([*facts(card), *conversations])
    lines += ["", "| tokens of a document | | documents |", "|---|---|---|"]
    most = max((share for *_, share in length_rows(card)), default=1) or 1
    for length, count, share in length_rows(card):
        lines.append(f"| {length} | {'█' * round(BAR * share / most)} | {count:,} ({share:.1%}) |")
    return "\n".join(lines) + "\n"
